"""Between messages and what the core works with. No decisions in here."""

from __future__ import annotations

import array
from collections.abc import Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from twinbrain_ros.control.modes import Intervention, ModeChange
from twinbrain_ros.control.verdict import Motion

# The way back is needed without ROS too: bags are read with it.
from twinbrain_ros.data.messages import NS_PER_S
from twinbrain_ros.data.messages import chunk_from_message as chunk_from_message
from twinbrain_ros.data.messages import from_time as from_time
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage
from twinbrain_ros.msg import ControlMode
from twinbrain_ros.msg import Intervention as InterventionMessage
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.robot_file import Camera, RobotFile

# Encodings in which images are made, and the order of their channels.
_MADE: dict[str, list[int] | None] = {"rgb8": None, "bgr8": [2, 1, 0]}
JPEG_QUALITY = 95  # as image_transport's own


def to_time(stamp_ns: int) -> Time:
    """Nanoseconds as builtin_interfaces/Time."""
    return Time(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def image_type(camera: Camera) -> type:
    """The type of messages that `image_message` makes for a camera.

    Raises:
        ValueError: it makes none of this encoding.
    """
    if camera.encoding not in _MADE:
        raise ValueError(
            f"camera {camera.name}: encoding is {camera.encoding!r}, expected one of {list(_MADE)}"
        )
    return CompressedImage if camera.compressed else Image


def image_message(pixels: NDArray[np.uint8], camera: Camera, stamp_ns: int) -> Image | CompressedImage:
    """An image [H, W, 3] uint8 RGB in the camera's own encoding, as JPEG if it comes compressed."""
    kind = image_type(camera)
    data = array.array("B")
    if camera.compressed:
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        data.frombytes(cv2.imencode(".jpg", pixels[..., ::-1], quality)[1].tobytes())
        message = kind(format=f"{camera.encoding}; jpeg compressed bgr8")
    else:
        order = _MADE[camera.encoding]
        height, width, depth = pixels.shape
        message = kind(height=height, width=width, encoding=camera.encoding, step=width * depth)
        data.frombytes((pixels if order is None else pixels[..., order]).tobytes())
    message.header.stamp = to_time(stamp_ns)
    message.header.frame_id = f"{camera.name}_camera"
    # An array of bytes is taken as it is; an ndarray would be checked element by element (500 times slower).
    message.data = data
    return message


def pose_message(position: NDArray[np.float64], rotation: NDArray[np.float64]) -> Pose:
    """Position [3] in m and rotation [3, 3] as a geometry_msgs/Pose."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = (float(v) for v in position)
    w, x, y, z = quaternion(rotation)
    pose.orientation.w, pose.orientation.x, pose.orientation.y, pose.orientation.z = w, x, y, z
    return pose


def quaternion(rotation: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Unit quaternion (w, x, y, z), w not negative, of a rotation [3, 3]."""
    m = np.asarray(rotation, dtype=np.float64)
    # The matrix of all products of two components; its dominant eigenvector is the quaternion, which is
    # well defined for every rotation, half turns included.
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]
    w, x, y, z = q if q[0] >= 0 else -q
    return float(w), float(x), float(y), float(z)


def chunk_message(chunk: ActionChunk, robot: RobotFile, now_ns: int) -> ActionChunkMessage:
    """A chunk for the topic, stamped now."""
    message = ActionChunkMessage(
        observation_stamp=to_time(chunk.observation_ns),
        due=to_time(chunk.due_ns),
        sequence=chunk.sequence,
        instruction=chunk.instruction,
        robot=chunk.robot,
        action_space=chunk.action_space,
        composition=chunk.composition,
        names=list(chunk.names),
        period_s=chunk.period_s,
        steps=len(chunk.data),
        data=chunk.data.ravel().tolist(),
        observation_joint_names=list(robot.arm_joints),
        observation_joint_positions=chunk.observation_positions.tolist(),
        noise_seed=chunk.noise_seed,
        inference_time_s=chunk.inference_time_s,
        left_age_s=chunk.left_age_s,
        guide_sequence=chunk.guide_sequence,
        guide_frozen=chunk.guide_frozen,
        image_stamps=[to_time(stamp_ns) for stamp_ns in chunk.image_stamps_ns],
        image_digests=list(chunk.image_digests),
        joint_stamp=to_time(chunk.joint_stamp_ns),
        joint_stamps=[to_time(stamp) for stamp in chunk.joint_stamps_ns],
    )
    message.header.stamp = to_time(now_ns)
    message.header.frame_id = robot.base_frame
    return message


def trajectory_message(
    names: Sequence[str],
    times_s: Sequence[float],
    positions: Sequence[Sequence[float]],
    velocities: Sequence[Sequence[float]] | None = None,
    start_ns: int = 0,
) -> JointTrajectory:
    """A trajectory [K] of joints [J]: times [s] after `start_ns` on the ROS clock; 0: after it arrives."""
    message = JointTrajectory(joint_names=list(names))
    message.header.stamp = to_time(start_ns)
    nothing: list[list[float]] = [[]] * len(positions)
    for in_s, where, how_fast in zip(times_s, positions, velocities or nothing, strict=True):
        whole = round(in_s * NS_PER_S)
        in_time = Duration(sec=whole // NS_PER_S, nanosec=whole % NS_PER_S)
        message.points.append(
            JointTrajectoryPoint(positions=where, velocities=how_fast, time_from_start=in_time)
        )
    return message


def motion_message(names: Sequence[str], motion: Motion) -> JointTrajectory:
    """The committed way of the arm, with its past.

    A ROS 2 trajectory controller forgets the trajectory before and begins each new one where the arm is
    measured, at rest, unless that trajectory says itself where the arm is to be now. So it begins with where
    the arm was to be a little before.
    """
    start_ns, times_s, positions, velocities = motion.as_sent()
    return trajectory_message(names, times_s.tolist(), positions.tolist(), velocities.tolist(), start_ns)


def mode_message(state: ModeChange, stamp_ns: int) -> ControlMode:
    """Who drives, and why."""
    message = ControlMode(
        mode=int(state.mode), source=state.source, reason=state.reason, latched=state.latched
    )
    message.header.stamp = to_time(stamp_ns)
    return message


def intervention_message(intervention: Intervention, stamp_ns: int) -> InterventionMessage:
    """A person at the wheel."""
    message = InterventionMessage(
        number=intervention.number,
        source=intervention.source,
        interrupted=int(intervention.interrupted),
        start=to_time(intervention.start_ns),
        end=to_time(intervention.end_ns or 0),
    )
    message.header.stamp = to_time(stamp_ns)
    return message
