"""The simulator's scene, read back from its message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from twinbrain_ros.data.messages import from_time
from twinbrain_ros.sim.state import ObjectState, SceneState

if TYPE_CHECKING:
    from twinbrain_ros.msg import SceneState as SceneStateMessage


def scene_from_message(message: SceneStateMessage) -> SceneState:
    """The scene that a `scene_state` message tells of; its time is the message's stamp.

    Raises:
        ValueError: the lists of the message have different lengths, or a name is not `<colour> <kind>`.
    """
    counts = (len(message.names), len(message.poses), len(message.speeds))
    if len(set(counts)) != 1:
        raise ValueError(f"scene_state: found {counts} names, poses and speeds, expected as many of each")
    objects = tuple(
        _object(name, pose, speed)
        for name, pose, speed in zip(message.names, message.poses, message.speeds, strict=True)
    )
    tool_position, tool_rotation = _pose(message.tool_pose)
    return SceneState(
        time_ns=from_time(message.header.stamp),
        tool_position=tool_position,
        tool_rotation=tool_rotation,
        gripper_opening=float(message.gripper_opening),
        objects=objects,
        held=message.held,
        touching=frozenset(message.touching),
    )


def _object(name: str, pose: Any, speed: float) -> ObjectState:
    colour, _, kind = name.partition(" ")
    if not colour or not kind:
        raise ValueError(f"scene_state: found the name {name!r}, expected '<colour> <kind>'")
    position, rotation = _pose(pose)
    return ObjectState(name, kind, colour, position, rotation, float(speed))


def _pose(pose: Any) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] in metres and rotation [3, 3] of a geometry_msgs/Pose."""
    q = pose.orientation
    x, y, z, w = q.x, q.y, q.z, q.w
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    p = pose.position
    return np.array([p.x, p.y, p.z]), rotation
