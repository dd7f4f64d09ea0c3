"""Whatever comes: random sequences never make a trajectory controller execute more than the limits allow."""

from __future__ import annotations

import dataclasses

import pytest

from twinbrain_ros.control.governor import BOX_TOLERANCE_M
from twinbrain_ros.evaluation.random_driving import Chance, RandomDriving, verdict
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.sim.follower_kinds import follower_kind

SEQUENCES = 1_000  # of each robot file and action space
RUNS = 4  # independent ones, so that a failure names a short one
FOLLOWERS = ("jazzy_100", "humble_100", "jazzy_500", "kilted_100_from_desired")


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
    follower = follower_kind(FOLLOWERS[(seed + len(name)) % len(FOLLOWERS)])
    driving = RandomDriving(robot, Kinematics(robot), seed, follower)
    for number in range(SEQUENCES // RUNS):
        driving.sequence(Chance())
        assert not driving.broken and not verdict(driving.arm.worst), f"in sequence {number} of seed {seed}"
    assert driving.commands > 200, "the arm was hardly ever driven"
    assert driving.outside_m <= BOX_TOLERANCE_M + 1e-5


def test_a_step_of_the_set_point_is_seen() -> None:
    """That the harness can fail: the arm is somewhere else than the controller believes."""
    robot = robot_of("wx250s", "ee_delta")
    driving = RandomDriving(robot, Kinematics(robot), 0, follower_kind("humble_100"))
    while driving.commands < 20:
        driving.sequence(Chance())
    driving.arm.q = driving.arm.q + 0.05
    driving.sequence(Chance())
    assert any("velocity is" in broken for broken in verdict(driving.arm.worst))
