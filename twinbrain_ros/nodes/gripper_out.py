"""How commands leave for the gripper's driver."""

from __future__ import annotations

import time
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.control.verdict import Command
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.nodes.interfaces import import_interfaces
from twinbrain_ros.robot.robot_file import RobotFile

KEY, TRAJECTORY = "gripper.command.interface", "joint_trajectory"
CAUSE = "gripper"  # of what is reported
_ENDS = {GoalStatus.STATUS_ABORTED: "gave up", GoalStatus.STATUS_CANCELED: "was cancelled"}
ANSWER_S = 2.0  # an action server that has not answered a goal by then is reported


class GripperOut:
    """Sends where the gripper is to be when that changes, as it is a switch.

    Again with each chunk's first command: a gripper controller that was started anew knows of nothing.
    """

    def __init__(self) -> None:
        self._told_m: float | None = None

    def send(self, command: Command) -> None:
        """Sends a command's part for the gripper, if there is something to be told."""
        finger_m, again = command.finger_m, command.finger_m == self._told_m
        if finger_m is None or (again and command.first_of is None):
            return
        self._told_m = finger_m
        self._send(float(finger_m), again)

    def _send(self, finger_m: float, again: bool) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Called once a second: looks for what makes no event."""


class TrajectoryGripper(GripperOut):
    """A trajectory controller of the gripper's own: one point, to be taken at once.

    Without a way there, as that would begin at the measured position. Drivers leave it NaN (Interbotix' for
    ros2_control does), and the controller would pass NaN on. Without a stamp, so that it starts on arrival.
    """

    def __init__(self, node: TwinBrainNode, robot: RobotFile, prefix: str) -> None:
        super().__init__()
        self._joint = robot.gripper.joint
        self._topic = node.advertise(JointTrajectory, prefix + robot.topics.gripper_trajectory, qos.COMMAND)

    def _send(self, finger_m: float, again: bool) -> None:
        self._topic.publish(convert.trajectory_message([self._joint], [0.0], [[finger_m]]))


class PositionGripper(GripperOut):
    """A controller that forwards a position, [m] of the gripper's joint."""

    def __init__(self, node: TwinBrainNode, robot: RobotFile, prefix: str) -> None:
        super().__init__()
        self._topic = node.advertise(Float64MultiArray, prefix + robot.topics.gripper_trajectory, qos.COMMAND)

    def _send(self, finger_m: float, again: bool) -> None:
        self._topic.publish(Float64MultiArray(data=[finger_m]))


class JointSingleGripper(GripperOut):
    """The Interbotix driver, its gripper in mode linear_position: the distance between both fingers [m].

    Raises:
        ValueError: interbotix_xs_msgs is not installed.
    """

    NAME = "gripper"

    def __init__(self, node: TwinBrainNode, robot: RobotFile, prefix: str) -> None:
        super().__init__()
        messages = import_interfaces("interbotix_xs_msgs.msg", robot, KEY, "xs_joint_single", TRAJECTORY)
        self._message = messages.JointSingleCommand
        self._topic = node.advertise(self._message, prefix + robot.topics.gripper_trajectory, qos.COMMAND)

    def _send(self, finger_m: float, again: bool) -> None:
        self._topic.publish(self._message(name=self.NAME, cmd=2.0 * finger_m))


class ActionGripper(TrajectoryGripper):
    """An action server of control_msgs/action/GripperCommand.

    What was commanded is published as a trajectory too, beside the action: goals cannot be recorded. A goal
    that came to nothing is sent again with the next chunk's first command, one that is under way or was
    reached is not. A gripper that stalls holds something, which is what it was closed for.

    Raises:
        ValueError: control_msgs is not installed.
    """

    def __init__(self, node: TwinBrainNode, robot: RobotFile, prefix: str) -> None:
        super().__init__(node, robot, prefix)
        instead = f"{TRAJECTORY} or position"
        actions = import_interfaces("control_msgs.action", robot, KEY, "gripper_action", instead)
        self._node, self._command = node, robot.gripper_command
        self._kind = actions.GripperCommand
        self._client: Any = ActionClient(node, self._kind, self._command.topic) if not prefix else None
        if self._client is not None:
            node.keep(lambda client: client.destroy(), self._client)
        self._goals = 0
        self._failed = self._absent = False
        self._unanswered_s: float | None = None

    def _send(self, finger_m: float, again: bool) -> None:
        if not again:
            super()._send(finger_m, again)
        if self._client is None or (again and not self._failed):
            return
        if not self._client.server_is_ready():
            self._report_absent()
            return
        self._failed = False
        self._goals += 1
        number, goal = self._goals, self._kind.Goal()
        goal.command.position, goal.command.max_effort = finger_m, self._command.max_effort
        self._unanswered_s = time.monotonic()
        future = self._client.send_goal_async(goal)
        self._node.when_done(future, lambda handle: self._on_answer(number, finger_m, handle))

    def _on_answer(self, number: int, finger_m: float, handle: Any) -> None:
        if number != self._goals:
            return
        self._unanswered_s = None
        if not handle.accepted:
            self._fail(f"refuses to go to {finger_m:g} m")
            return
        self._node.health.clear(CAUSE)
        future = handle.get_result_async()
        self._node.when_done(future, lambda answer: self._on_result(number, finger_m, answer))

    def _on_result(self, number: int, finger_m: float, answer: Any) -> None:
        if number != self._goals:  # replaced by a newer goal
            return
        status, result = answer.status, answer.result
        if result.reached_goal or result.stalled or status == GoalStatus.STATUS_SUCCEEDED:
            return
        words = _ENDS.get(status, f"ended with status {status}")
        self._fail(f"was to go to {finger_m:g} m and {words} at {result.position:g} m")

    def _fail(self, what: str) -> None:
        self._failed = True
        self._node.report(CAUSE, f"the gripper's action server {self._name()} {what}", Level.ERROR)

    def _name(self) -> str:
        return str(self._node.resolve_topic_name(self._command.topic))

    def _report_absent(self) -> None:
        self._node.report(
            CAUSE,
            f"the gripper cannot be moved: there is no action server {self._name()} of "
            "control_msgs/action/GripperCommand",
            Level.ERROR,
        )
        self._failed, self._absent, self._unanswered_s = True, True, None

    def check(self) -> None:
        if self._client is None:
            return
        if not self._client.server_is_ready():
            self._report_absent()
        elif self._unanswered_s is not None and time.monotonic() - self._unanswered_s > ANSWER_S:
            self._unanswered_s = None
            self._fail(f"has not answered a goal within {ANSWER_S:g} s")
        elif self._absent:
            self._absent = False
            self._node.health.clear(CAUSE)


_KINDS: dict[str, type[TrajectoryGripper] | type[PositionGripper] | type[JointSingleGripper]] = {
    "joint_trajectory": TrajectoryGripper,
    "gripper_action": ActionGripper,
    "position": PositionGripper,
    "xs_joint_single": JointSingleGripper,
}


def make_gripper_out(node: TwinBrainNode, robot: RobotFile, prefix: str) -> GripperOut:
    """The one that the robot file asks for.

    Raises:
        ValueError: its messages are not installed.
    """
    return _KINDS[robot.gripper_command.interface](node, robot, prefix)
