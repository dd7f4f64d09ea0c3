"""What a stage trains, with its optimiser and averages, where every process has all of it.

`training/zero.py` has the same for processes that share the optimiser out among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from twinbrain_ros.training.state import StateError, load_trainable, trainable_state


class Weights(Protocol):
    """Parameters, optimiser and averaged weights of a stage. Every call is made by all processes."""

    kind: str  # of the state that it writes

    def losses(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Of this process's share of a step."""

    def backward(self, total: Tensor) -> Tensor:
        """Gradients of the mean over all processes; their norm, before clipping."""

    def step(self, step: int) -> None:
        """The optimiser's, with the clipped gradients; then the averages'."""

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups of parameters, with their rates `lr`."""

    def values(self) -> dict[str, Any]:
        """All that a resumed run needs; of this process's part where they are shared out."""

    def restore(self, values: Mapping[str, Any], where: Path) -> None:
        """Takes over what `values` gave, waiting for no other process. Raises StateError, naming `where`."""

    def restored(self) -> None:
        """All processes have taken over theirs."""

    def instead(self) -> Any:
        """A block in which the first process's kept module has the averaged weights, and is in eval mode."""

    def finish(self) -> None:
        """The kept module has the averaged weights, in float32, in all processes; what is frozen is as it was
        in the first."""


class AveragedWeights:
    """Exponential moving average of trainable parameters, with a start-up correction; decay 0: none."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        # In float32 also where the weights are not: what is added in a step is too small for bfloat16.
        self.values = {n: p.float().clone() for n, p in trainable_state(module).items()} if decay else {}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        weight = 1 - average_decay(self.decay, step)
        for name, parameter in module.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.detach().float(), weight)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])

    @contextmanager
    def instead(self, module: nn.Module) -> Iterator[None]:
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


def average_decay(decay: float, step: int) -> float:
    """Of the average at a step: less in the beginning, so that it soon forgets where training began."""
    return min(decay, (1 + step) / (10 + step))


class Whole:
    """All of it in each process: one process, or several whose gradients are averaged (DDP)."""

    kind = "whole"

    def __init__(
        self,
        accelerator: Accelerator,
        step: nn.Module,
        everything: nn.Module,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema_decay: float,
        clip_norm: float,
    ) -> None:
        self._accelerator, self._everything, self._module = accelerator, everything, module
        self._clip_norm = clip_norm
        self._parameters = [p for p in everything.parameters() if p.requires_grad]
        self._step, self._optimizer = accelerator.prepare(step, optimizer)
        # After the first process's weights have become everybody's.
        self._average = AveragedWeights(module, ema_decay)

    def losses(self, batch: Any, step: int) -> dict[str, Tensor]:
        return self._step(batch, step)

    def backward(self, total: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(total)
        norm = self._accelerator.clip_grad_norm_(self._parameters, self._clip_norm)
        return torch.as_tensor(norm)

    def step(self, step: int) -> None:
        self._optimizer.step()
        self._average.update(self._module, step)

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def values(self) -> dict[str, Any]:
        return {
            "trained": trainable_state(self._everything),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.values,
        }

    @torch.no_grad()
    def restore(self, values: Mapping[str, Any], where: Path) -> None:
        load_trainable(self._everything, values["trained"], where)
        average = values["average"]
        if average.keys() != self._average.values.keys():
            raise StateError(
                f"{where}: found averages of {len(average)} weights, expected {len(self._average.values)}"
            )
        for name, own in self._average.values.items():
            own.copy_(average[name])
        optimizer = values["optimizer"]
        device = self._parameters[0].device
        # Copies: what is read is still in the file.
        moments = {
            number: {key: _copied(value, device) for key, value in one.items()}
            for number, one in optimizer["state"].items()
        }
        self._optimizer.load_state_dict({**optimizer, "state": moments})

    def restored(self) -> None:
        pass

    def instead(self) -> Any:
        return self._average.instead(self._module)

    def finish(self) -> None:
        self._average.copy_to(self._module)


def _copied(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, copy=True) if value.ndim else value.clone()  # counts of steps stay on the CPU
