"""How far actions, and the poses they lead to, are from others: running sums over a horizon."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.waypoints import GRIPPER_THRESHOLD
from twinbrain_ros.robot.kinematics import Kinematics

Array = NDArray[np.float64]
Steps = NDArray[np.bool_]


class Poses(NamedTuple):
    """Of the tool at the end of each step: positions [T, 3] in m, rotations [T, 3, 3], base frame."""

    positions: Array
    rotations: Array

    @classmethod
    def of(cls, kinematics: Kinematics, joints: Array) -> Poses:
        """Of arm joints [T, J] in rad; NaN where these are."""
        positions, rotations = np.full((len(joints), 3), np.nan), np.full((len(joints), 3, 3), np.nan)
        for step, row in enumerate(joints):
            if np.isfinite(row).all():
                positions[step], rotations[step] = kinematics.forward(row)
        return cls(positions, rotations)

    def apart(self, other: Poses) -> tuple[Array, Array]:
        """How far [T] in mm and how much turned [T] in degrees the others are from these."""
        turn = other.rotations @ np.swapaxes(self.rotations, -1, -2)
        skew = turn - np.swapaxes(turn, -1, -2)
        sine = np.linalg.norm(skew[:, [2, 0, 1], [1, 2, 0]], axis=1) / 2
        cosine = (np.trace(turn, axis1=1, axis2=2) - 1) / 2
        far = np.linalg.norm(other.positions - self.positions, axis=1)
        return 1e3 * far, np.degrees(np.arctan2(sine, cosine))


class Errors:
    """Running sums of differences to a reference, for each step of the horizon.

    Attributes:
        steps, pose_steps: [T], how many steps were compared in actions, and in the pose they lead to.
    """

    def __init__(self, horizon: int, dims: int) -> None:
        self.steps = np.zeros(horizon, np.int64)
        self.pose_steps = np.zeros(horizon, np.int64)
        self._absolute, self._squares = np.zeros((horizon, dims)), np.zeros((horizon, dims))
        self._far, self._turned = np.zeros(horizon), np.zeros(horizon)
        self._gripper_agrees = 0

    def add(
        self, found: Array, wanted: Array, steps: Steps, apart: tuple[Array, Array], poses: Steps
    ) -> None:
        """Adds a chunk: actions [T, A], `Poses.apart`, and which steps [T] of them are to be compared."""
        error = np.where(steps[:, None], found - wanted, 0.0)
        self.steps += steps
        self._absolute += np.abs(error)
        self._squares += error**2
        self.pose_steps += poses
        self._far += np.where(poses, apart[0], 0.0)
        self._turned += np.where(poses, apart[1], 0.0)
        same = (found[:, -1] > GRIPPER_THRESHOLD) == (wanted[:, -1] > GRIPPER_THRESHOLD)
        self._gripper_agrees += int((same & steps).sum())

    def mean_absolute(self) -> Array:
        """[T, A] in the units of the action space; NaN where nothing was compared."""
        return _shares(self._absolute, self.steps[:, None])

    def rms(self) -> Array:
        """Likewise, root of the mean square."""
        return np.sqrt(_shares(self._squares, self.steps[:, None]))

    def overall(self) -> tuple[Array, Array]:
        """Mean absolute and root mean square error [A] over all steps."""
        count = self.steps.sum()[None]
        return _shares(self._absolute.sum(0), count), np.sqrt(_shares(self._squares.sum(0), count))

    def translation_mm(self) -> Array:
        """[T], mean distance of the poses after each step [mm]; NaN where nothing was compared."""
        return _shares(self._far, self.pose_steps)

    def rotation_deg(self) -> Array:
        """[T], mean angle between the poses after each step [deg]."""
        return _shares(self._turned, self.pose_steps)

    def gripper_agreement(self) -> float | None:
        """Share of steps with both gripper openings on the same side of the threshold."""
        count = int(self.steps.sum())
        return self._gripper_agrees / count if count else None

    def to_json(self) -> dict[str, Any]:
        overall, rms = self.overall()
        return {
            "steps": self.steps.tolist(),
            "mean_absolute": known(overall),
            "rms": known(rms),
            "mean_absolute_by_step": known(self.mean_absolute()),
            "rms_by_step": known(self.rms()),
            "pose_steps": self.pose_steps.tolist(),
            "translation_mm_by_step": known(self.translation_mm()),
            "rotation_deg_by_step": known(self.rotation_deg()),
            "gripper_agreement": self.gripper_agreement(),
        }


def _shares(sums: Array, counts: NDArray[np.int64]) -> Array:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def known(values: Array) -> list[Any]:
    """As lists for JSON, None where not known."""
    rows: list[Any] = [
        known(row) if isinstance(row, np.ndarray) else (float(row) if np.isfinite(row) else None)
        for row in values
    ]
    return rows
