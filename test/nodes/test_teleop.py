"""People at the wheel, over real topics: joystick, twist and leader arm."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from control_msgs.msg import JointJog
from controller_rig import NAME, ControllerRig
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import JointState, Joy
from twinbrain_ros.msg import ChunkStatus, ControlMode

from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

DEADMAN, STOP, WARN = 4, 1, 1


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> ControllerRig:
    return ControllerRig(bench, robot)


def in_mode(rig: ControllerRig, mode: int) -> None:
    rig.bench.until(lambda: rig.mode().mode == mode, f"mode {mode} never came")


def test_a_joystick_takes_over_and_gives_back_and_both_are_recorded(rig: ControllerRig) -> None:
    rig.drive()
    before = rig.follower.set_point
    pressed_ns = rig.now_ns()
    rig.axes[0], rig.held = 0.8, {DEADMAN}  # left
    in_mode(rig, ControlMode.TELEOP)
    # One period of this rig until it is sent, one of the controller; the rest is for a busy machine.
    assert convert.from_time(rig.mode().header.stamp) - pressed_ns < 300_000_000
    assert rig.send_chunk().reason == "the mode is TELEOP"
    rig.bench.until(lambda: rig.follower.set_point[0] > before[0] + 0.05, "it does not go left")
    steps = np.abs(np.diff([q for _, q in rig.path], axis=0))
    assert np.all(steps < 0.3)
    seen_in_teleop = convert.to_time(rig.now_ns())
    rig.axes[0], rig.held = 0.0, set()
    in_mode(rig, ControlMode.AUTONOMY)
    old = rig.send_chunk(observation_stamp=seen_in_teleop, due=seen_in_teleop)
    assert old.outcome == ChunkStatus.DISCARDED and "before the switch to autonomy" in old.reason
    assert rig.send_chunk().outcome == ChunkStatus.EXECUTED
    rig.bench.until(lambda: len(rig.interventions) >= 2)
    begin, end = rig.interventions[-2:]
    assert begin.source == end.source == "joystick" and begin.number == end.number
    assert begin.interrupted == end.interrupted == ControlMode.AUTONOMY
    assert convert.from_time(begin.end) == 0 < convert.from_time(begin.start) < convert.from_time(end.end)


def test_a_joystick_that_falls_silent_leaves_the_arm_in_hold(rig: ControllerRig) -> None:
    rig.drive()
    rig.axes[0], rig.held = 0.8, {DEADMAN}
    in_mode(rig, ControlMode.TELEOP)
    rig.held = None
    in_mode(rig, ControlMode.HOLD)
    assert rig.mode().reason == "joystick fell silent" and not rig.mode().latched
    rig.until_at_rest()


def test_a_joystick_without_its_dead_man_button_moves_nothing(rig: ControllerRig) -> None:
    rig.axes[0], rig.held = 1.0, set()
    rig.bench.until(lambda: len(rig.path) > 20)
    assert rig.arm == [] and rig.mode().mode == ControlMode.HOLD


def test_a_joystick_before_its_first_event_moves_nothing_and_is_told_of(rig: ControllerRig) -> None:
    rig.axes, rig.held, rig._was_held = [-1.0] * 8, {DEADMAN}, set()
    rest = "joystick does not count before it was seen at rest: axes["
    rig.bench.until(lambda: rig.bench.says(NAME, WARN, rest))
    rig.bench.until(lambda: len(rig.path) > 40)
    assert rig.arm == [] and rig.mode().mode == ControlMode.HOLD
    rig.axes, rig.held = [0.0] * 8, set()
    rig.bench.until(lambda: not rig.bench.says(NAME, WARN, rest))
    rig.axes[0], rig.held = 0.8, {DEADMAN}
    in_mode(rig, ControlMode.TELEOP)


def test_a_joystick_of_another_kind_is_named(rig: ControllerRig) -> None:
    rig.joy.publish(Joy(axes=[0.0], buttons=[0, 0]))
    rig.bench.until(lambda: rig.bench.says(NAME, 2, "joystick: found 2 buttons, expected more than 4"))


def test_its_stop_button_works_all_the_same(rig: ControllerRig) -> None:
    rig.drive()
    rig.joy.publish(Joy(axes=[], buttons=[0, 1]))
    in_mode(rig, ControlMode.ESTOP)
    assert rig.mode().reason == "pressed on joystick"
    rig.until_at_rest()


def test_a_twist_drives_in_teleop_and_only_there(rig: ControllerRig) -> None:
    twists = rig.bench.publisher(TwistStamped, "teleop/twist")
    message = TwistStamped()
    message.twist.linear.z = 0.1
    message.header.frame_id = rig.robot.base_frame
    timer = rig.bench.node.create_timer(0.03, lambda: twists.publish(message))
    rest = "twist does not count before it was seen at rest: it is [0.0, 0.0, 0.1, 0.0, 0.0, 0.0]"
    rig.bench.until(lambda: rig.bench.says(NAME, WARN, rest))
    assert rig.set_mode(ControlMode.TELEOP).success
    rig.bench.until(lambda: len(rig.path) > 40)
    assert rig.arm == [] or rig.path[-1][1].tolist() == rig.robot.home.tolist()
    twists.publish(TwistStamped(header=message.header))
    kinematics = rig.node._kinematics
    start = kinematics.forward(rig.robot.home)[0]
    rig.bench.until(lambda: kinematics.forward(rig.path[-1][1])[0][2] > start[2] + 0.03, "it does not rise")
    timer.cancel()
    rig.until_at_rest()
    assert rig.mode().mode == ControlMode.TELEOP  # it was asked for, and stays
    moved = kinematics.forward(rig.path[-1][1])[0] - start
    assert np.abs(moved[:2]).max() < 5e-3


def test_a_twist_in_an_unknown_frame_is_named(rig: ControllerRig) -> None:
    twists = rig.bench.publisher(TwistStamped, "teleop/twist")
    message = TwistStamped()
    message.header.frame_id = "map"
    twists.publish(message)
    expected = "twist: found a twist in frame 'map', expected 'base_link' or 'ee_gripper_link'"
    rig.bench.until(lambda: rig.bench.says(NAME, 2, expected))


def test_a_leader_is_followed_by_its_motion_without_a_jump(rig: ControllerRig) -> None:
    leaders = rig.bench.publisher(JointState, "leader/joint_states", qos.SENSOR_OUT)
    offset = np.array([0.4, 0.2, -0.2, 0.0, 0.1, 0.3])  # it stands elsewhere
    moved = {"by": 0.0}

    def lead() -> None:
        q = rig.robot.home + offset + np.array([moved["by"], 0, 0, 0, 0, 0])
        names = [*rig.robot.arm_joints, "left_finger"]
        leaders.publish(JointState(name=names, position=[*q.tolist(), 0.02]))

    rig.bench.node.create_timer(0.02, lead)
    assert rig.set_mode(ControlMode.TELEOP).success
    rig.bench.until(lambda: len(rig.arm) > 5)
    assert np.abs(rig.path[-1][1] - rig.robot.home).max() < 0.1

    def followed() -> bool:
        # Again and again: a machine that pauses makes the leader fall silent, and that motion is lost.
        moved["by"] = -0.2 if rig.now_ns() // 700_000_000 % 2 else 0.0
        waist = [q[0] for _, q in rig.path[-20:]]
        return max(waist) - waist[-1] > 0.05

    rig.bench.until(followed, "its motion is not followed")
    moved["by"] = 0.0
    rig.bench.until(
        lambda: np.abs(rig.path[-1][1] - rig.robot.home - offset)[1:].max() < 0.01, "no alignment"
    )
    assert rig.gripper[-1].points[0].positions[0] == pytest.approx(0.02)


def test_joints_are_jogged_and_what_is_no_velocity_of_a_joint_is_named(
    bench: Any, robot: RobotFile, tmp_path: Path
) -> None:
    document = yaml.safe_load(robot.path.read_text())
    document["teleop"].append(
        {"kind": "jog", "name": "jog", "topic": "teleop/jog", "priority": 90, "timeout_s": 0.5,
         "takes_over": False, "joint_speed": 0.5}
    )  # fmt: skip
    path = tmp_path / "with_jog.yaml"
    path.write_text(yaml.safe_dump(document))
    shutil.copy(robot.urdf_path, tmp_path)
    rig = ControllerRig(bench, load_robot(path))
    jogs = bench.publisher(JointJog, "teleop/jog")
    jogs.publish(JointJog(joint_names=["waist"], displacements=[0.1]))
    found = "jog: found 1 joints, 0 velocities and 1 displacements, expected different joints"
    bench.until(lambda: bench.says(NAME, 2, found))
    assert rig.set_mode(ControlMode.TELEOP).success
    message = JointJog(joint_names=["waist"], velocities=[0.0])
    bench.node.create_timer(0.03, lambda: jogs.publish(message))
    bench.until(lambda: bench.says(NAME, 0, "active"))
    message.velocities = [0.4]
    bench.until(lambda: rig.path[-1][1][0] > 0.15, "the waist does not turn")
    np.testing.assert_allclose(rig.path[-1][1][1:], rig.robot.home[1:], atol=1e-3)
