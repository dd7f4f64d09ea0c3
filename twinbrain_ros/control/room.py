"""Where the tool may be: the workspace box, and as far outside of it as the arm is already.

An arm that lies outside its box after power-on, or that a way to a pose has led out of it, can be driven: no
further out along any axis, and what it has come back in it does not go out again.
"""

from __future__ import annotations

import enum

import numpy as np

from twinbrain_ros.control.motion import Array
from twinbrain_ros.robot.robot_file import Workspace


class Border(enum.Enum):
    """What a reference does at the border of the room."""

    SLIDE = "it goes on along the border"
    STOP = "the arm comes to rest there"
    CROSS = "it leads out: a way between poses, of which the robot file says that it is free"


class Room:
    """The box, base frame [m], widened by where the tool is; `lower` and `upper` have shape [3]."""

    def __init__(self, box: Workspace) -> None:
        self._box = box
        self.lower, self.upper = box.lower, box.upper

    @property
    def wide(self) -> bool:
        """Whether it is more than the box."""
        return self.lower is not self._box.lower or self.upper is not self._box.upper

    def hold(self, *positions: Array) -> None:
        """The box and as much more as these places of the tool [3] need."""
        self._take(np.min(positions, axis=0), np.max(positions, axis=0))

    def shrink(self, *positions: Array) -> None:
        """No more than these places of the tool [3] still need."""
        low, high = np.min(positions, axis=0), np.max(positions, axis=0)
        self._take(np.maximum(self.lower, low), np.minimum(self.upper, high))

    def _take(self, low: Array, high: Array) -> None:
        box = self._box
        self.lower = box.lower if np.all(low >= box.lower) else np.minimum(box.lower, low)
        self.upper = box.upper if np.all(high <= box.upper) else np.maximum(box.upper, high)

    def clip(self, position: Array) -> Array:
        """The nearest place inside [3]."""
        return np.minimum(np.maximum(position, self.lower), self.upper)

    def outside_m(self, position: Array) -> float:
        """How far a place [3] is outside along its worst axis [m]; negative inside."""
        return float(np.maximum(self.lower - position, position - self.upper).max())
