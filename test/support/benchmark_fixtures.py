"""What tests of the benchmarks share: workers of the small suite, plans for it, policies by a rule."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.benchmarks.actions import codec_for
from twinbrain_ros.benchmarks.players import TOOL_RULE, SuiteMismatch
from twinbrain_ros.benchmarks.process import WorkerProcess
from twinbrain_ros.benchmarks.runner import Plan
from twinbrain_ros.benchmarks.trial import Ask, TrialResult
from twinbrain_ros.control.strategies import ChunkSettings

SUITE = Path(__file__).with_name("put_on_suite.py")


def suite_command(task: str, limit: int = 60) -> list[str]:
    return [sys.executable, str(SUITE), "--suite", "put-on", "--task", task, "--limit", str(limit)]


def open_worker(task: str, folder: Path, limit: int = 60, **more: Any) -> WorkerProcess:
    return WorkerProcess(suite_command(task, limit), folder / f"{task}.log", **more)


class RulePlayer:
    """Answers by a rule, and remembers the sizes of its batches."""

    name = "rule"

    def __init__(self, rule: Callable[[Ask], NDArray[np.float64]], horizon: int = 1) -> None:
        self._rule, self.horizon = rule, horizon
        self.codec = codec_for(TOOL_RULE, "observation")
        self.batches: list[int] = []

    def check(self, described: Mapping[str, Any]) -> None:
        if described["simulator"] != "put-on-1":
            raise SuiteMismatch("another suite")

    def answer(self, asks: Sequence[Ask]) -> list[NDArray[np.float64]]:
        self.batches.append(len(asks))
        return [self._rule(ask) for ask in asks]


def standing(horizon: int = 1) -> RulePlayer:
    """A policy that stays where it is."""
    return RulePlayer(lambda ask: np.tile([0.0] * 6 + [1.0], (horizon, 1)), horizon)


def plan_for(tasks: Sequence[str], limit: int, **more: Any) -> Plan:
    given: dict[str, Any] = {
        "chunks": ChunkSettings(execution_steps=1), "votes": 1, "delay_steps": 0, "seed": 0,
        "stop_after": None, **more,
    }  # fmt: skip
    return Plan(dict.fromkeys(tasks, limit), **given)


def trial(
    task: str = "a", placement: int = 0, repeat: int = 0, *, success: bool = True, **more: Any
) -> TrialResult:
    values: dict[str, Any] = {
        "instruction": "go", "steps": 60, "chunks": 60, "success_last": success, "success_any": success,
        "success_chunk": success, "steps_to_success": 20 if success else None, "grasped": None, "reruns": 0,
        "simulator_s": 1.0, "overhead_s": 0.01, "policy_s": 0.1, **more,
    }  # fmt: skip
    return TrialResult(task, placement, repeat, **values)
