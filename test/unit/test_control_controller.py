"""Who drives the arm, and what it is commanded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twinbrain_ros.control.controller import LEAD_PERIODS, ArmController, Mode, ModeError
from twinbrain_ros.control.plan import to_ns
from twinbrain_ros.control.verdict import Outcome
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

T0 = to_ns(100.0)
TICK = to_ns(0.02)


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


@pytest.fixture
def controller(robot: RobotFile) -> ArmController:
    return ArmController(robot, Kinematics(robot))


@pytest.fixture
def driving(controller: ArmController, robot: RobotFile) -> ArmController:
    """In autonomy since T0, the arm at home."""
    controller.add_joints(T0, robot.home, robot.gripper.open_m)
    controller.set_mode(Mode.AUTONOMY, T0, "test", "go")
    return controller


def make_chunk(robot: RobotFile, observation_ns: int, **changes: Any) -> ActionChunk:
    action = robot.action
    fields: dict[str, Any] = {
        "sequence": 5,
        "observation_ns": observation_ns,
        "due_ns": observation_ns,
        "period_s": action.period_s,
        "instruction": "pick up the red block",
        "robot": robot.name,
        "action_space": action.space,
        "composition": action.composition,
        "names": action.names,
        "data": np.tile([0.02, 0, 0, 0, 0, 0, 1.0], (action.horizon, 1)),
        "observation_positions": np.array(robot.home),
    }
    return ActionChunk(**(fields | changes))


def test_it_starts_in_hold_and_commands_nothing(controller: ArmController, robot: RobotFile) -> None:
    assert controller.mode is Mode.HOLD
    controller.add_joints(T0, robot.home, robot.gripper.open_m)
    verdict = controller.add_chunk(make_chunk(robot, T0), T0)
    assert (verdict.outcome, verdict.reason) == (Outcome.DISCARDED, "the mode is HOLD")
    assert controller.command(T0) is None


def test_autonomy_needs_fresh_joint_states(controller: ArmController, robot: RobotFile) -> None:
    with pytest.raises(ModeError, match="cannot start autonomy: no joint states have arrived yet"):
        controller.set_mode(Mode.AUTONOMY, T0, "test", "")
    controller.add_joints(T0, robot.home, robot.gripper.open_m)
    with pytest.raises(ModeError, match=r"the joint states are 0.300 s old, expected at most 0.25 s"):
        controller.set_mode(Mode.AUTONOMY, T0 + to_ns(0.3), "test", "")
    assert controller.mode is Mode.HOLD


@pytest.mark.parametrize(("mode", "name"), [(1, r"TELEOP \(1\)"), (3, r"ESTOP \(3\)"), (7, "7")])
def test_a_mode_that_is_not_offered_is_refused(controller: ArmController, mode: int, name: str) -> None:
    with pytest.raises(ModeError, match=rf"mode is {name}, expected .*HOLD \(0\), AUTONOMY \(2\)"):
        controller.set_mode(mode, T0, "test", "")


def test_a_chunk_observed_before_the_switch_is_discarded(driving: ArmController, robot: RobotFile) -> None:
    verdict = driving.add_chunk(make_chunk(robot, T0 - TICK), T0 + TICK)
    assert verdict.outcome is Outcome.DISCARDED
    assert verdict.reason == "it was observed before the switch to autonomy"


def test_commands_are_ahead_by_the_lead_and_start_at_the_arm(
    driving: ArmController, robot: RobotFile
) -> None:
    now = T0 + TICK
    assert driving.add_chunk(make_chunk(robot, now), now).accepted
    command = driving.command(now)
    assert command is not None and command.first
    assert command.stamp_ns == now + LEAD_PERIODS * TICK
    np.testing.assert_array_equal(command.arm_positions, robot.home)


def test_hold_ends_a_motion_where_it_was_commanded_last(driving: ArmController, robot: RobotFile) -> None:
    now = T0 + TICK
    driving.add_chunk(make_chunk(robot, now), now)
    last = [driving.command(now + i * TICK) for i in range(5)][-1]
    held = driving.set_mode(Mode.HOLD, now + 5 * TICK, "test", "enough")
    assert last is not None and held is not None
    np.testing.assert_array_equal(held.arm_positions, last.arm_positions)
    assert driving.command(now + 6 * TICK) is None
    assert (driving.state.source, driving.state.reason) == ("test", "enough")


def test_the_gripper_keeps_its_command_when_the_arm_holds(driving: ArmController, robot: RobotFile) -> None:
    """A measured finger stands on the block; commanding that position would let the block go."""
    now = T0 + TICK
    data = np.tile([0.0, 0, 0, 0, 0, 0, 0.0], (8, 1))
    driving.add_chunk(make_chunk(robot, now, data=data), now)
    driving.command(now)
    driving.add_joints(now, robot.home, 0.02)
    held = driving.set_mode(Mode.HOLD, now + TICK, "test", "")
    assert held is not None and held.finger_m == robot.gripper.closed_m


def test_silent_joint_states_end_the_motion_and_are_named(driving: ArmController, robot: RobotFile) -> None:
    now = T0 + to_ns(0.2)
    driving.add_joints(T0, robot.home, robot.gripper.open_m)
    assert driving.add_chunk(make_chunk(robot, now), now).accepted
    assert driving.command(now) is not None
    late = T0 + to_ns(0.26)
    held = driving.command(late)
    assert held is not None and driving.command(late + TICK) is None
    assert driving.joints_problem(late) == "the joint states are 0.260 s old, expected at most 0.25 s"
    verdict = driving.add_chunk(make_chunk(robot, late), late)
    assert verdict.outcome is Outcome.DISCARDED and "0.260 s old" in verdict.reason


def test_the_same_mode_again_changes_nothing(driving: ArmController, robot: RobotFile) -> None:
    before = driving.state
    assert driving.set_mode(Mode.AUTONOMY, T0 + TICK, "somebody else", "again") is None
    assert driving.state is before


def test_autonomy_after_hold_starts_at_the_measured_arm(driving: ArmController, robot: RobotFile) -> None:
    driving.set_mode(Mode.HOLD, T0 + TICK, "test", "")
    moved = robot.home + 0.05
    now = T0 + 2 * TICK
    driving.add_joints(now, moved, robot.gripper.open_m)
    driving.set_mode(Mode.AUTONOMY, now, "test", "")
    later = now + TICK
    driving.add_chunk(make_chunk(robot, later, observation_positions=moved), later)
    command = driving.command(later)
    assert command is not None
    np.testing.assert_array_equal(command.arm_positions, moved)
