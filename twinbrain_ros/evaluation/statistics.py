"""The few statistics that figures are reported with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a success rate, as fractions 0..1 (95 % by default).

    Unlike the normal approximation it stays inside 0..1 and does not collapse at 0 or all successes. No
    trials: (0, 1), nothing is known.

    Raises:
        ValueError: `successes` is not within 0..`trials`.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes: found {successes}, expected 0..{trials} (trials)")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    denominator = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # The bounds at 0 and 1 are exact in theory; rounding must not push them past.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Percentile by linear interpolation between order statistics; None of no values.

    Raises:
        ValueError: `percent` is not within 0..100, or a value is not finite.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent: found {percent}, expected 0..100")
    if not values:
        return None
    ordered = sorted(values)
    if not all(math.isfinite(value) for value in ordered):
        raise ValueError("values: found one that is not finite, expected finite values only")
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True)
class Summary:
    """Count, median, 99th percentile and largest of a sample, in the sample's unit; None of an empty one."""

    count: int
    p50: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        return cls(len(values), percentile(values, 50), percentile(values, 99), max(values, default=None))

    def to_json(self) -> dict[str, float | int | None]:
        return {"count": self.count, "p50": self.p50, "p99": self.p99, "max": self.max}
