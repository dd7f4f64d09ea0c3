"""From a training file to a checkpoint with its own report: data, a policy to begin with, training,
trials."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.resources import train_start
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.training import sources
from twinbrain_ros.training.batch import Source
from twinbrain_ros.training.config import TrainConfig, TrainConfigError, twin_config
from twinbrain_ros.training.curves import draw_losses
from twinbrain_ros.training.dataset import Demonstrations
from twinbrain_ros.training.demonstrations import generate
from twinbrain_ros.training.folder import RunFolder
from twinbrain_ros.training.loop import Rehearsal
from twinbrain_ros.training.lora import merged_tensors
from twinbrain_ros.training.mixture import MixtureSource
from twinbrain_ros.training.policy import PolicyOptions, PolicyTrainer, train_policy, twin_of
from twinbrain_ros.training.processes import processes
from twinbrain_ros.training.questions import words
from twinbrain_ros.training.sources import REPORT_FILE
from twinbrain_ros.training.state import check_room, replace_folder, write_whole
from twinbrain_ros.training.tokenizer import word_tokenizer
from twinbrain_ros.training.trials import Best, evaluate, held_out_trial, success_trial
from twinbrain_ros.training.vlm import teach_vlm

STATISTICS_FILE = "dataset_statistics.json"
SIMULATED = "wx250s"  # the robot that the simulator has
CHECKPOINT = "checkpoint"


class Run:
    """One training file, in one folder: checkpoint/, best/, curves, and the state to resume from.

    Raises TrainConfigError for a folder that cannot be this run's (`RunFolder`), LaunchError for processes
    that do not see each other; DatasetError and CheckpointError for what cannot be trained on or from.
    """

    def __init__(self, config: TrainConfig, values: dict[str, Any], out: Path, resume: bool) -> None:
        self.config, self.values, self.out = config, values, out
        self.processes = processes()
        self.folder = RunFolder(out, values, resume, self.processes)
        self.robot = load_robot(config.robot)
        self.watch = StageWatch(out / "seconds.json", self.processes.is_first)
        self.losses = config.losses
        self.questions: dict[str, float] = {}
        self.held_out: Source | None = None
        self.statistics: dict[str, Any] = {}  # of the datasets, in full

    def policy_and_source(self) -> tuple[TwinBrainPolicy, Source]:
        """What training begins with, and what it is trained on."""
        config = self.config
        if config.start:
            return self._started()
        tokenizer = word_tokenizer(words())
        twin = twin_config(config, self.robot, tokenizer)
        data = self._demonstrations(twin.cameras, _factor(twin))
        assert config.vlm is not None
        with self.watch.stage("vlm"):
            vlm, self.questions = teach_vlm(tokenizer, data, twin, config.vlm, self.out, stoppable=True)
        self._say(
            "held-out questions answered exactly: "
            + ", ".join(f"{k} {v:.1%}" for k, v in self.questions.items())
        )
        return twin_of(vlm, tokenizer, data, twin, config.policy.seed, self.processes.device), data

    def _started(self) -> tuple[TwinBrainPolicy, Source]:
        config, checkpoint = self.config, train_start(self.config.start)
        sources.check_start(config, checkpoint)
        policy = TwinBrainPolicy.from_pretrained(checkpoint, self.processes.device, dtype="float32")
        self.losses = sources.losses_of(policy, config, checkpoint)
        source: Source
        if config.datasets:
            with self.processes.first_goes_first():  # the others find the statistics in the cache
                source = mixture = sources.from_datasets(config, self.robot, policy)
            self.held_out, self.statistics = mixture.held_out(), mixture.units.to_json()
            self._say("\n".join(mixture.report()))
        else:
            source = self._demonstrations(policy.config.cameras, policy.model.layout.factor)
        torch.manual_seed(config.policy.seed)  # of what is new: heads, adapters
        return sources.with_statistics(policy, source, config), source

    def _demonstrations(self, cameras: Any, cell_px: int) -> Demonstrations:
        assert self.config.data is not None
        with self.watch.stage("data"), self.processes.first_goes_first():
            shards = generate(self.config.robot, self.config.data, self.out / "data")
        return Demonstrations(shards, cameras, cell_px)

    def train(self, policy: TwinBrainPolicy, source: Source) -> TwinBrainPolicy:
        """Trains the policy in place; it can be saved afterwards and acts."""
        config = self.config

        def look() -> None:
            # Two checkpoints, each once more while it is replaced.
            check_room(self.out, 4 * sum(p.numel() * p.element_size() for p in policy.model.parameters()))
            if isinstance(source, Demonstrations | MixtureSource):
                policy.views = sources.views_of(source)

        self.processes.first_does(look)
        options = PolicyOptions(self.losses, config.lora, config.left_cache_gb, config.recompute)
        with self.watch.stage("policy"):
            rehearsal = self._rehearsal(policy, options)
            train_policy(policy, source, options, config.policy, self.out, rehearsal, stoppable=True)
        return policy

    def _rehearsal(self, policy: TwinBrainPolicy, options: PolicyOptions) -> Rehearsal | None:
        evaluation = self.config.evaluation
        if not evaluation.every_steps:
            return None
        trial = self._trial(policy, options)
        if trial is None:
            return None
        best = Best(self.out, lambda path: self.save(policy, path, {}))

        def run(step: int) -> Mapping[str, float]:
            figures = trial()
            best.offer(step, figures)
            return figures

        return Rehearsal(evaluation.every_steps, run)

    def _trial(
        self, policy: TwinBrainPolicy, options: PolicyOptions
    ) -> Callable[[], Mapping[str, float]] | None:
        evaluation, held_out = self.config.evaluation, self.held_out
        if self.simulated and evaluation.trial_episodes:
            return lambda: success_trial(policy, self.robot, evaluation)
        if held_out is None:
            return None
        size, count = self.config.policy.batch_size, evaluation.held_out_batches
        losses = dataclasses.replace(options.losses, grounding_weight=0.0, prefix_steps=0)
        trainer = PolicyTrainer(policy, held_out, PolicyOptions(losses, recompute=options.recompute), 0)
        return lambda: held_out_trial(trainer, size, count)

    @property
    def simulated(self) -> bool:
        return self.robot.name == SIMULATED and all(c.name in ("front", "wrist") for c in self.robot.cameras)

    def save(self, policy: TwinBrainPolicy, path: Path, results: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the checkpoint with its report, which is returned."""
        report = {
            "config": self.values,
            "losses": dataclasses.asdict(self.losses),
            "questions": self.questions,
            "evaluation": results,
            "seconds": {stage: round(taken, 1) for stage, taken in self.watch.seconds.items()},
            "processes": self.processes.count,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "accelerate": accelerate.__version__,
            },
        }
        policy.save_pretrained(path, merged_tensors(policy.model))
        if self.statistics:
            (path / STATISTICS_FILE).write_text(json.dumps(self.statistics, indent=2) + "\n")
        (path / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
        return report

    def _say(self, text: str) -> None:
        if self.processes.is_first:
            print(text)


def _factor(twin: Any) -> int:
    vision = twin.vlm_config().vision_config
    return int(vision.patch_size * vision.spatial_merge_size)


def main(
    config: TrainConfig,
    values: dict[str, Any],
    out: Path,
    resume: bool = False,
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Runs a training file into `out`; returns the report, {} in all processes but the first (see `Run`)."""
    run = Run(config, values, out, resume)
    try:
        return _whole(run, json_path)
    finally:
        run.folder.release()


def _whole(run: Run, json_path: Path | None) -> dict[str, Any]:
    config, out = run.config, run.out
    policy, source = run.policy_and_source()
    policy = run.train(policy, source)
    if not run.processes.is_first:
        return {}
    checkpoint = out / CHECKPOINT
    # Before the trials, which take long; again after, with what they found.
    replace_folder(checkpoint, lambda path: run.save(policy, path, {}))
    results: dict[str, dict[str, Any]] = {}
    if run.simulated and config.evaluation.episodes:
        results = evaluate(policy, run.robot, config.evaluation, config.evaluation.episodes)
    report: dict[str, Any] = {}
    replace_folder(checkpoint, lambda path: report.update(run.save(policy, path, results)))
    draw_losses(out)
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n")
    for task, result in results.items():
        low, high = result["success_interval"]
        share = f"{result['successes']}/{result['episodes']} = {result['success_rate']:.1%}"
        print(f"{task}: {share} [{low:.1%}, {high:.1%}]")
    print(f"checkpoint: {checkpoint}")
    return report


class StageWatch:
    """Seconds spent in each stage, kept in a file, so that the stretches of a resumed run add up.

    writes: whether this process is the one that reads and writes it. Raises TrainConfigError for a file that
    is none of these.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self._path, self._writes = path, writes
        self.seconds: dict[str, float] = {}
        if writes and path.is_file():
            try:
                self.seconds = {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
            except (ValueError, AttributeError, TypeError) as error:
                raise TrainConfigError(
                    f"{path}: found {error}, expected seconds by stage; take it away to count anew"
                ) from error

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time until the block is left, by an exception too, to a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            if self._writes:
                write_whole(self._path, lambda partial: partial.write_text(json.dumps(self.seconds)))
