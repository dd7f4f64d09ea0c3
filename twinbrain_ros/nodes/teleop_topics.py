"""The robot file's teleop inputs as topics."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from sensor_msgs.msg import JointState, Joy

from twinbrain_ros.control.teleop import Inputs, TeleopError
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.teleop_inputs import JogInput, JoyInput, LeaderInput, TeleopInput, TwistInput


class TeleopTopics:
    """Hands what people do to the core's inputs.

    Args:
        node: subscribes, and reports messages that cannot be used.
        inputs: of the core.
        estop: called with the name of an input whose emergency stop was pressed.
        tool_rotation: gives the tool's present rotation [3, 3] in the base; None if it is not known.
    """

    def __init__(
        self,
        node: TwinBrainNode,
        robot: RobotFile,
        inputs: Inputs,
        estop: Callable[[str], None],
        tool_rotation: Callable[[], NDArray[np.float64] | None],
    ) -> None:
        self._node, self._robot, self._inputs = node, robot, inputs
        self._estop, self._tool_rotation = estop, tool_rotation
        kinds: dict[type[TeleopInput], Any] = {
            JoyInput: (Joy, self._on_joy, qos.EVENTS),
            TwistInput: (TwistStamped, self._on_twist, qos.SENSOR_IN),
            LeaderInput: (JointState, self._on_leader, qos.SENSOR_IN),
        }
        for entry in robot.teleop:
            if isinstance(entry, JogInput):
                kinds[JogInput] = (_jog_message(robot), self._on_jog, qos.SENSOR_IN)
            message, callback, profile = kinds[type(entry)]
            on_message = functools.partial(self._take, callback, entry)
            node.subscribe(message, entry.topic, on_message, profile)

    def _take(
        self, callback: Callable[[TeleopInput, object], None], entry: TeleopInput, message: object
    ) -> None:
        try:
            callback(entry, message)
        except TeleopError as error:
            self._node.report(f"teleop/{entry.name}", str(error))
            return
        self._node.health.clear(f"teleop/{entry.name}")

    def _on_joy(self, entry: TeleopInput, message: Joy) -> None:
        if self._inputs.on_joy(entry.name, message.axes, message.buttons, self._node.now_ns()):
            self._estop(entry.name)

    def _on_twist(self, entry: TeleopInput, message: TwistStamped) -> None:
        frame, rotation = message.header.frame_id, None
        if frame == self._robot.tool_frame:
            rotation = self._tool_rotation()
            if rotation is None:
                raise TeleopError(
                    f"{entry.name}: a twist in {frame!r}, but the arm's position is not known yet"
                )
        elif frame not in ("", self._robot.base_frame):
            known = f"{self._robot.base_frame!r} or {self._robot.tool_frame!r}"
            raise TeleopError(f"{entry.name}: found a twist in frame {frame!r}, expected {known}")
        linear, angular = message.twist.linear, message.twist.angular
        self._inputs.on_twist(
            entry.name,
            (linear.x, linear.y, linear.z),
            (angular.x, angular.y, angular.z),
            rotation,
            self._node.now_ns(),
        )

    def _on_jog(self, entry: TeleopInput, message: Any) -> None:
        names, velocities = list(message.joint_names), list(message.velocities)
        if len(names) != len(velocities) or len(set(names)) != len(names) or len(message.displacements):
            found = f"{len(names)} joints, {len(velocities)} velocities and {len(message.displacements)}"
            raise TeleopError(
                f"{entry.name}: found {found} displacements, expected different joints, a velocity for each "
                "and no displacements"
            )
        self._inputs.on_jog(entry.name, dict(zip(names, velocities, strict=True)), self._node.now_ns())

    def _on_leader(self, entry: TeleopInput, message: JointState) -> None:
        joints = dict(zip(message.name, message.position, strict=False))
        self._inputs.on_leader(entry.name, joints, self._node.now_ns())


def _jog_message(robot: RobotFile) -> Any:
    try:
        return importlib.import_module("control_msgs.msg").JointJog
    except ImportError as error:
        raise ValueError(
            f"{robot.path}: 'teleop' has an input of kind jog, but control_msgs cannot be imported "
            f"({error}): install it, or leave that input out"
        ) from error
