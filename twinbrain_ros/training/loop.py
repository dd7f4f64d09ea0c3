"""A resumable training loop on Accelerate: one process, several GPUs, several machines, DeepSpeed ZeRO-2.

Everything random follows from (seed, step, process): data, noise, dropout. So nothing of it has to be stored,
and a run that was killed goes on along the same curve.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn

from twinbrain_ros.brain.devices import check_processes, settle
from twinbrain_ros.training.loader import batches_from
from twinbrain_ros.training.progress import Progress
from twinbrain_ros.training.state import check_room, load_state, load_trainable, trainable_state, write_whole

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
# Weights, average, two moments; twice, as a new state is written before the old one goes.
STATE_COPIES = 8


@dataclass(frozen=True)
class LoopConfig:
    """How a stage is trained. `seed` fixes data order and noise: step k draws from (seed, k) alone.

    batch_size: samples per process and step; learning_rates: by part (vlm, state_encoder, expert), where it
    is not `learning_rate`; ema_decay: of the averaged weights, 0 for none; precision: float32 or bfloat16
    (autocast); workers: processes that make batches, 0 to make them in between.
    """

    steps: int
    batch_size: int
    learning_rate: float
    learning_rates: dict[str, float] = field(default_factory=dict)
    warmup_steps: int = 100
    final_rate_fraction: float = 0.02
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = "float32"
    seed: int = 0
    save_every_steps: int = 200
    workers: int = 0


@dataclass(frozen=True)
class Rehearsal:
    """What is tried on the averaged weights every so many steps; gives figures to log, on one process.

    Of several, one with the highest "score" is kept by what it calls itself.
    """

    every_steps: int
    run: Callable[[int], Mapping[str, float]]


Batches = Callable[[int, int], Any]


class LossNotFinite(ValueError):
    """Training has diverged; names stage, step and losses. The last state that was saved is from before."""


class AveragedWeights:
    """Exponential moving average of trainable parameters, with a start-up correction; decay 0: none."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        # In float32 also where the weights are not: what is added in a step is too small for bfloat16.
        self.values = {n: p.float().clone() for n, p in trainable_state(module).items()} if decay else {}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])

    @contextmanager
    def instead(self, module: nn.Module) -> Any:
        """The module has the averaged weights until the block is left, and is in eval mode."""
        own = {n: p.clone() for n, p in trainable_state(module).items()} if self.values else {}
        self.copy_to(module)
        module.eval()
        try:
            yield
        finally:
            module.train()
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    if name in own:
                        parameter.copy_(own[name])


def learning_rate(config: LoopConfig, step: int, part: str = "") -> float:
    """Linear warm-up, then cosine decay to `final_rate_fraction` of the part's peak."""
    peak = config.learning_rates.get(part, config.learning_rate)
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * (config.final_rate_fraction + (1 - config.final_rate_fraction) * cosine)


class _Step(nn.Module):
    """Everything that is trained; it computes its losses. What several processes keep in step."""

    def __init__(
        self, parts: nn.ModuleDict, losses: Callable[[Any, int], dict[str, Tensor]], dtype: Any
    ) -> None:
        super().__init__()
        self.parts, self._losses, self._dtype = parts, losses, dtype

    def forward(self, batch: Any, step: int) -> dict[str, Tensor]:
        kind = next(self.parts.parameters()).device.type
        with torch.autocast(kind, dtype=self._dtype, enabled=self._dtype is not None):
            return self._losses(batch, step)


def accelerator() -> Accelerator:
    """The processes that `accelerate launch` has set up, and their devices; without it, this one.

    Raises DeviceError for more processes than there are GPUs.
    """
    check_processes()
    # Of a VLM some layers have no part in an action: they get no gradient.
    made = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    settle(made.device)
    return made


