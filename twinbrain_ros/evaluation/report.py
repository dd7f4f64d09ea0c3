"""The figures of many recorded episodes, gathered one at a time."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any

import numpy as np

from twinbrain_ros.evaluation.comparison import Comparison, Outcome, cohens_kappa, compare, holm
from twinbrain_ros.evaluation.figures import ESTOP, SUCCESS, WATCHDOG, EpisodeFigures, Verdict
from twinbrain_ros.evaluation.report_histogram import Histogram
from twinbrain_ros.evaluation.results import format_rates_of, format_rows, format_summary
from twinbrain_ros.evaluation.statistics import Summary, wilson_interval

# Stops of an episode that are kept with their times and words; all are counted.
KEPT_STOPS = 50

# What is measured many times in an episode: key of the figures, and where it comes from.
SAMPLES: dict[str, Callable[[EpisodeFigures], Sequence[float]]] = {
    "observation_to_command_ms": lambda episode: episode.observation_to_command_ms,
    "inference_ms": lambda episode: episode.inference_ms,
    "tick_jitter_ms": lambda episode: episode.tick_jitter_ms,
    "seam_velocity_step_rad_s": lambda episode: episode.seam_steps,
    "tracking_error_rad": lambda episode: episode.tracking_error,
}
# Of these only the magnitude means something; a latency below 0 tells of clocks that differ.
MAGNITUDES = ("tick_jitter_ms", "seam_velocity_step_rad_s", "tracking_error_rad")


@dataclass
class Group:
    """Episodes that are reported together. Rates count labelled episodes only."""

    episodes: int = 0
    successes: int = 0
    unlabelled: int = 0
    interventions: int = 0
    driven_s: float = 0.0
    times_to_success_s: array[float] = field(default_factory=lambda: array("d"))

    def add(self, episode: EpisodeFigures) -> None:
        self.episodes += 1
        self.successes += episode.success is True
        self.unlabelled += episode.success is None
        self.interventions += episode.interventions
        self.driven_s += sum(t for t in (episode.autonomy_s, episode.teleop_s) if math.isfinite(t))
        time_s = finite(episode.time_to_success_s)
        if time_s is not None:
            self.times_to_success_s.append(time_s)

    @property
    def labelled(self) -> int:
        return self.episodes - self.unlabelled

    @property
    def interventions_per_minute(self) -> float | None:
        """Of the time that policy or person drove; None if neither did."""
        return 60 * self.interventions / self.driven_s if self.driven_s > 0 else None

    def to_json(self) -> dict[str, Any]:
        return {
            "episodes": self.episodes,
            "successes": self.successes,
            "success_rate": self.successes / self.labelled if self.labelled else None,
            "success_interval": list(wilson_interval(self.successes, self.labelled)),
            "unlabelled": self.unlabelled,
            "interventions": self.interventions,
            "interventions_per_minute": self.interventions_per_minute,
            "time_to_success_s": Summary.of(self.times_to_success_s).to_json(),
        }

    def text(self) -> str:
        """Success for a person."""
        tail = f"; {self.unlabelled} without a label not counted" if self.unlabelled else ""
        if not self.labelled:
            return f"not known ({self.episodes} without a label)"
        return format_rates_of(self.successes, self.labelled) + tail


class Report:
    """Gathers episodes in one pass and constant memory; a context manager, as it keeps a temporary file.

    Each episode's row goes to that file. In memory stay histograms, counts, and of each episode only what
    policies are matched by. Samples are summed up within 0.5 %, see Histogram.
    """

    def __init__(self) -> None:
        self.total = Group()
        self.policies: dict[str, Group] = {}
        self.tasks: dict[str, Group] = {}
        self.cells: dict[tuple[str, str], Group] = {}
        self.samples = {key: Histogram() for key in SAMPLES}
        # What two policies are compared by beside success.
        self.latencies: dict[str, Histogram] = {}
        self.jerks: array[float] = array("d")
        self.chunks: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.watchdog_events = self.estops = self.truncated = self.left_out_bags = 0
        self.robots: dict[str, int] = {}
        self.first_ns = self.last_ns = 0
        self._judged = {(said, judged): 0 for said in (True, False) for judged in (True, False)}
        self._seam_limit: float | None = None
        self._over_limit = 0
        self._outcomes: list[Outcome] = []
        self._rows: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (closed at exit)

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()

    def add(self, episode: EpisodeFigures, detailed: bool = False) -> int:
        """Count an episode in; `detailed`: the page shows it. Returns its number, from 1.

        Raises:
            OSError: the temporary file cannot be written.
        """
        left_out = list(episode.left_out) + self._add_samples(episode)
        for groups, key in ((self.policies, episode.policy), (self.tasks, episode.task)):
            groups.setdefault(key, Group()).add(episode)
        self.cells.setdefault((episode.policy, episode.task), Group()).add(episode)
        self.total.add(episode)
        self._add_seams(episode)
        _count_in(self.chunks, episode.chunks)
        _count_in(self.lost, {topic: count for topic, count in episode.lost.items() if count})
        self.watchdog_events += stops_of(episode, WATCHDOG)
        self.estops += stops_of(episode, ESTOP)
        self.truncated += episode.truncated
        self.left_out_bags += bool(left_out)
        self.robots[episode.robot] = self.robots.get(episode.robot, 0) + 1
        if episode.started_ns:
            self.first_ns = min(self.first_ns or episode.started_ns, episode.started_ns)
            self.last_ns = max(self.last_ns, episode.started_ns)
        judged = outcome_of(episode.judged)
        if episode.success is not None and judged is not None:
            self._judged[episode.success, judged] += 1
        # Interned, so that the strings of a thousand episodes are not kept a thousand times.
        policy, task = sys.intern(episode.policy), sys.intern(episode.task)
        self._outcomes.append(Outcome(policy, task, episode.seed, episode.success))
        row = _row(episode, self.total.episodes, left_out, detailed)
        self._rows.write(json.dumps({"record": row}, allow_nan=False) + "\n")
        return self.total.episodes

    def leave_out(self, bag: str, why: str) -> None:
        """Note a bag that could not be used at all."""
        self.left_out_bags += 1
        self._rows.write(json.dumps({"bag": bag, "left_out": [why]}) + "\n")

    def records(self) -> Iterator[dict[str, Any]]:
        """The episodes in order, as `episode_records` of the figures has them."""
        return (line["record"] for line in self._lines() if "record" in line)

    def left_out(self) -> Iterator[tuple[str, list[str]]]:
        """(bag, sentences) of the bags of which something was not used."""
        for line in self._lines():
            entry = line.get("record", line)
            if entry["left_out"]:
                yield entry["bag"], entry["left_out"]

    def comparisons(self) -> list[Comparison]:
        """Each further policy against the first; policies in order of appearance, with labelled episodes.

        Of several comparisons the p values are adjusted by Holm's method.
        """
        policies = [name for name, group in self.policies.items() if name and group.labelled]
        found = [compare(self._outcomes, policies[0], other) for other in policies[1:]]
        if len(found) < 2:
            return found
        adjusted = holm([entry.p_value for entry in found])
        return [
            Comparison(entry.a, entry.b, entry.matched, entry.unmatched, p)
            for entry, p in zip(found, adjusted, strict=True)
        ]

    def judge(self) -> dict[str, Any]:
        """How well the machine's verdicts agree with the labels, on episodes that have both."""
        both, neither = self._judged[True, True], self._judged[False, False]
        only_label, only_judge = self._judged[True, False], self._judged[False, True]
        count = both + neither + only_label + only_judge
        return {
            "episodes": count,
            "agreement": (both + neither) / count if count else None,
            "agreement_interval": list(wilson_interval(both + neither, count)),
            "kappa": cohens_kappa(both, only_label, only_judge, neither),
            "counts": {
                "both_success": both,
                "only_label_success": only_label,
                "only_judge_success": only_judge,
                "both_failure": neither,
            },
        }

    def seams(self) -> dict[str, Any]:
        """`limit`: the lowest of the episodes' limits; `over_limit` counts against each episode's own."""
        known = self._seam_limit is not None
        return {
            **self.samples["seam_velocity_step_rad_s"].to_json(),
            "limit": self._seam_limit,
            "over_limit": self._over_limit if known else None,
        }

    def figures(self) -> dict[str, Any]:
        """Everything but what is kept of each episode; finite numbers only, None where nothing is known."""
        comparisons = [entry.to_json() for entry in self.comparisons()]
        return {
            **self.total.to_json(),
            "tasks": {task: group.to_json() for task, group in self.tasks.items()},
            "policies": {
                policy: {
                    **group.to_json(),
                    "observation_to_command_ms": self.latencies[policy].to_json(),
                    "tasks": {
                        task: cell.to_json() for (name, task), cell in self.cells.items() if name == policy
                    },
                }
                for policy, group in self.policies.items()
            },
            "comparison": comparisons[0] if comparisons else None,
            "comparisons": comparisons,
            "observation_to_command_ms": self.samples["observation_to_command_ms"].to_json(),
            "inference_ms": self.samples["inference_ms"].to_json(),
            "tick_jitter_ms": self.samples["tick_jitter_ms"].to_json(),
            "seam_velocity_step_rad_s": self.seams(),
            "jerk_rms_rad_s3": Summary.of(self.jerks).to_json(),
            "tracking_error_rad": self.samples["tracking_error_rad"].to_json(),
            "watchdog_events": self.watchdog_events,
            "estops": self.estops,
            "chunks": dict(self.chunks),
            "messages_lost": dict(self.lost),
            "judge": self.judge(),
            "truncated": self.truncated,
        }

    def to_json(self) -> dict[str, Any]:
        return {
            **self.figures(),
            "left_out": dict(self.left_out()),
            "episode_records": list(self.records()),
        }

    def table(self) -> str:
        """The main figures as aligned text lines."""
        rows = [
            (f"success, {policy or 'no policy'}, {task or 'no task'}", group.text())
            for (policy, task), group in self.cells.items()
        ]
        if len(rows) != 1:
            rows.append(("success, all", self.total.text()))
        for entry in self.comparisons():
            names = f"A is {entry.a}, B is {entry.b}"
            rows.append(("comparison", f"{entry.sentence()} {names}"))
        per_minute = self.total.interventions_per_minute
        rows += [
            ("interventions", "nobody drove" if per_minute is None else f"{per_minute:.2f} per minute"),
            ("time to success", format_summary(Summary.of(self.total.times_to_success_s), "s")),
            (
                "observation to command",
                format_summary(self.samples["observation_to_command_ms"].summary()),
            ),
            ("inference", format_summary(self.samples["inference_ms"].summary())),
            ("stops", f"{self.watchdog_events} by watchdogs, {self.estops} emergency stops"),
        ]
        if self.left_out_bags:
            rows.append(("left out", f"something in {self.left_out_bags} bags; the page lists what and why"))
        return format_rows(rows)

    def _add_samples(self, episode: EpisodeFigures) -> list[str]:
        """Count the samples in; returns a sentence on each that holds unusable numbers."""
        sentences = []
        latencies = self.latencies.setdefault(episode.policy, Histogram())
        latencies.add(episode.observation_to_command_ms)
        for key, values_of in SAMPLES.items():
            values = np.asarray(values_of(episode), np.float64)
            dropped = self.samples[key].add(np.abs(values) if key in MAGNITUDES else values)
            if dropped:
                sentences.append(f"{dropped} of {values.size} values of {key} are not finite and not used.")
        jerk = finite(episode.jerk_rms)
        if jerk is not None:
            self.jerks.append(jerk)
        return sentences

    def _add_seams(self, episode: EpisodeFigures) -> None:
        limit = finite(episode.seam_limit)
        if limit is None:
            return
        self._seam_limit = limit if self._seam_limit is None else min(self._seam_limit, limit)
        # At the limit the controller is within it, but for rounding.
        steps = np.abs(np.asarray(episode.seam_steps, np.float64))
        self._over_limit += int(np.count_nonzero(steps > limit * (1 + 1e-6)))

    def _lines(self) -> Iterator[dict[str, Any]]:
        self._rows.flush()
        self._rows.seek(0)
        try:
            for line in self._rows:
                yield json.loads(line)
        finally:
            if not self._rows.closed:
                self._rows.seek(0, 2)


