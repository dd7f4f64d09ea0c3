"""One driver and one policy at a time: whoever else publishes is seen, and nobody moves meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from controller_rig import NAME, ControllerRig
from policy_rig import StandIn
from trajectory_msgs.msg import JointTrajectory
from twinbrain_ros.msg import ActionChunk, ControlMode, PolicyStatus

from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.robot.robot_file import RobotFile

ERROR, OK = 2, 0
ARM = "/arm_controller/joint_trajectory takes the arm's commands from one node"
SEEN_WITHIN_NS = 1_000_000_000


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> ControllerRig:
    return ControllerRig(bench, robot)


def other_driver(rig: ControllerRig) -> Any:
    """Somebody else on the arm's command topic, as a GUI with sliders."""
    return rig.bench.publisher(JointTrajectory, rig.robot.topics.arm_trajectory, qos.COMMAND)


def gone(rig: ControllerRig) -> None:
    rig.bench.until(lambda: rig.bench.says(NAME, OK, "active"), "it is still seen")


def test_a_driven_arm_comes_to_rest_when_another_driver_appears(rig: ControllerRig) -> None:
    rig.drive()
    other = other_driver(rig)
    appeared_ns = rig.now_ns()
    rig.bench.until(lambda: rig.mode().latched)
    assert rig.now_ns() - appeared_ns < SEEN_WITHIN_NS
    assert rig.mode().mode == ControlMode.HOLD
    assert ARM in rig.mode().reason and "by /controller_node (this one) and by /bench" in rig.mode().reason
    rig.until_at_rest()
    assert not rig.set_mode(ControlMode.AUTONOMY).success
    rig.bench.node.destroy_publisher(other)
    rig.bench.until(lambda: not rig.node._driver._graph.problem(), "it is still seen")
    assert rig.trigger("reset").success
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


def test_with_another_driver_no_mode_that_moves_is_granted_until_it_leaves(rig: ControllerRig) -> None:
    other = other_driver(rig)
    for mode in (ControlMode.AUTONOMY, ControlMode.TELEOP):
        answer = rig.set_mode(mode)
        assert not answer.success and ARM in answer.message and "/bench" in answer.message
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, ARM))
    rig.bench.until(lambda: ARM in rig.mode().reason)  # told there too, to those who look at the mode only
    assert rig.mode().mode == ControlMode.HOLD
    rig.held = {4}  # neither may a person take over
    rig.axes = [0.0, 1.0, *[0.0] * 6]
    count = len(rig.path)
    rig.bench.until(lambda: len(rig.path) > count + 20)
    assert rig.arm == []
    rig.held = None
    rig.bench.node.destroy_publisher(other)
    gone(rig)
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


def test_the_gripper_has_one_driver_too(rig: ControllerRig) -> None:
    rig.bench.publisher(JointTrajectory, rig.robot.topics.gripper_trajectory, qos.COMMAND)
    answer = rig.set_mode(ControlMode.AUTONOMY)
    assert not answer.success
    assert "/gripper_controller/joint_trajectory takes the gripper's commands from one" in answer.message


def test_two_controllers_refuse_both(
    rig: ControllerRig, start_process: Callable[..., Any], robot: RobotFile
) -> None:
    """The second one is a process of its own, with the same name, as of a launch file that ran twice."""
    rig.bench.until(lambda: rig.set_mode(ControlMode.TELEOP).success)
    other = start_process("controller_node", autostart=True)
    words = "and by another /controller_node"
    rig.bench.until(lambda: any(mode.latched and words in mode.reason for mode in rig.modes))
    rig.until_at_rest()
    # Both serve the same name, and one answer comes back; the other one says it on its terminal.
    assert not rig.set_mode(ControlMode.AUTONOMY).success
    rig.bench.until(lambda: "takes the arm's commands from one node" in other.output())
    other.end()
    rig.bench.until(lambda: not rig.node._driver._graph.problem(), "it is still seen")
    assert rig.trigger("reset").success
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


def test_a_dry_run_does_not_count(
    rig: ControllerRig, start_process: Callable[..., Any], robot: RobotFile
) -> None:
    other = start_process("controller_node", autostart=True, dry_run=True)
    rig.bench.until(lambda: "active" in other.output())
    rig.bench.until(
        lambda: rig.bench.node.count_publishers("dry_run/" + robot.topics.arm_trajectory), "no dry run"
    )
    rig.node._look_round()
    assert not rig.node._driver._graph.problem()
    # The service is served by both; of the two this one's mode is what counts.
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


def test_two_policies_stop_autonomy_but_not_a_person(rig: ControllerRig) -> None:
    rig.drive()
    second = rig.bench.node.create_publisher(ActionChunk, rig.robot.topics.action_chunk, qos.COMMAND)
    appeared_ns = rig.now_ns()
    rig.bench.until(lambda: rig.mode().latched)
    assert rig.now_ns() - appeared_ns < SEEN_WITHIN_NS
    assert "/action_chunk takes chunks from one node, but is published by /bench and" in rig.mode().reason
    assert rig.trigger("reset").success
    refused = rig.set_mode(ControlMode.AUTONOMY)
    assert not refused.success and "takes chunks from one node" in refused.message
    rig.bench.until(lambda: rig.set_mode(ControlMode.TELEOP).success)
    rig.bench.node.destroy_publisher(second)
    gone(rig)
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)


def test_two_policies_are_held_and_all_three_say_who_they_are(rig: ControllerRig) -> None:
    """Real ones: neither acts, and autonomy is over within a second."""

    def policy(name: str) -> PolicyNode:
        def make(**arguments: Any) -> PolicyNode:
            remapped = ["--ros-args", "-r", f"__node:={name}"]
            return PolicyNode(lambda *_: StandIn(), lambda _: None, cli_args=remapped, **arguments)

        node = rig.bench.add(make, autostart=True)
        assert node.autostart()
        return node

    bench, taken = rig.bench, "/action_chunk takes chunks from one node, but is published by"
    bench.node.destroy_publisher(rig.chunks)  # the rig's own
    policy("policy_a")
    said = bench.record(PolicyStatus, rig.robot.topics.policy_status, qos.COMMAND)
    bench.until(lambda: not rig.node._driver.look_round()[1], "the rig is still seen")
    rig.until_settled()
    bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)
    second = policy("policy_b")
    appeared_ns = rig.now_ns()
    bench.until(lambda: rig.mode().latched, "autonomy goes on")
    assert rig.now_ns() - appeared_ns < SEEN_WITHIN_NS
    both = f"{taken} /policy_a and by /policy_b: end one of them"
    assert both in rig.mode().reason
    by = {
        "policy_a": f"{taken} /policy_a (this one) and by /policy_b",
        "policy_b": f"{taken} /policy_b (this one) and by /policy_a",
    }
    for name, words in by.items():
        bench.until(lambda words=words: any(words in m.problem for m in said), f"{name} does not beat so")
        bench.until(lambda name=name, words=words: bench.says(name, ERROR, words), f"{name} does not say so")
    assert rig.trigger("reset").success
    bench.until(lambda: bench.says(NAME, ERROR, both))
    refused = rig.set_mode(ControlMode.AUTONOMY)
    assert not refused.success and both in refused.message
    bench.remove(second)
    gone(rig)
    bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)
