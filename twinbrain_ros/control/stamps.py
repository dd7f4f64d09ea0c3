"""Whether joint states are stamped with the clock that commands are stamped with. Reads no clock."""

from __future__ import annotations

from collections import deque

NS_PER_S = 1_000_000_000
WINDOW_S = 2.0
LEAST = 10  # readings, before anything is said
AHEAD_S = 0.02  # a message from the future by more than this cannot be but another clock's
TOO_FAR_AHEAD_S = 0.05  # commands lead by less: they would be on their way to rest when they begin, or over
OLD_S = 0.04  # all of a window are older, and by the same: late, or of a clock that is behind
SAME_S = 0.02  # a busy machine or network is late by more than this once more, once less
OTHER_CLOCK_S = 60.0


class StampWatch:
    """The least age of messages on arrival over a window: what is always there is the clocks' offset."""

    def __init__(self) -> None:
        self._ages: deque[tuple[int, float]] = deque()

    def add(self, stamp_ns: int, arrival_ns: int) -> None:
        """Takes in a message's stamp and its arrival by this machine's clock [ns]; 0 is no stamp."""
        if stamp_ns == 0:
            return
        if self._ages and arrival_ns < self._ages[-1][0]:
            self._ages.clear()  # this machine's clock was set back
        self._ages.append((arrival_ns, (arrival_ns - stamp_ns) / NS_PER_S))
        while arrival_ns - self._ages[0][0] > WINDOW_S * NS_PER_S:
            self._ages.popleft()

    def forget(self) -> None:
        """Nothing that was seen counts any more."""
        self._ages.clear()

    def offset_s(self) -> float | None:
        """The least age [s], below 0 if it is from the future; None before enough came."""
        return min(age for _, age in self._ages) if len(self._ages) >= LEAST else None

    def too_far_ahead(self) -> str:
        """Why an arm that takes stamped commands must not be moved; empty if it may."""
        if len(self._ages) < LEAST:
            return ""
        # In the middle: a stamp from before the clock was stepped, or a late message, says nothing.
        ahead_s = -sorted(age for _, age in self._ages)[len(self._ages) // 2]
        if not TOO_FAR_AHEAD_S < ahead_s < OTHER_CLOCK_S:
            return ""
        return (
            f"the driver's clock is {ahead_s:.3f} s ahead of this machine's, by the stamps of joint_states, "
            f"expected at most {TOO_FAR_AHEAD_S} s: commands would be over before they begin; synchronise "
            "the clocks (chrony, PTP)"
        )

    def problem(self) -> str:
        """What is wrong with the clocks and what that does, in one sentence; empty if nothing is seen."""
        offset_s = self.offset_s()
        if offset_s is None or -AHEAD_S <= offset_s <= OLD_S:
            return ""
        ages = sorted(age for _, age in self._ages)
        if offset_s > 0 and ages[len(ages) // 2] - offset_s > SAME_S:
            return ""
        if abs(offset_s) > OTHER_CLOCK_S:
            side = "ahead of" if offset_s < 0 else "behind"
            return f"joint_states are stamped with another clock, {abs(offset_s):.0f} s {side} this machine's"
        if offset_s < 0:
            return (
                f"the driver's clock is {-offset_s:.3f} s ahead of this machine's, by the stamps of "
                "joint_states: trajectories begin so much too early, and from 0.2 s on the driver refuses "
                "them; synchronise the clocks (chrony, PTP)"
            )
        return (
            f"joint_states are at least {offset_s:.3f} s old when they arrive: the driver's clock is behind "
            "this machine's, or they are late; if it is the clock, trajectories begin so much too late, or "
            "with a jump; synchronise the clocks (chrony, PTP)"
        )
