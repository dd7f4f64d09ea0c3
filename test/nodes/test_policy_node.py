"""The policy node over real topics: what it makes of good input, and what bad input gets.

A stand-in for the policy keeps these tests about messages; the real checkpoint runs in test_checkpoint.py.
"""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
import pytest
import rclpy
from policy_rig import Rig, StandIn, understood
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.lifecycle import TransitionCallbackReturn

from twinbrain_ros.brain.sampling import noise_for
from twinbrain_ros.nodes import convert
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

ERROR, WARN, OK = 2, 1, 0
NAME = "policy_node"


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> Rig:
    return Rig(bench, robot)


# What it does ---------------------------------------------------------------------------------------


def test_a_chunk_says_everything_about_itself(rig: Rig) -> None:
    rig.say("pick up the red block")
    chunk = rig.chunk(1)
    robot = rig.robot
    assert (chunk.sequence, chunk.instruction, chunk.robot) == (1, "pick up the red block", "wx250s")
    assert (chunk.action_space, chunk.composition) == ("ee_delta", "observation")
    assert tuple(chunk.names) == robot.action.names and chunk.period_s == robot.action.period_s
    assert chunk.observation_stamp == chunk.due
    assert tuple(chunk.observation_joint_names) == robot.arm_joints
    np.testing.assert_array_equal(chunk.observation_joint_positions, robot.home)
    assert 0 < chunk.inference_time_s < 10
    # The noise is a function of the seed that the chunk carries.
    np.testing.assert_allclose(np.reshape(chunk.data, (8, 7)), noise_for(chunk.noise_seed, 8, 7))


def test_the_policy_sees_what_was_sent(rig: Rig) -> None:
    rig.say("pick up the red block")
    rig.chunk(1)
    images, instruction, state = rig.policy.seen[0]
    assert set(images) == {"front", "wrist"} and all((image == 7).all() for image in images.values())
    position, _ = Kinematics(rig.robot).forward(rig.robot.home)
    np.testing.assert_allclose(state[:3], position)
    assert instruction == "pick up the red block" and state[6] == pytest.approx(1.0)


def test_a_new_chunk_comes_every_execution_steps_periods(rig: Rig) -> None:
    rig.say("pick up the red block")
    first = convert.from_time(rig.chunk(1).observation_stamp)
    second = convert.from_time(rig.chunk(2).observation_stamp)
    action = rig.robot.action
    assert second - first >= (action.execution_steps * action.period_s - 0.026) * 1e9


def test_another_instruction_takes_effect_with_the_next_chunk_at_once(rig: Rig) -> None:
    rig.say("pick up the red block")
    rig.chunk(1)
    rig.say("pick up the blue block")
    rig.bench.until(lambda: understood(rig, "pick up the blue block"))
    # The period is not over, and yet the first observation that is complete is answered.
    before = len(rig.stamps)
    answered_ns = convert.from_time(rig.chunk(2).observation_stamp)
    assert rig.stamps.index(answered_ns) <= before + 1
    assert rig.chunks[1].instruction == "pick up the blue block"


def test_an_answer_to_a_former_instruction_is_not_published(rig: Rig) -> None:
    rig.policy.go.clear()
    rig.say("pick up the red block")
    rig.bench.until(lambda: understood(rig, "pick up the red block"))
    rig.observe_until(lambda: rig.policy.seen)
    rig.say("pick up the blue block")
    rig.bench.until(lambda: understood(rig, "pick up the blue block"))
    rig.policy.go.set()
    assert rig.chunk(1).instruction == "pick up the blue block"


def test_messages_are_taken_in_while_the_policy_runs(rig: Rig) -> None:
    rig.policy.go.clear()
    rig.say("pick up the red block")
    rig.bench.until(lambda: understood(rig, "pick up the red block"))
    rig.observe_until(lambda: rig.policy.seen)
    for _ in range(20):
        rig.observe()
    assert len(rig.policy.seen) == 1
    rig.policy.go.set()


