"""What an evaluation leaves: a line per trial as it ends, figures with intervals, and the protocol beside
them."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twinbrain_ros.benchmarks.trial import TrialKey, TrialResult
from twinbrain_ros.evaluation.comparison import Comparison, Outcome, compare
from twinbrain_ros.evaluation.line_log import append_lines, whole_lines
from twinbrain_ros.evaluation.statistics import percentile, wilson_interval

RESAMPLES = 2000
FORMAT = 1


class ResultsError(ValueError):
    """Results that cannot be used; the message names the file and both values."""


@dataclass(frozen=True)
class Protocol:
    """Everything that a success rate depends on beside the policy. Rates of other protocols do not compare.

    limits: steps by task. placements: how many, from first_placement on; trials: per task. delay_steps,
    kick_m: injected. stop_after: steps after the first success at which a trial ends, None: at its limit.
    lead: the policy that drives the beginning of each trial, "" for none.
    assets: "published", "standin" where meshes were replaced, or "" where none are wanted.
    """

    suite: str
    simulator: str
    control_hz: float
    limits: Mapping[str, int]
    first_placement: int
    placements: int
    trials: int
    seed: int
    profile: str
    execution: str
    delay_steps: int
    success: str
    assets: str
    kick_m: float = 0.0
    stop_after: int | None = None
    lead: str = ""

    def __str__(self) -> str:
        limits = "+".join(str(steps) for steps in dict.fromkeys(self.limits.values()))
        last = self.first_placement + self.placements - 1
        parts = [
            self.suite, self.simulator, f"{self.control_hz:g}Hz", f"limit={limits}",
            f"placements={self.first_placement}-{last}", f"trials={self.trials}", f"seed={self.seed}",
            f"profile={self.profile}", f"exec={self.execution}", f"delay={self.delay_steps}",
            f"success={self.success}",
        ]  # fmt: skip
        parts += [f"assets={self.assets}"] if self.assets else []
        parts += [f"kicks={self.kick_m:g}m"] if self.kick_m else []
        parts += [f"lead={self.lead}"] if self.lead else []
        parts += [] if self.stop_after is None else [f"stop={self.stop_after}"]
        return "/".join(parts)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Protocol:
        return cls(**values)

    def differences(self, other: Protocol, ignored: Collection[str] = ()) -> list[str]:
        """Every field in which two differ, with both values."""
        mine, theirs = self.to_json(), other.to_json()
        differing = [key for key in mine if mine[key] != theirs[key] and key not in ignored]
        return [f"{key}: {mine[key]!r} and {theirs[key]!r}" for key in differing]


# Trials as they end -----------------------------------------------------------------------------------------


class TrialLog:
    """Trials of one policy under one protocol, one JSON line each, on disk before the next one counts.

    A file that is there is gone on with: what it holds is not played again.

    Raises:
        ResultsError: it holds trials of another policy or protocol, or is not such a file.
    """

    def __init__(self, path: Path, policy: str, protocol: Protocol) -> None:
        self.path, self.policy = path, policy
        self.trials: dict[TrialKey, TrialResult] = {}
        head = {"format": FORMAT, "policy": policy, "protocol": protocol.to_json()}
        lines = whole_lines(path)
        if lines:
            self._read(lines, policy, protocol)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    def _read(self, lines: Sequence[str], policy: str, protocol: Protocol) -> None:
        try:
            head = json.loads(lines[0])
            found, theirs = str(head["policy"]), Protocol.from_json(head["protocol"])
            for line in lines[1:]:
                trial = TrialResult(**json.loads(line))
                self.trials[trial.key] = trial
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{self.path}: found no trials of an evaluation: {error}") from error
        wrong = [f"policy: {found!r} and {policy!r}"] if found != policy else []
        # More trials, or others, may be added to those that are there.
        wrong += theirs.differences(protocol, ("first_placement", "placements", "trials", "limits"))
        for task in theirs.limits.keys() & protocol.limits.keys():
            if theirs.limits[task] != protocol.limits[task]:
                wrong.append(f"limit of {task}: {theirs.limits[task]} and {protocol.limits[task]}")
        if wrong:
            raise ResultsError(
                f"{self.path}: holds trials of another evaluation ({'; '.join(wrong)}), expected the same "
                "one to go on, or another --json"
            )

    def add(self, trial: TrialResult) -> None:
        """Keeps a trial; it is on disk when this returns."""
        append_lines(self.path, [json.dumps(trial.to_json())])
        self.trials[trial.key] = trial


# Figures ----------------------------------------------------------------------------------------------------


def figures(trials: Iterable[TrialResult], success: str) -> dict[str, Any]:
    """Rates of some trials: n, k, rate and Wilson interval by the protocol's rule; the other rules' rates.

    interval_placements: 95 % from drawing placements anew (percentile bootstrap), since repeats of a
    placement are alike; None with fewer than two placements.
    """
    trials = list(trials)
    wins = [trial.succeeded(success) for trial in trials]
    n, k = len(trials), sum(wins)
    grasps = [trial.grasped for trial in trials if trial.grasped is not None]
    steps = [trial.steps_to_success for trial in trials if trial.steps_to_success is not None]

    def rate(values: Sequence[bool]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "n": n,
        "k": k,
        "rate": rate(wins),
        "interval": list(wilson_interval(k, n)),
        "interval_placements": _bootstrap(trials, wins),
        "success_final": rate([trial.success_last for trial in trials]),
        "success_any": rate([trial.success_any for trial in trials]),
        "success_chunk": rate([trial.success_chunk for trial in trials]),
        "steps_to_success": percentile(steps, 50),
        "grasp_rate": rate(grasps),
        "reruns": sum(trial.reruns for trial in trials),
    }


def _bootstrap(trials: Sequence[TrialResult], wins: Sequence[bool]) -> list[float] | None:
    """Rates when each task's placements are drawn anew, the same draws on every machine."""
    by_task: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for trial, win in zip(trials, wins, strict=True):
        by_task[trial.task][trial.placement].append(win)
    if not by_task or min(len(placements) for placements in by_task.values()) < 2:
        return None
    random = np.random.default_rng(0)
    sums, counts = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for placements in by_task.values():
        won = np.array([sum(values) for values in placements.values()], dtype=np.float64)
        played = np.array([len(values) for values in placements.values()], dtype=np.float64)
        drawn = random.integers(len(won), size=(RESAMPLES, len(won)))
        sums += won[drawn].sum(1)
        counts += played[drawn].sum(1)
    return [float(q) for q in np.quantile(sums / counts, [0.025, 0.975])]


