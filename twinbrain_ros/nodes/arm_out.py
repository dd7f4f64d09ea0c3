"""How commands leave for the arm's driver."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.control.verdict import Command, Motion
from twinbrain_ros.data.contract import DRY_RUN
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.robot.robot_file import RobotFile


class ArmOut(Protocol):
    """A driver's way of being commanded."""

    def send(self, command: Command) -> None:
        """Sends a command."""

    def settle(self, positions: NDArray[np.float64]) -> None:
        """Told once a period where the arm is to be [J] while it comes to rest without commands."""


def make_arm_out(node: TwinBrainNode, robot: RobotFile, dry_run: bool) -> ArmOut:
    """The one that the robot file asks for.

    Raises:
        ValueError: its messages are not installed.
    """
    prefix = DRY_RUN if dry_run else ""
    kind = JointGroupOut if robot.command_interface == "xs_joint_group" else TrajectoryOut
    return kind(node, robot, prefix)


class TrajectoryOut:
    """A ros2_control JointTrajectoryController for the arm and one for the gripper.

    Each trajectory is the committed way from its decision on, stamped with that, and ends at rest: if
    commands cease, the arm comes to a controlled stop all by itself. The gripper's goes out when it changes,
    as it is a switch.
    """

    def __init__(self, node: TwinBrainNode, robot: RobotFile, prefix: str) -> None:
        self._robot = robot
        topics = robot.topics
        self._arm = node.advertise(JointTrajectory, prefix + topics.arm_trajectory, qos.COMMAND)
        self._gripper = node.advertise(JointTrajectory, prefix + topics.gripper_trajectory, qos.COMMAND)
        self._finger_m: float | None = None

    def send(self, command: Command) -> None:
        motion, joint = command.motion, self._robot.gripper.joint
        self._arm.publish(convert.motion_message(self._robot.arm_joints, motion, motion.stamp_ns))
        # Again with each chunk's first command: a gripper controller that was started anew knows of nothing.
        again = command.finger_m != self._finger_m or command.first_of is not None
        if command.finger_m is not None and again:
            self._gripper.publish(convert.trajectory_message([joint], [motion.lead_s], [[command.finger_m]]))
            self._finger_m = command.finger_m

    def settle(self, positions: NDArray[np.float64]) -> None:
        """Nothing: the last trajectory leads to rest."""


class JointGroupOut:
    """The Interbotix driver's joint-group commands, of one position each, streamed until the arm is at rest.

    The gripper is commanded in operating mode linear_position: the distance between both fingers [m].

    Raises:
        ValueError: interbotix_xs_msgs is not installed.
    """

    GROUP, SINGLE = "arm", "gripper"

    def __init__(self, node: TwinBrainNode, robot: RobotFile, prefix: str) -> None:
        try:
            messages: Any = importlib.import_module("interbotix_xs_msgs.msg")
        except ImportError as error:
            raise ValueError(
                f"{robot.path}: 'command.interface' is 'xs_joint_group', but interbotix_xs_msgs cannot be "
                f"imported ({error}): install it, or use joint_trajectory"
            ) from error
        self._group_message, self._single_message = messages.JointGroupCommand, messages.JointSingleCommand
        topics = robot.topics
        self._arm = node.advertise(self._group_message, prefix + topics.arm_trajectory, qos.COMMAND)
        self._gripper = node.advertise(self._single_message, prefix + topics.gripper_trajectory, qos.COMMAND)
        self._finger_m: float | None = None

    def send(self, command: Command) -> None:
        motion: Motion = command.motion
        self.settle(motion.positions[motion.leads_to])
        again = command.finger_m != self._finger_m or command.first_of is not None
        if command.finger_m is not None and again:
            self._gripper.publish(self._single_message(name=self.SINGLE, cmd=2.0 * command.finger_m))
            self._finger_m = command.finger_m

    def settle(self, positions: NDArray[np.float64]) -> None:
        self._arm.publish(self._group_message(name=self.GROUP, cmd=positions.tolist()))
