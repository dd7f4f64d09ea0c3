"""Joints moved one by one, as a person asks: what reaches everywhere where the tool's directions do not."""

from __future__ import annotations

import numpy as np

from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.motion import Array
from twinbrain_ros.robot.kinematics import Kinematics

# Share of the acceleration limits that is asked for, and the time in which full speed is reached from rest:
# the arm must be able to keep up, and not hurry to make up for its own acceleration.
_ACCELERATION_SHARE, _RAMP_S = 0.7, 0.15
_BORDER_M = 2e-4  # what the tool may be outside its room at the end of a stop


class JointJog:
    """Follows joint velocities from where it is placed; no joint moves that is not asked to.

    It stops before the limits, and before the tool leaves its room.

    Args:
        speed: that is asked for at most [rad/s].
    """

    def __init__(self, kinematics: Kinematics, governor: Governor, speed: float) -> None:
        self._kinematics, self._governor = kinematics, governor
        most = _ACCELERATION_SHARE * governor.limits.acceleration
        self._acceleration = np.minimum(most, max(speed, 1e-3) / _RAMP_S)

    def place(self, q: Array) -> None:
        """Begins at joints [J], at rest."""
        self.q, self.v = q, np.zeros_like(q)

    def step(self, wanted: Array, elapsed_s: float) -> bool:
        """Moves on by velocities [J] rad/s for a time; False if the border of the room stops it."""
        q, v = self._moved(wanted, elapsed_s)
        free = self._outside_m(q, v) <= max(_BORDER_M, self._outside_m(self.q, np.zeros_like(v)))
        if not free:
            q, v = self._moved(np.zeros_like(wanted), elapsed_s)
        self.q, self.v = q, v
        return free

    def _moved(self, wanted: Array, elapsed_s: float) -> tuple[Array, Array]:
        limits, most = self._governor.limits, self._acceleration * elapsed_s
        v = self.v + np.clip(wanted - self.v, -most, most)
        room = np.maximum(np.where(v > 0, limits.upper - self.q, self.q - limits.lower), 0.0)
        v = np.clip(v, -np.sqrt(2 * self._acceleration * room), np.sqrt(2 * self._acceleration * room))
        v = np.clip(v, -0.9 * limits.velocity, 0.9 * limits.velocity)
        return self.q + v * elapsed_s, v

    def _outside_m(self, q: Array, v: Array) -> float:
        """How far the tool is outside its room when the joints have stopped."""
        stopped = q + v * np.abs(v) / (2 * self._acceleration)
        return self._governor.room.outside_m(self._kinematics.forward(stopped)[0])
