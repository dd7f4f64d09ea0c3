"""The curve that was committed, as trajectory controllers draw it: cubic between states that were sent."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

from twinbrain_ros.control.motion import Array, State
from twinbrain_ros.control.timing import NS_PER_S


class CommittedPath:
    """States by time, the last one at rest.

    Trajectory controllers draw a cubic between two points with position and velocity. So does this, so that a
    state between two others is the one that the arm is told, and a command that begins there bends nothing.

    Args:
        time_ns: from when on the arm is at `state`.
        state: [J], at rest.
    """

    def __init__(self, time_ns: int, state: State) -> None:
        self._times, self._states = [time_ns], [state]

    @property
    def end_ns(self) -> int:
        """When the arm comes to rest."""
        return self._times[-1]

    def at(self, time_ns: int) -> State:
        """The state at a time; before the first and after the last state, that one."""
        after = bisect_right(self._times, time_ns)
        if after == 0 or after == len(self._times):
            return self._states[min(after, len(self._times) - 1)]
        t0, t1 = self._times[after - 1], self._times[after]
        if time_ns == t0:
            return self._states[after - 1]
        return hermite(
            self._states[after - 1], self._states[after], (t1 - t0) / NS_PER_S, (time_ns - t0) / (t1 - t0)
        )

    def replace_from(self, start_ns: int, start: State, then: Sequence[tuple[int, State]]) -> None:
        """From a time on other states, as (time, state) in order; `start` is the state at that time."""
        kept = bisect_left(self._times, start_ns)
        self._times[kept:] = [start_ns, *(time_ns for time_ns, _ in then)]
        self._states[kept:] = [start, *(state for _, state in then)]

    def from_here(self, now_ns: int) -> tuple[list[int], list[State]]:
        """Times and states from now on, beginning with the one of now."""
        first = bisect_right(self._times, now_ns)
        return [now_ns, *self._times[first:]], [self.at(now_ns), *self._states[first:]]

    def between(self, start_ns: int, end_ns: int) -> tuple[list[int], list[State]]:
        """Times and states from one time, with the state of then, up to before another."""
        first, last = bisect_right(self._times, start_ns), bisect_left(self._times, end_ns)
        return [start_ns, *self._times[first:last]], [self.at(start_ns), *self._states[first:last]]

    def forget_before(self, time_ns: int) -> None:
        """Leaves out what is only needed for times before this one."""
        old = bisect_right(self._times, time_ns) - 1
        if old > 0:
            del self._times[:old], self._states[:old]


def hermite(start: State, end: State, span_s: float, u: float) -> State:
    """The cubic's state at a share `u` of the way, 0 to 1; the acceleration as planned, not the cubic's."""
    rise, m0, m1 = end.q - start.q, span_s * start.v, span_s * end.v
    c2, c3 = 3 * rise - 2 * m0 - m1, m0 + m1 - 2 * rise
    q: Array = start.q + u * (m0 + u * (c2 + u * c3))
    v: Array = (m0 + u * (2 * c2 + 3 * u * c3)) / span_s
    return State(q, v, np.asarray(start.a + u * (end.a - start.a)))
