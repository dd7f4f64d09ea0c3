"""A second arm, of seven joints: its model against published kinematics, and the controller driving it."""

from __future__ import annotations

from functools import lru_cache

import control_fixtures
import numpy as np
import pytest
from control_fixtures import DEADMAN, TICK, Drive, joystick, with_action

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.timing import NS_PER_S
from twinbrain_ros.robot.actions import TOOL_DOWN, euler_to_matrix
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

# The manufacturer's Denavit-Hartenberg parameters (modified, after Craig): a [m], d [m], alpha [rad].
DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
# From joint 7 over the flange to between the finger pads; the hand is turned by -45 degrees on the flange.
TO_PADS_M, HAND_TURN_RAD = 0.107 + 0.1034, -np.pi / 4
# The tool frame's axes in the hand's frame, as columns.
TOOL_IN_HAND = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
STEP_M = 0.01


@lru_cache(maxsize=1)
def franka() -> RobotFile:
    return load_robot("franka")


@lru_cache(maxsize=1)
def kinematics() -> Kinematics:
    return Kinematics(franka())


@pytest.fixture(autouse=True)
def drives_the_franka(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Drive` takes this arm."""
    monkeypatch.setattr(control_fixtures, "shared_robot", franka)
    monkeypatch.setattr(control_fixtures, "shared_kinematics", kinematics)


def dh_pads(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and rotation [3, 3] of the hand's frame moved to between the pads."""
    pose = np.eye(4)
    last = (0.0, TO_PADS_M, 0.0)
    for (a, d, alpha), theta in zip((*DH, last), (*q, HAND_TURN_RAD), strict=True):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
        pose = pose @ np.array(
            [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
        )
    return pose[:3, 3], pose[:3, :3]


def test_the_tool_is_where_the_published_kinematics_put_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        q = rng.uniform(franka().lower, franka().upper)
        position, rotation = kinematics().forward(q)
        expected, hand = dh_pads(q)
        np.testing.assert_allclose(position, expected, atol=1e-6)
        np.testing.assert_allclose(rotation, hand @ TOOL_IN_HAND, atol=1e-6)


def test_home_is_inside_every_limit_and_points_the_tool_down() -> None:
    robot = franka()
    margin = robot.limit_margin_rad
    assert np.all(robot.home > robot.lower + margin) and np.all(robot.home < robot.upper - margin)
    position, rotation = kinematics().forward(robot.home)
    np.testing.assert_allclose(position, [0.45, 0.0, 0.40], atol=1e-5)
    np.testing.assert_allclose(rotation, TOOL_DOWN, atol=1e-5)
    assert np.all(position > robot.workspace.lower) and np.all(position < robot.workspace.upper)


def test_inverse_finds_any_tool_down_pose_over_the_table_from_home() -> None:
    robot = franka()
    rng = np.random.default_rng(1)
    for _ in range(200):
        wanted = rng.uniform([0.32, -0.30, 0.02], [0.62, 0.30, 0.50])
        rotation = euler_to_matrix(np.array([*rng.normal(0, 0.05, 2), rng.uniform(-0.8, 0.8)])) @ TOOL_DOWN
        result = kinematics().inverse(wanted, rotation, robot.home)
        position, found = kinematics().forward(result.q)
        assert np.linalg.norm(position - wanted) < 2e-4
        assert np.trace(rotation @ found.T) > 1 + 2 * np.cos(2e-3)
        assert np.all(result.q >= robot.lower) and np.all(result.q <= robot.upper)


def test_a_tool_that_goes_and_comes_back_leaves_the_elbow_where_it_was() -> None:
    """With a joint too many there are many solutions: from one to the next it must not wander."""
    q = franka().home
    there = np.linspace([0.45, 0.0, 0.40], [0.60, 0.25, 0.10], 50)
    for position in (*there, *there[::-1]):
        result = kinematics().inverse(position, TOOL_DOWN, q)
        assert result.reached() and np.max(np.abs(result.q - q)) < 0.1
        q = result.q
    np.testing.assert_allclose(q, franka().home, atol=0.05)


def test_a_chunk_moves_the_tool_by_its_steps_and_it_comes_to_rest_there() -> None:
    drive = Drive()
    robot, start = drive.robot, drive.tool
    drive.set_mode(Mode.AUTONOMY)
    drive.tick()
    due_ns = drive.give((STEP_M, 0, 0, 0, 0, 0, 1)).verdict.due_ns
    assert due_ns > 0
    # The first two steps are the start from rest; from then on the tool is where it is due at every tick.
    while (steps := (drive.now + TICK - due_ns) / NS_PER_S / robot.action.period_s) < 8.0:
        drive.tick()
        if steps >= 2.0:
            np.testing.assert_allclose(drive.tool - start, [STEP_M * steps, 0, 0], atol=5e-4)
    drive.run(1.0)
    steps = robot.action.execution_steps + 1  # one more, as a successor was to be expected
    np.testing.assert_allclose(drive.tool - start, [STEP_M * steps, 0, 0], atol=2e-4)
    assert drive.mode is Mode.AUTONOMY
    np.testing.assert_allclose(drive.kinematics.forward(drive.q)[1], TOOL_DOWN, atol=1e-3)


def test_a_chunk_of_joint_positions_moves_all_seven_and_the_gripper() -> None:
    robot = with_action(franka(), space="joint_position")
    drive = Drive(robot=robot)
    drive.set_mode(Mode.AUTONOMY)
    drive.tick()
    horizon, each = robot.action.horizon, np.array([1, -1, 1, -1, 1, -1, 1]) * 0.01
    data = np.column_stack([robot.home + np.outer(np.arange(1, horizon + 1), each), np.full(horizon, 0.5)])
    drive.give(data=data)
    commands = drive.run(2.0)
    last = data[robot.action.execution_steps]
    np.testing.assert_allclose(drive.q, last[:7], atol=1e-3)
    assert commands[-1].finger_m == pytest.approx(0.02)


def test_a_chunk_for_six_joints_is_refused() -> None:
    robot = with_action(franka(), space="joint_position")
    drive = Drive(robot=robot)
    drive.set_mode(Mode.AUTONOMY)
    drive.tick()
    judged = drive.give(data=np.zeros((robot.action.horizon, 7)))
    assert judged.verdict.reason == "data shape is (16, 7), expected (16, 8)"


def test_a_joystick_moves_the_tool_along_its_axes() -> None:
    drive = Drive()
    start = drive.tool
    joystick(drive, DEADMAN, x=1.0, y=0.0, z=0.0)
    drive.run(1.0)
    assert drive.mode is Mode.TELEOP
    moved = drive.tool - start
    assert moved[0] == pytest.approx(0.15, abs=0.03)  # at 0.15 m/s, after a start from rest
    np.testing.assert_allclose(moved[1:], 0.0, atol=2e-3)


def test_a_leader_of_seven_joints_is_followed() -> None:
    drive = Drive()
    goal = franka().home + 0.1
    names = [*franka().arm_joints, "panda_finger_joint1"]
    joints = dict(zip(names, [*goal, 0.02], strict=True))
    drive.hands = lambda now_ns: drive.controller.inputs.on_leader("leader", joints, now_ns)
    drive.tick()
    drive.set_mode(Mode.TELEOP)
    commands = drive.run(2.0)
    np.testing.assert_allclose(drive.q, goal, atol=2e-3)
    assert commands[-1].finger_m == pytest.approx(0.02)
