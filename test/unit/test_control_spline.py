"""A smooth way through waypoints."""

from __future__ import annotations

import numpy as np
import pytest

from twinbrain_ros.control.spline import MonotoneSpline
from twinbrain_ros.control.timing import to_ns

TIMES = [to_ns(t) for t in (1.0, 1.2, 1.4, 1.6, 1.8)]
ZIGZAG = np.array([[0.0, 0.0], [0.1, -0.05], [0.3, -0.1], [0.3, -0.3], [0.2, -0.6]])


@pytest.fixture
def spline() -> MonotoneSpline:
    return MonotoneSpline(TIMES, ZIGZAG, np.zeros(2))


def test_it_passes_every_waypoint_at_its_time_and_ends_at_rest(spline: MonotoneSpline) -> None:
    for time_ns, point in zip(TIMES, ZIGZAG, strict=True):
        np.testing.assert_allclose(spline.at(time_ns).q, point, atol=1e-12)
    for time_ns in (TIMES[-1], TIMES[-1] + to_ns(3.0)):
        np.testing.assert_array_equal(spline.at(time_ns).v, 0.0)


def test_it_goes_beyond_no_waypoint(spline: MonotoneSpline) -> None:
    """The table may be just below one that the policy stops at."""
    for i in range(len(TIMES) - 1):
        q = np.array([spline.at(int(ns)).q for ns in np.linspace(TIMES[i], TIMES[i + 1], 50)])
        low, high = np.minimum(ZIGZAG[i], ZIGZAG[i + 1]), np.maximum(ZIGZAG[i], ZIGZAG[i + 1])
        assert np.all(q >= low - 1e-12) and np.all(q <= high + 1e-12)


def test_velocity_is_that_of_the_positions_and_has_no_steps(spline: MonotoneSpline) -> None:
    step = to_ns(1e-4)
    times = range(TIMES[0] + step, TIMES[-1] - step, to_ns(0.003))
    for ns in times:
        measured = (spline.at(ns + step).q - spline.at(ns - step).q) / 2e-4
        np.testing.assert_allclose(spline.at(ns).v, measured, atol=2e-3)
        assert np.all(np.abs(spline.at(ns + step).v - spline.at(ns - step).v) < 0.02)


def test_it_goes_on_with_the_velocity_it_is_given() -> None:
    start = np.array([0.4, -0.2])
    np.testing.assert_allclose(MonotoneSpline(TIMES, ZIGZAG, start).at(TIMES[0]).v, start)


def test_steady_motion_stays_steady() -> None:
    line = np.arange(5)[:, None] * np.array([[0.02, -0.1]])
    spline = MonotoneSpline(TIMES, line, np.array([0.1, -0.5]))
    for ns in range(TIMES[0], TIMES[3], to_ns(0.01)):
        np.testing.assert_allclose(spline.at(ns).v, [0.1, -0.5], atol=1e-9)
