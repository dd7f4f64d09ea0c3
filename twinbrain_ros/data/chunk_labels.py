"""States and action chunks of a dataset's frames, in the terms of a robot file; whole arrays at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data.dataset_file import ActionMap, DatasetFile, GripperMap, PoseMap
from twinbrain_ros.robot.actions import TOOL_DOWN, euler_to_matrix, matrix_to_euler
from twinbrain_ros.robot.robot_file import EE_DELTA_NAMES, RobotFile

BLOCK = 16384  # frames whose rotations are matrices at the same time: some MB

Floats = NDArray[np.float32]


def axis_angle_to_matrix(vectors: np.ndarray) -> np.ndarray:
    """Rotations [.., 3, 3] of rotation vectors [.., 3]: their length is the angle [rad]."""
    angle = np.linalg.norm(vectors, axis=-1, keepdims=True)
    x, y, z = np.moveaxis(vectors / np.maximum(angle, 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    angle = angle[..., None]
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)


def quaternion_to_matrix(quaternions: np.ndarray) -> np.ndarray:
    """Rotations [.., 3, 3] of quaternions [.., 4] (x, y, z, w), which need not be of unit length."""
    q = quaternions / np.maximum(np.linalg.norm(quaternions, axis=-1, keepdims=True), 1e-12)
    x, y, z, w = np.moveaxis(q, -1, 0)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
    rows += [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]
    rows += [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    return np.stack(rows, axis=-1).reshape(*x.shape, 3, 3)


def _rotation(values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    if len(names) == 4:
        return quaternion_to_matrix(values)
    return axis_angle_to_matrix(values) if names[0] == "rx" else euler_to_matrix(values)


def opening(values: np.ndarray, gripper: GripperMap) -> np.ndarray:
    """Openings, 0 closed to 1 open, of a dataset's gripper numbers [..]."""
    closed, opened = gripper.ends
    values = values if gripper.ends == (0.0, 1.0) else (values - closed) / (opened - closed)
    values = 1.0 - values if gripper.invert else values
    return values if gripper.threshold is None else (values > gripper.threshold).astype(values.dtype)


def tool_states(values: Floats, pose: PoseMap) -> Floats:
    """Proprioceptive states [N, 7] as of `robot.actions.tool_state`, from a feature [N, dims]."""
    out = np.empty((len(values), 7), dtype=np.float32)
    out[:, :3] = values[:, pose.columns(("x", "y", "z"))]
    out[:, 6] = opening(values[:, pose.dims.index("gripper")], pose.gripper)
    names = pose.rotation()
    given = values[:, pose.columns(names)]
    if pose.relative_to == "tool_down" and names[0] == "roll":
        out[:, 3:6] = given
        return out
    for start in range(0, len(values), BLOCK):
        part = slice(start, start + BLOCK)
        rotation = _rotation(given[part].astype(np.float64), names)
        if pose.relative_to == "base":
            rotation = rotation @ euler_to_matrix(np.array(pose.tool_turn)) @ TOOL_DOWN.T
        out[part, 3:6] = matrix_to_euler(rotation)
    return out