def finite(value: float | None) -> float | None:
    """The value, None if it is none or not finite: JSON knows no other numbers."""
    return None if value is None or not math.isfinite(value) else float(value)


def outcome_of(verdict: Verdict | None) -> bool | None:
    """Whether it says success; None without a verdict or where that gives a score only."""
    return None if verdict is None or not verdict.outcome else verdict.outcome == SUCCESS


def stops_of(episode: EpisodeFigures, kind: str) -> int:
    return sum(event.kind == kind for event in episode.events)


def _count_in(counts: dict[str, int], more: Any) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + int(count)


def _verdict_json(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "outcome": verdict.outcome,
        "score": finite(verdict.score),
        "text": verdict.text,
        "source": verdict.source,
    }


def _row(episode: EpisodeFigures, number: int, left_out: list[str], detailed: bool) -> dict[str, Any]:
    """What is kept of one episode."""
    summaries = {
        key: Summary.of([abs(v) if key in MAGNITUDES else v for v in values if math.isfinite(v)]).to_json()
        for key, values in ((key, values_of(episode)) for key, values_of in SAMPLES.items())
    }
    stops = [event for event in episode.events if event.kind in (WATCHDOG, ESTOP)]
    return {
        "number": number,
        "bag": episode.bag,
        "robot": episode.robot,
        "policy": episode.policy,
        "task": episode.task,
        "seed": episode.seed,
        "instruction": episode.instruction,
        "started_ns": episode.started_ns,
        "duration_s": finite(episode.duration_s),
        "success": episode.success,
        "label": _verdict_json(episode.label),
        "judged": _verdict_json(episode.judged),
        "autonomy_s": finite(episode.autonomy_s),
        "teleop_s": finite(episode.teleop_s),
        "time_to_success_s": finite(episode.time_to_success_s),
        "interventions": episode.interventions,
        **summaries,
        "seam_limit_rad_s": finite(episode.seam_limit),
        "jerk_rms_rad_s3": finite(episode.jerk_rms),
        "chunks": dict(episode.chunks),
        "messages_lost": dict(episode.lost),
        "watchdog_events": stops_of(episode, WATCHDOG),
        "estops": stops_of(episode, ESTOP),
        "stops": [
            {"time_s": finite(event.time_s), "kind": event.kind, "text": event.text}
            for event in stops[:KEPT_STOPS]
        ],
        "left_out": left_out,
        "truncated": episode.truncated,
        "detailed": detailed,
    }
