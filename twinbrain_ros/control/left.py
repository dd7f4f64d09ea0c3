"""Whether the arm is still where it was left at rest, by its readings alone: nobody has to tick for that."""

from __future__ import annotations

from collections import deque

import numpy as np

from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.timing import to_ns

# An arm that is further than this from where it stood has been moved [rad]; encoders' noise is less.
MOVED_RAD = 0.005
# An arm whose last command has been over for so long [s] is at rest, sagged as far as it will.
REST_S = 0.5
# An arm may be as late as this [s]: so much of its way may lie before it when its last command is over.
LATE_S = 0.1
# Of so many readings the middle one counts: one that is wrong is no motion.
_OF = 5


class LeftArm:
    """Where the arm rests since its last command was over.

    Attributes:
        strayed: it went away from where it was left, before it came to rest: a late arm only approaches.
    """

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        self._end_ns: int | None = None
        self._since_ns = 0
        self._left = self._to_go = self._least = np.zeros(0)  # where, how much of its way may lie before it,
        self._last: deque[Array] = deque(maxlen=_OF)  # how near it came, and where it was seen last
        self.begin_anew()

    @property
    def place(self) -> Array | None:
        """Where it came to rest [J], rad; None: that is not known yet, or it is commanded."""
        ours = self._governor.placed and self._governor.rests_ns() == self._end_ns
        return self._place if ours else None

    def begin_anew(self) -> None:
        """Nothing is known of it."""
        self._place: Array | None = None
        self.strayed = False
        self._end_ns = None

    def note(self, place: Array) -> None:
        """It has come to rest there [J]."""
        self._place = place

    def rests(self, stamp_ns: int, arrived_ns: int, q: Array) -> bool:
        """Takes in where all joints are [J]; True if it is time to `note` where they came to rest."""
        governor = self._governor
        if not governor.placed or stamp_ns < governor.rests_ns():
            if self._end_ns is not None:
                self.begin_anew()
            return False
        if governor.rests_ns() != self._end_ns:
            self._begin(arrived_ns)
        if self._place is not None:
            return False
        self._last.append(q)
        if len(self._last) >= 3:
            off = np.abs(np.sort(self._last, axis=0)[len(self._last) // 2] - self._left)
            self._least = np.minimum(self._least, off)
            self.strayed = self.strayed or bool((off > self._least + self._to_go + MOVED_RAD).any())
        return arrived_ns - self._since_ns >= to_ns(REST_S)

    def _begin(self, arrived_ns: int) -> None:
        self.begin_anew()
        governor = self._governor
        self._end_ns, self._since_ns = governor.rests_ns(), arrived_ns
        self._left = governor.resting_place()
        self._to_go = np.abs(self._left - governor.at(self._end_ns - to_ns(LATE_S)).q)
        self._least = np.full(len(self._left), np.inf)
        self._last.clear()
