"""Nanoseconds and seconds, and how far ahead commands are."""

from __future__ import annotations

NS_PER_S = 1_000_000_000

# A command may reach the trajectory controller this long after it was decided; until then the arm goes on as
# it was told before, so that a command that comes late leaves no trace.
TRANSPORT_S = 0.02
# A trajectory shows again so much of what was committed before its decision. A controller takes it up at the
# time that its cycle began, by its own clock, which may be before the decision; if the trajectory began later
# than that, it would be begun where the arm is measured, at rest.
PAST_S = 0.05
# The least delay of messages is forgotten by this share of the time, as clocks drift.
FORGET_DELAY = 1000
# A tick may come this much later than its time without the motion waiting for it.
TICK_JITTER_S = 0.005


def to_ns(seconds: float) -> int:
    """Seconds to whole nanoseconds."""
    return round(seconds * NS_PER_S)


def least_delay_ns(known_ns: int, delay_ns: int, gap_ns: int) -> int:
    """The least delay of messages [ns] after one of this delay, which came a gap after the last."""
    return min(delay_ns, known_ns + gap_ns // FORGET_DELAY)


def lead_s(command_hz: float) -> float:
    """How far ahead of its decision the state lies that a command leads to [s].

    A period, in which the next command is decided, and the time that one needs to arrive.
    """
    return 1.0 / command_hz + TRANSPORT_S + TICK_JITTER_S


def leads_to_s(command_hz: float) -> float:
    """How long after the stamp of a trajectory, as it is sent, the state lies that it leads to [s]."""
    return PAST_S + lead_s(command_hz)
