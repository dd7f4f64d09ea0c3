"""Keeps simulated time beside the node's clock. Pure: the time is given by the caller."""

from __future__ import annotations

NS_PER_S = 1_000_000_000

# A process that was held up catches up with this much at most; the rest of the time the simulation stood
# still, which is better than an arm that makes up for it in one burst while messages wait.
MAX_CATCH_UP_S = 0.1


class Pacer:
    """Maps simulated time (from 0 at each start) to the node's clock.

    Attributes:
        slipped_s: time that was given up so far because the process came too late.
    """

    def __init__(self, max_catch_up_s: float = MAX_CATCH_UP_S) -> None:
        self._most_ns = round(max_catch_up_s * NS_PER_S)
        self._base_ns = 0
        self.slipped_s = 0.0

    def start(self, now_ns: int, sim_ns: int) -> None:
        """Simulated time `sim_ns` is now."""
        self._base_ns = now_ns - sim_ns

    def stamp_ns(self, sim_ns: int) -> int:
        """The node's time at which simulated time was `sim_ns`."""
        return self._base_ns + sim_ns

    def behind_s(self, now_ns: int, sim_ns: int) -> float:
        """How far the simulation is to advance now [s], 0 or more.

        A clock that went back lets the simulation wait; by more than the catch-up, it goes on from there.
        """
        behind_ns = now_ns - self.stamp_ns(sim_ns)
        if abs(behind_ns) > self._most_ns:
            kept_ns = self._most_ns if behind_ns > 0 else 0
            self.slipped_s += max(behind_ns - kept_ns, 0) / NS_PER_S
            self._base_ns += behind_ns - kept_ns
            behind_ns = kept_ns
        return max(behind_ns, 0) / NS_PER_S


class Schedule:
    """A fixed rhythm; beats that were missed are counted, not made up for.

    Args:
        rate_hz: of the rhythm.
    """

    def __init__(self, rate_hz: float) -> None:
        self._period_ns = round(NS_PER_S / rate_hz)
        self._next_ns: int | None = None
        self.missed = 0

    def restart(self) -> None:
        """The next moment asked about is a beat."""
        self._next_ns = None

    def due(self, now_ns: int) -> bool:
        """Whether a beat is due at `now_ns`; asking takes it."""
        if self._next_ns is None:
            self._next_ns = now_ns
        if now_ns < self._next_ns:
            return False
        beats = (now_ns - self._next_ns) // self._period_ns + 1
        self.missed += beats - 1
        self._next_ns += beats * self._period_ns
        return True


class Rhythm:
    """How late the ticks of a timer come, and how many do not come at all.

    Args:
        rate_hz: of the timer.
    """

    def __init__(self, rate_hz: float) -> None:
        self._period_ns = round(NS_PER_S / rate_hz)
        self._due_ns = 0
        self.skipped = 0

    def restart(self, steady_ns: int) -> None:
        """The timer starts now: its first tick is due one period later."""
        self._due_ns = steady_ns + self._period_ns

    def late_s(self, steady_ns: int) -> float:
        """How late the tick that comes now is [s]; a tick later than a period has skipped others."""
        missed = max(0, (steady_ns - self._due_ns) // self._period_ns)
        self.skipped += missed
        late_ns = steady_ns - self._due_ns
        self._due_ns += (missed + 1) * self._period_ns
        return late_ns / NS_PER_S
