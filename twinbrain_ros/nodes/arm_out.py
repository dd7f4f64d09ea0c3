"""How commands leave for the arm's driver."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.control.verdict import Command, Motion
from twinbrain_ros.data.contract import DRY_RUN
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.gripper_out import make_gripper_out
from twinbrain_ros.nodes.interfaces import import_interfaces
from twinbrain_ros.robot.robot_file import RobotFile


class ArmOut(Protocol):
    """A driver's way of being commanded."""

    def send(self, command: Command) -> None:
        """Sends a command."""

    def settle(self, positions: NDArray[np.float64]) -> None:
        """Told once a period where the arm is to be [J] while it comes to rest without commands."""

    def check(self) -> None:
        """Called once a second while active: looks for problems that make no event."""


def make_arm_out(node: TwinBrainNode, robot: RobotFile, dry_run: bool) -> ArmOut:
    """The one that the robot file asks for.

    Raises:
        ValueError: its messages are not installed.
    """
    prefix = DRY_RUN if dry_run else ""
    kind = JointGroupOut if robot.command_interface == "xs_joint_group" else TrajectoryOut
    return kind(node, robot, prefix)


class TrajectoryOut:
    """A ros2_control JointTrajectoryController for the arm.

    Each trajectory is the committed way from its decision on, stamped with that, and ends at rest: if
    commands cease, the arm comes to a controlled stop all by itself.
    """

    def __init__(self, node: TwinBrainNode, robot: RobotFile, prefix: str) -> None:
        self._robot = robot
        self._arm = node.advertise(JointTrajectory, prefix + robot.topics.arm_trajectory, qos.COMMAND)
        self._gripper = make_gripper_out(node, robot, prefix)

    def send(self, command: Command) -> None:
        motion = command.motion
        self._arm.publish(convert.motion_message(self._robot.arm_joints, motion))
        self._gripper.send(command)

    def settle(self, positions: NDArray[np.float64]) -> None:
        """Nothing: the last trajectory leads to rest."""

    def check(self) -> None:
        self._gripper.check()


class JointGroupOut:
    """The Interbotix driver's joint-group commands, of one position each, streamed until the arm is at rest.

    Raises:
        ValueError: interbotix_xs_msgs is not installed.
    """

    GROUP = "arm"

    def __init__(self, node: TwinBrainNode, robot: RobotFile, prefix: str) -> None:
        messages = import_interfaces(
            "interbotix_xs_msgs.msg", robot, "command.interface", "xs_joint_group", "joint_trajectory"
        )
        self._message = messages.JointGroupCommand
        self._arm = node.advertise(self._message, prefix + robot.topics.arm_trajectory, qos.COMMAND)
        self._gripper = make_gripper_out(node, robot, prefix)

    def send(self, command: Command) -> None:
        motion: Motion = command.motion
        self.settle(motion.positions[motion.leads_to])
        self._gripper.send(command)

    def settle(self, positions: NDArray[np.float64]) -> None:
        self._arm.publish(self._message(name=self.GROUP, cmd=positions.tolist()))

    def check(self) -> None:
        self._gripper.check()
