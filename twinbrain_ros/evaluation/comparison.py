"""Whether two policies differ, and whether two judges agree: tests and intervals for yes/no outcomes.

Everything is exact or a closed formula, from integers; each function names its source.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from twinbrain_ros.evaluation.statistics import Z_95, wilson_interval

LEVEL = 0.05  # below it a difference is called significant
MCNEMAR, FISHER = "McNemar's exact test", "Fisher's exact test"


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p value of matched pairs, from those where just one of the two succeeded.

    If neither is better, each such pair is a fair coin: twice the smaller binomial tail, at most 1. No such
    pair: 1. (McNemar 1947, Psychometrika 12:153; exact form in Agresti, Categorical Data Analysis, 10.1.)

    Raises:
        ValueError: a count is negative.
    """
    _check_counts(only_a=only_a, only_b=only_b)
    total = only_a + only_b
    ways = term = 1
    for k in range(min(only_a, only_b)):
        term = term * (total - k) // (k + 1)
        ways += term
    return min(1.0, 2 * ways / 2**total)


def fisher_exact(successes_a: int, trials_a: int, successes_b: int, trials_b: int) -> float:
    """Two-sided p value of two independent samples: the tables with these margins that are no likelier.

    Nothing tried by one of them: 1. (Fisher 1934, Statistical Methods for Research Workers, 5th ed., 21.02;
    two-sided by probability as in R's `fisher.test`. Counted in integers, so that ties are ties.)

    Raises:
        ValueError: successes are not within 0..trials.
    """
    _check_rates(successes_a, trials_a, successes_b, trials_b)
    successes = successes_a + successes_b
    total = math.comb(trials_a + trials_b, successes)
    observed = math.comb(trials_a, successes_a) * math.comb(trials_b, successes_b)
    lowest, highest = max(0, successes - trials_b), min(successes, trials_a)
    as_extreme = 0
    for k in range(lowest, highest + 1):
        ways = math.comb(trials_a, k) * math.comb(trials_b, successes - k)
        as_extreme += ways if ways <= observed else 0
    return as_extreme / total


def newcombe_interval(
    successes_a: int, trials_a: int, successes_b: int, trials_b: int, z: float = Z_95
) -> tuple[float, float]:
    """Hybrid score interval of rate A minus rate B, independent samples, -1..1 (95 % by default).

    Nothing tried by one of them: (-1, 1), nothing is known. (Newcombe 1998, Statistics in Medicine 17:873,
    method 10.)

    Raises:
        ValueError: successes are not within 0..trials.
    """
    _check_rates(successes_a, trials_a, successes_b, trials_b)
    return _hybrid(successes_a, trials_a, successes_b, trials_b, 0.0, z)


def newcombe_paired_interval(
    both: int, only_a: int, only_b: int, neither: int, z: float = Z_95
) -> tuple[float, float]:
    """Hybrid score interval of rate A minus rate B on matched pairs, -1..1 (95 % by default).

    No pairs: (-1, 1), nothing is known. (Newcombe 1998, Statistics in Medicine 17:2635, method 10: the
    correlation's numerator is corrected for continuity where it is positive.)

    Raises:
        ValueError: a count is negative.
    """
    _check_counts(both=both, only_a=only_a, only_b=only_b, neither=neither)
    pairs = both + only_a + only_b + neither
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    numerator: float = both * neither - only_a * only_b
    if numerator > 0:
        numerator = max(0.0, numerator - pairs / 2)
    correlation = numerator / math.sqrt(margins) if margins else 0.0
    return _hybrid(both + only_a, pairs, both + only_b, pairs, correlation, z)


def cohens_kappa(both: int, only_a: int, only_b: int, neither: int) -> float | None:
    """Agreement of two judges beyond chance, -1..1; None where chance alone agrees fully, or of nothing.

    (Cohen 1960, Educational and Psychological Measurement 20:37.)

    Raises:
        ValueError: a count is negative.
    """
    _check_counts(both=both, only_a=only_a, only_b=only_b, neither=neither)
    total = both + only_a + only_b + neither
    # Times total squared, in integers: 1 - chance must be exactly 0 where it is.
    chance = (both + only_a) * (both + only_b) + (only_b + neither) * (only_a + neither)
    if total * total == chance:
        return None
    return (total * (both + neither) - chance) / (total * total - chance)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number, in the given order (Holm 1979, Scand. J. Statistics 6:65)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


