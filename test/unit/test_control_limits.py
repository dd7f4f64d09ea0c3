"""Limits of single set-points."""

from __future__ import annotations

import numpy as np
import pytest

from twinbrain_ros.control.limits import BOX_TOLERANCE_M, SetpointLimiter
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


@pytest.fixture(scope="module")
def kinematics(robot: RobotFile) -> Kinematics:
    return Kinematics(robot)


@pytest.fixture
def limiter(robot: RobotFile, kinematics: Kinematics) -> SetpointLimiter:
    return SetpointLimiter(robot, kinematics, velocity_margin=1.0, max_tick_s=0.05)


def test_a_short_step_is_left_alone(limiter: SetpointLimiter, robot: RobotFile) -> None:
    wanted = robot.home + 0.001
    np.testing.assert_array_equal(limiter.next(robot.home, wanted, 0.02), wanted)


def test_a_long_step_is_shortened_along_its_own_line(limiter: SetpointLimiter, robot: RobotFile) -> None:
    step = np.array([0.4, 0.2, 0.0, 0.0, 0.0, -0.1])
    given = limiter.next(robot.home, robot.home + step, 0.02) - robot.home
    np.testing.assert_allclose(given, step * (np.pi * 0.02 / 0.4), atol=1e-12)


def test_no_time_means_no_motion(limiter: SetpointLimiter, robot: RobotFile) -> None:
    for elapsed_s in (0.0, -1.0):
        np.testing.assert_allclose(
            limiter.next(robot.home, robot.home + 0.5, elapsed_s), robot.home, atol=1e-9
        )


def test_the_tool_slides_along_the_border_of_the_box(
    limiter: SetpointLimiter, robot: RobotFile, kinematics: Kinematics
) -> None:
    position, rotation = kinematics.forward(robot.home)
    floor = robot.workspace.lower[2]
    low = kinematics.inverse(np.array([position[0], 0, floor]), rotation, robot.home).q
    wanted = kinematics.inverse(np.array([position[0] + 0.01, 0, floor - 0.01]), rotation, low).q
    reached = kinematics.forward(limiter.next(low, wanted, 0.05))[0]
    assert reached[2] >= floor - BOX_TOLERANCE_M
    assert reached[0] > position[0] + 0.005


def test_an_arm_outside_the_box_may_come_back_but_not_leave_further(
    limiter: SetpointLimiter, robot: RobotFile, kinematics: Kinematics
) -> None:
    position, rotation = kinematics.forward(robot.home)
    heights = [robot.workspace.upper[2] + rise for rise in (0.02, 0.04, 0.06)]
    nearer, start, further = (
        kinematics.inverse(np.array([position[0], 0, z]), rotation, robot.home).q for z in heights
    )
    np.testing.assert_allclose(limiter.next(start, nearer, 0.05), nearer)
    held = kinematics.forward(limiter.next(start, further, 0.05))[0]
    assert held[2] <= heights[1] + 1e-6


def test_a_margin_that_is_no_share_is_refused(robot: RobotFile, kinematics: Kinematics) -> None:
    with pytest.raises(ValueError, match=r"velocity_margin is 1.5, expected above 0 and at most 1"):
        SetpointLimiter(robot, kinematics, velocity_margin=1.5, max_tick_s=0.05)
