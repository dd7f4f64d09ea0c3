"""Whatever comes: random sequences never make a trajectory controller execute more than the limits allow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from twinbrain_ros.control.governor import BOX_TOLERANCE_M
from twinbrain_ros.control.motion import State
from twinbrain_ros.evaluation.random_driving import Chance, RandomDriving, least_acceleration, verdict
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

SEQUENCES = 1_000  # of each robot file and action space
RUNS = 4  # independent ones, so that a failure names a short one
UPDATE_HZ = (100.0, 250.0, 500.0, 100.0)


def robot_of(name: str, space: str) -> RobotFile:
    robot = load_robot(name)
    if space == robot.action.space:
        return robot
    action = dataclasses.replace(robot.action, space=space, names=(*robot.arm_joints, "gripper"))
    return dataclasses.replace(robot, action=action)


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("wx250s", "ee_delta"),
        ("wx250s", "joint_position"),
        ("wx250s_xs", "ee_delta"),
        ("wx250s_bridge", "ee_delta"),
        ("franka", "ee_delta"),
        ("franka", "joint_position"),
    ],
)
@pytest.mark.parametrize("seed", range(RUNS))
def test_random_sequences_never_break_a_limit(name: str, space: str, seed: int) -> None:
    robot = robot_of(name, space)
    driving = RandomDriving(robot, Kinematics(robot), seed, UPDATE_HZ[seed])
    for number in range(SEQUENCES // RUNS):
        driving.sequence(Chance())
        assert not driving.broken and not verdict(driving.arm.worst), f"in sequence {number} of seed {seed}"
    assert driving.commands > 200, "the arm was hardly ever driven"
    assert driving.outside_m <= BOX_TOLERANCE_M + 1e-5


@pytest.mark.parametrize(
    ("before", "after", "least"),
    [
        (((0.0,), (0.0,)), ((0.5,), (1.0,)), 1.0),  # steady acceleration
        (((0.0,), (0.0,)), ((1.0,), (0.0,)), 4.0),  # half of the time each way
        (((0.0,), (1.0,)), ((0.0,), (1.0,)), 4.0),  # it would be 1 too far by then
        (((2.0,), (3.0,)), ((5.0,), (3.0,)), 0.0),
    ],
)
def test_the_least_acceleration_between_two_states(before: tuple, after: tuple, least: float) -> None:
    first, then = (State(np.array(q), np.array(v), np.zeros(1)) for q, v in (before, after))
    np.testing.assert_allclose(least_acceleration(first, then, 1.0), least)


def test_a_step_of_the_set_point_is_seen() -> None:
    """That the harness can fail: the arm is somewhere else than the controller believes."""
    robot = robot_of("wx250s", "ee_delta")
    driving = RandomDriving(robot, Kinematics(robot), 0, 100.0)
    while driving.commands < 20:
        driving.sequence(Chance())
    driving.arm.state = State.rest(driving.arm.state.q + 0.05)
    while not verdict(driving.arm.worst):
        driving.sequence(Chance())
    assert any("velocity is" in broken for broken in verdict(driving.arm.worst))