class Outcome(NamedTuple):
    """What the comparison needs of one episode; `success` None: not labelled."""

    policy: str
    task: str
    seed: int | None
    success: bool | None


@dataclass(frozen=True)
class Matched:
    """Scenes that both policies were given, by what came of them."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    neither: int = 0

    test = MCNEMAR

    @property
    def episodes(self) -> int:
        return 2 * self.pairs

    @property
    def pairs(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def p_value(self) -> float:
        return mcnemar_exact(self.only_a, self.only_b)

    @property
    def difference(self) -> float:
        """Rate A minus rate B."""
        return (self.only_a - self.only_b) / self.pairs

    @property
    def interval(self) -> tuple[float, float]:
        return newcombe_paired_interval(self.both, self.only_a, self.only_b, self.neither)

    def counts(self) -> dict[str, int]:
        """n10: only A succeeded; n01: only B."""
        return {
            "pairs": self.pairs,
            "both": self.both,
            "n10": self.only_a,
            "n01": self.only_b,
            "neither": self.neither,
        }

    def text(self, a: str, b: str) -> str:
        return f"{self.pairs} matched scenes: {self.only_a} only {a}, {self.only_b} only {b}"


@dataclass(frozen=True)
class Unmatched:
    """Episodes of each policy that have no partner of the other."""

    successes_a: int = 0
    trials_a: int = 0
    successes_b: int = 0
    trials_b: int = 0

    test = FISHER

    @property
    def episodes(self) -> int:
        """0 unless both have some: one alone compares nothing."""
        return self.trials_a + self.trials_b if self.trials_a and self.trials_b else 0

    @property
    def p_value(self) -> float:
        return fisher_exact(self.successes_a, self.trials_a, self.successes_b, self.trials_b)

    @property
    def difference(self) -> float:
        """Rate A minus rate B."""
        return self.successes_a / self.trials_a - self.successes_b / self.trials_b

    @property
    def interval(self) -> tuple[float, float]:
        return newcombe_interval(self.successes_a, self.trials_a, self.successes_b, self.trials_b)

    def counts(self) -> dict[str, int]:
        return {
            "successes_a": self.successes_a,
            "trials_a": self.trials_a,
            "successes_b": self.successes_b,
            "trials_b": self.trials_b,
        }

    def text(self, a: str, b: str) -> str:
        return (
            f"unmatched episodes: {self.successes_a} of {self.trials_a} by {a}, "
            f"{self.successes_b} of {self.trials_b} by {b}"
        )


@dataclass(frozen=True)
class Comparison:
    """Policy A against policy B; `p_adjusted` allows for further comparisons made beside this one.

    Matched and unmatched episodes are two disjoint samples, each with its test. The one with more episodes
    (matched at a tie) says whether the difference is significant; the other is told beside it.
    """

    a: str
    b: str
    matched: Matched
    unmatched: Unmatched
    p_adjusted: float | None = None

    @property
    def samples(self) -> list[Matched | Unmatched]:
        """The samples that hold something, the deciding one first."""
        both: list[Matched | Unmatched] = [self.matched, self.unmatched]
        return [entry for entry in sorted(both, key=lambda sample: -sample.episodes) if entry.episodes]

    @property
    def p_value(self) -> float:
        """Of the deciding sample, adjusted if it must be; 1 if there is nothing to compare."""
        if self.p_adjusted is not None:
            return self.p_adjusted
        return self.samples[0].p_value if self.samples else 1.0

    @property
    def significant(self) -> bool:
        return self.p_value < LEVEL

    def sentence(self, a: str = "A", b: str = "B") -> str:
        """What a person needs to know of it, the policies called `a` and `b`."""
        samples = self.samples
        if not samples:
            return f"There are no labelled episodes of both {a} and {b}: they cannot be compared."
        first = samples[0]
        low, high = first.interval
        finding = f"The difference between {a} and {b} is not significant"
        if self.significant:
            finding = f"{a} succeeds {'more' if first.difference > 0 else 'less'} often than {b}"
        adjusted = " after Holm's adjustment" if self.p_adjusted is not None else ""
        return (
            f"{finding} ({a} minus {b} {100 * first.difference:+.0f} points, "
            f"95 % interval {100 * low:+.0f} to {100 * high:+.0f}; {format_p(self.p_value)}{adjusted}, "
            f"{first.test} on {first.text(a, b)})."
        )

    def remarks(self, a: str = "A", b: str = "B") -> list[str]:
        """Sentences beside the main one: the other sample, and what the data cannot tell."""
        found = [
            f"Beside it, {format_p(entry.p_value)}, {entry.test} on {entry.text(a, b)}."
            for entry in self.samples[1:]
        ]
        differing = self.matched.only_a + self.matched.only_b
        if self.samples[:1] == [self.matched] and mcnemar_exact(differing, 0) >= LEVEL:
            found.append(
                f"Only {differing} scenes came out differently, too few for any result to be significant: "
                f"this is no sign that {a} and {b} are equal."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "p_value": self.p_value,
            "adjusted_by": "Holm" if self.p_adjusted is not None else None,
            "significant": self.significant,
            "level": LEVEL,
            "matched": _sample_json(self.matched),
            "unmatched": _sample_json(self.unmatched),
            "sentence": self.sentence(),
            "remarks": self.remarks(),
        }


def compare(outcomes: Iterable[Outcome], a: str, b: str) -> Comparison:
    """Match the labelled episodes of policies `a` and `b` by (task, seed) and count.

    Of scenes that come more than once the k-th of `a` goes with the k-th of `b`, in the given order and
    unlabelled ones counted. An episode without a labelled partner, or without a seed, is unmatched.
    """
    scenes: Mapping[str, dict[tuple[str, int], list[bool | None]]] = {
        a: defaultdict(list),
        b: defaultdict(list),
    }
    alone: dict[str, list[bool]] = {a: [], b: []}
    for outcome in outcomes:
        if outcome.policy not in scenes:
            continue
        if outcome.seed is not None:
            scenes[outcome.policy][outcome.task, outcome.seed].append(outcome.success)
        elif outcome.success is not None:
            alone[outcome.policy].append(outcome.success)
    pairs: dict[tuple[bool, bool], int] = defaultdict(int)
    for scene in {**scenes[a], **scenes[b]}:
        of_a, of_b = scenes[a].get(scene, []), scenes[b].get(scene, [])
        for k in range(max(len(of_a), len(of_b))):
            success_a = of_a[k] if k < len(of_a) else None
            success_b = of_b[k] if k < len(of_b) else None
            if success_a is not None and success_b is not None:
                pairs[success_a, success_b] += 1
            elif success_a is not None:
                alone[a].append(success_a)
            elif success_b is not None:
                alone[b].append(success_b)
    matched = Matched(pairs[True, True], pairs[True, False], pairs[False, True], pairs[False, False])
    unmatched = Unmatched(sum(alone[a]), len(alone[a]), sum(alone[b]), len(alone[b]))
    return Comparison(a, b, matched, unmatched)


def format_p(p_value: float) -> str:
    """As `p = 0.03`, `p < 0.001`."""
    if p_value < 0.001:
        return "p < 0.001"
    digits = 2 if p_value >= 0.0095 else 3
    # Never rounded across the level: 0.0496 is not 0.05.
    while (float(f"{p_value:.{digits}f}") < LEVEL) != (p_value < LEVEL):
        digits += 1
    return f"p = {p_value:.{digits}f}"


def _sample_json(sample: Matched | Unmatched) -> dict[str, Any]:
    known = sample.episodes > 0
    return {
        "test": sample.test,
        **sample.counts(),
        "difference": sample.difference if known else None,
        "interval": list(sample.interval) if known else None,
        "p_value": sample.p_value if known else None,
    }


def _hybrid(
    successes_a: int, trials_a: int, successes_b: int, trials_b: int, correlation: float, z: float
) -> tuple[float, float]:
    """Newcombe's combination of two Wilson intervals."""
    if not trials_a or not trials_b:
        return -1.0, 1.0
    low_a, high_a = wilson_interval(successes_a, trials_a, z)
    low_b, high_b = wilson_interval(successes_b, trials_b, z)
    rate_a, rate_b = successes_a / trials_a, successes_b / trials_b

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y))

    difference = rate_a - rate_b
    low = difference - reach(rate_a - low_a, high_b - rate_b)
    high = difference + reach(high_a - rate_a, rate_b - low_b)
    return max(-1.0, low), min(1.0, high)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"{name}: found {count}, expected at least 0")


def _check_rates(successes_a: int, trials_a: int, successes_b: int, trials_b: int) -> None:
    for name, successes, trials in (("a", successes_a, trials_a), ("b", successes_b, trials_b)):
        if not 0 <= successes <= trials:
            raise ValueError(f"successes_{name}: found {successes}, expected 0..{trials} (trials_{name})")
