"""A smooth way through waypoints that goes beyond none of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twinbrain_ros.control.motion import Array, State
from twinbrain_ros.control.timing import NS_PER_S


class MonotoneSpline:
    """Cubic pieces with continuous velocity (Fritsch and Butland 1984), at rest at the end.

    Between two waypoints each joint stays between their values: a spline with continuous acceleration would
    swing beyond a waypoint that the policy stops at, such as the table. Steps of acceleration at waypoints
    are rounded off by the jerk limit, later.

    Args:
        times_ns: [N], strictly increasing.
        points: [N, J] rad.
        start_velocity: [J] rad/s at the first point.
    """

    def __init__(self, times_ns: Sequence[int], points: Array, start_velocity: Array) -> None:
        self.times_ns = np.array(times_ns, dtype=np.int64)
        self.points = np.asarray(points, dtype=np.float64)
        spans = np.diff(self.times_ns)[:, None] / NS_PER_S
        slopes = np.diff(self.points, axis=0) / spans
        velocities = np.zeros_like(self.points)
        velocities[0] = start_velocity
        if len(slopes) > 1:
            before, after, h0, h1 = slopes[:-1], slopes[1:], spans[:-1], spans[1:]
            w0, w1 = 2 * h1 + h0, h1 + 2 * h0
            same = before * after > 0
            divisor = np.where(same, w0 * after + w1 * before, 1.0)
            velocities[1:-1] = np.where(same, (w0 + w1) * before * after / divisor, 0.0)
        self._spans, self._velocities = spans[:, 0], velocities

    @property
    def end_ns(self) -> int:
        """Time of the last waypoint."""
        return int(self.times_ns[-1])

    def at(self, time_ns: int) -> State:
        """The state at a time; before the start and after the end at rest there."""
        if time_ns >= self.end_ns or time_ns < self.times_ns[0]:
            return State.rest(self.points[-1 if time_ns >= self.end_ns else 0])
        i = int(np.searchsorted(self.times_ns, time_ns, side="right")) - 1
        h = float(self._spans[i])
        u = (time_ns - int(self.times_ns[i])) / NS_PER_S / h
        p0, p1 = self.points[i], self.points[i + 1]
        m0, m1 = h * self._velocities[i], h * self._velocities[i + 1]
        rise = p1 - p0
        # p = p0 + u m0 + u^2 (3 rise - 2 m0 - m1) + u^3 (m0 + m1 - 2 rise)
        c2, c3 = 3 * rise - 2 * m0 - m1, m0 + m1 - 2 * rise
        return State(
            p0 + u * (m0 + u * (c2 + u * c3)),
            (m0 + u * (2 * c2 + 3 * u * c3)) / h,
            (2 * c2 + 6 * u * c3) / h**2,
        )
