from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from twinbrain_ros.evaluation.comparison import (
    Comparison,
    Matched,
    Outcome,
    Unmatched,
    cohens_kappa,
    compare,
    fisher_exact,
    format_p,
    holm,
    mcnemar_exact,
    newcombe_interval,
    newcombe_paired_interval,
)


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [(1, 9, 0.021484375), (12, 3, 0.03515625), (6, 0, 0.03125), (5, 0, 0.0625), (4, 4, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_is_twice_the_binomial_tail(only_a: int, only_b: int, expected: float) -> None:
    assert mcnemar_exact(only_a, only_b) == expected
    assert mcnemar_exact(only_b, only_a) == expected


def test_mcnemar_of_a_large_study_neither_overflows_nor_vanishes() -> None:
    # McNemar's classic of 121 and 59 changed cases; chi square without correction gives 3.8e-6.
    assert mcnemar_exact(121, 59) == pytest.approx(4.43e-6, rel=0.01)
    assert 0 < mcnemar_exact(2600, 2400) < 0.01


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((3, 4, 1, 4), 34 / 70),  # Fisher's tea taster, two-sided
        ((8, 10, 1, 6), 0.034965034965034975),  # the example of scipy.stats.fisher_exact
        ((1, 12, 9, 12), 0.0027594561852200836),  # men and women on a diet, textbook
        ((5, 5, 0, 0), 1.0),
        ((0, 0, 0, 0), 1.0),
    ],
)
def test_fisher_gives_known_values(table: tuple[int, int, int, int], expected: float) -> None:
    assert fisher_exact(*table) == pytest.approx(expected, rel=1e-12)


def test_fisher_counts_a_tie_as_no_likelier_and_does_not_depend_on_names() -> None:
    # Two equally likely extreme tables: floating point that splits the tie would give half of this.
    assert fisher_exact(3, 3, 0, 3) == 2 / 20
    for a, b in itertools.product(range(6), range(8)):
        assert fisher_exact(a, 5, b, 7) == fisher_exact(b, 7, a, 5) == fisher_exact(5 - a, 5, 7 - b, 7)


@pytest.mark.parametrize(
    ("table", "expected"),
    [  # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((6, 7, 2, 7), (0.0582, 0.8062)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((0, 10, 0, 20), (-0.1611, 0.2775)),
        ((10, 10, 0, 20), (0.6791, 1.0)),
    ],
)
def test_interval_of_independent_rates_is_newcombes(
    table: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    assert newcombe_interval(*table) == pytest.approx(expected, abs=5e-5)


def test_interval_of_matched_rates_is_newcombes_with_corrected_correlation() -> None:
    # Statistics in Medicine 17:2635, table III, method 10.
    assert newcombe_paired_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    # By hand: p = 13/32 and 7/32, Wilson intervals 0.2552..0.5774 and 0.1102..0.3875,
    # correlation (4 * 16 - 9 * 3 - 16) / sqrt(13 * 19 * 7 * 25) = 0.1010.
    assert newcombe_paired_interval(4, 9, 3, 16) == pytest.approx((-0.0273, 0.3807), abs=2e-4)


def test_positive_correlation_narrows_the_interval_and_slight_correlation_counts_as_none() -> None:
    low, high = newcombe_paired_interval(20, 3, 2, 15)
    loose_low, loose_high = newcombe_interval(23, 40, 22, 40)
    assert loose_low < low < 1 / 40 < high < loose_high

    # 5 * 5 - 5 * 4 = 5 is less than half of the 19 pairs.
    assert newcombe_paired_interval(5, 5, 4, 5) == pytest.approx(newcombe_interval(10, 19, 9, 19))


def test_intervals_swap_with_the_policies_and_stay_within_their_range() -> None:
    for a, b in itertools.product(range(5), range(7)):
        low, high = newcombe_interval(a, 4, b, 6)
        assert (-high, -low) == pytest.approx(newcombe_interval(b, 6, a, 4))
        assert -1 <= low <= a / 4 - b / 6 <= high <= 1
    assert newcombe_interval(0, 0, 0, 0) == (-1.0, 1.0)
    assert newcombe_paired_interval(0, 0, 0, 0) == (-1.0, 1.0)


def test_kappa_gives_textbook_values_and_none_where_chance_agrees_fully() -> None:
    assert cohens_kappa(20, 5, 10, 15) == pytest.approx(0.4)
    assert cohens_kappa(45, 15, 25, 15) == pytest.approx(0.1304, abs=5e-5)
    assert cohens_kappa(10, 0, 0, 10) == 1.0
    assert cohens_kappa(0, 10, 10, 0) == -1.0
    assert cohens_kappa(17, 0, 0, 0) is None
    assert cohens_kappa(0, 0, 0, 0) is None


def test_holm_multiplies_by_the_remaining_number_and_never_decreases() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="only_b: found -1, expected at least 0"):
        mcnemar_exact(3, -1)
    with pytest.raises(ValueError, match=r"successes_b: found 5, expected 0\.\.4"):
        fisher_exact(1, 2, 5, 4)
    with pytest.raises(ValueError, match="successes_a: found 3"):
        newcombe_interval(3, 2, 0, 4)
    with pytest.raises(ValueError, match="neither: found -2"):
        cohens_kappa(1, 1, 1, -2)