def test_every_frame_sent_is_counted_as_received(rig: Rig) -> None:
    rig.say("pick up the red block")
    for _ in range(100):
        rig.observe()
    rig.bench.until(lambda: rig.bench.value(NAME, "frames_received/front") == "100")
    assert rig.bench.value(NAME, "frames_received/wrist") == "100"
    used = int(rig.bench.value(NAME, "frames_used/front"))
    assert used == len(rig.policy.seen) <= 100


def test_it_says_what_it_is_waiting_for(rig: Rig) -> None:
    rig.bench.until(lambda: rig.bench.says(NAME, WARN, "no image of camera 'front' has arrived yet"))


# Bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoding": "bgr8"}, "front: encoding is 'bgr8', expected 'rgb8'"),
        ({"width": 95}, "front: width is 95 pixels, expected 96"),
        ({"height": 48}, "front: height is 48 pixels, expected 96"),
        ({"step": 1}, "front: step is 1 bytes, expected at least 288"),
        ({"data": array.array("B", bytes(100))}, "front: length of data is 100 bytes"),
    ],
)
def test_a_bad_image_is_named_and_never_used(rig: Rig, changes: dict[str, Any], words: str) -> None:
    rig.say("pick up the red block")
    rig.bench.until(lambda: understood(rig, "pick up the red block"))
    rig.observe(front=changes)
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, words))
    assert rig.policy.seen == []
    assert rig.chunk(1).sequence == 1  # good images go on as if nothing had been
    rig.bench.until(lambda: not rig.bench.says(NAME, ERROR, words))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position": [math.nan] * 7}, "position of 'waist' is nan, expected a finite number"),
        ({"position": []}, "number of positions is 0, expected 7"),
    ],
)
def test_bad_joint_states_are_named_and_never_used(rig: Rig, changes: dict[str, Any], words: str) -> None:
    rig.say("pick up the red block")
    rig.bench.until(lambda: understood(rig, "pick up the red block"))
    rig.observe(joint_states=changes)
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, words))
    assert rig.policy.seen == []
    assert rig.chunk(1).sequence == 1


def test_joint_states_in_another_order_are_taken_by_name(rig: Rig) -> None:
    rig.say("pick up the red block")
    rig.bench.until(lambda: understood(rig, "pick up the red block"))
    good = rig.joint_state(0)
    other = {"name": list(reversed(good.name)), "position": list(reversed(good.position))}
    rig.observe_until(lambda: rig.chunks, joint_states=other)
    np.testing.assert_array_equal(rig.chunks[0].observation_joint_positions, rig.robot.home)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found an empty text, expected words"),
        ("   \n", "found an empty text"),
        ("red " * 25_000, "found 99999 characters ('red red red"),
        ("please sing", "the words ['sing'] are not in this checkpoint's vocabulary"),
    ],
)
def test_an_instruction_that_cannot_be_used_is_refused_and_the_old_one_dropped(
    rig: Rig, text: str, words: str
) -> None:
    rig.say("pick up the red block")
    rig.chunk(1)
    rig.say(text)
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, words))
    assert len(rig.bench.status[NAME].message) < 300  # the whole text is not repeated
    rig.no_chunk()
    rig.say("pick up the blue block")
    rig.bench.until(lambda: understood(rig, "pick up the blue block"))
    assert rig.chunk(len(rig.chunks) + 1).instruction == "pick up the blue block"
    rig.bench.until(lambda: not rig.bench.says(NAME, ERROR, words))


def test_a_policy_that_fails_is_reported_and_asked_again(rig: Rig) -> None:
    rig.policy.fails = "the policy produced non-finite actions"
    rig.say("pick up the red block")
    rig.bench.until(lambda: understood(rig, "pick up the red block"))
    words = "no chunk: the policy produced non-finite actions"
    rig.observe_until(lambda: rig.bench.says(NAME, ERROR, words))
    assert rig.chunks == []
    rig.policy.fails = ""
    assert rig.chunk(1).sequence == 1


