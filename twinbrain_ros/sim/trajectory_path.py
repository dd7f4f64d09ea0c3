"""A trajectory over time: points, what is between them, and where it begins."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.timing import NS_PER_S

Array = NDArray[np.float64]


class Knot(NamedTuple):
    """A point: time [ns], positions q [J], velocities v and accelerations a [J] or None."""

    time_ns: int
    q: Array
    v: Array | None = None
    a: Array | None = None


class Sample(NamedTuple):
    """Where a path is.

    Attributes:
        coefficients: N times [J], of the polynomial in `t`, from the constant on.
        t: seconds since its segment's beginning.
        since_ns: time of the point that was passed last, of the first one before that.
        ended: whether the last point is passed.
    """

    coefficients: tuple[Array, ...]
    t: float
    since_ns: int
    ended: bool

    def position(self) -> Array:
        """[J], rad or m."""
        value = self.coefficients[-1]
        for coefficient in self.coefficients[-2::-1]:
            value = value * self.t + coefficient
        return value

    def velocity(self) -> Array:
        """[J], per second."""
        return self._derivative(1)

    def acceleration(self) -> Array:
        """[J], per second squared."""
        return self._derivative(2)

    def _derivative(self, order: int) -> Array:
        value = np.zeros_like(self.coefficients[0])
        for power in range(len(self.coefficients) - 1, order - 1, -1):
            factor = power if order == 1 else power * (power - 1)
            value = value * self.t + factor * self.coefficients[power]
        return value


class Path:
    """Points from a start on, and the state before them once it has begun.

    Args:
        knots: their times are from the start on, strictly increasing.
        start_ns: time of the start; 0: when it begins.
    """

    def __init__(self, knots: Sequence[Knot], start_ns: int) -> None:
        self.knots, self.start_ns = tuple(knots), start_ns
        self.begun = False
        self._offsets_ns = [knot.time_ns for knot in self.knots]
        self._passed = 0  # no segment before this one is looked at again
        self._segment: tuple[int, tuple[Array, ...]] | None = None  # the last one with its coefficients

    def begin(self, now_ns: int, before_ns: int, before: Knot) -> None:
        """The first update is now; until the first point it leads there from a state at a time.

        A state without derivatives is at rest, where the first point has them.
        """
        first = self.knots[0]
        v = np.zeros_like(before.q) if before.v is None and first.v is not None else before.v
        a = np.zeros_like(before.q) if before.a is None and first.a is not None else before.a
        self._before = Knot(before_ns, before.q, v, a)
        self.start_ns = self.start_ns or now_ns
        self.begun = True

    def sample(self, time_ns: int, *, ahead: bool = False) -> Sample | None:
        """Where it is at a time, after it has begun; None before the state that it began at.

        ahead: a look ahead, from which the next time may go back.
        """
        if time_ns < self._before.time_ns:
            return None
        at_ns, last = time_ns - self.start_ns, len(self.knots) - 1
        if at_ns < self._offsets_ns[0]:
            first = self.knots[0]
            since_ns = self._before.time_ns
            until_ns = self.start_ns + first.time_ns
            fit = self._fit(-1, self._before, first, until_ns - since_ns)
            return Sample(fit, (time_ns - since_ns) / NS_PER_S, until_ns, False)
        # A time that went back behind a segment that has been passed finds none: then the end counts.
        index = bisect_right(self._offsets_ns, at_ns) - 1
        index = index if index >= self._passed else last
        self._passed = self._passed if ahead else index
        knot = self.knots[index]
        since_ns = self.start_ns + knot.time_ns
        if index == last:
            still = np.zeros_like(knot.q)
            v, a = still if knot.v is None else knot.v, still if knot.a is None else knot.a
            return Sample((knot.q, v, 0.5 * a), 0.0, since_ns, True)
        after = self.knots[index + 1]
        fit = self._fit(index, knot, after, after.time_ns - knot.time_ns)
        return Sample(fit, (time_ns - since_ns) / NS_PER_S, since_ns, False)

    def _fit(self, index: int, start: Knot, end: Knot, span_ns: int) -> tuple[Array, ...]:
        """The coefficients of a segment."""
        if self._segment is None or self._segment[0] != index:
            self._segment = (index, _coefficients(start, end, span_ns / NS_PER_S))
        return self._segment[1]


def _coefficients(start: Knot, end: Knot, span_s: float) -> tuple[Array, ...]:
    """The polynomial from one point to the next: as many derivatives as both have are kept."""
    way = end.q - start.q
    if start.v is None or end.v is None:
        return start.q, way / span_s
    v0, v1 = start.v * span_s, end.v * span_s
    if start.a is None or end.a is None:
        return start.q, start.v, (3 * way - 2 * v0 - v1) / span_s**2, (v0 + v1 - 2 * way) / span_s**3
    a0, a1 = start.a * span_s**2, end.a * span_s**2
    return (
        start.q,
        start.v,
        0.5 * start.a,
        (10 * way - 6 * v0 - 4 * v1 - 1.5 * a0 + 0.5 * a1) / span_s**3,
        (-15 * way + 8 * v0 + 7 * v1 + 1.5 * a0 - a1) / span_s**4,
        (6 * way - 3 * v0 - 3 * v1 - 0.5 * a0 + 0.5 * a1) / span_s**5,
    )