class Stage:
    """A stage of training on its way.

    name: of its files; module: what is kept of it; extra: what is only trained along; parts: names of groups
    of parameters by their modules, whatever is in none belongs to "".
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        losses: Callable[[Any, int], dict[str, Tensor]],
        config: LoopConfig,
        out: Path,
        extra: Iterable[nn.Module] = (),
        parts: Mapping[str, nn.Module] | None = None,
        quiet: bool = False,
    ) -> None:
        self.name, self.module, self.config, self.out = name, module, config, out
        self.accelerator = accelerator()
        module.to(self.accelerator.device)
        everything = nn.ModuleDict({"kept": module, "extra": nn.ModuleList(extra)})
        everything.to(self.accelerator.device)
        self._everything = everything
        self.parameters = [p for p in everything.parameters() if p.requires_grad]
        if self.accelerator.is_main_process:
            check_room(out, STATE_COPIES * sum(p.numel() * p.element_size() for p in self.parameters))
        optimizer = torch.optim.AdamW(
            _groups(everything, parts or {}, config),
            lr=0.0,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )
        step = _Step(everything, losses, PRECISIONS[config.precision])
        self.average = AveragedWeights(module, config.ema_decay)
        self._state_path = out / f"{name}.state.pt"
        self._sharded = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        if self._sharded:
            sizes = self.accelerator.state.deepspeed_plugin.deepspeed_config
            sizes["train_micro_batch_size_per_gpu"] = config.batch_size
            sizes["gradient_clipping"] = config.clip_norm
        self.start, rows = self._resume(optimizer)
        self._step, self._optimizer = self.accelerator.prepare(step, optimizer)
        if self._sharded and self.start:
            self.accelerator.load_state(str(self._shards(self.start)), load_module_strict=False)
        shown = self.accelerator.is_main_process and not quiet
        self.progress = Progress(name, out, self.start, config.steps, rows, shown)
        everything.train()

    def _resume(self, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, float]]]:
        """Takes over what an earlier stretch has saved; how far it came, and its log."""
        state = load_state(self._state_path)
        if state is None:
            return 0, []
        with torch.no_grad():
            load_trainable(self._everything, state["trained"], self._state_path)
        if state["optimizer"]:
            optimizer.load_state_dict(state["optimizer"])
        self.average.values = {k: v.to(self.accelerator.device) for k, v in state["average"].items()}
        return int(state["step"]), list(state["log"])

    def _shards(self, step: int) -> Path:
        """Where the processes of a ZeRO run keep their parts of the optimiser."""
        return self.out / f"{self.name}.zero" / f"{step:08d}"

    def run(self, batches: Batches, rehearsal: Rehearsal | None = None) -> None:
        """Trains to the end; `batches(step, process)` are what the losses get."""
        config, rank = self.config, self.accelerator.process_index
        samples = config.batch_size * self.accelerator.num_processes
        made = batches_from(lambda step: batches(step, rank), self.start, config.steps, config.workers)
        for step in range(self.start, config.steps):
            began_s = time.monotonic()
            batch = next(made)
            waited_s = time.monotonic() - began_s
            losses = self.take(batch, step)
            rates = {
                f"rate_{g['name']}" if g["name"] else "rate": g["lr"] for g in self._optimizer.param_groups
            }
            self.progress.note(step, losses, samples, waited_s, rates)
            if rehearsal is not None and (step + 1) % rehearsal.every_steps == 0:
                self._rehearse(rehearsal, step + 1)
            if (step + 1) % config.save_every_steps == 0 or step + 1 == config.steps:
                self._save(step + 1)
        self.average.copy_to(self.module)
        self.module.eval()
        self.progress.close()

    def take(self, batch: Any, step: int) -> dict[str, float]:
        """One step of the optimiser; the losses."""
        config = self.config
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, step, group["name"])
        torch.manual_seed((config.seed * 1_000_003 + step) * 1_009 + self.accelerator.process_index)
        values = self._step(batch, step)
        total = torch.stack(list(values.values())).sum()
        self._optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        # Read only now: a GPU has the backward pass to do meanwhile.
        found = {key: float(value.detach()) for key, value in values.items()}
        if not all(math.isfinite(value) for value in found.values()):
            raise LossNotFinite(f"{self.name}: loss is {float(total.detach())} at step {step}; {found}")
        self.accelerator.clip_grad_norm_(self.parameters, config.clip_norm)
        self._optimizer.step()
        self.average.update(self.module, step)
        return found

    def step_optimizer(self) -> None:
        self._optimizer.step()

    def _rehearse(self, rehearsal: Rehearsal, step: int) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.progress.pause()
            with self.average.instead(self.module):
                self.progress.add({"step": step, **rehearsal.run(step)})
            self.progress.go_on()
        self.accelerator.wait_for_everyone()

    def _save(self, step: int) -> None:
        """Writes the state; a disk that is full now may have room at the next turn, but not at the end."""
        if self._sharded:
            self.accelerator.save_state(str(self._shards(step)), exclude_frozen_parameters=True)
        if not self.accelerator.is_main_process:
            return
        state = {
            "trained": trainable_state(self._everything),
            "optimizer": {} if self._sharded else self._optimizer.state_dict(),
            "average": self.average.values,
            "step": step,
            "log": self.progress.log,
        }
        try:
            write_whole(self._state_path, lambda p: torch.save(state, p))
            write_whole(self.progress.path, lambda p: p.write_text(self.progress.text()))
            for shards in self._shards(step).parent.glob("*"):
                if shards != self._shards(step):  # of a state that is no longer the last
                    shutil.rmtree(shards, ignore_errors=True)
        except (OSError, RuntimeError) as error:  # torch reports a short write as a RuntimeError
            if step == self.config.steps:
                raise
            self.progress.say(
                f"the state of step {step} could not be written, the one before is kept: {error}"
            )


def _groups(
    everything: nn.Module, parts: Mapping[str, nn.Module], config: LoopConfig
) -> list[dict[str, Any]]:
    """Groups of trainable parameters, one per part that has any; names are kept with them."""
    unknown = sorted(set(config.learning_rates) - set(parts))
    if unknown:
        raise ValueError(f"learning_rates: found {unknown}, expected some of {sorted(parts)}")
    owner = {id(p): name for name, module in parts.items() for p in module.parameters()}
    groups: dict[str, list[nn.Parameter]] = {}
    for parameter in everything.parameters():
        if parameter.requires_grad:
            groups.setdefault(owner.get(id(parameter), ""), []).append(parameter)
    return [{"name": name, "params": found} for name, found in groups.items()]


def train_loop(
    name: str,
    module: nn.Module,
    losses: Callable[[Any, int], dict[str, Tensor]],
    batches: Batches,
    config: LoopConfig,
    out: Path,
    extra: Iterable[nn.Module] = (),
    parts: Mapping[str, nn.Module] | None = None,
    rehearsal: Rehearsal | None = None,
) -> list[dict[str, float]]:
    """Trains `module` (and `extra` modules that are not kept) on `losses(batch, step)`, whose sum is
    minimised; the batch is `batches(step, process)`. parts: modules with a learning rate of their own, by
    name.

    Progress is saved in `out/<name>.state.pt` and picked up from there, so the same call resumes. At the end
    the module holds the averaged weights. Returns the log: one record per 20 steps, and those of rehearsals.
    Raises DiskFull before the first step if there is no room, LossNotFinite where training has
    diverged.
    """
    stage = Stage(name, module, losses, config, out, extra, parts)
    stage.run(batches, rehearsal)
    return stage.progress.log
