"""Grippers as they are driven: a trajectory controller, an action server, a position controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from control_msgs.action import GripperCommand
from controller_rig import NAME, ControllerRig
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from robot_files import changed_robot
from std_msgs.msg import Float64MultiArray
from twinbrain_ros.msg import ControlMode

from twinbrain_ros.data.contract import recorded_topics
from twinbrain_ros.data.messages import commands_from_message
from twinbrain_ros.robot.robot_file import RobotFile

ERROR, OK = 2, 0
ACTION = "gripper_controller/gripper_cmd"


class Server:
    """A gripper's action server on real topics.

    Attributes:
        goals: positions and efforts that it was asked for.
        accepts: whether it takes goals.
        ends: how it ends them: reached, stalled, lost (given up) or never.
    """

    def __init__(self, bench: Any, name: str = ACTION) -> None:
        self.goals: list[tuple[float, float]] = []
        self.accepts, self.ends = True, "reached"
        self._server = ActionServer(
            bench.node, GripperCommand, name, self._execute,
            goal_callback=self._on_goal, cancel_callback=lambda _: CancelResponse.REJECT,
        )  # fmt: skip

    def _on_goal(self, goal: Any) -> GoalResponse:
        self.goals.append((goal.command.position, goal.command.max_effort))
        return GoalResponse.ACCEPT if self.accepts else GoalResponse.REJECT

    def _execute(self, handle: Any) -> Any:
        position = handle.request.command.position
        result = GripperCommand.Result(position=position, reached_goal=self.ends == "reached")
        result.stalled = self.ends == "stalled"
        handle.succeed() if self.ends == "reached" else handle.abort()
        return result

    def close(self) -> None:
        self._server.destroy()


@pytest.fixture
def serve(bench: Any) -> Iterator[Callable[[], Server]]:
    """Starts the server; a server outlives its node unless it is destroyed."""
    servers: list[Server] = []

    def start() -> Server:
        servers.append(Server(bench))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def gripper_robot(tmp_path: Path) -> Callable[..., RobotFile]:
    def make(interface: str, topic: str, **more: Any) -> RobotFile:
        command = {"interface": interface, "topic": topic, **more}
        return changed_robot(tmp_path, "wx250s", lambda keys: keys["gripper"].update(command=command))

    return make


def opens_then_closes(rig: ControllerRig) -> None:
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)
    data = np.zeros((8, 7))
    data[0, 6] = 1.0
    rig.send_chunk(data)


def test_a_trajectory_to_the_gripper_does_not_lean_on_where_it_is_measured(
    bench: Any, robot: RobotFile
) -> None:
    """One point that is due at once: a controller whose measured state is NaN never comes to use it."""
    rig = ControllerRig(bench, robot)
    opens_then_closes(rig)
    bench.until(lambda: len(rig.gripper) >= 2)
    for message in rig.gripper:
        (point,) = message.points
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)
        assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 0)
        assert not point.velocities


def test_a_position_controller_gets_positions(bench: Any, gripper_robot: Callable[..., RobotFile]) -> None:
    robot = gripper_robot("position", "gripper_position_controller/commands")
    rig = ControllerRig(bench, robot, gripper_type=Float64MultiArray)
    opens_then_closes(rig)
    bench.until(lambda: len(rig.gripper) >= 2)
    gripper = robot.gripper
    assert [list(m.data) for m in rig.gripper] == [[gripper.open_m], [gripper.closed_m]]
    assert [commands_from_message(m, robot).finger_m for m in rig.gripper] == [
        gripper.open_m,
        gripper.closed_m,
    ]


def test_an_action_server_gets_a_goal_when_the_target_changes_and_it_is_published(
    bench: Any, serve: Callable[[], Server], gripper_robot: Callable[..., RobotFile]
) -> None:
    robot = gripper_robot("gripper_action", ACTION, max_effort=8.0)
    server = serve()
    rig = ControllerRig(bench, robot)
    assert robot.topics.gripper_trajectory == f"{ACTION}/commanded"
    opens_then_closes(rig)
    bench.until(lambda: len(server.goals) >= 2 and len(rig.gripper) >= 2)
    gripper = robot.gripper
    assert server.goals == [(gripper.open_m, 8.0), (gripper.closed_m, 8.0)]
    assert [commands_from_message(m, robot).finger_m for m in rig.gripper] == [
        gripper.open_m,
        gripper.closed_m,
    ]
    told = {topic.name: topic.type for topic in recorded_topics(robot)}
    assert told[f"/{ACTION}/commanded"] == "trajectory_msgs/msg/JointTrajectory"
    rig.send_chunk(np.zeros((8, 7)))  # the same target again: no goal
    bench.until(lambda: bench.value(NAME, "chunks_executed") == "2")
    assert len(server.goals) == 2


def test_a_server_that_is_not_there_is_told_and_gets_the_goal_when_it_comes(
    bench: Any, serve: Callable[[], Server], gripper_robot: Callable[..., RobotFile]
) -> None:
    robot = gripper_robot("gripper_action", ACTION)
    rig = ControllerRig(bench, robot)
    bench.until(lambda: bench.says(NAME, ERROR, f"there is no action server /{ACTION} of control_msgs"))
    server = serve()
    bench.until(lambda: bench.says(NAME, OK, "active"))
    assert not server.goals
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)
    rig.send_chunk(np.zeros((8, 7)))
    bench.until(lambda: server.goals)
    assert server.goals[0] == (robot.gripper.closed_m, robot.gripper.force_n)


@pytest.mark.parametrize(
    ("accepts", "ends", "words"),
    [
        (False, "reached", f"/{ACTION} refuses to go to 0.015 m"),
        (True, "lost", f"/{ACTION} was to go to 0.015 m and gave up at 0.015 m"),
    ],
)
def test_a_goal_that_comes_to_nothing_is_told_and_sent_again_with_the_next_chunk(
    bench: Any,
    serve: Callable[[], Server],
    gripper_robot: Callable[..., RobotFile],
    accepts: bool,
    ends: str,
    words: str,
) -> None:
    robot = gripper_robot("gripper_action", ACTION)
    server = serve()
    server.accepts, server.ends = accepts, ends
    rig = ControllerRig(bench, robot)
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)
    rig.send_chunk(np.zeros((8, 7)))
    bench.until(lambda: bench.says(NAME, ERROR, words))
    assert len(server.goals) == 1
    server.accepts, server.ends = True, "reached"
    rig.send_chunk(np.zeros((8, 7)))
    bench.until(lambda: len(server.goals) == 2)
    bench.until(lambda: bench.says(NAME, OK, "active"))


def test_a_gripper_that_stalls_holds_something(
    bench: Any, serve: Callable[[], Server], gripper_robot: Callable[..., RobotFile]
) -> None:
    robot = gripper_robot("gripper_action", ACTION)
    server = serve()
    server.ends = "stalled"  # ros2_control's server gives such a goal up unless it is told otherwise
    rig = ControllerRig(bench, robot)
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)
    rig.send_chunk(np.zeros((8, 7)))
    bench.until(lambda: server.goals)
    rig.send_chunk(np.zeros((8, 7)))
    bench.until(lambda: bench.value(NAME, "chunks_executed") == "2")
    assert len(server.goals) == 1 and bench.says(NAME, OK, "active")


def test_in_a_dry_run_no_goal_is_sent(
    bench: Any, serve: Callable[[], Server], gripper_robot: Callable[..., RobotFile]
) -> None:
    robot = gripper_robot("gripper_action", ACTION)
    server = serve()
    rig = ControllerRig(bench, robot, prefix="dry_run/", dry_run=True)
    rig.bench.until(lambda: rig.set_mode(ControlMode.AUTONOMY).success)
    rig.send_chunk(np.zeros((8, 7)))
    bench.until(lambda: rig.gripper)
    assert not server.goals
