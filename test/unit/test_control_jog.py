"""Joints moved one by one: also from where the tool cannot go, within limits and box, and no other joint."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from control_fixtures import DEADMAN, Drive, joystick
from sim_fixtures import shared_robot

from twinbrain_ros.control.governor import BOX_TOLERANCE_M
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.teleop import TeleopError
from twinbrain_ros.robot.actions import matrix_to_euler
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.teleop_inputs import JogInput

ROBOT = shared_robot()
SLEEP = ROBOT.poses["sleep"].arm
RB = 5


def with_jog() -> RobotFile:
    entry = JogInput("jog", "jog", 90, 0.2, False, joint_speed=0.5)
    return dataclasses.replace(ROBOT, teleop=(*ROBOT.teleop, entry))


def jogging(drive: Drive, **velocities: float) -> None:
    drive.controller.inputs.on_jog("jog", {}, drive.now)  # at rest first
    drive.hands = lambda now_ns: drive.controller.inputs.on_jog("jog", velocities, now_ns)


def in_teleop(q: np.ndarray) -> Drive:
    drive = Drive(robot=with_jog(), q=q)
    drive.tick()
    drive.set_mode(Mode.TELEOP)
    return drive


def assert_smooth(drive: Drive) -> None:
    limits = drive.controller.governor.limits
    assert np.all(np.abs(np.diff(drive.path, axis=0)) <= limits.velocity * 0.02 * 1.01)
    assert np.all(np.abs(np.diff(drive.path, 2, axis=0)) <= limits.acceleration * 0.02**2 * 1.1)


@pytest.mark.parametrize(
    ("joint", "velocity"), [(0, 0.4), (1, 0.4), (2, -0.4), (3, 0.4), (4, -0.4), (5, -0.4)]
)
def test_from_where_the_arm_lies_each_joint_moves_alone(joint: int, velocity: float) -> None:
    drive = in_teleop(SLEEP)
    jogging(drive, **{ROBOT.arm_joints[joint]: velocity})
    drive.run(1.0)
    moved = drive.q - SLEEP
    assert moved[joint] / velocity > 0.8
    np.testing.assert_allclose(np.delete(moved, joint), 0.0, atol=1e-6)
    assert drive.controller.teleop_problem == ""
    jogging(drive)
    drive.run(0.6)
    assert np.max(np.abs(drive.path[-1] - drive.path[-2])) < 1e-9
    assert_smooth(drive)


def test_a_joint_stops_at_its_limit_less_the_margin() -> None:
    drive = in_teleop(SLEEP)
    jogging(drive, wrist_rotate=0.5)
    drive.run(7.5)
    limit = drive.controller.governor.limits.upper[5]
    assert limit - 0.01 < drive.q[5] <= limit + 1e-6
    np.testing.assert_allclose(np.delete(drive.q - SLEEP, 5), 0.0, atol=1e-6)
    assert_smooth(drive)


def test_at_the_border_of_the_box_it_stops_and_no_other_joint_gives_way() -> None:
    drive = in_teleop(ROBOT.home)
    jogging(drive, shoulder=0.5)
    drive.run(3.0)
    assert "at the border of the workspace box" in drive.controller.teleop_problem
    ways = np.array([drive.kinematics.forward(q)[0] for q in drive.path])
    assert np.min(ways[:, 2]) >= ROBOT.workspace.lower[2] - BOX_TOLERANCE_M
    np.testing.assert_allclose(np.delete(drive.q - ROBOT.home, 1), 0.0, atol=1e-6)
    at_border = drive.q[1]
    jogging(drive, shoulder=-0.5)
    drive.run(0.6)
    assert drive.q[1] < at_border - 0.15
    assert_smooth(drive)


def test_the_speed_of_the_robot_file_is_not_exceeded() -> None:
    drive = in_teleop(SLEEP)
    jogging(drive, waist=3.0)
    drive.run(1.0)
    assert np.max(np.abs(np.diff(drive.path, axis=0))) / 0.02 == pytest.approx(0.5, rel=0.08)  # it catches up


def test_the_joysticks_second_page_moves_joints_and_the_first_the_tool() -> None:
    drive = Drive(q=ROBOT.home)
    axes, buttons = [0.0] * 8, [0] * 11
    drive.controller.inputs.on_joy("joystick", axes, buttons, drive.now)  # at rest first
    axes[0], buttons[DEADMAN], buttons[RB] = 1.0, 1, 1
    drive.hands = lambda now_ns: drive.controller.inputs.on_joy("joystick", axes, buttons, now_ns)
    drive.run(0.6)
    moved = drive.q - ROBOT.home
    assert moved[0] > 0.2
    np.testing.assert_allclose(moved[1:], 0.0, atol=1e-6)
    buttons[RB] = 0
    before = drive.tool
    drive.run(0.6)
    after = drive.tool
    assert after[1] > before[1] + 0.04 and abs(after[2] - before[2]) < 2e-3
    assert_smooth(drive)


@pytest.mark.parametrize(
    ("velocities", "said"),
    [
        ({"knee": 0.1}, "jog: found 'knee', expected joints of waist, shoulder"),
        ({"waist": float("nan")}, "jog: found 'waist' at nan rad/s, expected a finite velocity"),
    ],
)
def test_what_cannot_be_jogged_is_named(velocities: dict[str, float], said: str) -> None:
    drive = in_teleop(SLEEP)
    with pytest.raises(TeleopError, match=said):
        drive.controller.inputs.on_jog("jog", velocities, drive.now)


def test_a_jog_counts_after_it_was_zero() -> None:
    drive = in_teleop(SLEEP)
    inputs = drive.controller.inputs
    drive.hands = lambda now_ns: inputs.on_jog("jog", {"waist": 0.4}, now_ns)
    assert drive.run(0.3) == []
    assert "jog does not count before it was seen at rest: it is [0.4, 0.0" in inputs.problem(drive.now)


# The tool from where the arm lies -----------------------------------------------------------------------


@pytest.mark.parametrize(("index", "least"), [(0, 0.08), (2, 0.12), (4, 0.5)], ids=["x", "z", "pitch"])
def test_from_where_the_arm_lies_it_goes_where_it_can_and_nowhere_else(index: int, least: float) -> None:
    drive = Drive(q=SLEEP)
    drive.tick()
    drive.set_mode(Mode.TELEOP)
    asked = np.zeros(6)
    asked[index] = 0.15 if index < 3 else 0.8
    drive.controller.inputs.on_twist("twist", (0, 0, 0), (0, 0, 0), None, drive.now)  # at rest before
    drive.hands = lambda now_ns: drive.controller.inputs.on_twist(
        "twist", asked[:3].tolist(), asked[3:].tolist(), None, now_ns
    )
    (p0, r0), _ = drive.kinematics.forward(drive.q), drive.run(1.0)
    p1, r1 = drive.kinematics.forward(drive.q)
    moved = np.append(p1 - p0, matrix_to_euler(r1 @ r0.T))
    assert moved[index] > least and drive.controller.teleop_problem == ""
    moved[index] = 0.0
    assert np.linalg.norm(moved[:3]) < 2e-3 and np.linalg.norm(moved[3:]) < 5e-3
    assert_smooth(drive)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_where_it_cannot_go_it_stays_and_a_person_is_told_what_to_do(sign: float) -> None:
    drive = Drive(q=SLEEP)
    joystick(drive, DEADMAN, y=sign)
    drive.run(1.0)
    assert np.max(np.abs(drive.q - drive.path[0])) < 0.02
    expected = "the arm cannot go any further in this direction; the arm lies in 'sleep': go_to home first"
    assert drive.controller.teleop_problem == expected
