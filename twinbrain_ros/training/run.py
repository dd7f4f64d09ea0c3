"""From a training file to a checkpoint with its own report: data, a VLM that sees, a twin that acts."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import transformers
import yaml
from tqdm import tqdm

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.sim.rollout import Rollout, SimObservation
from twinbrain_ros.sim.tasks import TASKS
from twinbrain_ros.training.config import EvaluationConfig, TrainConfigError, load_train_config, twin_config
from twinbrain_ros.training.dataset import Demonstrations
from twinbrain_ros.training.demonstrations import generate
from twinbrain_ros.training.loop import write_whole
from twinbrain_ros.training.policy import train_policy
from twinbrain_ros.training.questions import words
from twinbrain_ros.training.tokenizer import word_tokenizer
from twinbrain_ros.training.vlm import teach_vlm

matplotlib.use("Agg")

REPORT_FILE = "training.json"


def main(config_path: Path, out: Path, resume: bool = False, json_path: Path | None = None) -> dict[str, Any]:
    """Runs a training file into `out`: checkpoint/, loss.png, logs and resumable state. Returns the report.

    Raises TrainConfigError if the file is unsound, or if `out` holds an earlier run and `resume` is not
    set, or was started from another file.
    """
    config, values = load_train_config(config_path)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, values, resume)
    robot = load_robot(config.robot)
    tokenizer = word_tokenizer(words())
    twin = twin_config(config, robot, tokenizer)
    watch = StageWatch(out / "seconds.json")

    with watch.stage("data"):
        shards = generate(config.robot, config.data, out / "data")
    data = Demonstrations(shards, twin.cameras)

    with watch.stage("vlm"):
        vlm, accuracy = teach_vlm(tokenizer, data, twin, config.vlm, out)
    print("held-out questions answered exactly: " + ", ".join(f"{k} {v:.1%}" for k, v in accuracy.items()))

    with watch.stage("policy"):
        policy = train_policy(vlm, tokenizer, data, twin, config.losses, config.policy, out)
    draw_losses(out)
    checkpoint = out / "checkpoint"
    policy.save_pretrained(checkpoint)

    results = evaluate(policy, robot, config.evaluation)
    report = {
        "config": values,
        "questions": accuracy,
        "evaluation": results,
        "seconds": {stage: round(taken, 1) for stage, taken in watch.seconds.items()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (checkpoint / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n")
    for task, result in results.items():
        low, high = result["success_interval"]
        share = f"{result['successes']}/{result['episodes']} = {result['success_rate']:.1%}"
        print(f"{task}: {share} [{low:.1%}, {high:.1%}]")
    print(f"checkpoint: {checkpoint}")
    return report


class StageWatch:
    """Seconds spent in each stage, kept in a file, so that the stretches of a resumed run add up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time until the block is left, by an exception too, to a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            write_whole(self._path, lambda partial: partial.write_text(json.dumps(self.seconds)))


def _claim(out: Path, values: dict[str, Any], resume: bool) -> None:
    """Makes `out` this run's; refuses to mix two runs."""
    stamp = out / "train.yaml"
    if stamp.is_file():
        if not resume:
            raise TrainConfigError(
                f"{out}: holds an earlier run; give --resume to go on with it, or another --out"
            )
        if yaml.safe_load(stamp.read_text()) != values:
            raise TrainConfigError(f"{out}: its run was started from another training file; see {stamp}")
    else:
        if resume:
            shutil.rmtree(out / "data", ignore_errors=True)
        stamp.write_text(yaml.safe_dump(values, sort_keys=False))


def evaluate(
    policy: TwinBrainPolicy, robot: RobotFile, config: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """Lock-step success per task on scenes that were never trained on, with 95 % Wilson intervals."""
    rollout = Rollout(robot, max_time_s=config.max_seconds)
    out = {}
    for task in TASKS:
        records = []
        for seed in tqdm(
            range(config.first_seed, config.first_seed + config.episodes), desc=f"evaluate {task}"
        ):

            def act(observation: SimObservation, instruction: str) -> np.ndarray:
                return policy.act(
                    observation.images, instruction, observation.state, seed=observation.stamp_ns // 1_000_000
                )

            records.append(rollout.run(act, seed, task))
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


def draw_losses(out: Path) -> None:
    """The loss curves of both stages, log scale, as loss.png."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for axis, name in zip(axes, ("vlm", "policy"), strict=True):
        path = out / f"{name}.jsonl"
        log = [json.loads(line) for line in path.read_text().splitlines()]
        for key in log[0]:
            if key not in ("step", "samples_per_s"):
                axis.plot([r["step"] for r in log], [r[key] for r in log], label=key)
        axis.set_yscale("log")
        axis.set_title({"vlm": "teaching the VLM to see", "policy": "training the twin"}[name])
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(out / "loss.png", dpi=110)
    plt.close(figure)
