"""Limits that hold at every set-point, whatever the plan asks for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

Array = NDArray[np.float64]

# Waypoints lie inside the workspace box, but between two of them the tool moves on a slight curve. Less than
# this outside is not worth an inverse kinematics per tick.
BOX_TOLERANCE_M = 1e-3


class SetpointLimiter:
    """Keeps every arm set-point inside joint limits, velocity limits and the workspace box.

    Args:
        robot: states the limits and the box.
        kinematics: of the same robot.
        velocity_margin: share of each velocity limit that may be used, 0 to 1. The rest is left to the
            servo, which must be able to catch up.
        max_tick_s: a tick that comes later than this is not paid out in full, else a stalled process
            would be allowed one big step.
    """

    def __init__(
        self, robot: RobotFile, kinematics: Kinematics, velocity_margin: float, max_tick_s: float
    ) -> None:
        if not 0.0 < velocity_margin <= 1.0:
            raise ValueError(f"velocity_margin is {velocity_margin}, expected above 0 and at most 1")
        limits = [robot.limits[name] for name in robot.arm_joints]
        self._velocity = velocity_margin * np.array([limit.velocity for limit in limits])
        self._lower, self._upper = robot.lower, robot.upper
        self._box = robot.workspace
        self._kinematics = kinematics
        self._max_tick_s = max_tick_s

    def next(self, previous: Array, wanted: Array, elapsed_s: float) -> Array:
        """The set-point [J] towards `wanted` [J] that may follow `previous` [J] after `elapsed_s`, in rad.

        A tool that would leave the workspace box slides along its border, and stays where it is if it
        cannot. An arm that starts outside may only come nearer.
        """
        candidate = self._slow(previous, wanted, elapsed_s)
        outside = self._outside_m(candidate)
        if outside <= BOX_TOLERANCE_M or outside <= self._outside_m(previous):
            return candidate
        position, rotation = self._kinematics.forward(candidate)
        inside = np.clip(position, self._box.lower, self._box.upper)
        candidate = self._slow(previous, self._kinematics.inverse(inside, rotation, candidate).q, elapsed_s)
        return candidate if self._outside_m(candidate) <= BOX_TOLERANCE_M else previous

    def _slow(self, previous: Array, wanted: Array, elapsed_s: float) -> Array:
        """The whole step is shortened, not each joint's, so that the arm stays on the straight way there."""
        most = self._velocity * min(max(elapsed_s, 0.0), self._max_tick_s)
        step = wanted - previous
        asked = float(np.max(np.abs(step) / np.maximum(most, 1e-12)))
        return np.clip(previous + step / max(asked, 1.0), self._lower, self._upper)

    def _outside_m(self, arm_q: Array) -> float:
        """How far the tool is outside the workspace box along its worst axis [m]; negative inside."""
        position, _ = self._kinematics.forward(arm_q)
        return float(np.max(np.maximum(self._box.lower - position, position - self._box.upper)))