def report(
    log: TrialLog, keys: Sequence[TrialKey], protocol: Protocol, failed: Mapping[str, str]
) -> dict[str, Any]:
    """The results file: figures of all trials and per task, the protocol, and every trial.

    keys: trials that belong to it. failed: those that could not be played, and why.
    """
    trials = [log.trials[key] for key in sorted(keys) if key in log.trials]
    tasks = list(dict.fromkeys(protocol.limits))
    per_task = {task: figures([t for t in trials if t.task == task], protocol.success) for task in tasks}
    rates = [entry["rate"] for entry in per_task.values() if entry["rate"] is not None]
    simulator = sum(trial.simulator_s for trial in trials)
    return {
        "format": FORMAT,
        "policy": log.policy,
        "protocol": str(protocol),
        "protocol_fields": protocol.to_json(),
        **figures(trials, protocol.success),
        "mean_of_tasks": sum(rates) / len(rates) if rates else None,
        "tasks": per_task,
        "overhead": sum(trial.overhead_s for trial in trials) / simulator if simulator else None,
        "not_played": dict(failed),
        "trials": [trial.to_json() for trial in trials],
    }


def table(values: Mapping[str, Any]) -> str:
    """The figures for a terminal."""
    head = ("task", "success", "n", "95 %", "any step", "grasped", "steps")
    rows = [head, *(_row(task, entry) for task, entry in values["tasks"].items())]
    if len(values["tasks"]) > 1:
        rows.append(_row("all", values))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(values["tasks"]) > 1 and values["mean_of_tasks"] is not None:
        lines.append(f"mean of the tasks' rates: {values['mean_of_tasks']:.1%}")
    if values["reruns"]:
        lines.append(f"trials played again after a worker died: {values['reruns']}")
    return "\n".join([*lines, f"protocol: {values['protocol']}", f"policy: {values['policy']}"])


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    low, high = entry["interval"]
    steps = "-" if entry["steps_to_success"] is None else f"{entry['steps_to_success']:g}"
    return (
        name, percent(entry["rate"]), f"{entry['k']}/{entry['n']}", f"[{100 * low:.1f}, {100 * high:.1f}]",
        percent(entry["success_any"]), percent(entry["grasp_rate"]), steps,
    )  # fmt: skip


def _names(
    policy: str, other: str, mine: Protocol, theirs: Protocol, varying: Sequence[str]
) -> tuple[str, str]:
    """What tells two results apart: the policies where they differ, and what varies and differs."""
    fields = [name for name in varying if getattr(mine, name) != getattr(theirs, name)]
    if not fields:
        return policy, other
    a, b = (", ".join(f"{name} {getattr(protocol, name)}" for name in fields) for protocol in (mine, theirs))
    return (a, b) if policy == other else (f"{policy}, {a}", f"{other}, {b}")


def compare_results(values: Mapping[str, Any], other: Path, varying: Sequence[str] = ()) -> Comparison:
    """These results against those of another file, trial by trial.

    Args:
        varying: fields of the protocol that are compared, such as execution and delay_steps: they may differ.
    Raises:
        ResultsError: the file cannot be read, or the protocols differ in other fields, which are named.
    """
    try:
        theirs = json.loads(other.read_text(encoding="utf-8"))
        against = Protocol.from_json(theirs["protocol_fields"])
        trials = [TrialResult(**trial) for trial in theirs["trials"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{other}: found no results of an evaluation: {error}") from error
    mine = Protocol.from_json(values["protocol_fields"])
    wrong = mine.differences(against, ("trials", *varying))
    if wrong:
        raise ResultsError(f"{other}: another protocol, so that the rates do not compare: {'; '.join(wrong)}")
    names = _names(values["policy"], theirs["policy"], mine, against, varying)
    a, b = names if names[0] != names[1] else (f"{names[0]} (here)", f"{names[1]} ({other.name})")
    here = [TrialResult(**trial) for trial in values["trials"]]
    outcomes = [
        Outcome(name, f"{t.task}#{t.repeat}", t.placement, t.succeeded(mine.success))
        for name, played in ((a, here), (b, trials))
        for t in played
    ]
    return compare(outcomes, a, b)
