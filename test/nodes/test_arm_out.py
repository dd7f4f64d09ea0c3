"""How commands leave for drivers other than a JointTrajectoryController."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from twinbrain_ros.control.verdict import Command, Motion
from twinbrain_ros.nodes.arm_out import JointGroupOut, TrajectoryOut, make_arm_out
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.robot_file import RobotFile

ERROR = 2


class Sent:
    """In the place of a node: remembers what is published, by topic."""

    def __init__(self) -> None:
        self.messages: dict[str, list[Any]] = {}

    def advertise(self, kind: type, topic: str, profile: Any) -> Any:
        sent = self.messages.setdefault(topic, [])
        return types.SimpleNamespace(publish=sent.append)


def command(first: float, finger_m: float = 0.03) -> Command:
    positions = np.full((3, 6), first) + np.array([[0.0], [0.01], [0.02]])
    return Command(Motion(0, np.array([0.04, 0.06, 0.08]), positions, np.zeros((3, 6))), finger_m)


@pytest.fixture
def xs_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Interbotix messages, with their real fields."""
    messages = types.ModuleType("interbotix_xs_msgs.msg")
    messages.JointGroupCommand = dataclasses.make_dataclass("JointGroupCommand", ["name", "cmd"])  # type: ignore[attr-defined]
    messages.JointSingleCommand = dataclasses.make_dataclass("JointSingleCommand", ["name", "cmd"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "interbotix_xs_msgs", types.ModuleType("interbotix_xs_msgs"))
    monkeypatch.setitem(sys.modules, "interbotix_xs_msgs.msg", messages)


def test_the_interbotix_driver_is_streamed_one_position_at_a_time(
    robot: RobotFile, xs_messages: None
) -> None:
    robot = dataclasses.replace(robot, command_interface="xs_joint_group")
    node = Sent()
    out = make_arm_out(node, robot, dry_run=False)  # type: ignore[arg-type]
    assert isinstance(out, JointGroupOut)
    out.send(command(0.1))
    out.send(command(0.2))
    out.settle(np.full(6, 0.25))  # it comes to rest: nothing is commanded, but positions go on
    arm = node.messages[robot.topics.arm_trajectory]
    assert [(m.name, round(m.cmd[0], 6), len(m.cmd)) for m in arm] == [
        ("arm", 0.1, 6),
        ("arm", 0.2, 6),
        ("arm", 0.25, 6),
    ]
    gripper = node.messages[robot.topics.gripper_trajectory]
    assert [(m.name, m.cmd) for m in gripper] == [("gripper", 0.06)]  # both fingers, and only when it changes


def test_a_trajectory_controller_needs_nothing_to_come_to_rest(robot: RobotFile) -> None:
    node = Sent()
    out = make_arm_out(node, robot, dry_run=True)  # type: ignore[arg-type]
    assert isinstance(out, TrajectoryOut)
    out.send(command(0.1))
    out.settle(np.full(6, 0.25))
    (message,) = node.messages["dry_run/" + robot.topics.arm_trajectory]
    assert len(message.points) == 3 and robot.topics.arm_trajectory not in node.messages


def test_without_its_messages_the_controller_refuses_to_configure(
    bench: Any, robot: RobotFile, tmp_path: Path
) -> None:
    document = yaml.safe_load(robot.path.read_text())
    document["command"]["interface"] = "xs_joint_group"
    path = tmp_path / "xs.yaml"
    path.write_text(yaml.safe_dump(document))
    shutil.copy(robot.urdf_path, tmp_path / robot.urdf_path.name)
    node = bench.add(ControllerNode, autostart=True, robot=str(path))
    assert not node.autostart()
    words = "'command.interface' is 'xs_joint_group', but interbotix_xs_msgs cannot be imported"
    bench.until(lambda: bench.says("controller_node", ERROR, words))
