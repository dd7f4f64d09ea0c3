"""A resumable training loop on Accelerate: one process, several GPUs, several machines, DeepSpeed ZeRO-2.

Everything random follows from (seed, step): data, noise; dropout from the process too. So nothing of it has
to be stored, and a run that was killed goes on along the same curve. Several processes take equal shares of
the batch that one process would take whole.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from twinbrain_ros.training.batch import Share
from twinbrain_ros.training.loader import batches_from
from twinbrain_ros.training.memory import MemoryLacking, TrainingMemory
from twinbrain_ros.training.processes import CutOff, ProcessLost, Stopped, StopSignals, accelerator, processes
from twinbrain_ros.training.progress import Progress
from twinbrain_ros.training.state import check_room, not_finite
from twinbrain_ros.training.store import Store
from twinbrain_ros.training.weights import Weights, Whole
from twinbrain_ros.training.zero import Sharded, configure

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
# Weights, average, two moments; three times: the last state, the one before, and a new one.
STATE_COPIES = 12
LAUNCHER_GONE = int(signal.SIGHUP)


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


Batches = Callable[[int, Share], Any]


class LossNotFinite(ValueError):
    """Training has diverged; names stage, step and losses. The last state that was saved is from before."""


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
        self.name, self.module, self.config = name, module, config
        self.processes = processes()
        everything = nn.ModuleDict({"kept": module, "extra": nn.ModuleList(extra)})
        everything.to(self.processes.device)
        self.parameters = [p for p in everything.parameters() if p.requires_grad]
        self._store = Store(out, name, self.processes, self._kind())
        trained_bytes = sum(p.numel() * p.element_size() for p in self.parameters)
        self.processes.first_does(lambda: check_room(out, STATE_COPIES * trained_bytes))
        self.start, rows = self.processes.first_does(self._store.found)
        memory = self._memory(everything)
        optimizer = torch.optim.AdamW(
            _groups(everything, parts or {}, config),
            lr=0.0,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
        )
        self.weights = self._weights(_Step(everything, losses, PRECISIONS[config.precision]), optimizer)
        if self.start:
            self._store.restore(self.weights, self.start)
        shown = self.processes.is_first and not quiet
        self.progress = Progress(name, out, self.start, config.steps, rows, shown)
        self.progress.say(memory)
        self._signals = StopSignals()
        self._asked = 0  # the signal that any process was told to end by
        everything.train()

    def _memory(self, everything: nn.Module) -> str:
        """What it will take, in a line. Raises MemoryLacking, in all processes, where one cannot have it."""
        config, own = self.config, self.processes
        rounded, averaged = config.precision == "bfloat16", config.ema_decay > 0
        needs = TrainingMemory.of(everything, self.module, own.count, own.sharded, rounded, averaged)
        lacking = own.failures(lambda: needs.check(torch.device(own.device)))
        if lacking:
            own.refuse(MemoryLacking(f"{self.name}: {lacking[0]}"))
        return needs.line()

    def _kind(self) -> dict[str, Any]:
        """What a state must agree in with the run that goes on from it: all else would be half taken."""
        return {
            "kind": Sharded.kind if self.processes.sharded else Whole.kind,
            "processes": self.processes.count,
            "batch_size": self.config.batch_size,
            "precision": self.config.precision,
            "seed": self.config.seed,
        }

    def _weights(self, step: _Step, optimizer: torch.optim.Optimizer) -> Weights:
        config, made = self.config, accelerator()
        if self.processes.sharded:
            configure(made, config.batch_size, config.clip_norm, config.precision)
            return Sharded(
                made, self.processes, step, self.module, optimizer, config.ema_decay, config.precision
            )
        return Whole(made, step, step.parts, self.module, optimizer, config.ema_decay, config.clip_norm)

    def run(self, batches: Batches, rehearsal: Rehearsal | None = None, stoppable: bool = False) -> None:
        """Trains to the end; `batches(step, share)` are what the losses get.

        stoppable: SIGTERM and SIGINT, of any process, end all of them after the step they are at, the state
        saved. Raises Stopped then.
        """
        config, share = self.config, self.processes.share
        made = batches_from(lambda step: batches(step, share), self.start, config.steps, config.workers)
        try:
            with self._signals.caught(self.processes.count == 1) if stoppable else nullcontext():
                if rehearsal is not None and self._missed(rehearsal):
                    self._rehearse(rehearsal, self.start)
                for step in range(self.start, config.steps):
                    self._one(made, step, rehearsal)
        except RuntimeError as error:
            if not self.processes.lost(error):
                raise
            message = f"{self.name}: another process of this run has ended; {self._kept()}"
            raise ProcessLost(message) from error
        finally:
            self.progress.close()  # what is said next begins a line
        self.weights.finish()
        self.module.eval()

    def _one(self, made: Iterator[Any], step: int, rehearsal: Rehearsal | None) -> None:
        """A step, and what is due after it."""
        config, done = self.config, step + 1
        began_s = time.monotonic()
        batch = next(made)
        waited_s = time.monotonic() - began_s
        losses = self.take(batch, step)
        rates = {f"rate_{g['name']}" if g["name"] else "rate": g["lr"] for g in self.weights.groups}
        self.progress.note(step, losses, config.batch_size * self.processes.count, waited_s, rates)
        due = rehearsal is not None and done % rehearsal.every_steps == 0
        if self._asked or due or done % config.save_every_steps == 0 or done == config.steps:
            self._save(done)  # before a trial too: it is long, and may be cut off
        if self._asked:
            self._stop(self._asked, done)
        if rehearsal is not None and due:
            self._rehearse(rehearsal, done)
            if done == config.steps:
                self._save(done)  # with what was found

    def _missed(self, rehearsal: Rehearsal) -> bool:
        """Whether the run was cut off in the rehearsal of the step that it goes on from."""
        held = any(row["step"] == self.start and "score" in row for row in self.progress.log)
        return self.start > 0 and self.start % rehearsal.every_steps == 0 and not held

    def _stop(self, number: int, done: int) -> None:
        why = "its launcher has ended" if number == LAUNCHER_GONE else signal.Signals(number).name
        text = f"{self.name}: stopped after step {done} of {self.config.steps} ({why}); {self._kept()}"
        self.processes.refuse(Stopped(text, number))

    def _kept(self) -> str:
        """What there is to go on from, for messages."""
        last = self._store.last
        return (
            f"the state of step {last} is saved, --resume goes on from it"
            if last
            else "no state is saved yet"
        )

    def take(self, batch: Any, step: int) -> dict[str, float]:
        """One step of the optimiser; the losses of the global batch.

        Raises LossNotFinite, in all processes, before anything is changed.
        """
        config, own = self.config, self.processes
        for group in self.weights.groups:
            group["lr"] = learning_rate(config, step, group["name"])
        torch.manual_seed((config.seed * 1_000_003 + step) * 1_009 + own.rank)
        values = self.weights.losses(batch, step)
        norm = self.weights.backward(torch.stack(list(values.values())).sum())
        asked = LAUNCHER_GONE if own.launcher_is_gone else self._signals.asked
        # Read only now: a GPU has the backward pass to do meanwhile.
        found = own.gather([asked, float(norm), *(float(value.detach()) for value in values.values())])
        odd = _not_finite(list(values), [row[1:] for row in found], step)
        if odd:
            own.refuse(LossNotFinite(f"{self.name}: {odd}; {self._kept()}"))
        self.weights.step(step)
        self._asked = int(max(row[0] for row in found))
        return {key: sum(row[2 + number] for row in found) / own.count for number, key in enumerate(values)}

    def step_optimizer(self) -> None:
        self.weights.step(0)

    def _rehearse(self, rehearsal: Rehearsal, step: int) -> None:
        def held() -> None:
            self.progress.pause()
            with self._signals.at_once():
                figures = rehearsal.run(step)
            self.progress.add({"step": step, **figures})
            self.progress.go_on()

        try:
            with self.weights.instead():
                self.processes.first_does(held)
        except CutOff:  # in the first process; the others have ended
            self._stop(self._signals.asked, step)

    def _save(self, step: int) -> None:
        """Writes the state; a disk that is full now may have room at the next turn, but not at the end.

        Raises LossNotFinite, in all processes, where the state is not worth keeping.
        """
        odd = self.processes.failures(lambda: _check_finite(self.weights.values()))
        if odd:
            self.processes.refuse(LossNotFinite(f"{self.name}: {odd[0]} at step {step}; {self._kept()}"))
        failed = self._store.save(self.weights, step, self.progress)
        if failed and step == self.config.steps:
            self.processes.refuse(OSError(failed))
        if failed:
            self.progress.say(
                f"the state of step {step} could not be written, the one before is kept: {failed}"
            )


def _not_finite(keys: Sequence[str], found: Sequence[Sequence[float]], step: int) -> str:
    """What is not finite of the gradients' norm and the losses `keys`, as each process has `found` them; ""
    for nothing. A loss of one process makes everybody's gradients so: it is named first."""
    for rank, (_, *losses) in enumerate(found):
        where = f"step {step} in process {rank} of {len(found)}" if len(found) > 1 else f"step {step}"
        shown = dict(zip(keys, losses, strict=True))
        if not all(math.isfinite(loss) for loss in losses):
            return f"loss is {sum(losses)} at {where}; {shown}"
    for norm, *losses in found:
        if not math.isfinite(norm):
            shown = dict(zip(keys, losses, strict=True))
            return f"norm of the gradients is {norm} at step {step}; losses {shown}"
    return ""


def _check_finite(values: Any) -> None:
    name = not_finite(values)
    if name:
        raise ValueError(f"{name} is not finite")


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
    stoppable: bool = False,
) -> list[dict[str, float]]:
    """Trains `module` (and `extra` modules that are not kept) on `losses(batch, step)`, whose sum is
    minimised; the batch is `batches(step, share)`. parts: modules with a learning rate of their own, by
    name.

    Progress is saved in `out/<name>.state.pt` and picked up from there, so the same call resumes. At the end
    the module holds the averaged weights. Returns the log: one record per 20 steps, and those of rehearsals.
    Raises DiskFull before the first step if there is no room, StateError for a state that cannot be gone on
    from, LossNotFinite where training has diverged, Stopped (`Stage.run`).
    """
    stage = Stage(name, module, losses, config, out, extra, parts)
    stage.run(batches, rehearsal, stoppable)
    return stage.progress.log
