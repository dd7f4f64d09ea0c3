"""Percentiles of any number of values in constant memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.evaluation.statistics import Summary

RATIO = 1.01  # of a bin's upper edge to its lower one
SMALLEST = 1e-7  # magnitudes below it count as zero
LARGEST = 1e9  # magnitudes above it share the last bin

_STEP = math.log(RATIO)
_BINS = math.ceil(math.log(LARGEST / SMALLEST) / _STEP)
_UPPER = SMALLEST * RATIO ** np.arange(_BINS + 1)
# Of all bins from the most negative over the one around zero to the largest.
_EDGES = np.concatenate([-_UPPER[::-1], _UPPER])


class Histogram:
    """A streaming histogram with logarithmic bins for either sign, in 60 kB whatever the number of values.

    A bin is 1 % wide and stands for its geometric middle, so percentiles are within 0.5 % of the exact ones
    where magnitudes are from 1e-7 to 1e9; smallest and largest value are exact.
    """

    def __init__(self) -> None:
        self.count = 0
        self.min: float | None = None
        self.max: float | None = None
        self._counts: NDArray[np.int64] = np.zeros(2 * _BINS + 1, np.int64)

    def add(self, values: Sequence[float] | NDArray[np.float64]) -> int:
        """Count values in; returns how many were left out because they are not finite."""
        given = np.asarray(values, np.float64).ravel()
        finite = given[np.isfinite(given)]
        if finite.size:
            magnitude = np.abs(finite)
            index = 1 + np.floor(np.log(np.maximum(magnitude, SMALLEST) / SMALLEST) / _STEP).astype(np.int64)
            index = np.where(magnitude < SMALLEST, 0, np.minimum(index, _BINS))
            places = _BINS + np.sign(finite).astype(np.int64) * index
            self._counts += np.bincount(places, minlength=self._counts.size)
            self.count += finite.size
            low, high = float(finite.min()), float(finite.max())
            self.min = low if self.min is None else min(self.min, low)
            self.max = high if self.max is None else max(self.max, high)
        return int(given.size - finite.size)

    def percentile(self, percent: float) -> float | None:
        """As `statistics.percentile`, within 0.5 %; None of no values.

        Raises:
            ValueError: `percent` is not within 0..100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percent: found {percent}, expected 0..100")
        if not self.count:
            return None
        position = (self.count - 1) * percent / 100
        below = math.floor(position)
        low = self._order_statistic(below)
        high = self._order_statistic(min(below + 1, self.count - 1))
        return low + (high - low) * (position - below)

    def counts_between(self, edges: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many values lie between each two of the ascending `edges` [K+1]: [K].

        A bin that an edge cuts is shared out by width, so that coarse bars do not show the fine bins' edges.
        """
        cumulative = np.concatenate([[0], np.cumsum(self._counts)])
        return np.diff(np.interp(edges, _EDGES, cumulative))

    def summary(self) -> Summary:
        return Summary(self.count, self.percentile(50), self.percentile(99), self.max)

    def to_json(self) -> dict[str, Any]:
        return self.summary().to_json()

    def _order_statistic(self, rank: int) -> float:
        """The value of `rank` 0..count-1 in ascending order, as well as it is known."""
        assert self.min is not None and self.max is not None
        if rank == 0:
            return self.min
        if rank == self.count - 1:
            return self.max
        place = int(np.searchsorted(np.cumsum(self._counts), rank, side="right")) - _BINS
        middle = math.copysign(SMALLEST * RATIO ** (abs(place) - 0.5), place) if place else 0.0
        return min(max(middle, self.min), self.max)
