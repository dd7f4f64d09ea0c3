"""From messages to what the core works with, whoever decoded them: ROS, or a reader of bags without ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.timing import leads_to_s, to_ns
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


@dataclass(frozen=True, eq=False)
class Commanded:
    """What a driver was told in a message.

    Attributes:
        start_ns: from when its times count; 0: from when it arrives.
        times_s: [K].
        arm: [K, J] rad, in the order of the robot file; None: nothing of the arm.
        velocities: [K, J] rad/s; None where the message has none.
        leads_to: index of the point that it leads to, before its way to rest. A stamped trajectory begins
            PAST_S before it was decided; older bags have unstamped ones, which begin with the point itself.
        finger_m: where it leads the gripper's joint to [m]; None: nothing of the gripper.
    """

    start_ns: int
    times_s: NDArray[np.float64]
    arm: NDArray[np.float64] | None = None
    velocities: NDArray[np.float64] | None = None
    leads_to: int = 0
    finger_m: float | None = None


def commands_from_message(message: Any, robot: RobotFile) -> Commanded:
    """What is commanded by a message, in whatever interface: trajectories of the arm, of the gripper or of
    both, the Interbotix driver's commands, the positions of a gripper.

    Raises:
        ValueError: it is of other joints, or its numbers cannot be used.
    """
    if hasattr(message, "points"):
        told = _trajectory(message, robot)
    elif hasattr(message, "data"):  # of a controller that has the gripper's joint alone, or first
        told = Commanded(0, np.zeros(1), finger_m=float(message.data[0]))
    elif np.ndim(message.cmd):
        told = Commanded(0, np.zeros(1), np.asarray(message.cmd, dtype=np.float64)[None])
    else:  # the distance between both fingers
        told = Commanded(0, np.zeros(1), finger_m=float(message.cmd) / 2.0)
    if told.arm is not None:
        count = len(robot.arm_joints)
        if told.arm.shape[1] != count or not np.isfinite(told.arm).all():
            raise ValueError(f"positions are {told.arm.tolist()}, expected {count} finite numbers a point")
    if told.finger_m is not None and not np.isfinite(told.finger_m):
        raise ValueError(f"the gripper's position is {told.finger_m}, expected a finite number")
    return told


def _trajectory(message: Any, robot: RobotFile) -> Commanded:
    names, points, finger = list(message.joint_names), message.points, robot.gripper.joint
    has_arm = all(joint in names for joint in robot.arm_joints)
    if not points or not (has_arm or finger in names):
        wanted = f"some of {list(robot.arm_joints)} or of {finger}"
        raise ValueError(f"the trajectory has {len(points)} points of {names}, expected {wanted}")
    arm = velocities = None
    if has_arm:
        order = [names.index(joint) for joint in robot.arm_joints]
        arm = np.array([point.positions for point in points], dtype=np.float64)[:, order]
        if all(len(point.velocities) for point in points):
            velocities = np.array([point.velocities for point in points], dtype=np.float64)[:, order]
    start_ns = from_time(message.header.stamp)
    times_ns = np.array([from_time(point.time_from_start) for point in points])
    ahead = np.flatnonzero(times_ns >= to_ns(leads_to_s(robot.rates.command_hz)))
    return Commanded(
        start_ns,
        times_ns / NS_PER_S,
        arm,
        velocities,
        (int(ahead[0]) if len(ahead) else len(points) - 1) if start_ns else 0,
        float(points[-1].positions[names.index(finger)]) if finger in names else None,
    )


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
        # Older bags do not have them.
        image_digests=tuple(int(digest) for digest in getattr(message, "image_digests", ())),
    )
