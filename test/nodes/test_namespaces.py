"""Controllers in namespaces: two of one arm see each other there, two arms do not disturb each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from controller_rig import CALM, ControllerRig
from rclpy.qos import DurabilityPolicy, QoSProfile
from twinbrain_ros.msg import ControlMode

from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.robot_file import RobotFile

ERROR = 2
ARM = "/left/arm_controller/joint_trajectory takes the arm's commands from one node"


@pytest.fixture
def left(beside: Callable[[str], Any], robot: RobotFile) -> ControllerRig:
    return ControllerRig(beside("/left"), robot)


def says(bench: Any, node: str, words: str) -> bool:
    return bench.says(node, ERROR, words)


@pytest.mark.parametrize("name", ["controller_node", "controller_b"])
def test_two_controllers_of_one_namespace_see_each_other_there_and_neither_moves(
    bench: Any, left: ControllerRig, name: str
) -> None:
    """The second one is put there by a remapping, as by `-r __ns:=/left`."""

    def second(**arguments: Any) -> ControllerNode:
        remapped = ["--ros-args", "-r", "__ns:=/left", "-r", f"__node:={name}"]
        return ControllerNode(cli_args=remapped, **arguments)

    # Of both: a queue of one message would lose one of two that come at once.
    modes: list[ControlMode] = []
    deep = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    bench.node.create_subscription(ControlMode, "/left/control_mode", modes.append, deep)
    other = bench.add(second, autostart=True, **CALM)
    assert other.autostart() and other.get_fully_qualified_name() == f"/left/{name}"
    first = "/left/controller_node"
    by_first = f"by {first} (this one) and by " + (
        f"another {first}" if name == "controller_node" else f"/left/{name}"
    )
    by_second = f"by /left/{name} (this one) and by " + (
        f"another {first}" if name == "controller_node" else first
    )
    said = bench.said
    for node, words in (("left/controller_node", by_first), (f"left/{name}", by_second)):
        bench.until(
            lambda node=node, words=words: any(ARM in m and words in m for m in said.get(node, ())),
            f"{node} does not say {words!r}",
        )
    for words in (by_first, by_second):  # on control_mode too
        bench.until(lambda words=words: any(ARM in m.reason and words in m.reason for m in modes), words)
    # Whichever of the two answers.
    for controller in (left.node, other):
        for mode in (ControlMode.AUTONOMY, ControlMode.TELEOP):
            answer = left.set_mode(mode)
            assert not answer.success and ARM in answer.message
        assert controller._controller is not None and not controller._controller.driven
    left.held, left.axes = {4}, [0.0, 1.0, *[0.0] * 6]  # neither may a person take over
    seen = len(left.path)
    bench.until(lambda: len(left.path) > seen + 20)
    assert left.arm == [] and all(mode.mode == ControlMode.HOLD for mode in modes)
    left.held = None
    bench.remove(other)
    bench.until(lambda: not left.node._driver._graph.problem(), "it is still seen")
    left.until_settled()
    bench.until(lambda: left.set_mode(ControlMode.AUTONOMY).success)


def test_two_arms_in_namespaces_do_not_disturb_each_other(
    bench: Any, beside: Callable[[str], Any], left: ControllerRig, robot: RobotFile
) -> None:
    right = ControllerRig(beside("/right"), robot)
    heard_at_the_root = bench.node.create_subscription(
        ControlMode, robot.topics.control_mode, lambda message: None, qos.LATCHED
    )
    left.drive()
    right.until_settled()
    assert right.mode().mode == ControlMode.HOLD and right.arm == []
    right.drive()
    assert left.mode().mode == ControlMode.AUTONOMY
    assert left.trigger("estop").success
    left.until_at_rest()
    assert left.mode().mode == ControlMode.ESTOP
    right.send_chunk()
    bench.until(lambda: right.speed() > 0.1, "the other arm does not go on")
    assert right.mode().mode == ControlMode.AUTONOMY
    assert [mode.mode for mode in right.modes] == [ControlMode.HOLD, ControlMode.AUTONOMY]
    assert heard_at_the_root.get_publisher_count() == 0
    bench.until(lambda: bench.says("left/controller_node", ERROR, "emergency stop"))
    bench.until(lambda: bench.says("right/controller_node", 0, "active"))
