from __future__ import annotations

import math

import pytest

from twinbrain_ros.evaluation.statistics import Summary, percentile, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        # From scipy.stats.binomtest(...).proportion_ci(0.95, "wilson").
        (685, 700, (0.964947, 0.986972)),
        (5, 10, (0.236593, 0.763407)),
        (0, 10, (0.0, 0.277533)),
        (10, 10, (0.722467, 1.0)),
        (1, 1, (0.206549, 1.0)),
    ],
)
def test_wilson_interval_equals_reference_values(
    successes: int, trials: int, expected: tuple[float, float]
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=1e-6)


def test_wilson_interval_bounds_solve_the_equation_it_is_defined_by() -> None:
    # The bounds are those rates p whose distance to the observed rate is z standard errors of p.
    successes, trials, z = 37, 61, 1.96
    for bound in wilson_interval(successes, trials, z):
        distance = abs(successes / trials - bound)
        assert distance == pytest.approx(z * math.sqrt(bound * (1 - bound) / trials))


def test_wilson_interval_of_no_trials_says_that_nothing_is_known() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3)])
def test_wilson_interval_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=rf"found {successes}, expected 0\.\.{trials}"):
        wilson_interval(successes, trials)


def test_percentile_interpolates_between_order_statistics() -> None:
    values = [40.0, 10.0, 30.0, 20.0]
    assert percentile(values, 0) == 10
    assert percentile(values, 50) == 25
    assert percentile(values, 100) == 40
    assert percentile(values, 99) == pytest.approx(39.7)
    assert percentile([7.0], 99) == 7


def test_percentile_of_nothing_is_none_and_never_a_number() -> None:
    assert percentile([], 50) is None
    assert Summary.of([]).to_json() == {"count": 0, "p50": None, "p99": None, "max": None}


def test_percentile_refuses_values_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        percentile([1.0, math.nan], 50)
