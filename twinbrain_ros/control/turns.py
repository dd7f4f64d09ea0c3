"""Whether a joint can have turned where its readings say: two sources of one topic make it go to and fro."""

from __future__ import annotations

import math

from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.timing import NS_PER_S, to_ns

# Less to and fro than this is no turn [rad]; a joint that is this near to where it turned has not left it.
TURN_RAD, NEAR_RAD = 0.04, 0.01
# Readings at a turning point are this far beside it [rad]: of many, the noisiest counts.
NOISE_RAD = 0.02
# A person, or what a joint runs into, accelerates it by so many times what its motor may.
PUSHED = 1.75
# A joint that turned as none can, and turns back so within this time [s], is two joints.
BACK_S = 0.4


class Turns:
    """Follows each joint from one turning point to the next.

    A joint stands still where it turns, and can have come only so far since it was last near: readings that
    alternate between two places are further, however many of each follow one another.

    Args:
        acceleration: of each joint [J], rad/s2, that its motor may.
    """

    def __init__(self, acceleration: Array) -> None:
        self._half = [PUSHED / 2 * float(most) for most in acceleration]
        # How long it takes to come out of the nearness [s].
        self._leave_s = [math.sqrt(NEAR_RAD / half) for half in self._half]
        count = len(self._half)
        self._way = [1.0] * count  # which way it goes
        self._end = [math.nan] * count  # the furthest there [rad]
        self._stamp_ns, self._arrived_ns = [0] * count, [0] * count  # when it was last near that
        # Of the last turn that cannot be: where it was, and when it was left, by stamp and arrival.
        self._last: list[tuple[float, int, int] | None] = [None] * count

    def add(
        self, index: list[int], q: list[float], stamp_ns: int, arrived_ns: int
    ) -> tuple[int, tuple[float, float, float], float] | None:
        """Takes in a reading of joints of the arm [rad], stamps ascending.

        Returns:
            A joint that has gone to and fro as none can, the three places [rad], within how long [s].
        """
        found = None
        for joint, here in zip(index, q, strict=True):
            beyond = (here - self._end[joint]) * self._way[joint]
            if -TURN_RAD <= beyond < -NEAR_RAD:
                continue
            if beyond >= -NEAR_RAD:
                self._stamp_ns[joint], self._arrived_ns[joint] = stamp_ns, arrived_ns
                if beyond > 0:
                    self._end[joint] = here
                continue
            # Turned, or seen for the first time.
            found = self._turned(joint, here, stamp_ns, arrived_ns) or found
            self._way[joint], self._end[joint] = -self._way[joint], here
            self._stamp_ns[joint], self._arrived_ns[joint] = stamp_ns, arrived_ns
        return found

    def _turned(
        self, joint: int, here: float, stamp_ns: int, arrived_ns: int
    ) -> tuple[int, tuple[float, float, float], float] | None:
        end, last, self._last[joint] = self._end[joint], self._last[joint], None
        # Readings that were held up arrive all at once, stamps are not exact: the longer time counts.
        left_ns = self._stamp_ns[joint], self._arrived_ns[joint]
        since_s = max(stamp_ns - left_ns[0], arrived_ns - left_ns[1]) / NS_PER_S
        if not abs(here - end) > NOISE_RAD + self._half[joint] * (since_s + self._leave_s[joint]) ** 2:
            return None
        self._last[joint] = (end, *left_ns)
        if last is None or arrived_ns - last[2] > to_ns(BACK_S):
            return None
        return joint, (last[0], end, here), max(stamp_ns - last[1], arrived_ns - last[2]) / NS_PER_S
