"""From messages to what the core works with, whoever decoded them: ROS, or a reader of bags without ROS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.timing import PAST_S, lead_s
from twinbrain_ros.data.decode import image_from_buffer, image_from_compressed
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.robot_file import Camera, RobotFile

NS_PER_S = 1_000_000_000


def from_time(stamp: Any) -> int:
    """builtin_interfaces/Time as nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def image_from_message(message: Any, camera: Camera) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] uint8 RGB of a sensor_msgs/Image or CompressedImage.

    Raises:
        FrameError: it is not what the robot file says (`image_from_buffer`, `image_from_compressed`).
    """
    if hasattr(message, "format"):
        return image_from_compressed(message.data, camera, message.format)
    return image_from_buffer(
        message.data,
        message.width,
        message.height,
        message.step,
        message.encoding,
        camera,
        bool(message.is_bigendian),
    )


def leads_to(trajectory: Any, robot: RobotFile) -> int:
    """Index of the point that an arm's trajectory leads to, before its way to rest.

    A stamped one begins PAST_S before it was decided; older bags have unstamped ones, which begin with the
    point itself.
    """
    if from_time(trajectory.header.stamp) == 0:
        return 0
    lead_ns = round((PAST_S + lead_s(robot.rates.command_hz)) * NS_PER_S)
    times = [from_time(point.time_from_start) for point in trajectory.points]
    return next((k for k, time_ns in enumerate(times) if time_ns >= lead_ns), len(times) - 1)


def told_finger_m(message: Any, robot: RobotFile) -> float:
    """Where a trajectory of the gripper leads to [m]; raises ValueError if it is of another joint."""
    return float(message.points[-1].positions[list(message.joint_names).index(robot.gripper.joint)])


def chunk_from_message(message: Any, robot: RobotFile) -> ActionChunk:
    """The chunk in a message; `ActionChunk.validate` then holds it against the robot file.

    Raises:
        ValueError: the message contradicts itself, or lacks an arm joint of the observation.
    """
    steps, names = int(message.steps), tuple(message.names)
    if len(message.data) != steps * len(names):
        wanted = f"{steps} steps x {len(names)} names = {steps * len(names)}"
        raise ValueError(f"data has {len(message.data)} values, expected {wanted}")
    joints = list(message.observation_joint_names)
    if len(message.observation_joint_positions) != len(joints):
        raise ValueError(
            f"observation_joint_positions has {len(message.observation_joint_positions)} values, expected "
            f"{len(joints)}, one for each of observation_joint_names"
        )
    missing = [name for name in robot.arm_joints if name not in joints]
    if missing:
        raise ValueError(f"observation_joint_names is {joints}, expected {missing} among them")
    positions = np.asarray(message.observation_joint_positions, dtype=np.float64)
    return ActionChunk(
        sequence=int(message.sequence),
        observation_ns=from_time(message.observation_stamp),
        due_ns=from_time(message.due),
        period_s=float(message.period_s),
        instruction=message.instruction,
        robot=message.robot,
        action_space=message.action_space,
        composition=message.composition,
        names=names,
        data=np.asarray(message.data, dtype=np.float64).reshape(steps, len(names)),
        observation_positions=positions[[joints.index(name) for name in robot.arm_joints]],
        noise_seed=int(message.noise_seed),
        inference_time_s=float(message.inference_time_s),
        left_age_s=float(message.left_age_s),
        guide_sequence=int(message.guide_sequence),
        guide_frozen=int(message.guide_frozen),
        image_stamps_ns=tuple(from_time(stamp) for stamp in message.image_stamps),
        joint_stamp_ns=from_time(message.joint_stamp),
        # Not in messages of older recordings.
        joint_stamps_ns=tuple(from_time(stamp) for stamp in getattr(message, "joint_stamps", ())),
    )
