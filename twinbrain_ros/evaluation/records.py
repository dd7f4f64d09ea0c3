"""One record per episode: what was asked, what happened, how long it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twinbrain_ros.evaluation.statistics import wilson_interval


@dataclass(frozen=True)
class EpisodeRecord:
    """The outcome of one episode. Durations in seconds from the moment autonomy was switched on.

    `instruction` is the one the success is judged by; `first_instruction` the one the episode began with,
    which differs when the episode was retargeted.
    """

    index: int
    task: str
    seed: int
    instruction: str
    first_instruction: str
    success: bool
    wrong_object: bool
    duration_s: float
    chunks_executed: int

    @property
    def retargeted(self) -> bool:
        return self.instruction != self.first_instruction

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "retargeted": self.retargeted}

    def line(self, total: int) -> str:
        """One line for a person who watches the run."""
        if self.success:
            outcome = f"success in {self.duration_s:4.1f} s"
        else:
            outcome = f"FAILED  after {self.duration_s:4.1f} s"
        wanted = self.instruction
        if self.retargeted:
            wanted = f"{self.first_instruction} -> {self.instruction}"
        width = len(str(total))
        tail = "  (wrong object)" if self.wrong_object else ""
        return f"[{self.index + 1:{width}d}/{total}] {outcome}  seed {self.seed}  {wanted}{tail}"


@dataclass(frozen=True)
class Rates:
    """How often a set of episodes succeeded, and how often a wrong object was handled."""

    episodes: int
    successes: int
    wrong_objects: int

    @classmethod
    def of(cls, records: Sequence[EpisodeRecord]) -> Rates:
        return cls(
            episodes=len(records),
            successes=sum(record.success for record in records),
            wrong_objects=sum(record.wrong_object for record in records),
        )

    @property
    def success_rate(self) -> float | None:
        """Fraction 0..1; None of no episodes."""
        return self.successes / self.episodes if self.episodes else None

    @property
    def wrong_object_rate(self) -> float | None:
        """Fraction 0..1; None of no episodes."""
        return self.wrong_objects / self.episodes if self.episodes else None

    @property
    def success_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the success rate."""
        return wilson_interval(self.successes, self.episodes)

    def to_json(self) -> dict[str, Any]:
        return {
            "episodes": self.episodes,
            "successes": self.successes,
            "success_rate": self.success_rate,
            "success_interval": list(self.success_interval),
            "wrong_objects": self.wrong_objects,
            "wrong_object_rate": self.wrong_object_rate,
        }


def by_task(records: Sequence[EpisodeRecord]) -> dict[str, list[EpisodeRecord]]:
    """Records by task, tasks in the order of their first episode."""
    groups: dict[str, list[EpisodeRecord]] = {}
    for record in records:
        groups.setdefault(record.task, []).append(record)
    return groups
