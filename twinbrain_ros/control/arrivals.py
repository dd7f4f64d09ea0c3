"""When what arrives was measured, although not everybody's clock is stepped at once. Reads no clock."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from twinbrain_ros.control.clock import MotionClock
from twinbrain_ros.control.timing import least_delay_ns, to_ns

# Delays that differ by less are the same [ns].
_SAME_NS = to_ns(0.005)
# So long after a step, stamps may be of the clock before it, or a driver be the only one that was stepped
# [ns]; after that its clock is another one.
_HELD_NS = to_ns(2.0)


@dataclass
class _Source:
    stamp_ns: int  # the newest, as it came
    arrived_ns: int
    usual_ns: int  # least delay
    ahead_ns: int = 0  # how far its clock is ahead of that of motion, since it alone was stepped
    since_ns: int | None = None  # when that was seen
    back_ns: int | None = None  # the same as ahead_ns, after one message that may just be out of order


class Arrivals:
    """Takes stamps over to the clock of motion, by whichever clock makes their delay the usual one.

    The clock of what measures, or stamps on their way, may be stepped earlier or later than ours. As long as
    no step is recent, ours counts.
    """

    def __init__(self, clock: MotionClock) -> None:
        self._clock = clock
        self._sources: dict[Hashable, _Source] = {}
        self._age_ns = 0  # of the newest chunk's observation

    def measured(self, stamp_ns: int, arrived_ns: int, source: Hashable) -> int:
        """When something was measured, by the clock of motion [ns].

        Args:
            stamp_ns: by the clock of its source [ns].
            arrived_ns: by the steady clock [ns].
            source: whose clock that is.
        """
        clock = self._clock
        if clock.ros_time:
            return stamp_ns
        since_ns, known = arrived_ns - stamp_ns, self._sources.get(source)
        delay_ns = since_ns + clock.offset_ns
        if known is None:
            self._sources[source] = _Source(stamp_ns, arrived_ns, delay_ns)
            return stamp_ns - clock.offset_ns
        if known.since_ns is not None and arrived_ns - known.since_ns > _HELD_NS:
            known.since_ns, known.usual_ns = None, delay_ns
        if abs(delay_ns - known.usual_ns) > _SAME_NS:
            delay_ns = self._likely(known, stamp_ns, arrived_ns)
        else:
            known.back_ns = None
        known.usual_ns = least_delay_ns(known.usual_ns, delay_ns, arrived_ns - known.arrived_ns)
        known.stamp_ns, known.arrived_ns = stamp_ns, arrived_ns
        return arrived_ns - delay_ns

    def _likely(self, known: _Source, stamp_ns: int, arrived_ns: int) -> int:
        """The delay of a message [ns] whose delay by our clock is not the usual one."""
        since_ns, usual_ns, back_ns = arrived_ns - stamp_ns, known.usual_ns, known.back_ns
        known.back_ns = None
        aheads = [self._clock.offset_ns]
        before_ns = self._clock.before(arrived_ns, _HELD_NS)
        if before_ns is not None:
            aheads.append(before_ns)
        if known.since_ns is not None:
            aheads.append(known.ahead_ns)
        delay_ns = min((since_ns + ahead_ns for ahead_ns in aheads), key=lambda ns: abs(ns - usual_ns))
        if delay_ns < min(usual_ns, 0) - _SAME_NS:  # from the future: its clock was set forward
            known.ahead_ns = usual_ns - since_ns
        elif back_ns is not None and delay_ns > usual_ns + _SAME_NS and stamp_ns > known.stamp_ns:
            # Set back: the next one after a late one, or one out of order, would be in time again.
            known.ahead_ns = back_ns
        else:
            if delay_ns > usual_ns + _SAME_NS and stamp_ns < known.stamp_ns:
                known.back_ns = usual_ns - since_ns
            return delay_ns
        known.since_ns = known.since_ns or arrived_ns
        return since_ns + known.ahead_ns

    def offset_ns(self, observation_ns: int, now_ns: int) -> int:
        """How far the clock of a chunk's stamps is ahead of that of motion [ns].

        Args:
            observation_ns: its stamp [ns].
            now_ns: by the clock of motion [ns].
        """
        ours_ns, before_ns = self._clock.offset_ns, self._clock.before(now_ns, _HELD_NS)
        found_ns = ours_ns
        if before_ns is not None and observation_ns - before_ns <= now_ns:
            ours, before = observation_ns - ours_ns, observation_ns - before_ns
            # Where both can be, as after a clock was set back, it took as long as the last one.
            near = abs(now_ns - before - self._age_ns) < abs(now_ns - ours - self._age_ns)
            stepped_ns = self._clock.stepped_ns
            if ours < stepped_ns or ours > now_ns or (before < stepped_ns and before < ours and near):
                found_ns = before_ns
        self._age_ns = now_ns - observation_ns + found_ns
        return found_ns