def test_scenes_are_matched_by_task_and_seed_and_repeats_in_order() -> None:
    outcomes = [
        Outcome("a", "pick", 1, True),
        Outcome("a", "pick", 1, False),
        Outcome("a", "put", 1, True),  # another task: no partner
        Outcome("c", "pick", 1, True),  # another policy
        Outcome("b", "pick", 1, False),
        Outcome("b", "pick", 1, False),
        Outcome("b", "pick", 1, True),  # a third time: no partner
        Outcome("b", "pick", 2, True),
        Outcome("a", "pick", 2, True),
        Outcome("b", "pick", None, False),  # no seed: no partner
    ]
    found = compare(outcomes, "a", "b")

    assert found.matched == Matched(both=1, only_a=1, only_b=0, neither=1)
    assert found.unmatched == Unmatched(successes_a=1, trials_a=1, successes_b=1, trials_b=2)


def test_an_unlabelled_episode_keeps_its_place_and_leaves_its_partner_unmatched() -> None:
    outcomes = [
        Outcome("a", "pick", 1, None),
        Outcome("a", "pick", 1, True),
        Outcome("b", "pick", 1, True),
        Outcome("b", "pick", 1, False),
    ]
    found = compare(outcomes, "a", "b")

    assert found.matched == Matched(only_a=1)
    assert found.unmatched == Unmatched(0, 0, 1, 1)


def scenes(both: int, only_a: int, only_b: int, neither: int) -> list[Outcome]:
    results = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b
    results += [(False, False)] * neither
    return [
        Outcome(policy, "pick", seed, success)
        for seed, pair in enumerate(results)
        for policy, success in zip(("a", "b"), pair, strict=True)
    ]


def test_sentence_states_test_counts_and_significance() -> None:
    found = compare(scenes(20, 12, 3, 5), "a", "b")

    assert found.significant
    assert found.p_value == 0.03515625
    assert found.sentence().startswith("A succeeds more often than B (A minus B +22 points, ")
    assert "p = 0.04, McNemar's exact test on 40 matched scenes: 12 only A, 3 only B" in found.sentence()
    assert (
        compare(scenes(20, 3, 12, 5), "a", "b").sentence("X", "Y").startswith("X succeeds less often than Y")
    )
    assert found.remarks() == []


def test_a_difference_that_is_not_significant_is_not_told_as_one() -> None:
    found = compare(scenes(10, 3, 1, 2), "a", "b")

    assert not found.significant
    assert found.sentence().startswith("The difference between A and B is not significant")
    assert "more often" not in found.sentence()
    assert "Only 4 scenes came out differently" in found.remarks()[0]


def test_the_larger_sample_decides_and_the_other_is_told_beside_it() -> None:
    alone = [Outcome(policy, "put", None, policy == "a") for policy in ("a", "b") for _ in range(10)]
    found = compare([*scenes(2, 1, 0, 1), *alone], "a", "b")

    assert found.p_value == fisher_exact(10, 10, 0, 10) == pytest.approx(2 / math.comb(20, 10))
    assert "Fisher's exact test on unmatched episodes: 10 of 10 by A, 0 of 10 by B" in found.sentence()
    assert "McNemar's exact test on 4 matched scenes" in found.remarks()[0]
    values = found.to_json()
    assert values["matched"]["n10"] == 1 and values["matched"]["n01"] == 0
    assert values["unmatched"]["difference"] == 1.0


def test_without_episodes_of_both_nothing_is_compared() -> None:
    found = compare([Outcome("a", "pick", 1, True)], "a", "b")

    assert not found.significant
    assert "cannot be compared" in found.sentence()
    assert found.to_json()["matched"]["p_value"] is None


def test_an_adjusted_p_value_is_the_one_that_counts() -> None:
    found = Comparison("a", "b", Matched(20, 12, 3, 5), Unmatched(), p_adjusted=0.0703125)

    assert not found.significant
    assert "p = 0.07 after Holm's adjustment" in found.sentence()


def test_p_values_are_never_rounded_across_the_level() -> None:
    assert format_p(0.0496) == "p = 0.0496"
    assert format_p(0.0504) == "p = 0.05"
    assert format_p(0.031) == "p = 0.03"
    assert format_p(0.0042) == "p = 0.004"
    assert format_p(0.0009) == "p < 0.001"
    assert format_p(1.0) == "p = 1.00"


def test_mcnemar_sums_up_to_the_whole_distribution() -> None:
    # Against the definition in exact fractions.
    for only_a, only_b in itertools.product(range(9), repeat=2):
        total = only_a + only_b
        tail = sum(math.comb(total, k) for k in range(min(only_a, only_b) + 1))
        assert Fraction(mcnemar_exact(only_a, only_b)) == min(Fraction(1), Fraction(2 * tail, 2**total))
