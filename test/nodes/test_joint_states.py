"""Joint states on real topics: two sources, parts, strangers, and a gripper that is not measured."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import yaml
from controller_rig import CALM, NAME, ControllerRig
from sensor_msgs.msg import JointState
from twinbrain_ros.msg import ControlMode

from twinbrain_ros.nodes import convert
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

WARN, ERROR = 1, 2


def test_two_sources_that_contradict_each_other_stop_the_arm_and_are_named(
    bench: Any, robot: RobotFile
) -> None:
    rig = ControllerRig(bench, robot)
    rig.drive()
    second = bench.publisher(JointState, robot.topics.joint_states)

    def publish() -> None:
        q = robot.home.tolist()
        q[2] += 1.0
        second.publish(rig.joint_state(position=[*q, robot.gripper.open_m]))

    bench.node.create_timer(0.02, publish)
    bench.until(lambda: rig.mode().latched, "never stopped")
    reason = rig.mode().reason
    assert "the joint states contradict each other" in reason and "joint 'elbow'" in reason
    assert f"joint_states is published by '/{bench.node.get_name()}' and " in reason
    bench.until(lambda: bench.says(NAME, ERROR, "contradict each other"))
    assert rig.trigger("reset").success
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success and "contradict each other" in answer.message


def test_arm_and_gripper_from_different_topics_with_strangers_and_repeats(
    bench: Any, robot: RobotFile, tmp_path: Path
) -> None:
    document = yaml.safe_load(robot.path.read_text())
    document["topics"]["joint_states"] = ["arm/joint_states", "gripper/joint_states"]
    shutil.copy(robot.urdf_path, tmp_path)
    path = tmp_path / "parts.yaml"
    path.write_text(yaml.safe_dump(document))
    parts = load_robot(path)
    node = bench.add(ControllerNode, autostart=True, **CALM, robot=str(path))
    assert node.autostart()
    arm, gripper = (bench.publisher(JointState, topic) for topic in parts.topics.all_joint_states)

    def publish() -> None:
        stamp = convert.to_time(int(bench.node.get_clock().now().nanoseconds))
        names, home = parts.arm_joints, parts.home.tolist()
        for out, some, positions in (
            (arm, names[:3], home[:3]),
            (arm, ["wheel_left", "wheel_right"], [1.0, math.nan]),
            (arm, names[3:], home[3:]),
            (arm, names[3:], home[3:]),
            (gripper, [parts.gripper.joint], [0.03]),
        ):
            message = JointState(name=list(some), position=positions)
            message.header.stamp = stamp
            out.publish(message)

    bench.node.create_timer(0.02, publish)
    joints = node._controller.joints
    bench.until(lambda: joints.newest is not None and joints.repeated > 20 and joints.newest.finger_m == 0.03)
    bench.until(lambda: int(bench.value(NAME, "joint_states_repeated") or 0) > 0)
    assert joints.left_out == 0 and bench.says(NAME, 0, "active")
    assert not any("joint_states/" in value.key for value in bench.status[NAME].values)


def test_each_joint_in_a_message_of_its_own_and_all_at_once(bench: Any, robot: RobotFile) -> None:
    node = bench.add(ControllerNode, autostart=True, **CALM)
    assert node.autostart()
    joints = bench.publisher(JointState, robot.topics.joint_states)
    names = [*robot.arm_joints, robot.gripper.joint, "right_finger", "wheel_left", "wheel_right"]

    def publish() -> None:
        stamp = convert.to_time(int(bench.node.get_clock().now().nanoseconds))
        for name, position in zip(names, [*robot.home.tolist(), 0.03, -0.03, 1.0, 2.0], strict=True):
            message = JointState(name=[name], position=[position])
            message.header.stamp = stamp
            joints.publish(message)

    seen: set[int] = set()

    def all_came() -> bool:
        newest = node._controller.joints.newest
        return newest is not None and newest.stamp_ns not in seen and not seen.add(newest.stamp_ns)

    for _ in range(10):
        publish()
        bench.until(all_came, "some pushed out others")


def test_joint_states_without_a_stamp_are_called_so(bench: Any, robot: RobotFile) -> None:
    rig = ControllerRig(bench, robot)
    rig.joints_go = False
    words = "joint_states: stamp is zero, expected the time of the measurement"

    def publish() -> None:
        message = rig.joint_state()
        message.header.stamp = convert.to_time(0)
        rig.joints.publish(message)

    bench.node.create_timer(0.02, publish)
    bench.until(lambda: bench.says(NAME, ERROR, words))
    answer = rig.set_mode(ControlMode.TELEOP)
    assert not answer.success and words in answer.message


def test_a_gripper_that_is_not_measured_is_told_of_and_the_arm_moves_all_the_same(
    bench: Any, robot: RobotFile
) -> None:
    rig = ControllerRig(bench, robot)
    rig.joints_go = False
    message = "no position of the gripper joint 'left_finger' has arrived yet in joint states"

    def publish() -> None:
        rig.joints.publish(rig.joint_state(position=[*robot.home.tolist(), math.nan]))

    node = rig.node
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        getattr(node, f"trigger_{transition}")()
    bench.node.create_timer(0.02, publish)
    bench.until(lambda: bench.says(NAME, WARN, message))
    rig.until_settled()
    commands = len(rig.gripper)
    assert rig.set_mode(ControlMode.TELEOP).success
    rig.axes[0], rig.held = 0.5, {4}
    bench.until(lambda: len(rig.arm) > 5)
    assert len(rig.gripper) == commands
