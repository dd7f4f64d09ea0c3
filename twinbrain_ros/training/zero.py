"""What a stage trains where DeepSpeed's ZeRO shares the optimiser out among the processes (arXiv 1910.02054).

Each process has the float32 masters of its part, their two moments and their averages; the weights that it
computes with are whole, in the training file's precision. Masters are what is saved, averaged,
tried and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from twinbrain_ros.training.processes import LaunchError, Processes
from twinbrain_ros.training.state import StateError
from twinbrain_ros.training.weights import average_decay


class Sharded:
    """`training.weights.Weights` over DeepSpeed's engine.

    Raises LaunchError for a DeepSpeed configuration that is not of stage 1 or 2 with the optimiser on the
    device.
    """

    kind = "zero"

    def __init__(
        self,
        accelerator: Accelerator,
        processes: Processes,
        step: nn.Module,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema_decay: float,
        precision: str,
    ) -> None:
        self._module, self._processes, self._decay = module, processes, ema_decay
        # What the engine rounds to bfloat16 for good: frozen weights have no masters.
        self._frozen: dict[str, Tensor] = {}
        if processes.is_first and precision == "bfloat16":
            self._frozen = {n: p.detach().cpu() for n, p in module.named_parameters() if _loses(p)}
        given = {p: p.detach() for p in step.parameters() if p.requires_grad}
        engine, _ = accelerator.prepare(step, optimizer)
        self._engine, self._zero = engine, engine.optimizer
        self._masters: list[Tensor] = self._zero.single_partition_of_fp32_groups
        if precision == "bfloat16":
            _unrounded(given)
        self._average = [m.detach().clone() for m in self._masters] if ema_decay else []

    def losses(self, batch: Any, step: int) -> dict[str, Tensor]:
        return self._engine(batch, step)

    def backward(self, total: Tensor) -> Tensor:
        self._engine.set_gradient_accumulation_boundary(is_boundary=True)
        self._engine.backward(total)
        norm = torch.as_tensor(self._zero.scaled_global_norm())
        return torch.where(norm < 0, torch.nan, norm)  # the engine's sign for one that is not finite

    @torch.no_grad()
    def step(self, step: int) -> None:
        self._engine.step()
        weight = 1 - average_decay(self._decay, step)
        for average, master in zip(self._average, self._masters, strict=False):
            average.lerp_(master, weight)

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self._zero.param_groups

    def values(self) -> dict[str, Any]:
        return {
            "masters": [m.detach() for m in self._masters],
            "optimizer": self._zero.optimizer.state_dict(),
            "average": self._average,
        }

    @torch.no_grad()
    def restore(self, values: Mapping[str, Any], where: Path) -> None:
        for key, own in (("masters", self._masters), ("average", self._average)):
            found, expected = ([list(t.shape) for t in ts] for ts in (values[key], own))
            if found != expected:
                raise StateError(f"{where}: {key}: found {found} numbers, expected {expected}")
        for own, saved in zip(
            [*self._masters, *self._average], [*values["masters"], *values["average"]], strict=True
        ):
            own.copy_(saved)
        self._zero.optimizer.load_state_dict(_copies(values["optimizer"]))

    def restored(self) -> None:
        self._zero.update_lp_params()

    @contextmanager
    def instead(self) -> Iterator[None]:
        held = {n: p.data for n, p in self._module.named_parameters()}
        self._show(self._processes.is_first)
        self._module.eval()
        try:
            yield
        finally:
            self._module.train()
            for name, parameter in self._module.named_parameters():
                parameter.data = held[name]

    def finish(self) -> None:
        self._show(True)

    @torch.no_grad()
    def _show(self, here: bool) -> None:
        """Gives the module of this process, where `here`, the averaged masters of all, in float32; frozen
        weights as they were."""
        from deepspeed.utils import safe_get_full_fp32_param

        self._exchange()
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                whole = safe_get_full_fp32_param(parameter)
                if here:
                    parameter.data = whole.to(parameter.device, torch.float32, copy=True)
            elif here:
                kept = self._frozen.get(name, parameter.data)
                parameter.data = kept.to(parameter.device, torch.float32)
        self._exchange()

    def _exchange(self) -> None:
        """Averages go where masters are, and back: the engine gathers from there."""
        for average, master in zip(self._average, self._masters, strict=False):
            kept = master.detach().clone()
            master.data.copy_(average)
            average.copy_(kept)


@torch.no_grad()
def _unrounded(given: Mapping[nn.Parameter, Tensor]) -> None:
    """Gives the masters the weights that training starts from: the engine takes them after it has rounded."""
    from deepspeed.utils import safe_set_full_fp32_param

    for parameter, value in given.items():
        torch.distributed.broadcast(value, 0)  # as the engine did with the rounded ones
        safe_set_full_fp32_param(parameter, value)


def configure(accelerator: Accelerator, batch_size: int, clip_norm: float, precision: str) -> None:
    """Fits DeepSpeed's configuration to a stage. Raises LaunchError for what it cannot be."""
    plugin = accelerator.state.deepspeed_plugin
    values = plugin.deepspeed_config
    zero = values.get("zero_optimization", {})
    offload = zero.get("offload_optimizer", {}).get("device", "none")
    if zero.get("stage") not in (1, 2) or offload not in ("none", None):
        raise LaunchError(
            f"DeepSpeed: found ZeRO stage {zero.get('stage')} with the optimiser on {offload!r}, expected "
            "stage 1 or 2 with none of it moved away, as config/accelerate/zero2.yaml"
        )
    values["train_micro_batch_size_per_gpu"] = batch_size
    values["gradient_clipping"] = clip_norm
    values["bf16"] = {"enabled": precision == "bfloat16"}
    values["fp16"] = {"enabled": False}


def _loses(parameter: nn.Parameter) -> bool:
    """Whether a frozen weight is another one in bfloat16."""
    own = parameter.detach()
    return not parameter.requires_grad and not torch.equal(own, own.bfloat16().to(own.dtype))


def _copies(values: Any) -> Any:
    """The same with tensors of their own: what is read is still in the file."""
    if isinstance(values, Tensor):
        return values.clone()
    if isinstance(values, Mapping):
        return {key: _copies(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_copies(value) for value in values]
    return values
