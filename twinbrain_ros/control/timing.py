"""Nanoseconds and seconds."""

from __future__ import annotations

NS_PER_S = 1_000_000_000


def to_ns(seconds: float) -> int:
    """Seconds to whole nanoseconds."""
    return round(seconds * NS_PER_S)
