"""What a late policy costs, with each way of executing its chunks: episodes in lock-step, injected delay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.follower_kinds import DEFAULT, follower_kind
from twinbrain_ros.sim.lockstep import Driver
from twinbrain_ros.sim.rollout import EpisodeRecord, Rollout, SimObservation, acting
from twinbrain_ros.sim.tasks import TASKS


@dataclass(frozen=True)
class Case:
    """A way of executing chunks that come this late [s]."""

    strategy: Strategy
    delay_s: float


@dataclass(frozen=True)
class CaseResult:
    """Its episodes."""

    case: Case
    records: Sequence[EpisodeRecord]

    def to_json(self) -> dict[str, Any]:
        """Rates and times for programs."""
        wins = sum(record.success for record in self.records)
        times = [record.time_s for record in self.records if record.success]
        return {
            "strategy": self.case.strategy.value,
            "delay_s": self.case.delay_s,
            "episodes": len(self.records),
            "successes": wins,
            "success_interval": list(wilson_interval(wins, len(self.records))),
            "wrong_object": sum(record.wrong_object for record in self.records),
            "median_seconds": float(np.median(times)) if times else None,
            "rejected": sum(record.rejected for record in self.records),
            "failed_seeds": [record.seed for record in self.records if not record.success],
        }


def load_actor(checkpoint: Path) -> Callable[[SimObservation, str], np.ndarray]:
    """The checkpoint's policy for a rollout (`acting`)."""
    from twinbrain_ros.brain.policy import TwinBrainPolicy

    return acting(TwinBrainPolicy.from_pretrained(checkpoint))


def run_case(
    case: Case,
    robot: RobotFile,
    act: Callable[[SimObservation, str], np.ndarray],
    episodes: int,
    first_seed: int,
    each: Callable[[], object] = lambda: None,
    follower: str = DEFAULT,
) -> CaseResult:
    """Both tasks in turn, on the same scenes for every case; `each` is called after every episode."""
    driver = Driver(follower_kind(follower))
    rollout = Rollout(robot, latency_s=case.delay_s, chunks=ChunkSettings(case.strategy), driver=driver)
    records = []
    for number in range(episodes):
        records.append(rollout.run(act, first_seed + number, TASKS[number % len(TASKS)]))
        each()
    return CaseResult(case, records)