class ChunkLabels:
    """Action chunks that start at any frame of a dataset.

    Args:
        file: what the features are.
        robot: whose action space and composition the chunks are in.
        states: [N, 7] of all frames, as of `tool_states`.
        raw_state, raw_action: the features themselves, [N, dims].
        first, last: [N] rows of the first and last frame of each frame's episode.
        stride: frames per step of a chunk.
    """

    def __init__(
        self,
        file: DatasetFile,
        robot: RobotFile,
        states: Floats,
        raw_state: Floats,
        raw_action: Floats,
        first: np.ndarray,
        last: np.ndarray,
        stride: int = 1,
    ) -> None:
        action = file.action
        self._kind, self._stride = action.kind, stride
        self._first, self._last, self._states = first, last, states
        self._from_target = robot.action.composition == "previous_target"
        if action.kind == "tool_target":
            assert action.pose is not None
            self._values = tool_states(raw_action, action.pose)
        elif action.kind == "tool_delta":
            euler = (
                raw_state[:, file.state.columns(("roll", "pitch", "yaw"))]
                if action.turn == "euler_difference"
                else None
            )
            self._values = _deltas(raw_action, action, euler)
        else:
            self._values = raw_action[:, [action.dims.index(name) for name in robot.action.names]].astype(
                np.float32
            )
            self._values[:, -1] = opening(self._values[:, -1], action.gripper)

    @property
    def values(self) -> Floats:
        """Per frame [N, 7 or joints + 1]: targets, or deltas for datasets of deltas."""
        return self._values

    def usable(self) -> np.ndarray:
        """bool [N]: frames from which at least one step of a chunk is known."""
        return np.arange(len(self._last)) + self._stride - 1 <= self._last

    def chunks(self, rows: np.ndarray, horizon: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Chunks that start at rows [B].

        Returns:
            actions [B, T, A] in robot units, known [B, T]. Steps past the episode's end are not known: the
            last target again, which for deltas is no motion; the gripper stays.
        """
        ends = rows[:, None] + (np.arange(horizon) + 1) * self._stride - 1
        last = self._last[rows][:, None]
        known = ends <= last
        ends = np.minimum(ends, last)
        if self._kind == "joint_target":
            return self._values[ends], known
        deltas = self._summed(rows, horizon) if self._kind == "tool_delta" else self._between(rows, ends)
        return np.concatenate([deltas, self._values[ends][..., 6:]], axis=-1).astype(np.float32), known

    def _between(self, rows: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Deltas [B, T, 6] between targets, the first from the pose that chunks are composed on."""
        starts = self._states[rows, :6]
        if self._from_target:
            begun = rows > self._first[rows]
            starts = np.where(begun[:, None], self._values[np.maximum(rows - 1, 0), :6], starts)
        poses = np.concatenate([starts[:, None], self._values[ends, :6]], axis=1).astype(np.float64)
        # The rotations are relative to tool down, which drops out of a turn from one to the next.
        rotations = euler_to_matrix(poses[..., 3:])
        turns = rotations[:, 1:] @ np.swapaxes(rotations[:, :-1], -1, -2)
        return np.concatenate([np.diff(poses[..., :3], axis=1), matrix_to_euler(turns)], axis=-1)

    def _summed(self, rows: np.ndarray, horizon: int) -> np.ndarray:
        """Deltas [B, T, 6] of steps, each of `stride` recorded ones; 0 past the end."""
        at = rows[:, None] + np.arange(horizon * self._stride)
        last = self._last[rows][:, None]
        deltas = np.where((at <= last)[..., None], self._values[np.minimum(at, last), :6], 0.0)
        if self._stride == 1:
            return deltas
        deltas = deltas.astype(np.float64).reshape(len(rows), horizon, self._stride, 6)
        turns = euler_to_matrix(deltas[..., 3:])
        turn = turns[:, :, 0]
        for step in range(1, self._stride):
            turn = turns[:, :, step] @ turn
        return np.concatenate([deltas[..., :3].sum(axis=2), matrix_to_euler(turn)], axis=-1)


def _deltas(raw: Floats, action: ActionMap, euler: Floats | None) -> Floats:
    """Recorded deltas [N, 7] with their rotations as turns about fixed axes; euler: the state's, [N, 3]."""
    out = raw[:, [action.dims.index(name) for name in EE_DELTA_NAMES]].astype(np.float32)
    out[:, 6] = opening(out[:, 6], action.gripper)
    out[:, :3] *= action.translation_scale
    out[:, 3:6] *= action.rotation_scale
    if action.turn == "euler":
        return out
    for start in range(0, len(out), BLOCK):
        part = slice(start, start + BLOCK)
        given = out[part, 3:6].astype(np.float64)
        if euler is None:
            turns = axis_angle_to_matrix(given)
        else:
            before = euler[part].astype(np.float64)
            turns = euler_to_matrix(before + given) @ np.swapaxes(euler_to_matrix(before), -1, -2)
        out[part, 3:6] = matrix_to_euler(turns)
    return out
