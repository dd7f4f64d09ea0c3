"""The curve that was committed, as trajectory controllers draw it: cubic between states that were sent."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

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

    def around(self, start_ns: int, now_ns: int) -> tuple[list[int], list[State], int]:
        """Times and states from a start before now up to the end, with those of both; and which is now's."""
        first = bisect_right(self._times, start_ns)
        last, after = bisect_left(self._times, now_ns), bisect_right(self._times, now_ns)
        times = [start_ns, *self._times[first:last], now_ns, *self._times[after:]]
        states = [self.at(start_ns), *self._states[first:last], self.at(now_ns), *self._states[after:]]
        return times, states, 1 + last - first

    def forget_before(self, time_ns: int) -> None:
        """Leaves out what is only needed for times before this one."""
        old = bisect_right(self._times, time_ns) - 1
        if old > 0:
            del self._times[:old], self._states[:old]


def hermite(start: State, end: State, span_s: float, u: float) -> State:
    """The cubic's state at a share `u` of the way, 0 to 1; the acceleration as planned, not the cubic's."""
    rise, rest = end.q - start.q, 1.0 - u
    q: Array = start.q + (u * u * (3.0 - 2.0 * u)) * rise
    q += (span_s * u * rest * rest) * start.v - (span_s * u * u * rest) * end.v
    v: Array = (6.0 * u * rest / span_s) * rise
    v += (rest * (1.0 - 3.0 * u)) * start.v + (u * (3.0 * u - 2.0)) * end.v
    return State(q, v, rest * start.a + u * end.a)
