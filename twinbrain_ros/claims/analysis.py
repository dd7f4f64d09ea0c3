"""From runs to figures: rates with intervals, paired comparisons, and what is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twinbrain_ros.claims import running
from twinbrain_ros.claims.protocol import SPLITS, Protocol, Run
from twinbrain_ros.evaluation.comparison import Comparison, Outcome, compare, holm
from twinbrain_ros.evaluation.statistics import wilson_interval

DRAWS = 4_000
BOOTSTRAP_SEED = 0

Episodes = Mapping[int, Sequence[Mapping[str, Any]]]  # by the seed of training


@dataclass(frozen=True)
class Rate:
    """A share of episodes or questions: counted over all seeds, and for each alone.

    wilson: 95 %, as if every episode were independent; seeds_too: 95 %, with seeds of training and scenes
    both drawn anew (`crossed_bootstrap`), None of one seed.
    """

    successes: int
    trials: int
    by_seed: dict[int, float]
    wilson: tuple[float, float]
    seeds_too: tuple[float, float] | None

    @property
    def rate(self) -> float:
        return self.successes / self.trials

    def to_json(self) -> dict[str, Any]:
        return {
            "successes": self.successes,
            "trials": self.trials,
            "rate": self.rate,
            "wilson_95": list(self.wilson),
            "seeds_and_scenes_95": None if self.seeds_too is None else list(self.seeds_too),
            "by_seed": self.by_seed,
        }


@dataclass(frozen=True)
class Cell:
    """What is there of one variant on one set of demonstrations, by seed of training."""

    demonstrations: str
    variant: str
    rate: float | None
    trained: dict[int, dict[str, Any]]
    episodes: Episodes

    def outcomes(self, split: str, key: str, task: str = "") -> dict[int, list[bool]]:
        """`success` or `wrong_object` of a split's episodes, in the order of their scenes."""
        return {
            seed: [bool(e[key]) for e in found if e["split"] == split and task in ("", e["task"])]
            for seed, found in self.episodes.items()
        }

    def rate_of(self, split: str, key: str = "success", task: str = "") -> Rate | None:
        """None where nothing was played."""
        return rate_of(self.outcomes(split, key, task))


def rate_of(outcomes: Mapping[int, Sequence[bool]]) -> Rate | None:
    """A rate from outcomes by seed, each seed's on the same scenes; None of none."""
    known = {seed: found for seed, found in outcomes.items() if found}
    if not known:
        return None
    successes, trials = sum(sum(v) for v in known.values()), sum(len(v) for v in known.values())
    table = np.array(list(known.values()), float)
    return Rate(
        successes,
        trials,
        {seed: sum(v) / len(v) for seed, v in known.items()},
        wilson_interval(successes, trials),
        crossed_bootstrap(table) if len(table) > 1 else None,
    )


def crossed_bootstrap(table: np.ndarray, draws: int = DRAWS) -> tuple[float, float]:
    """95 % percentile interval of the mean of [seeds, scenes], both drawn anew with replacement.

    With three seeds it says little more than how far apart they are. (Owen 2007, Annals of Applied Statistics
    1:386: resampling both factors errs on the wide side.)
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    seeds, scenes = table.shape
    means = np.empty(draws)
    for i in range(draws):
        picked = table[rng.integers(0, seeds, seeds)]
        means[i] = picked[:, rng.integers(0, scenes, scenes)].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def cells(protocol: Protocol, out: Path) -> list[Cell]:
    """One per variant and set of demonstrations of the plan, in its order, empty ones too."""
    found = []
    for data, variants in protocol.plan:
        for variant in variants:
            rate = running.chosen_rate(protocol, out, variant)
            trained: dict[int, dict[str, Any]] = {}
            episodes: dict[int, Any] = {}
            for seed in protocol.seeds if rate is not None else ():
                run = Run(variant, data, seed, rate or 0.0)
                result, played = running.trained(out, run), running.evaluated(out, run)
                if result is not None:
                    trained[seed] = result
                if played is not None:
                    episodes[seed] = played["episodes"]
            found.append(Cell(data, variant, rate, trained, episodes))
    return found


@dataclass(frozen=True)
class Difference:
    """Reference minus another variant on the same scenes and seeds of training."""

    demonstrations: str
    split: str
    comparison: Comparison
    seeds: tuple[int, ...]
    seeds_too: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "demonstrations": self.demonstrations,
            "split": self.split,
            "seeds": list(self.seeds),
            "seeds_and_scenes_95": None if self.seeds_too is None else list(self.seeds_too),
            **self.comparison.to_json(),
        }


def differences(found: Sequence[Cell], reference: str) -> list[Difference]:
    """Of every split and set of demonstrations; p values adjusted (Holm) within each of these."""
    out: list[Difference] = []
    for data in dict.fromkeys(cell.demonstrations for cell in found):
        own = {cell.variant: cell for cell in found if cell.demonstrations == data}
        if reference not in own:
            continue
        for split in SPLITS:
            made = [_difference(own[reference], own[v], split) for v in own if v != reference]
            known = [d for d in made if d is not None]
            adjusted = holm([d.comparison.p_value for d in known])
            out += [_adjusted(d, p) for d, p in zip(known, adjusted, strict=True)]
    return out


def _difference(a: Cell, b: Cell, split: str) -> Difference | None:
    of_a, of_b = a.outcomes(split, "success"), b.outcomes(split, "success")
    seeds = tuple(seed for seed in of_a if of_a[seed] and of_b.get(seed))
    if not seeds:
        return None
    outcomes = [
        Outcome(cell.variant, f"{e['task']} {seed}", int(e["seed"]), bool(e["success"]))
        for cell in (a, b)
        for seed in seeds
        for e in cell.episodes[seed]
        if e["split"] == split
    ]
    table = np.array([np.subtract(of_a[s], of_b[s], dtype=float) for s in seeds])
    interval = crossed_bootstrap(table) if len(seeds) > 1 else None
    return Difference(a.demonstrations, split, compare(outcomes, a.variant, b.variant), seeds, interval)


def _adjusted(difference: Difference, p_value: float) -> Difference:
    comparison = dataclasses.replace(difference.comparison, p_adjusted=p_value)
    return dataclasses.replace(difference, comparison=comparison)


def answers(cell: Cell, brain: str, kind: str) -> tuple[int, int] | None:
    """Questions of a kind that a brain answered after training, and was asked: of the seeds' mean.

    Every seed's brain is asked the same questions, so more seeds make no more of them.
    """
    tallies = [t["questions"][brain][kind] for t in cell.trained.values() if brain in t["questions"]]
    return (round(sum(t[0] for t in tallies) / len(tallies)), tallies[0][1]) if tallies else None


def missing(protocol: Protocol, found: Sequence[Cell]) -> list[str]:
    """What of the plan is not there, in words."""
    lines = []
    for cell in found:
        lacking = [str(seed) for seed in protocol.seeds if seed not in cell.episodes]
        if cell.rate is None:
            lines.append(
                f"{cell.variant}, {cell.demonstrations}: nothing, its learning rate is not chosen yet"
            )
        elif lacking:
            lines.append(f"{cell.variant}, {cell.demonstrations}: seed {', '.join(lacking)}")
    return lines
