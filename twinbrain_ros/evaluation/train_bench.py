"""Times a step of training beside the plain way: an eager loop with the reference's structure, same weights.

The plain way (`brain.plain.plain_flow_loss`) looks at each image once for each sample and brain, attends
eagerly, computes logits that nobody reads, and repeats the condition for each draw of noise before the head
projects it. Clipping and optimiser are the same for both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from twinbrain_ros.brain.config import IMAGE_TOKEN, Normalizer, TwinBrainConfig
from twinbrain_ros.brain.devices import find_device
from twinbrain_ros.brain.engine import view_of
from twinbrain_ros.brain.plain import plain_flow_loss
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.data.dataset_file import recorded
from twinbrain_ros.evaluation.machine import machine_facts, package_versions
from twinbrain_ros.evaluation.roofline import synchronize
from twinbrain_ros.evaluation.statistics import Summary
from twinbrain_ros.evaluation.workload import random_twin
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.training.batch import WHOLE, PolicyBatch, Share, Source
from twinbrain_ros.training.loader import batches_from
from twinbrain_ros.training.loop import LoopConfig, Stage
from twinbrain_ros.training.losses import flow_times
from twinbrain_ros.training.mixture import MixtureEntry, MixtureSource
from twinbrain_ros.training.policy import Drawn, PolicyLosses, PolicyOptions, PolicyTrainer
from twinbrain_ros.training.tokenizer import word_tokenizer

INSTRUCTION = "pick up the red block and put it on the blue plate beside the cup"
# How far the losses of both ways may be apart; measured on `mid`: 1e-6.
LOSS_BOUND = 1e-4


@dataclass(frozen=True)
class TrainBenchOptions:
    """batch: samples per step; repeats: draws of noise per sample; rounds: how often each way is timed;
    threads:
    on a CPU; data_steps: steps of the data loader's test, with this many worker processes."""

    device: str = "cpu"
    batch: int = 4
    repeats: int = 4
    rounds: int = 5
    threads: int = 1
    data_steps: int = 20
    workers: int = 1


class RandomScenes:
    """A source of noise: what is timed does not depend on what is seen."""

    def __init__(self, config: TwinBrainConfig) -> None:
        self.config = config

    def statistics(self, robot: str | None = None) -> tuple[Normalizer, Normalizer]:
        dims = len(self.config.action.names), len(self.config.state_names)
        actions, states = (Normalizer((0.0,) * n, (1.0,) * n) for n in dims)
        return actions, states

    def batch(self, seed: int, step: int, size: int, share: Share = WHOLE) -> PolicyBatch:
        rng = np.random.default_rng([seed, step, share.index])
        action = self.config.action
        actions = rng.normal(size=(size, action.horizon, len(action.names))).astype(np.float32)
        return PolicyBatch(
            {
                c.name: torch.from_numpy(rng.integers(0, 256, (size, c.height, c.width, 3), dtype=np.uint8))
                for c in self.config.cameras
            },
            [INSTRUCTION] * size,
            torch.from_numpy(rng.normal(size=(size, len(self.config.state_names))).astype(np.float32)),
            torch.from_numpy(actions),
            torch.ones(size, action.horizon, dtype=torch.bool),
            torch.ones(size),
            np.arange(size) + size * step,
        )


