"""A resumable training loop: one optimiser, one cosine schedule, stateless data order, whole checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class LoopConfig:
    """How a stage is trained. `seed` fixes data order and noise: step k draws from (seed, k) alone."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    final_rate_fraction: float = 0.02
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    save_every_steps: int = 200


class AveragedWeights:
    """Exponential moving average of trainable parameters, with a start-up correction."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then cosine decay to `final_rate_fraction` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_rate_fraction + (1 - config.final_rate_fraction) * cosine)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there, so that a kill leaves the old or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    write(partial)
    os.replace(partial, path)


def train_loop(
    name: str,
    module: nn.Module,
    losses: Callable[[int], dict[str, Tensor]],
    config: LoopConfig,
    out: Path,
    extra: Iterable[nn.Module] = (),
) -> list[dict[str, float]]:
    """Trains `module` (and `extra` modules that are not kept) on `losses(step)`, whose sum is minimised.

    Progress is saved in `out/<name>.state.pt` and picked up from there, so the same call resumes. At the
    end the module holds the averaged weights. Returns the log: one record per 20 steps.
    """
    everything = nn.ModuleList([module, *extra])
    parameters = [p for p in everything.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    average = AveragedWeights(module, config.ema_decay)
    state_path, log_path = out / f"{name}.state.pt", out / f"{name}.jsonl"
    start, log = 0, []
    if state_path.is_file():
        state = torch.load(state_path, weights_only=True)
        everything.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        average.values = state["average"]
        start, log = int(state["step"]), list(state["log"])
    everything.train()

    def save(step: int) -> None:
        state = {
            "modules": everything.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.values,
            "step": step,
            "log": log,
        }
        write_whole(state_path, lambda p: torch.save(state, p))
        write_whole(log_path, lambda p: p.write_text("".join(json.dumps(r) + "\n" for r in log)))

    sums: dict[str, float] = {}
    began, count = time.monotonic(), 0
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=name, unit="step")
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        values = losses(step)
        total = torch.stack(list(values.values())).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"{name}: loss is {float(total.detach())} at step {step}; {values}")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        average.update(module, step)
        count += 1
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
        if (step + 1) % 20 == 0:
            rate = count * config.batch_size / (time.monotonic() - began)
            record = {"step": step + 1, **{k: v / count for k, v in sums.items()}, "samples_per_s": rate}
            log.append(record)
            bar.set_postfix({k: f"{v:.3g}" for k, v in record.items() if k != "step"})
            sums, began, count = {}, time.monotonic(), 0
        if (step + 1) % config.save_every_steps == 0:
            save(step + 1)
    if start < config.steps:
        save(config.steps)
    average.copy_to(module)
    everything.eval()
    return log
