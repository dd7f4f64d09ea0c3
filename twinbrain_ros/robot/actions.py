"""Action space and proprioceptive state: from tool poses to numbers and back.

Rotations are 3x3 matrices in the base frame. Euler angles are about the fixed axes x, y, z in this order
(``R = Rz(yaw) Ry(pitch) Rx(roll)``). The state's rotation is relative to the tool pointing down, where euler
angles are far from their singularity; an action's rotation is a turn in base axes, applied from the left.
"""

from __future__ import annotations

import math

import numpy as np

TOOL_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Rotation of a tool that points down: its x axis is base -z, its z axis base +x."""
TOOL_DOWN.setflags(write=False)


def euler_to_matrix(rpy: np.ndarray) -> np.ndarray:
    """Return rotations [..., 3, 3] of roll, pitch, yaw [..., 3] in radians."""
    angles = np.asarray(rpy, dtype=np.float64)
    cr, cp, cy = np.moveaxis(np.cos(angles), -1, 0)
    sr, sp, sy = np.moveaxis(np.sin(angles), -1, 0)
    rows = [
        np.stack([cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr], axis=-1),
        np.stack([sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr], axis=-1),
        np.stack([-sp, cp * sr, cp * cr], axis=-1),
    ]
    return np.stack(rows, axis=-2)


def matrix_to_euler(rotation: np.ndarray) -> np.ndarray:
    """Return roll, pitch, yaw [..., 3] in radians, pitch within +-pi/2, of rotations [..., 3, 3]."""
    matrix = np.asarray(rotation, dtype=np.float64)
    planar = np.hypot(matrix[..., 0, 0], matrix[..., 1, 0])
    regular = planar > 1e-9
    # At pitch +-pi/2 only yaw -+ roll is defined; the whole turn is then given to roll.
    roll = np.where(
        regular,
        np.arctan2(matrix[..., 2, 1], matrix[..., 2, 2]),
        np.arctan2(-matrix[..., 1, 2], matrix[..., 1, 1]),
    )
    pitch = np.arctan2(-matrix[..., 2, 0], planar)
    yaw = np.where(regular, np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0]), 0.0)
    return np.stack([roll, pitch, yaw], axis=-1)


def tool_state(position: np.ndarray, rotation: np.ndarray, gripper_opening: float) -> np.ndarray:
    """Return the proprioceptive state.

    Args:
        position: [3], metres, tool frame in the base frame.
        rotation: [3, 3], tool in base.
        gripper_opening: 0 closed to 1 open.

    Returns:
        [7]: x, y, z, roll, pitch, yaw (of ``rotation`` relative to tool down), gripper opening.
    """
    return np.concatenate([position, matrix_to_euler(np.asarray(rotation) @ TOOL_DOWN.T), [gripper_opening]])


def state_pose(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return position [3] and rotation [3, 3] of a proprioceptive state [6 or 7]: inverts `tool_state`."""
    values = np.asarray(state, dtype=np.float64)
    return values[:3].copy(), euler_to_matrix(values[3:6]) @ TOOL_DOWN


def compose_ee_deltas(
    position: np.ndarray, rotation: np.ndarray, deltas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn a chunk of deltas into waypoints.

    Args:
        position: [3], metres, where the first delta starts.
        rotation: [3, 3], likewise.
        deltas: [T, 6 or more]: dx, dy, dz [m], droll, dpitch, dyaw [rad], base axes; further columns
            are ignored.

    Returns:
        Positions [T, 3] and rotations [T, 3, 3]; entry k has deltas 0..k applied.
    """
    steps = np.atleast_2d(np.asarray(deltas, dtype=np.float64))
    positions = np.asarray(position, dtype=np.float64) + np.cumsum(steps[:, :3], axis=0)
    turns = euler_to_matrix(steps[:, 3:6])
    rotations = np.empty((len(steps), 3, 3))
    current = np.asarray(rotation, dtype=np.float64)
    for index, turn in enumerate(turns):
        current = turn @ current
        rotations[index] = current
    return positions, rotations


def relative_ee_deltas(
    position: np.ndarray, rotation: np.ndarray, positions: np.ndarray, rotations: np.ndarray
) -> np.ndarray:
    """Turn waypoints into deltas: the inverse of `compose_ee_deltas`.

    Args:
        position: [3], metres, where the first delta starts.
        rotation: [3, 3], likewise.
        positions: [T, 3], metres.
        rotations: [T, 3, 3].

    Returns:
        Deltas [T, 6]: dx, dy, dz [m], droll, dpitch, dyaw [rad], base axes.
    """
    starts = np.concatenate([np.asarray(position, dtype=np.float64)[None], positions[:-1]])
    before = np.concatenate([np.asarray(rotation, dtype=np.float64)[None], rotations[:-1]])
    turns = np.asarray(rotations) @ np.swapaxes(before, -1, -2)
    return np.concatenate([np.asarray(positions) - starts, matrix_to_euler(turns)], axis=1)


def wrap_angle(angle: float) -> float:
    """Return ``angle`` [rad] within (-pi, pi]."""
    return math.pi - (math.pi - angle) % math.tau
