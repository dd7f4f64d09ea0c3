"""A process of a training run, for tests to launch, disturb and end: a tiny twin on random samples.

Samples count unlike one another, some steps not at all. Writes, after each step, its losses to
steps_RANK.jsonl; at the end, in the first process, weights.pt.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from brain_fixtures import tiny_policy
from torch import Tensor
from training_fixtures import RandomSource

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.training.loop import LoopConfig, LossNotFinite, Rehearsal
from twinbrain_ros.training.policy import Drawn, PolicyLosses, PolicyOptions, PolicyTrainer, train_policy
from twinbrain_ros.training.processes import Stopped, processes

STEPS = 10
OPTIONS = PolicyOptions(PolicyLosses(prefix_steps=3, noise_repeats=2))


def loop(processes: int, precision: str = "float32", steps: int = STEPS) -> LoopConfig:
    """The same global batch of 8 for any number of processes."""
    return LoopConfig(
        steps=steps,
        batch_size=8 // processes,
        learning_rate=1e-4,
        warmup_steps=2,
        save_every_steps=3,
        ema_decay=0.9,
        precision=precision,
        seed=3,
    )


def source(policy: TwinBrainPolicy) -> RandomSource:
    return RandomSource(policy.config, weights=(1.0, 2.5, 0.0, 1.0))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--nan", type=int, nargs=2, default=(-1, -1), metavar=("RANK", "STEP"))
    parser.add_argument("--slow", type=float, default=0.0, metavar="SECONDS", help="each step takes longer")
    parser.add_argument(
        "--trial", type=float, default=-1.0, metavar="SECONDS", help="at step 5, by the first"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    own = processes()
    policy = tiny_policy()
    with (args.out / f"steps_{own.rank}.jsonl").open("a", buffering=1) as log:
        PolicyTrainer.losses = disturbed(PolicyTrainer.losses, args, own.rank, log.write)  # type: ignore[method-assign]
        rehearsal = None
        if args.trial >= 0:
            rehearsal = Rehearsal(5, lambda step: trial(policy, step, args.trial))
        try:
            config = loop(own.count, args.precision, args.steps)
            train_policy(policy, source(policy), OPTIONS, config, args.out, rehearsal, stoppable=True)
        except (LossNotFinite, ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Stopped as stopped:
            print(f"stopped: {stopped}", file=sys.stderr)
            return stopped.code
    if own.is_first:
        torch.save(policy.model.state_dict(), args.out / "weights.pt")
    return 0


def disturbed(
    losses: Callable[..., dict[str, Tensor]],
    args: argparse.Namespace,
    rank: int,
    write: Callable[[str], object],
) -> Callable[..., dict[str, Tensor]]:
    def found(trainer: PolicyTrainer, drawn: Drawn, step: int) -> dict[str, Tensor]:
        values = losses(trainer, drawn, step)
        if list(args.nan) == [rank, step]:
            values = {key: value * torch.nan for key, value in values.items()}
        time.sleep(args.slow)
        write(json.dumps({"step": step, **{k: float(v.detach()) for k, v in values.items()}}) + "\n")
        return values

    return found


def trial(policy: TwinBrainPolicy, step: int, seconds: float) -> dict[str, float]:
    time.sleep(seconds)
    kinds = {p.dtype for p in policy.model.parameters()}
    assert kinds == {torch.float32}, kinds
    return {"score": float(step)}


if __name__ == "__main__":
    sys.exit(main())