def bench_config(config: TwinBrainConfig, words: str = "") -> tuple[TwinBrainConfig, Any]:
    """A preset with a tokenizer of a few words, and with units: what can be trained without its own files."""
    tokenizer = word_tokenizer([*INSTRUCTION.split(), *words.split(), "state"])
    vlm = {**config.vlm, "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)}
    dims = len(config.action.names), len(config.state_names)
    actions, states = (Normalizer((0.0,) * n, (1.0,) * n) for n in dims)
    changes: dict[str, Any] = {"vlm": vlm, "action_statistics": actions, "state_statistics": states}
    return dataclasses.replace(config, **changes, right_vocab_size=None), tokenizer


class _Contest:
    """Both ways on one model, one batch and one optimiser."""

    def __init__(
        self, policy: TwinBrainPolicy, source: Source, options: TrainBenchOptions, out: Path
    ) -> None:
        losses = PolicyLosses(noise_repeats=options.repeats)
        self.policy, self.model = policy, policy.model.train()
        self.trainer = PolicyTrainer(policy, source, PolicyOptions(losses), seed=0)
        self.cached = PolicyTrainer(policy, source, PolicyOptions(losses, left_cache_gb=64.0), seed=0)
        loop = LoopConfig(1_000_000, options.batch, 1e-6, ema_decay=0.0, workers=options.workers)
        self.stage = Stage("bench", self.model, self._losses, loop, out, quiet=True)
        self.way: Callable[[Drawn, int], dict[str, Tensor]] = self.trainer.losses
        self.drawn = self.trainer.draw(0, options.batch)
        self.views = [view_of(c, c.height, c.width, self.model.layout, None) for c in policy.config.cameras]

    def _losses(self, drawn: Drawn, step: int) -> dict[str, Tensor]:
        return self.way(drawn, step)

    def ours(self) -> None:
        self._step(self.trainer.losses)

    def plain(self) -> None:
        self._step(self.plain_losses)

    def remembered(self) -> None:
        self._step(self.cached.losses)

    def recomputed(self) -> None:
        self.model.recompute = True
        try:
            self._step(self.trainer.losses)
        finally:
            self.model.recompute = False

    def _step(self, way: Callable[[Drawn, int], dict[str, Tensor]]) -> None:
        self.way = way
        self.stage.take(self.drawn, 0)

    def plain_losses(self, drawn: Drawn, step: int) -> dict[str, Tensor]:
        """The same loss of the same draws, the plain way."""
        batch, device = drawn.batch, self.trainer.device
        generator = self.trainer.generator(step)
        target = batch.actions.repeat(self.trainer.options.losses.noise_repeats, 1, 1)
        noise = torch.randn(target.shape, generator=generator).to(device)
        at = flow_times(len(target), generator).to(device)
        state, actions = self.policy.standardize(batch.state.to(device), batch.actions.to(device))
        images = {name: image.to(device) for name, image in batch.images.items()}
        prompts = drawn.left.to(device), drawn.right.to(device)
        loss = plain_flow_loss(self.model, images, self.views, state, prompts, actions, noise, at)
        return {"flow": loss}

    def parts(self) -> dict[str, Callable[[], Any]]:
        """What our step is made of, one after the other; each works on what those before it made."""
        trainer, model, drawn, stage = self.trainer, self.model, self.drawn, self.stage
        made: dict[str, Any] = {}

        def keep(name: str, value: Any) -> None:
            made[name] = value

        def prepare() -> None:
            images = {n: i.to(trainer.device) for n, i in drawn.batch.images.items()}
            batch = drawn.batch
            state, actions = self.policy.standardize(
                batch.state.to(trainer.device), batch.actions.to(trainer.device)
            )
            sides = model.prepare(drawn.left.to(trainer.device), drawn.right.to(trainer.device))
            made.update(images=images, state=state, actions=actions, sides=sides)

        def right() -> None:
            keep("hidden", model.condition(made["images"], made["state"], made["sides"], made["memory"]))

        def expert() -> None:
            m = made
            keep("loss", trainer.flow(m["hidden"], m["state"], m["actions"], m["sides"], drawn, 0))

        return {
            "draw a batch": lambda: trainer.draw(0, len(drawn.batch.actions)),
            "prompts and images": prepare,
            "left brain": lambda: keep("memory", model.remember_left(made["images"], made["sides"].left)),
            "right brain": right,
            "expert and loss": expert,
            "backward": lambda: made["loss"].backward(),
            "clip": lambda: nn.utils.clip_grad_norm_(stage.parameters, 1.0),
            "optimiser": stage.step_optimizer,
        }


def bench_train(
    config: TwinBrainConfig,
    options: TrainBenchOptions,
    source: Source | None = None,
    words: str = "",
) -> dict[str, Any]:
    """Everything measured, ready for JSON; times in milliseconds per step of `batch` samples.

    source: where batches of the data loader's test come from (default: noise); words: that its instructions
    are made of. Raises CheckpointError or ValueError for a config that cannot be trained.
    """
    device = find_device(options.device)
    own, tokenizer = bench_config(config, words)
    with _threads(options.threads), tempfile.TemporaryDirectory() as folder:
        policy = TwinBrainPolicy(random_twin(own, device, torch.float32), tokenizer)
        contest = _Contest(policy, RandomScenes(policy.config), options, Path(folder))
        facts = {
            "device": str(device),
            "threads": torch.get_num_threads(),
            "batch": options.batch,
            "repeats": options.repeats,
            "rounds": options.rounds,
            "parameters": sum(p.numel() for p in policy.model.parameters()),
            "trained": sum(p.numel() for p in policy.model.parameters() if p.requires_grad),
            "load_average": os.getloadavg()[0],
            **_agreement(contest),
            **_turns(contest, options.rounds, device),
            "parts_ms": _parts(contest, options.rounds, device),
            "machine": machine_facts(),
            "versions": package_versions(("torch", "transformers", "accelerate")),
        }
        if source is not None:
            facts["data"] = _waiting(contest, source, options)
        facts["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return facts


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _agreement(contest: _Contest) -> dict[str, Any]:
    """The losses of both ways, of the same weights and draws."""
    with torch.no_grad():
        ours = float(contest.trainer.losses(contest.drawn, 0)["flow"])
        plain = float(contest.plain_losses(contest.drawn, 0)["flow"])
    bound = LOSS_BOUND * abs(plain)
    return {"loss": ours, "plain_loss": plain, "agrees": abs(ours - plain) <= bound}


def _turns(contest: _Contest, rounds: int, device: torch.device) -> dict[str, Any]:
    """Times of whole steps, all ways in turns, so that a busy machine is busy for all of them."""
    ways = {
        "ours": contest.ours,
        "plain": contest.plain,
        "left remembered": contest.remembered,
        "recomputed": contest.recomputed,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            took = _timed(run, device)
            if turn:  # the first one warms up
                times[name].append(took)
    medians = {name: Summary.of(t).p50 or 0.0 for name, t in times.items()}
    return {
        "steps_ms": {name: Summary.of(t).to_json() for name, t in times.items()},
        "ratio": medians["plain"] / medians["ours"],
        "left_cache_gain": medians["ours"] / medians["left remembered"],
    }


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def _parts(contest: _Contest, rounds: int, device: torch.device) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        contest.model.zero_grad(set_to_none=True)
        for name, run in contest.parts().items():
            found.setdefault(name, []).append(_timed(run, device))
    return {name: Summary.of(times).p50 or 0.0 for name, times in found.items()}


def _waiting(contest: _Contest, source: Source, options: TrainBenchOptions) -> dict[str, Any]:
    """The share of time that training waits for batches of a source, after the loader has filled up."""
    trainer = PolicyTrainer(contest.policy, source, contest.trainer.options, seed=0)
    contest.way = trainer.losses
    steps = options.data_steps + 1
    made = batches_from(lambda step: trainer.draw(step, options.batch), 0, steps, options.workers)
    waited, began = [], 0.0
    for step in range(options.data_steps + 1):
        asked = time.perf_counter()
        drawn = next(made)
        if step:
            waited.append(time.perf_counter() - asked)
        else:  # the first batch is waited for in any case
            began = time.perf_counter()
        contest.stage.take(drawn, step)
    total = time.perf_counter() - began
    return {
        "steps": options.data_steps,
        "workers": options.workers,
        "seconds": total,
        "waited_share": sum(waited) / total,
        "samples_per_s": options.batch * (options.data_steps + 1) / total,
    }


def dataset(path: str, config: TwinBrainConfig) -> tuple[MixtureSource, str]:
    """The source of a dataset that `twinbrain convert` wrote, and the words of its instructions.

    Raises DatasetError for what cannot be trained on.
    """
    robot = load_robot(recorded(Path(path), load_robot("wx250s")).robot)
    source = MixtureSource([MixtureEntry(path)], robot, config.cameras, config.action.horizon)
    return source, " ".join(task for one in source.datasets for task in one.tables.tasks.values())
