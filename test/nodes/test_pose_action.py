"""go_to over real topics: an action with feedback and cancel, services, and what a person is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from controller_rig import HELD_UP, NAME, ControllerRig
from rclpy.action import ActionClient
from std_srvs.srv import Trigger
from twinbrain_ros.action import GoTo
from twinbrain_ros.msg import ControlMode

from twinbrain_ros.robot.robot_file import RobotFile


class Client:
    """An action client that keeps what it is told."""

    def __init__(self, rig: ControllerRig) -> None:
        self.rig, self.bench = rig, rig.bench
        self.feedback: list[Any] = []
        self.client: Any = ActionClient(rig.bench.node, GoTo, "go_to")
        self.bench.until(self.client.server_is_ready, "no action go_to")

    def send(self, pose: str, speed: float = 0.0) -> Any:
        """The goal's handle, and the future of its result."""
        goal = GoTo.Goal(pose=pose, speed=speed)
        future = self.client.send_goal_async(
            goal, feedback_callback=lambda m: self.feedback.append(m.feedback)
        )
        handle = self.bench.until(lambda: future.done() and future.result(), "the goal is not answered")
        assert handle.accepted
        return handle, handle.get_result_async()

    def go(self, pose: str) -> Any:
        """As `send`, when the arm has set off."""
        while True:
            handle, future = self.send(pose)
            self.bench.until(
                lambda done=future.done: done() or self.rig.speed() > 0.3, "the arm does not move"
            )
            if not future.done():
                return handle, future
            refused = future.result().result.message
            assert refused.startswith(HELD_UP), refused
            self.rig.until_settled()

    def result(self, future: Any) -> Any:
        self.bench.until(future.done, "no result")
        return future.result()


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> ControllerRig:
    """The arm lies where it lies after power-on."""
    rig = ControllerRig(bench, robot, go_to_speed=0.5)
    rig.follower.activate(robot.poses["sleep"].arm)
    bench.until(lambda: bench.value(NAME, "pose") == "sleep", "its pose is not told")
    rig.until_settled()
    return rig


def test_an_arm_that_lies_comes_home_and_tells_on_the_way(rig: ControllerRig) -> None:
    lies = "active; the arm lies in 'sleep': go_to home first"
    rig.bench.until(lambda: rig.bench.says(NAME, 0, lies), "what to do is not told")
    client = Client(rig)
    _, future = client.go("home")
    assert rig.mode().source == "action go_to" and rig.mode().reason == "go to 'home'"
    answer = client.result(future)
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    assert answer.result.success and answer.result.message == "the arm is in 'home'"
    np.testing.assert_allclose(rig.path[-1][1], rig.robot.home, atol=2e-3)
    assert rig.mode().mode == ControlMode.HOLD and rig.mode().reason == "the arm is in 'home'"
    left = [feedback.distance_rad for feedback in client.feedback]
    assert len(left) > 3 and left == sorted(left, reverse=True) and client.feedback[0].towards == "home"
    rig.bench.until(lambda: rig.bench.value(NAME, "pose") == "home", "its new pose is not told")
    assert rig.bench.says(NAME, 0, "active")


def test_a_cancelled_goal_ends_at_rest_on_the_way(rig: ControllerRig) -> None:
    client = Client(rig)
    handle, future = client.go("home")
    cancelled = handle.cancel_goal_async()
    rig.bench.until(cancelled.done, "the cancel is not answered")
    assert len(cancelled.result().goals_canceling) == 1
    answer = client.result(future)
    assert answer.status == GoalStatus.STATUS_CANCELED and answer.result.message == "go_to was cancelled"
    rig.until_at_rest()
    assert np.max(np.abs(rig.path[-1][1] - rig.robot.home)) > 0.2
    assert rig.mode().mode == ControlMode.HOLD and not rig.mode().latched


def test_an_emergency_stop_aborts_it(rig: ControllerRig) -> None:
    client = Client(rig)
    _, future = client.go("home")
    assert rig.trigger("estop").success
    answer = client.result(future)
    assert answer.status == GoalStatus.STATUS_ABORTED and answer.result.message == "estop called"


@pytest.mark.parametrize(
    ("pose", "speed", "said"),
    [
        ("hme", 0.0, "there is no pose 'hme', expected one of home, sleep, upright"),
        ("home", 1.5, "speed is 1.5, expected a share of the limits within [0.01, 1]"),
    ],
)
def test_what_cannot_be_is_aborted_with_its_reason(
    rig: ControllerRig, pose: str, speed: float, said: str
) -> None:
    client = Client(rig)
    answer = client.result(client.send(pose, speed)[1])
    while answer.result.message.startswith(HELD_UP):
        rig.until_settled()
        answer = client.result(client.send(pose, speed)[1])
    assert answer.status == GoalStatus.STATUS_ABORTED and answer.result.message == said
    assert rig.mode().mode == ControlMode.HOLD and rig.arm == []


def test_the_services_set_off_and_say_how_long_it_takes(rig: ControllerRig) -> None:
    answer = rig.go("go_home")
    assert answer.message.startswith("on the way to 'home', there in ")
    rig.bench.until(lambda: rig.mode().reason == "the arm is in 'home'", "it never arrives")
    rig.until_at_rest()
    rig.until_settled()
    rig.go("go_sleep")
    rig.bench.until(lambda: rig.mode().reason == "the arm is in 'sleep'", "it never arrives")


def test_from_autonomy_the_service_is_refused(rig: ControllerRig) -> None:
    rig.follower.activate(rig.robot.home)
    rig.bench.until(lambda: rig.bench.value(NAME, "pose") == "home", "its pose is not told")
    rig.until_settled()
    rig.drive()
    answer = rig.bench.call(Trigger, "go_sleep", Trigger.Request())
    assert not answer.success and "leads nowhere from AUTONOMY: ask for HOLD first" in answer.message
    assert rig.mode().mode == ControlMode.AUTONOMY
