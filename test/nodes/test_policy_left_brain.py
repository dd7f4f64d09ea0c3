"""The policy node's left brain at a rate of its own, and what the policy is told when configured."""

from __future__ import annotations

from typing import Any

import pytest
from brain_fixtures import tiny_policy
from policy_rig import Rig, StandIn
from rclpy.lifecycle import TransitionCallbackReturn

from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.robot.robot_file import STATE_NAMES, RobotFile

RED, BLUE = "pick up the red block", "pick up the blue block"


def age(rig: Rig, count: int) -> float:
    return float(rig.chunk(count).left_age_s)


def stamp_s(rig: Rig, index: int) -> float:
    stamp = rig.chunks[index].observation_stamp
    return stamp.sec + stamp.nanosec * 1e-9


def test_by_default_the_left_brain_sees_what_the_right_one_sees(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot, tiny_policy())
    rig.told(RED)
    assert [age(rig, i) for i in (1, 2, 3)] == [0.0, 0.0, 0.0]


def test_within_the_period_chunks_share_what_the_left_brain_remembers(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot, tiny_policy(), left_period_s=60.0)
    rig.told(RED)
    ages = [age(rig, i) for i in (1, 2, 3)]
    since_first = [stamp_s(rig, i) - stamp_s(rig, 0) for i in (0, 1, 2)]
    assert ages == pytest.approx(since_first, abs=1e-5) and ages[0] == 0.0 < ages[1] < ages[2]
    rig.bench.until(lambda: float(rig.bench.value("policy_node", "left_age_ms_p99") or 0) > 0)


def test_a_new_instruction_runs_the_left_brain_at_once(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot, tiny_policy(), left_period_s=60.0)
    rig.told(RED)
    assert age(rig, 1) == 0.0 < age(rig, 2)
    before = len(rig.chunks)
    rig.told(BLUE)
    rig.observe_until(lambda: any(c.instruction == BLUE for c in rig.chunks[before:]))
    new = [c.left_age_s for c in rig.chunks if c.instruction == BLUE]
    assert new[0] == 0.0
    rig.observe_until(lambda: [c for c in rig.chunks if c.instruction == BLUE and c.left_age_s > 0])


@pytest.mark.parametrize("sends", [True, False])
def test_the_state_is_given_to_a_policy_that_takes_it(bench: Any, robot: RobotFile, sends: bool) -> None:
    policy = StandIn()
    policy.state_names = STATE_NAMES if sends else ()
    rig = Rig(bench, robot, policy)
    rig.told(RED)
    rig.chunk(1)
    assert (policy.seen[0][2] is not None) == sends


def test_a_policy_warms_up_on_the_robots_image_sizes(bench: Any, robot: RobotFile) -> None:
    policy, given = StandIn(), []
    policy.warm_up = lambda *wanted: given.append(wanted)  # type: ignore[method-assign]
    Rig(bench, robot, policy, left_period_s=0.5)
    assert given == [({c.name: (c.height, c.width) for c in robot.cameras}, False)]
    assert policy.left_period_s == 0.5


def test_the_weights_type_is_a_parameter(bench: Any) -> None:
    given: list[tuple[Any, ...]] = []

    def load(*wanted: Any) -> StandIn:
        given.append(wanted)
        return StandIn()

    node = bench.add(lambda **a: PolicyNode(load, lambda _: None, **a), dtype="bfloat16", checkpoint="here")
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert [wanted[:4] for wanted in given] == [("here", "cpu", 1, "bfloat16")]


def test_a_type_that_weights_cannot_have_is_refused(bench: Any) -> None:
    node = bench.add(PolicyNode, dtype="float8")
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    words = "cannot configure: dtype: found 'float8', expected one of ['bfloat16', 'float32']"
    bench.until(lambda: bench.says("policy_node", 2, words))
