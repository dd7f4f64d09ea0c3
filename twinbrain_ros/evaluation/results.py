"""The figures of a run, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from twinbrain_ros.evaluation.records import EpisodeRecord, Rates, by_task
from twinbrain_ros.evaluation.statistics import Summary, wilson_interval
from twinbrain_ros.evaluation.tally import ChunkTally


@dataclass(frozen=True)
class FrameCounts:
    """Camera frames over a run, summed over cameras and per camera.

    `sent` by the cameras, `received` by the policy, `used` in an observation that a chunk was predicted from.
    Taken after the cameras have stopped and the last frame had time to arrive, so `sent - received` are lost
    ones.
    """

    per_camera: Mapping[str, Mapping[str, int]]

    def total(self, what: str) -> int:
        return sum(counts[what] for counts in self.per_camera.values())

    @property
    def lost(self) -> int:
        return self.total("sent") - self.total("received")

    def to_json(self) -> dict[str, Any]:
        totals = {what: self.total(what) for what in ("sent", "received", "used")}
        return {
            **totals,
            "lost": self.lost,
            "per_camera": {name: dict(c) for name, c in self.per_camera.items()},
        }


@dataclass(frozen=True)
class Ticks:
    """How late the controller's ticks came [ms], over the last minute, and how many since its start."""

    KEYS: ClassVar[tuple[str, ...]] = (
        "tick_late_ms_p50",
        "tick_late_ms_p99",
        "tick_late_ms_p100",
        "ticks",
        "ticks_over_5_ms",
        "ticks_skipped",
    )

    p50: float
    p99: float
    max: float
    count: float
    over_5_ms: float
    skipped: float

    def to_json(self) -> dict[str, Any]:
        """`within_5_ms` is the share of ticks in time, skipped ones counted as late."""
        asked = self.count + self.skipped
        return {
            "late_ms": {"p50": self.p50, "p99": self.p99, "max": self.max},
            "ticks": int(self.count),
            "skipped": int(self.skipped),
            "within_5_ms": (self.count - self.over_5_ms) / asked if asked else None,
        }

    def text(self) -> str:
        """For a person."""
        share = self.to_json()["within_5_ms"] or 0.0
        return (
            f"late p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms, max {self.max:.1f} ms; "
            f"{share:.2%} within 5 ms of {self.count:.0f}, {self.skipped:.0f} skipped"
        )


@dataclass
class RunResults:
    """Everything a run is reported with.

    `context`: what is needed to repeat it, as versions and machine; `faults`: why the controller stopped the
    arm by itself, each time.
    """

    records: list[EpisodeRecord] = field(default_factory=list)
    chunks: ChunkTally = field(default_factory=ChunkTally)
    frames: FrameCounts | None = None
    ticks: Ticks | None = None
    context: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            **Rates.of(self.records).to_json(),
            "time_to_success_s": self._time_to_success().to_json(),
            "observation_to_command_ms": Summary.of(self.chunks.observation_to_command_ms).to_json(),
            "inference_ms": Summary.of(self.chunks.inference_ms).to_json(),
            # Null when a run was cut short before the counters could be read: not known is not zero.
            "frames": self.frames.to_json() if self.frames else None,
            "controller": self.ticks.to_json() if self.ticks else None,
            "chunks": {**self.chunks.counts(), "refusals": dict(self.chunks.refusals)},
            "tasks": {task: Rates.of(group).to_json() for task, group in by_task(self.records).items()},
            "seeds": [record.seed for record in self.records],
            "faults": self.faults,
            "interrupted": self.interrupted,
            **self.context,
            "episode_records": [record.to_json() for record in self.records],
        }

    def table(self) -> str:
        """The figures as aligned text lines."""
        rows: list[tuple[str, str]] = []
        groups = by_task(self.records)
        for task, group in groups.items():
            rows.append((f"success, {task}", format_rates(Rates.of(group))))
        total = Rates.of(self.records)
        if len(groups) != 1:
            rows.append(("success, all", format_rates(total)))
        rows.append(("wrong object", format_fraction(total.wrong_objects, total.episodes)))
        rows.append(("time to success", format_summary(self._time_to_success(), "s")))
        rows.append(
            ("observation to command", format_summary(Summary.of(self.chunks.observation_to_command_ms)))
        )
        rows.append(("inference", format_summary(Summary.of(self.chunks.inference_ms))))
        rows.append(("camera frames", self._frames_text()))
        if self.ticks is not None:
            rows.append(("controller ticks", self.ticks.text()))
        counts = self.chunks.counts()
        rows.append(("action chunks", ", ".join(f"{count} {what}" for what, count in counts.items())))
        rows += [
            ("  refused because", f"{reason} ({count}x)") for reason, count in self.chunks.refusals.items()
        ]
        rows += [("arm stopped", reason) for reason in self.faults]
        if self.interrupted:
            rows.append(("note", "the run ended early (interrupted); these are the episodes until then"))
        return format_rows(rows)

    def _time_to_success(self) -> Summary:
        """Seconds from autonomy to success, of the episodes that succeeded."""
        return Summary.of([record.duration_s for record in self.records if record.success])

    def _frames_text(self) -> str:
        if self.frames is None:
            return "not known, the run ended before the counters could be read"
        totals = {what: self.frames.total(what) for what in ("sent", "received", "used")}
        return ", ".join(f"{count} {what}" for what, count in totals.items()) + f", {self.frames.lost} lost"


def format_rows(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, the first as wide as its widest entry."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def format_fraction(count: int, total: int) -> str:
    return f"{count / total:.1%} ({count} of {total})" if total else "no episodes"


def format_rates(rates: Rates) -> str:
    """As `97.9 % (685 of 700), 95 % interval 96.5 to 98.7 %`."""
    return format_rates_of(rates.successes, rates.episodes)


def format_rates_of(successes: int, episodes: int) -> str:
    """The same from the numbers."""
    if not episodes:
        return "no episodes"
    low, high = wilson_interval(successes, episodes)
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    return f"{successes / episodes:.1%} ({successes} of {episodes}), {interval}"


def format_summary(summary: Summary, unit: str = "ms") -> str:
    """As `p50 31.2 ms, p99 55.0 ms (1234 measured)`."""
    if summary.p50 is None or summary.p99 is None:
        return "nothing measured"
    return f"p50 {summary.p50:.1f} {unit}, p99 {summary.p99:.1f} {unit} ({summary.count} measured)"
