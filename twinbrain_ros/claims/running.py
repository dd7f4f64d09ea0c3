"""One run: a policy is trained, put to the test, and what came of it written down, each as one whole file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.claims.episodes import play
from twinbrain_ros.claims.material import Material, without_colour
from twinbrain_ros.claims.protocol import Protocol, Run
from twinbrain_ros.training.dataset import Demonstrations
from twinbrain_ros.training.loop import LoopConfig
from twinbrain_ros.training.policy import PolicyOptions, PolicyTrainer, train_policy, twin_of
from twinbrain_ros.training.state import before, replace_folder, write_whole

TRAINED, EVALUATED, COST, LOG = "trained.json", "evaluated.json", "cost.json", "log.txt"
CHECKPOINT = "checkpoint"
FLOW_BATCH = 50  # samples per batch of held-out loss


def folder(out: Path, run: Run) -> Path:
    return out / "runs" / run.name


def read(path: Path) -> dict[str, Any] | None:
    """A result, None while there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def trained(out: Path, run: Run) -> dict[str, Any] | None:
    return read(folder(out, run) / TRAINED)


def evaluated(out: Path, run: Run) -> dict[str, Any] | None:
    return read(folder(out, run) / EVALUATED)


def chosen_rate(protocol: Protocol, out: Path, variant: str) -> float | None:
    """The rate with the least held-out flow loss, None while not all have been tried."""
    found = [(trained(out, run), run.rate) for run in protocol.sweep(variant)]
    losses = [(result["held_out_flow"], rate) for result, rate in found if result is not None]
    return min(losses)[1] if len(losses) == len(found) else None


def do(kind: str, protocol: Protocol, out: Path, run: Run) -> None:
    """A job in a worker process: `train` or `evaluate`; what it says goes to the run's log."""
    where = folder(out, run)
    where.mkdir(parents=True, exist_ok=True)
    log = (where / LOG).open("a", encoding="utf-8")
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        {"train": train, "evaluate": evaluate}[kind](protocol, out, run)


_material: dict[Path, Material] = {}
_data: dict[tuple[Path, str], Demonstrations] = {}


def material_of(protocol: Protocol, out: Path) -> Material:
    """Kept from job to job of a worker."""
    if out not in _material:
        _material[out] = Material.of(protocol, out)
    return _material[out]


def frames(material: Material, name: str) -> Demonstrations:
    """Demonstrations by name, "" for the held-out shard; one set of demonstrations is kept at a time."""
    key = (material.out, name)
    if key not in _data:
        for other in [k for k in _data if k[1] and name]:
            del _data[other]
        _data[key] = material.demonstrations(name) if name else material.held_out()
    return _data[key]


# -- training


def variant_config(material: Material, run: Run) -> TwinBrainConfig:
    return material.protocol.variants[run.variant].config(material.twin)


def train(protocol: Protocol, out: Path, run: Run) -> None:
    """Trains a run's policy and asks its brains; goes on where it was stopped."""
    material, where = material_of(protocol, out), folder(out, run)
    recipe = protocol.recipe
    data = frames(material, run.demonstrations)
    policy = twin_of(material.vlm, material.tokenizer, data, variant_config(material, run), run.seed)
    loop = dataclasses.replace(recipe.policy, learning_rate=run.rate, seed=run.seed)
    options = options_of(protocol, run)
    with _measured(where / COST):
        train_policy(policy, data, options, loop, where)
    policy.model.eval()
    replace_folder(where / CHECKPOINT, policy.save_pretrained)
    held_out = frames(material, "")
    found = {
        "run": dataclasses.asdict(run),
        "held_out_flow": held_out_flow(policy, material, options, protocol.sweep_batches),
        "questions": {name: material.answers(b, held_out) for name, b in brains(policy).items()},
        "parameters": parameters(policy),
        "cost": _cost(where / COST, where / "policy.jsonl", loop),
    }
    write_whole(where / TRAINED, lambda partial: partial.write_text(json.dumps(found, indent=2) + "\n"))
    # Only needed to go on; the averaged weights are in the checkpoint.
    for state in (where / "policy.state.pt", before(where / "policy.state.pt")):
        state.unlink(missing_ok=True)
    shutil.rmtree(where / "tensorboard", ignore_errors=True)


def options_of(protocol: Protocol, run: Run) -> PolicyOptions:
    losses = protocol.recipe.losses
    if not protocol.demonstrations[run.demonstrations].grounding:
        losses = dataclasses.replace(losses, grounding_weight=0.0)
    return PolicyOptions(losses)


def brains(policy: TwinBrainPolicy) -> dict[str, Any]:
    """The brain that acts, and the one that is kept beside it."""
    model = policy.model
    return {"acting": model.right, **({} if model.left is None else {"kept": model.left})}


def parameters(policy: TwinBrainPolicy) -> dict[str, int]:
    every = list(policy.model.parameters())
    return {
        "total": sum(p.numel() for p in every),
        "trainable": sum(p.numel() for p in every if p.requires_grad),
    }


@torch.no_grad()
def held_out_flow(policy: TwinBrainPolicy, material: Material, options: PolicyOptions, batches: int) -> float:
    """Mean flow loss on frames of the held-out shard with goals that were demonstrated; the same for all."""
    held_out = without_colour(frames(material, ""), material.protocol.held_out_colour)
    trainer = PolicyTrainer(policy, held_out, options, seed=0)
    losses = [trainer.losses(trainer.draw(i, FLOW_BATCH), i)["flow"] for i in range(batches)]
    return float(torch.stack(losses).mean())


@contextlib.contextmanager
def _measured(path: Path) -> Iterator[None]:
    """Adds processor and wall seconds to a file, also of a stretch that an exception ends."""
    spent = read(path) or {"stretches": 0, "wall_s": 0.0, "processor_s": 0.0}
    wall_s, processor_s = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        spent["stretches"] += 1
        spent["wall_s"] += time.monotonic() - wall_s
        spent["processor_s"] += time.process_time() - processor_s
        write_whole(path, lambda partial: partial.write_text(json.dumps(spent)))


def _cost(path: Path, log: Path, loop: LoopConfig) -> dict[str, Any]:
    """Of training: processor and wall seconds, and the median step of the logged stretches."""
    rates = [json.loads(line).get("samples_per_s") for line in log.read_text(encoding="utf-8").splitlines()]
    known = sorted(loop.batch_size / rate for rate in rates if rate)
    return {
        **(read(path) or {}),
        "steps": loop.steps,
        "median_step_s": known[len(known) // 2] if known else None,
    }


# -- evaluation


def evaluate(protocol: Protocol, out: Path, run: Run) -> None:
    """Plays a run's episodes; those that were played before are not played again."""
    material, where = material_of(protocol, out), folder(out, run)
    policy = TwinBrainPolicy.from_pretrained(where / CHECKPOINT)
    began_s = time.process_time()
    records = play(policy, material.robot, protocol, where / "episodes.jsonl")
    found = {
        "run": dataclasses.asdict(run),
        "episodes": records,
        "processor_s": time.process_time() - began_s,
    }
    write_whole(where / EVALUATED, lambda partial: partial.write_text(json.dumps(found) + "\n"))
