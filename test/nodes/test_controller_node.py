"""The controller node over real topics: holds by default, executes good chunks, refuses bad ones."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from controller_rig import NAME, ControllerRig
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from twinbrain_ros.msg import ChunkStatus, ControlMode

from twinbrain_ros.control.timing import PAST_S, to_ns
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.control_parameters import FIXED, LIVE
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.robot_file import RobotFile

ERROR, WARN, OK = 2, 1, 0


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> ControllerRig:
    return ControllerRig(bench, robot)


def test_it_holds_by_default_and_says_so_to_those_who_come_late(rig: ControllerRig) -> None:
    late = rig.bench.record(ControlMode, rig.robot.topics.control_mode, qos.LATCHED)
    rig.bench.until(lambda: late)
    assert late[-1].mode == ControlMode.HOLD and not late[-1].latched
    status = rig.send_chunk()
    assert (status.outcome, status.reason) == (ChunkStatus.DISCARDED, "the mode is HOLD")
    assert rig.arm == [] and rig.gripper == []


def test_a_chunk_becomes_trajectories_and_one_status(rig: ControllerRig) -> None:
    assert rig.set_mode(ControlMode.AUTONOMY).success
    status = rig.send_chunk()
    assert status.outcome == ChunkStatus.EXECUTED
    stamps = [
        convert.from_time(s) for s in (status.observation_stamp, status.first_command_stamp, status.due)
    ]
    assert 0 < stamps[1] - stamps[0] < 1e9 and 0 < stamps[2] - stamps[0] < 1e9
    rig.bench.until(lambda: len(rig.arm) >= 40)
    rig.until_at_rest()
    assert all(list(message.joint_names) == list(rig.robot.arm_joints) for message in rig.arm)
    assert rig.path[-1][1][1] > rig.robot.home[1]  # the shoulder reaches forward
    assert [s.sequence for s in rig.status] == [status.sequence]
    rig.bench.until(lambda: rig.bench.value(NAME, "chunks_executed") == "1")
    assert float(rig.bench.value(NAME, "observation_to_command_ms_p50")) > 0
    assert float(rig.bench.value(NAME, "tick_late_ms_p100")) > 0


def test_every_trajectory_leads_to_rest_and_is_one_that_a_controller_takes(rig: ControllerRig) -> None:
    before_ns = rig.now_ns()
    rig.drive()
    rig.bench.until(lambda: len(rig.arm) >= 30)
    stamps = [convert.from_time(message.header.stamp) for message in rig.arm]
    decided = [stamp_ns + to_ns(PAST_S) for stamp_ns in stamps]
    assert before_ns < decided[0] and stamps == sorted(stamps) and decided[-1] < rig.now_ns()
    for message in rig.arm:
        times = [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in message.points]
        assert times[0] == 0.0, "it begins with where the arm was to be then"
        assert all(b > a for a, b in itertools.pairwise(times))
        assert all(len(p.positions) == len(p.velocities) == 6 for p in message.points)
        assert not any(message.points[-1].velocities)


def test_the_gripper_is_commanded_when_it_changes(rig: ControllerRig) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    data = np.zeros((8, 7))
    data[0, 6] = 1.0
    rig.send_chunk(data)
    rig.bench.until(lambda: len(rig.gripper) >= 2)
    fingers = [message.points[0].positions[0] for message in rig.gripper]
    assert fingers == [rig.robot.gripper.open_m, rig.robot.gripper.closed_m]
    assert list(rig.gripper[0].joint_names) == ["left_finger"]


def test_a_chunk_with_nan_is_refused_whole_and_the_arm_holds(rig: ControllerRig) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    data = np.tile([0.02, 0, 0, 0, 0, 0, 1.0], (8, 1))
    data[7, 3] = math.nan
    status = rig.send_chunk(data)
    assert status.outcome == ChunkStatus.REFUSED
    assert "data[7, 3] is nan, expected a finite number" in status.reason
    assert rig.arm == []
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, "data[7, 3] is nan"))
    assert rig.bench.value(NAME, "chunks_refused") == "1"
    # A good chunk is executed as if nothing had been, and mends the complaint.
    assert rig.send_chunk().outcome == ChunkStatus.EXECUTED
    rig.bench.until(lambda: rig.bench.says(NAME, OK, "active"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"robot": "panda"}, "robot is 'panda', expected 'wx250s'"),
        ({"steps": 7}, "data has 56 values, expected 7 steps x 7 names = 49"),
        ({"names": ["a"] * 7}, "names is ('a', 'a'"),
        ({"observation_joint_names": ["waist"]}, "observation_joint_positions has 6 values, expected 1"),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(
    rig: ControllerRig, changes: dict[str, Any], words: str
) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    status = rig.send_chunk(**changes)
    assert status.outcome == ChunkStatus.REFUSED and words in status.reason
    assert rig.arm == []


def test_old_chunks_are_stale_or_discarded(rig: ControllerRig) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    switched_ns = rig.now_ns()
    before = rig.send_chunk(observation_stamp=convert.to_time(switched_ns - 10**9))
    assert before.outcome == ChunkStatus.DISCARDED and "before the switch" in before.reason
    limit_ns = round(rig.robot.action.max_chunk_age_s * 1e9)
    rig.bench.until(lambda: rig.now_ns() > switched_ns + limit_ns + 100_000_000)
    old = convert.to_time(switched_ns + 1_000_000)
    status = rig.send_chunk(observation_stamp=old, due=old)
    assert status.outcome == ChunkStatus.STALE and "expected at most 0.5 s" in status.reason
    rig.bench.until(lambda: rig.bench.value(NAME, "chunks_stale") == "1")


def test_hold_brings_the_arm_to_rest_without_a_further_command(rig: ControllerRig) -> None:
    rig.drive()
    assert rig.set_mode(ControlMode.HOLD).success
    rig.send_chunk()  # its status comes after everything that was sent before
    count = len(rig.arm)
    rig.until_at_rest()
    assert len(rig.arm) == count
    assert rig.status[-1].reason == "the mode is HOLD"


def test_modes_that_cannot_be_are_refused_with_a_reason(bench: Any, robot: RobotFile) -> None:
    rig = ControllerRig(bench, robot)
    for mode in (ControlMode.ESTOP, 9):
        answer = rig.set_mode(mode)
        assert not answer.success and f"mode is {mode}, expected one of HOLD (0)" in answer.message
    rig.joints_go = False
    rig.bench.until(lambda: rig.node._controller.joints_problem(rig.now_ns()))
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success and "cannot start autonomy: the joint states are" in answer.message


def test_mode_changes_are_published_with_their_source_and_reason(rig: ControllerRig) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    rig.bench.until(lambda: rig.mode().mode == ControlMode.AUTONOMY)
    assert (rig.mode().source, rig.mode().reason) == ("test", "try")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position": [0.0]}, "number of positions is 1, expected 7"),
        ({"position": [0.0, math.nan, 0.0, 0.0, 0.0, 0.0, 0.03]}, "position of 'shoulder' is nan"),
    ],
)
def test_bad_joint_states_are_named_and_do_not_count(
    rig: ControllerRig, changes: dict[str, Any], words: str
) -> None:
    rig.joints_go = False
    rig.joints.publish(rig.joint_state(**changes))
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, words))
    rig.bench.until(lambda: rig.node._controller.joints_problem(rig.now_ns()))
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success and words in answer.message
    rig.joints_go = True
    rig.bench.until(lambda: rig.bench.says(NAME, OK, "active"))
    rig.until_settled()
    assert rig.set_mode(ControlMode.AUTONOMY).success


def test_joint_states_in_another_order_are_taken_by_name(rig: ControllerRig) -> None:
    rig.joints_go = False
    rig.reads = rig.robot.home + np.arange(6) * 1e-3
    good = rig.joint_state()
    rig.joints.publish(
        JointState(header=good.header, name=good.name[::-1], position=list(good.position)[::-1])
    )
    joints = rig.node._controller.joints
    rig.bench.until(lambda: joints.newest is not None and np.array_equal(joints.newest.arm, rig.reads))


def test_deactivation_brings_the_arm_to_rest_and_comes_back_in_hold(rig: ControllerRig) -> None:
    rig.drive()
    rig.node.trigger_deactivate()
    rig.bench.until(lambda: rig.mode().mode == ControlMode.HOLD)
    assert rig.mode().reason == "deactivated"
    rig.until_at_rest()
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success and "the controller is inactive" in answer.message
    rig.node.trigger_activate()
    assert rig.send_chunk().reason == "the mode is HOLD"


def test_a_mode_that_is_asked_right_after_a_long_pause_is_kept(bench: Any, robot: RobotFile) -> None:
    """While it was inactive nobody ticked: that is no fault, and what it knew of the arm is over."""
    rig = ControllerRig(bench, robot, overrun_s=0.5)
    rig.drive()
    rig.node.trigger_deactivate()
    rig.until_at_rest()
    rig.until_settled()
    since_ns = rig.now_ns()
    rig.bench.until(lambda: rig.now_ns() - since_ns > 6e8)
    rig.node.trigger_activate()
    assert rig.node._controller is not None and not rig.node._controller.governor.placed
    assert rig.set_mode(ControlMode.AUTONOMY).success
    seen = len(rig.path)
    rig.bench.until(lambda: len(rig.path) > seen + 5)
    assert rig.mode().mode == ControlMode.AUTONOMY


def test_an_internal_error_of_a_service_is_answered(
    rig: ControllerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(rig.node._controller, "set_mode", broken)
    answer = rig.set_mode(ControlMode.AUTONOMY)
    monkeypatch.undo()
    assert not answer.success and answer.message == "internal error, see /diagnostics"
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, "RuntimeError: out of order"))


def test_an_internal_error_stops_the_arm_until_reset(
    rig: ControllerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.drive()

    def broken(now_ns: int, steady_ns: int) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(rig.node._controller, "tick", broken)
    rig.bench.until(lambda: "RuntimeError: out of order" in str(rig.bench.said))
    rig.until_at_rest()
    monkeypatch.undo()
    assert rig.mode().latched and not rig.set_mode(ControlMode.AUTONOMY).success
    assert rig.trigger("reset").success and rig.set_mode(ControlMode.AUTONOMY).success


# Parameters -------------------------------------------------------------------------------------------


def test_parameters_take_effect_in_hold_and_are_refused_while_the_arm_is_driven(rig: ControllerRig) -> None:
    def change(name: str, value: Any) -> Any:
        return rig.node.set_parameters([Parameter(name, value=value)])[0]

    assert change("strategy", "open_loop").successful and change("execution_steps", 1).successful
    assert rig.node._controller.settings.chunks.strategy.value == "open_loop"
    assert rig.node._controller.settings.chunks.execution_steps == 1
    wrong = change("strategy", "best_effort")
    assert not wrong.successful and "expected one of open_loop, receding_horizon" in wrong.reason
    wrong = change("execution_steps", 9)
    assert not wrong.successful and "execution_steps is 9, expected 1 to the horizon 8" in wrong.reason
    fixed = change("velocity_margin", 0.5)
    assert not fixed.successful and "is read at configure" in fixed.reason
    rig.drive()
    driven = change("strategy", "real_time")
    assert not driven.successful and "settings change in HOLD only" in driven.reason
    assert rig.node._controller.settings.chunks.strategy.value == "open_loop"


def test_every_parameter_has_a_description_and_every_number_a_range(rig: ControllerRig) -> None:
    for declared in (*FIXED, *LIVE):
        descriptor: ParameterDescriptor = rig.node.describe_parameter(declared.name)
        assert descriptor.description
        if isinstance(declared.default, int | float) and not isinstance(declared.default, bool):
            assert descriptor.integer_range or descriptor.floating_point_range
            assert "Unit: " in descriptor.description


def test_a_dry_run_publishes_everything_but_the_command(bench: Any, robot: RobotFile) -> None:
    rig = ControllerRig(bench, robot, prefix="dry_run/", dry_run=True)
    rig.reads = np.array(robot.home)  # the arm does not move
    rig.drive()
    rig.bench.until(lambda: len(rig.arm) > 30)
    assert rig.mode().mode == ControlMode.AUTONOMY
    for topic in (robot.topics.arm_trajectory, robot.topics.gripper_trajectory):
        assert bench.node.count_publishers(topic) == 0


def test_execution_steps_beyond_the_horizon_refuse_to_configure(bench: Any) -> None:
    node = bench.add(ControllerNode, autostart=True, execution_steps=9)
    assert not node.autostart()
    bench.until(lambda: bench.says(NAME, ERROR, "execution_steps is 9, expected 1 to the horizon 8"))
