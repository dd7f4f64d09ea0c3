"""Policies put to the test while they are trained and after: episodes in the simulator, loss on episodes held
out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.rollout import Rollout, acting
from twinbrain_ros.sim.tasks import TASKS
from twinbrain_ros.training.config import EvaluationConfig
from twinbrain_ros.training.policy import PolicyTrainer
from twinbrain_ros.training.state import replace_folder, write_whole

BEST = "best"


def evaluate(
    policy: TwinBrainPolicy, robot: RobotFile, config: EvaluationConfig, episodes: int
) -> dict[str, dict[str, Any]]:
    """Lock-step success per task on scenes that were never trained on, with 95 % Wilson intervals."""
    rollout = Rollout(robot, max_time_s=config.max_seconds)
    out, act = {}, acting(policy)
    for task in TASKS:
        seeds = range(config.first_seed, config.first_seed + episodes)
        bar = tqdm(seeds, desc=f"evaluate {task}", unit="episode", leave=False)
        records = [rollout.run(act, seed, task) for seed in bar]
        wins = sum(r.success for r in records)
        times = [r.time_s for r in records if r.success]
        out[task] = {
            "episodes": len(records),
            "successes": wins,
            "success_rate": wins / len(records),
            "success_interval": list(wilson_interval(wins, len(records))),
            "wrong_object_rate": sum(r.wrong_object for r in records) / len(records),
            "median_seconds": float(np.median(times)) if times else None,
            "failed_seeds": [r.seed for r in records if not r.success],
        }
    return out


def success_trial(policy: TwinBrainPolicy, robot: RobotFile, config: EvaluationConfig) -> Mapping[str, float]:
    """Figures of a few episodes per task; "score" is the mean success."""
    found = evaluate(policy, robot, config, config.trial_episodes)
    figures = {f"success_{task}": float(result["success_rate"]) for task, result in found.items()}
    return {**figures, "score": sum(figures.values()) / len(figures)}


@torch.no_grad()
def held_out_trial(held_out: PolicyTrainer, size: int, count: int) -> Mapping[str, float]:
    """The flow loss on `count` batches that are the same each time; "score" is its negative."""
    losses = [held_out.losses(held_out.draw(step, size), step)["flow"] for step in range(count)]
    loss = float(torch.stack(losses).mean())
    return {"held_out_flow": loss, "score": -loss}


class Best:
    """Keeps the checkpoint with the highest score, whole at any moment, and what that score was."""

    def __init__(self, out: Path, save: Callable[[Path], object]) -> None:
        self.path, self._save = out / BEST, save
        self._note = out / f"{BEST}.json"
        self.score = -math.inf
        if self._note.is_file():
            self.score = float(json.loads(self._note.read_text())["score"])

    def offer(self, step: int, figures: Mapping[str, float]) -> None:
        """Of equal scores the earlier one stays."""
        if figures["score"] <= self.score:
            return
        self.score = figures["score"]
        replace_folder(self.path, self._save)
        note = {"step": step, **figures}
        write_whole(self._note, lambda partial: partial.write_text(json.dumps(note, indent=2) + "\n"))
