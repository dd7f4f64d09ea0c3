"""The demo's client beside nodes whose answers get lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState

from twinbrain_ros.demo.client import LoopClient, LoopError
from twinbrain_ros.robot.robot_file import RobotFile


@pytest.fixture
def deaf() -> Iterator[Any]:
    """A node whose answers to change_state never arrive: nobody takes its requests."""
    node = rclpy.create_node("deaf")
    node.create_service(ChangeState, "arm/change_state", lambda request, response: response)
    yield node
    node.destroy_node()


def client_of(bench: Any, robot: RobotFile, state: int) -> LoopClient:
    def answer(request: GetState.Request, response: GetState.Response) -> GetState.Response:
        response.current_state.id = state
        return response

    bench.node.create_service(GetState, "arm/get_state", answer)
    return LoopClient(robot, lambda: bench.executor.spin_once(timeout_sec=0.0))


def test_a_node_that_got_there_counts_though_its_answer_was_lost(
    bench: Any, robot: RobotFile, deaf: Any
) -> None:
    with client_of(bench, robot, State.PRIMARY_STATE_INACTIVE) as client:
        client.change_state("arm", Transition.TRANSITION_CONFIGURE, "configure", 30.0)


def test_a_node_that_is_not_there_is_named(bench: Any, robot: RobotFile, deaf: Any) -> None:
    with (
        client_of(bench, robot, State.PRIMARY_STATE_UNCONFIGURED) as client,
        pytest.raises(LoopError, match="service arm/change_state: no answer within 1 s"),
    ):
        client.change_state("arm", Transition.TRANSITION_CONFIGURE, "configure", 1.0)
