"""Between a policy's chunk and a suite's canonical actions.

Rows are what the executor keeps, one per step: for relative actions whose chunk is composed on its
observation, absolute tool poses, so that a row means the same whenever it is executed; else the policy's own
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.benchmarks.profile import ActionRule
from twinbrain_ros.control.waypoints import GRIPPER_THRESHOLD
from twinbrain_ros.robot.actions import (
    compose_ee_deltas,
    euler_to_matrix,
    relative_ee_deltas,
    state_pose,
    tool_state,
)

Array = NDArray[np.float64]
State = Mapping[str, Array]


class Codec(Protocol):
    """One way of meaning chunks. All arrays float64; state: of the observation (`worker.py`)."""

    def rows(self, chunk: Array, state: State) -> Array:
        """What a chunk [H, D] means."""

    def chunk(self, rows: Array, state: State, horizon: int) -> Array:
        """Rows as a chunk [horizon, D] of this observation; after the last one the arm stands."""

    def action(self, row: Array, state: State) -> dict[str, Any]:
        """A row as a canonical action."""

    def hold(self, state: State) -> dict[str, Any]:
        """The action that stays where the arm is."""


def codec_for(rule: ActionRule, composition: str) -> Codec:
    """The codec of a policy whose deltas are composed on `composition` ("observation" or
    "previous_target")."""
    if rule.groups:
        return JointGroups(rule.groups)
    return ToolPoses(rule) if composition == "observation" else ToolDeltas(rule)


class ToolDeltas:
    """dx, dy, dz, three numbers of rotation, gripper: as they are, on what was commanded last."""

    def __init__(self, rule: ActionRule) -> None:
        self._rule = rule

    def rows(self, chunk: Array, state: State) -> Array:
        return chunk

    def chunk(self, rows: Array, state: State, horizon: int) -> Array:
        standing = np.zeros((horizon - len(rows), rows.shape[1]))
        standing[:, -1] = rows[-1, -1]
        return np.concatenate([rows, standing])

    def action(self, row: Array, state: State) -> dict[str, Any]:
        turn = row[3:6] * self._rule.rotation_scale
        matrix = euler_to_matrix(turn) if self._rule.rotation == "euler" else cv2.Rodrigues(turn)[0]
        return {
            "translation": row[:3] * self._rule.translation_scale,
            "rotation": matrix,
            "gripper": _switched(row[-1]),
        }

    def hold(self, state: State) -> dict[str, Any]:
        return {"translation": np.zeros(3), "rotation": np.eye(3)}


class ToolPoses(ToolDeltas):
    """Deltas composed on the observation: rows are poses, as a proprioceptive state has them."""

    def rows(self, chunk: Array, state: State) -> Array:
        deltas = chunk[:, :6] * np.repeat([self._rule.translation_scale, self._rule.rotation_scale], 3)
        poses = zip(*compose_ee_deltas(state["position"], state["rotation"], deltas), strict=True)
        return np.stack([tool_state(p, r, g) for (p, r), g in zip(poses, chunk[:, -1], strict=True)])

    def chunk(self, rows: Array, state: State, horizon: int) -> Array:
        rows = np.concatenate([rows, np.repeat(rows[-1:], horizon - len(rows), axis=0)])
        poses = [state_pose(row) for row in rows]
        positions, rotations = np.stack([p for p, _ in poses]), np.stack([r for _, r in poses])
        deltas = relative_ee_deltas(state["position"], state["rotation"], positions, rotations)
        deltas /= np.repeat([self._rule.translation_scale, self._rule.rotation_scale], 3)
        return np.concatenate([deltas, rows[:, -1:]], axis=1)

    def action(self, row: Array, state: State) -> dict[str, Any]:
        position, rotation = state_pose(row)
        return {
            "translation": position - state["target_position"],
            "rotation": rotation @ state["target_rotation"].T,
            "gripper": _switched(row[-1]),
        }


class JointGroups:
    """Absolute joint targets of named groups, in their order."""

    def __init__(self, groups: tuple[str, ...]) -> None:
        self._groups = groups

    def rows(self, chunk: Array, state: State) -> Array:
        return chunk

    def chunk(self, rows: Array, state: State, horizon: int) -> Array:
        return np.concatenate([rows, np.repeat(rows[-1:], horizon - len(rows), axis=0)])

    def action(self, row: Array, state: State) -> dict[str, Any]:
        ends = np.cumsum([len(state[name]) for name in self._groups])
        return {"groups": dict(zip(self._groups, np.split(row, ends[:-1]), strict=True))}

    def hold(self, state: State) -> dict[str, Any]:
        return {"groups": {name: np.asarray(state[name]) for name in self._groups}}


def _switched(opening: float) -> float:
    return 1.0 if opening > GRIPPER_THRESHOLD else 0.0


def policy_state(kind: str, state: State, groups: tuple[str, ...]) -> Array | None:
    """The proprioceptive state of a profile's kind: [7] tool, [8] tool_axis_angle, [2 n] joint_sin_cos.

    Raises ValueError where the suite does not tell what the kind is made of.
    """
    if kind == "none":
        return None
    needed = {"tool_axis_angle": ("gripper_qpos",), "joint_sin_cos": groups}.get(kind, ())
    lacking = [name for name in needed if name not in state]
    if lacking:
        raise ValueError(f"state: {kind!r} takes {lacking}, the suite gives {sorted(state)}")
    if kind == "tool":
        return tool_state(state["position"], state["rotation"], float(state["gripper"][0]))
    if kind == "tool_axis_angle":
        turn = cv2.Rodrigues(np.asarray(state["rotation"]))[0].ravel()
        return np.concatenate([state["position"], turn, state["gripper_qpos"]])
    halves = [np.concatenate([np.sin(state[name]), np.cos(state[name])]) for name in groups]
    return np.concatenate(halves)
