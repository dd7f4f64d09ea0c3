"""How commands leave for drivers other than a JointTrajectoryController."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot_files import changed_robot

from twinbrain_ros.control.verdict import Command, Motion
from twinbrain_ros.nodes.arm_out import JointGroupOut, TrajectoryOut, make_arm_out
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

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


def test_the_interbotix_driver_is_streamed_one_position_at_a_time() -> None:
    robot = load_robot("wx250s_xs")
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
    assert [(m.name, m.cmd) for m in gripper] == [
        ("gripper", pytest.approx(0.06))
    ]  # both fingers, and only when it changes


def test_a_trajectory_controller_needs_nothing_to_come_to_rest(robot: RobotFile) -> None:
    node = Sent()
    out = make_arm_out(node, robot, dry_run=True)  # type: ignore[arg-type]
    assert isinstance(out, TrajectoryOut)
    out.send(command(0.1))
    out.settle(np.full(6, 0.25))
    (message,) = node.messages["dry_run/" + robot.topics.arm_trajectory]
    assert len(message.points) == 3 and robot.topics.arm_trajectory not in node.messages


@pytest.mark.parametrize(
    ("like", "command", "package", "words"),
    [
        ("wx250s_xs", None, "interbotix_xs_msgs", "'command.interface' is 'xs_joint_group'"),
        ("wx250s", "gripper_action", "control_msgs", "'gripper.command.interface' is 'gripper_action'"),
        (
            "wx250s",
            "xs_joint_single",
            "interbotix_xs_msgs",
            "'gripper.command.interface' is 'xs_joint_single'",
        ),
    ],
)
def test_without_its_messages_the_controller_refuses_to_configure(
    bench: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    like: str,
    command: str,
    package: str,
    words: str,
) -> None:
    def change(document: dict[str, Any]) -> None:
        if command is not None:
            document["gripper"]["command"] = {"interface": command, "topic": "gripper"}

    for module in ("", ".msg", ".action"):
        monkeypatch.setitem(sys.modules, package + module, None)  # as if it were not installed
    node = bench.add(ControllerNode, autostart=True, robot=str(changed_robot(tmp_path, like, change).path))
    assert not node.autostart()
    bench.until(lambda: bench.says("controller_node", ERROR, f"{words}, but {package} cannot be imported"))
