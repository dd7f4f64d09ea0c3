"""How the drivers of the arm and of the gripper are commanded, as the robot file says it."""

from __future__ import annotations

from dataclasses import dataclass

from twinbrain_ros.robot.strict import StrictMapping

# A ros2_control JointTrajectoryController, or the joint-group commands of the Interbotix driver.
COMMAND_INTERFACES = ("joint_trajectory", "xs_joint_group")
# A trajectory controller of its own, an action server of control_msgs/action/GripperCommand, a controller
# that takes positions (std_msgs/Float64MultiArray), or the Interbotix driver's command of a single joint.
GRIPPER_INTERFACES = ("joint_trajectory", "gripper_action", "position", "xs_joint_single")
_GRIPPER_OF_ARM = {"joint_trajectory": "joint_trajectory", "xs_joint_group": "xs_joint_single"}
COMMANDED = "commanded"  # beside an action, where what was commanded is published: goals cannot be recorded
GROUP_KEYS = ("interface", "topic")


@dataclass(frozen=True)
class ArmCommand:
    """`interface` is one of COMMAND_INTERFACES."""

    interface: str
    topic: str


@dataclass(frozen=True)
class GripperCommand:
    """How the gripper is commanded.

    Attributes:
        interface: one of GRIPPER_INTERFACES.
        topic: where its driver listens; of an action its name.
        max_effort: in an action's goals [N].
    """

    interface: str
    topic: str
    max_effort: float

    @property
    def told_topic(self) -> str:
        """Where what the gripper was told is published."""
        return f"{self.topic}/{COMMANDED}" if self.interface == "gripper_action" else self.topic


def read_commands(
    top: StrictMapping, arm: StrictMapping, gripper: StrictMapping, topics: StrictMapping
) -> tuple[ArmCommand, GripperCommand]:
    """The two, from `arm.command` and `gripper.command`; where those are left out from `command.interface`,
    `topics.arm_trajectory` and `topics.gripper_trajectory`."""
    if arm.has("command"):
        command = arm.mapping("command", GROUP_KEYS)
        armed = ArmCommand(command.text("interface", COMMAND_INTERFACES), command.topic("topic"))
    else:
        needed(top, "command", "arm.command")
        interface = top.mapping("command", ("interface",)).text("interface", COMMAND_INTERFACES)
        needed(topics, "arm_trajectory", "arm.command")
        armed = ArmCommand(interface, topics.topic("arm_trajectory"))
    effort = gripper.number("force_n", 0.0)
    if not gripper.has("command"):
        needed(topics, "gripper_trajectory", "gripper.command")
        told = topics.topic("gripper_trajectory")
        return armed, GripperCommand(_GRIPPER_OF_ARM[armed.interface], told, effort)
    command = gripper.mapping("command", GROUP_KEYS, optional=("max_effort",))
    if command.has("max_effort"):
        effort = command.number("max_effort", 0.0)
    interface = command.text("interface", GRIPPER_INTERFACES)
    return armed, GripperCommand(interface, command.topic("topic"), effort)


def needed(source: StrictMapping, key: str, other: str) -> None:
    """Raises the mapping's error if a key is not there that may be left out only beside another one."""
    if not source.has(key):
        place = f"{source.path}.{key}" if source.path else key
        raise source.error(f"{source.source}: missing key '{place}': expected it, or '{other}'")
