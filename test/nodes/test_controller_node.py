"""The controller node over real topics: holds by default, executes good chunks, refuses bad ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage
from twinbrain_ros.msg import ChunkStatus, ControlMode
from twinbrain_ros.srv import SetMode

from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.robot_file import RobotFile

ERROR, WARN, OK = 2, 1, 0
NAME = "controller_node"


class Rig:
    """A controller between a bench that plays arm and policy."""

    def __init__(self, bench: Any, robot: RobotFile, **parameters: Any) -> None:
        self.bench, self.robot = bench, robot
        self.node = bench.add(ControllerNode, autostart=True, **parameters)
        assert self.node.autostart()
        topics = robot.topics
        self.joints = bench.publisher(JointState, topics.joint_states)
        self.chunks = bench.publisher(ActionChunkMessage, topics.action_chunk, qos.COMMAND)
        self.arm = bench.record(JointTrajectory, topics.arm_trajectory, qos.COMMAND)
        self.gripper = bench.record(JointTrajectory, topics.gripper_trajectory, qos.COMMAND)
        self.status = bench.record(ChunkStatus, topics.chunk_status)
        self.sequence = 0

    def now_ns(self) -> int:
        return int(self.bench.node.get_clock().now().nanoseconds)

    def joint_state(self, **changes: Any) -> JointState:
        robot = self.robot
        message = JointState(
            name=[*robot.arm_joints, robot.gripper.joint],
            position=[*robot.home.tolist(), robot.gripper.open_m],
        )
        message.header.stamp = convert.to_time(self.now_ns())
        for field, value in changes.items():
            setattr(message, field, value)
        return message

    def set_mode(self, mode: int, with_joints: bool = True) -> SetMode.Response:
        if with_joints:
            self.joints.publish(self.joint_state())
            self.bench.until(lambda: not self.node._controller.joints_problem(self.now_ns()))
        return self.bench.call(SetMode, "set_mode", SetMode.Request(mode=mode, source="test", reason="try"))

    def send_chunk(self, data: Any = None, **changes: Any) -> ChunkStatus:
        """Publishes a chunk of the present moment, with fresh joint states; gives what became of it."""
        action = self.robot.action
        self.sequence += 1
        self.joints.publish(self.joint_state())
        self.bench.until(lambda: not self.node._controller.joints_problem(self.now_ns()))
        now = self.now_ns()
        if data is None:
            data = np.tile([0.02, 0, 0, 0, 0, 0, 1.0], (action.horizon, 1))
        chunk = ActionChunk(
            self.sequence, now, now, action.period_s, "pick", self.robot.name, action.space,
            action.composition, action.names, data, np.array(self.robot.home),
        )  # fmt: skip
        message = convert.chunk_message(chunk, self.robot, now)
        for field, value in changes.items():
            setattr(message, field, value)
        self.chunks.publish(message)
        sequence = message.sequence
        self.bench.until(lambda: any(s.sequence == sequence for s in self.status), "no chunk_status")
        return next(s for s in self.status if s.sequence == sequence)

    def keep_joints_fresh(self) -> None:
        self.bench.node.create_timer(0.02, lambda: self.joints.publish(self.joint_state()))

    def until_at_rest(self) -> None:
        self.bench.until(lambda: self.node._controller._executor.running is None)


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> Rig:
    return Rig(bench, robot)


def test_it_holds_by_default_and_says_so_to_those_who_come_late(rig: Rig) -> None:
    modes = rig.bench.record(ControlMode, rig.robot.topics.control_mode, qos.LATCHED)
    rig.bench.until(lambda: modes)
    assert modes[-1].mode == ControlMode.HOLD
    status = rig.send_chunk()
    assert (status.outcome, status.reason) == (ChunkStatus.DISCARDED, "the mode is HOLD")
    assert rig.arm == [] and rig.gripper == []


def test_a_chunk_becomes_trajectories_and_one_status(rig: Rig) -> None:
    assert rig.set_mode(ControlMode.AUTONOMY).success
    status = rig.send_chunk()
    assert status.outcome == ChunkStatus.EXECUTED
    latency_ns = convert.from_time(status.first_command_stamp) - convert.from_time(status.observation_stamp)
    assert 0 < latency_ns < 1e9
    rig.until_at_rest()
    rig.bench.until(lambda: len(rig.arm) >= 10)
    assert all(list(message.joint_names) == list(rig.robot.arm_joints) for message in rig.arm)
    assert all(len(message.points) == 1 for message in rig.arm)
    assert rig.arm[-1].points[0].positions[1] > rig.robot.home[1]  # the shoulder reaches forward
    assert [s.sequence for s in rig.status] == [status.sequence]
    rig.bench.until(lambda: rig.bench.value(NAME, "chunks_executed") == "1")
    assert float(rig.bench.value(NAME, "observation_to_command_ms_p50")) > 0


def test_the_gripper_is_commanded_when_it_changes(rig: Rig) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    data = np.zeros((8, 7))
    data[0, 6] = 1.0
    rig.send_chunk(data)
    rig.until_at_rest()
    rig.bench.until(lambda: len(rig.gripper) >= 2)
    fingers = [message.points[0].positions[0] for message in rig.gripper]
    assert fingers == [rig.robot.gripper.open_m, rig.robot.gripper.closed_m]
    assert list(rig.gripper[0].joint_names) == ["left_finger"]


def test_a_chunk_with_nan_is_refused_whole_and_the_arm_holds(rig: Rig) -> None:
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
    rig.keep_joints_fresh()
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
def test_a_chunk_that_does_not_fit_is_refused(rig: Rig, changes: dict[str, Any], words: str) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    status = rig.send_chunk(**changes)
    assert status.outcome == ChunkStatus.REFUSED and words in status.reason
    assert rig.arm == []


def test_old_chunks_are_stale_or_discarded(rig: Rig) -> None:
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


def test_hold_ends_the_motion_with_one_last_command(rig: Rig) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    rig.send_chunk()
    rig.bench.until(lambda: len(rig.arm) > 3)
    assert rig.set_mode(ControlMode.HOLD, with_joints=False).success
    rig.send_chunk()  # its status comes after everything that was sent before
    last = rig.arm[-1].points[0].positions
    assert list(rig.arm[-2].points[0].positions) == list(last)
    count = len(rig.arm)
    rig.send_chunk()
    assert len(rig.arm) == count


def test_modes_that_cannot_be_are_refused_with_a_reason(rig: Rig) -> None:
    answer = rig.set_mode(ControlMode.AUTONOMY, with_joints=False)
    assert not answer.success and "no joint states have arrived yet" in answer.message
    for mode in (ControlMode.TELEOP, ControlMode.ESTOP, 9):
        answer = rig.set_mode(mode)
        assert not answer.success and "expected one that this controller offers" in answer.message


def test_mode_changes_are_published_with_their_source_and_reason(rig: Rig) -> None:
    modes = rig.bench.record(ControlMode, rig.robot.topics.control_mode, qos.LATCHED)
    rig.set_mode(ControlMode.AUTONOMY)
    rig.bench.until(lambda: modes and modes[-1].mode == ControlMode.AUTONOMY)
    assert (modes[-1].source, modes[-1].reason) == ("test", "try")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ["waist"], "position": [0.0]}, "without ['shoulder'"),
        ({"position": [0.0]}, "number of positions is 1, expected 7"),
        ({"position": [0.0, math.nan, 0.0, 0.0, 0.0, 0.0, 0.03]}, "position of 'shoulder' is nan"),
    ],
)
def test_bad_joint_states_are_named_and_do_not_count(rig: Rig, changes: dict[str, Any], words: str) -> None:
    rig.joints.publish(rig.joint_state(**changes))
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, words))
    assert not rig.set_mode(ControlMode.AUTONOMY, with_joints=False).success
    rig.keep_joints_fresh()
    assert rig.set_mode(ControlMode.AUTONOMY).success
    rig.bench.until(lambda: rig.bench.says(NAME, OK, "active"))


def test_joint_states_in_another_order_are_taken_by_name(rig: Rig) -> None:
    good = rig.joint_state()
    rig.joints.publish(
        rig.joint_state(name=list(reversed(good.name)), position=list(reversed(good.position)))
    )
    rig.bench.until(lambda: rig.node._controller._joints is not None)
    np.testing.assert_array_equal(rig.node._controller._joints.arm, rig.robot.home)


def test_joint_states_that_stop_end_the_motion(rig: Rig) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    rig.send_chunk()
    # From here on nobody publishes joint states: 0.25 s later, in the middle of the chunk, the arm holds.
    rig.until_at_rest()
    moved = rig.arm[-1].points[0].positions[1] - rig.robot.home[1]
    assert moved > 0
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, "the joint states are"))


def test_deactivation_holds_first_and_comes_back_in_hold(rig: Rig) -> None:
    rig.set_mode(ControlMode.AUTONOMY)
    rig.send_chunk()
    rig.bench.until(lambda: len(rig.arm) > 3)
    modes = rig.bench.record(ControlMode, rig.robot.topics.control_mode, qos.LATCHED)
    rig.node.trigger_deactivate()
    rig.bench.until(lambda: modes and modes[-1].mode == ControlMode.HOLD)
    assert modes[-1].reason == "deactivated"
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success and "the controller is inactive" in answer.message
    rig.node.trigger_activate()
    assert rig.send_chunk().reason == "the mode is HOLD"


def test_an_internal_error_of_a_service_is_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(rig.node._controller, "set_mode", broken)
    answer = rig.set_mode(ControlMode.AUTONOMY)
    monkeypatch.undo()
    assert not answer.success and answer.message == "internal error, see /diagnostics"
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, "RuntimeError: out of order"))


def test_an_internal_error_holds_and_is_reported(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.set_mode(ControlMode.AUTONOMY)

    def broken(now_ns: int) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(rig.node._controller, "command", broken)
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, "RuntimeError: out of order"))
    assert rig.node._controller.mode == 0


def test_execution_steps_beyond_the_horizon_refuse_to_configure(bench: Any) -> None:
    node = bench.add(ControllerNode, autostart=True, execution_steps=9)
    assert not node.autostart()
    bench.until(lambda: bench.says(NAME, ERROR, "execution_steps is 9, expected 1 to the horizon 8"))
