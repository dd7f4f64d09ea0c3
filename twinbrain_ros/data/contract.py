"""Which topics tell of an episode, and their types: what the robot file names, and what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from twinbrain_ros.robot.camera import COMPRESSED as COMPRESSED
from twinbrain_ros.robot.camera import Camera
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.teleop_inputs import JogInput, JoyInput, LeaderInput, TeleopInput, TwistInput

DRY_RUN = "dry_run/"
DIAGNOSTICS = "/diagnostics"
SCENE_STATE = "scene_state"

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, TRAJECTORY = "sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory"
STRING = "std_msgs/msg/String"

_TELEOP: dict[type[TeleopInput], str] = {
    JoyInput: "sensor_msgs/msg/Joy",
    TwistInput: "geometry_msgs/msg/TwistStamped",
    LeaderInput: JOINT_STATE,
    JogInput: "control_msgs/msg/JointJog",
}
_ARM_COMMANDS = {
    "joint_trajectory": TRAJECTORY,
    "xs_joint_group": "interbotix_xs_msgs/msg/JointGroupCommand",
}
_GRIPPER_COMMANDS = {
    "joint_trajectory": TRAJECTORY,
    "gripper_action": TRAJECTORY,  # beside the action, whose goals cannot be recorded
    "position": "std_msgs/msg/Float64MultiArray",
    "xs_joint_single": "interbotix_xs_msgs/msg/JointSingleCommand",
}


@dataclass(frozen=True)
class Topic:
    """A topic to be recorded.

    Attributes:
        name: with its namespace, from the root.
        type: such as `sensor_msgs/msg/Image`.
        latched: whoever comes late gets the last message (transient local).
        reliable: as it was offered, for `ros2 bag play` to offer it again.
        depth: of the offered history.
        definition: the type's text, "" to take it from the installed packages.
    """

    name: str
    type: str
    latched: bool = False
    reliable: bool = True
    depth: int = 10
    definition: str = ""


def info_topic(camera: Camera) -> str:
    """Where a camera's calibration belongs: beside its images."""
    return str(PurePosixPath(camera.base_topic).with_name("camera_info"))


def in_namespace(namespace: str, topic: str) -> str:
    """The full name of a topic; one that begins with a slash stays as it is."""
    if topic.startswith("/"):
        return topic
    inner = namespace.strip("/")
    return f"/{inner}/{topic}" if inner else f"/{topic}"


def recorded_topics(robot: RobotFile, namespace: str = "") -> list[Topic]:
    """Every topic of an arm's contract, in a namespace."""
    names = robot.topics
    arm = _ARM_COMMANDS[robot.command_interface]
    gripper = _GRIPPER_COMMANDS[robot.gripper_command.interface]
    relative = []
    for camera in robot.cameras:
        # Who takes compressed images does so for the network's sake: raw ones are not asked for as well.
        relative += [] if camera.compressed else [Topic(camera.topic, IMAGE)]
        relative += [
            Topic(camera.base_topic + COMPRESSED, COMPRESSED_IMAGE),
            Topic(info_topic(camera), "sensor_msgs/msg/CameraInfo"),
        ]
    relative += [
        *(Topic(name, JOINT_STATE) for name in names.all_joint_states),
        Topic(names.instruction, STRING, latched=True),
        Topic(names.instruction_in_force, "twinbrain_ros/msg/InstructionInForce", latched=True),
        Topic(names.action_chunk, "twinbrain_ros/msg/ActionChunk"),
        Topic(names.chunk_status, "twinbrain_ros/msg/ChunkStatus"),
        Topic(names.policy_status, "twinbrain_ros/msg/PolicyStatus"),
        Topic(names.control_mode, "twinbrain_ros/msg/ControlMode", latched=True),
        Topic(names.intervention, "twinbrain_ros/msg/Intervention"),
        Topic(names.robot_description, STRING, latched=True),
        *(Topic(prefix + names.arm_trajectory, arm) for prefix in ("", DRY_RUN)),
        *(Topic(prefix + names.gripper_trajectory, gripper) for prefix in ("", DRY_RUN)),
        *(Topic(entry.topic, _TELEOP[type(entry)]) for entry in robot.teleop),
        Topic(SCENE_STATE, "twinbrain_ros/msg/SceneState"),
        Topic(DIAGNOSTICS, "diagnostic_msgs/msg/DiagnosticArray"),
    ]
    full = {in_namespace(namespace, topic.name): topic for topic in relative}
    return [Topic(name, topic.type, topic.latched) for name, topic in full.items()]