def test_a_camera_that_stops_is_named(rig: Rig) -> None:
    rig.say("pick up the red block")
    rig.chunk(1)
    rig.bench.until(lambda: rig.bench.says(NAME, ERROR, "the image of camera 'front' is"))
    assert "expected at most 0.25 s" in rig.bench.status[NAME].message


def test_a_restart_of_the_node_waits_for_a_fresh_observation(rig: Rig) -> None:
    rig.say("pick up the red block")
    rig.chunk(1)
    assert rig.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    rig.observe()
    assert rig.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert rig.chunk(2).sequence == 2


# Configure ------------------------------------------------------------------------------------------


def other_robot(robot: RobotFile, tmp_path: Any, old: str, new: str) -> str:
    text = robot.path.read_text(encoding="utf-8").replace("urdf: wx250s.urdf", f"urdf: {robot.urdf_path}")
    assert old in text
    path = tmp_path / "robot.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return str(path)


def configure(bench: Any, **parameters: Any) -> tuple[PolicyNode, bool]:
    node = bench.add(lambda **arguments: PolicyNode(lambda *_: StandIn(), **arguments), **parameters)
    assert isinstance(node, PolicyNode)
    return node, node.trigger_configure() == TransitionCallbackReturn.SUCCESS


def test_a_checkpoint_of_another_robot_is_refused_with_both_names(
    bench: Any, robot: RobotFile, tmp_path: Any
) -> None:
    path = other_robot(robot, tmp_path, "name: wx250s ", "name: panda ")
    node, configured = configure(bench, robot=path)
    assert not configured
    words = "cannot configure: robot: checkpoint 'wx250s', robot file 'panda'"
    bench.until(lambda: bench.says(NAME, ERROR, words))
    # It is still there: with the right robot file it configures.
    node.set_parameters([rclpy.Parameter("robot", value="wx250s")])
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    bench.until(lambda: bench.value(NAME, "state") == "inactive")
    assert bench.says(NAME, OK, "")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("period_s:", "perod_s:", "period_s"),
        ("horizon: 8", "horizon: eight", "horizon"),
    ],
)
def test_a_bad_robot_file_is_refused_with_its_key(
    bench: Any, robot: RobotFile, tmp_path: Any, old: str, new: str, words: str
) -> None:
    _, configured = configure(bench, robot=other_robot(robot, tmp_path, old, new))
    assert not configured
    bench.until(lambda: bench.says(NAME, ERROR, words) and bench.says(NAME, ERROR, "robot.yaml"))


def test_a_robot_file_that_is_not_there_is_named(bench: Any) -> None:
    assert not configure(bench, robot="nowhere")[1]
    bench.until(lambda: bench.says(NAME, ERROR, "'nowhere'"))


def test_a_parameter_change_that_would_have_no_effect_is_refused(bench: Any) -> None:
    node, configured = configure(bench)
    assert configured
    value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=4)
    request = SetParameters.Request(parameters=[ParameterMessage(name="execution_steps", value=value)])
    answer = bench.call(SetParameters, f"{NAME}/set_parameters", request)
    assert not answer.results[0].successful
    assert "execution_steps is read at configure and the node is inactive" in answer.results[0].reason
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert bench.call(SetParameters, f"{NAME}/set_parameters", request).results[0].successful


def test_parameters_have_ranges_units_and_descriptions(bench: Any) -> None:
    configure(bench)
    request = DescribeParameters.Request(names=["execution_steps", "autostart", "checkpoint"])
    steps, autostart, checkpoint = bench.call(
        DescribeParameters, f"{NAME}/describe_parameters", request
    ).descriptors
    assert "Unit: steps." in steps.description and steps.integer_range[0].to_value == 1000
    assert autostart.read_only and checkpoint.description
