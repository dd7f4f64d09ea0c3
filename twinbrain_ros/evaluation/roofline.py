"""How fast a computation could run at best: its arithmetic and its weights against a device's peaks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

GEMM_SIDE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
TRIES = 7


@dataclass(frozen=True)
class Peaks:
    """What a device reaches: floating point operations per second in a type, bytes per second."""

    flops: float
    bandwidth: float

    def least_ms(self, work: Work) -> float:
        """Milliseconds below which this work cannot be done."""
        return 1e3 * max(work.flops / self.flops, work.bytes / self.bandwidth)


@dataclass(frozen=True)
class Work:
    """Floating point operations, and bytes of weights that are read at least once."""

    flops: int
    bytes: int


def synchronize(device: torch.device) -> None:
    """Waits for the device, where there is something to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """The best of a few large matrix products, and of a few large copies and sums."""
    side = GEMM_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    flops = 2 * side**3 / _best_s(lambda: torch.mm(a, b, out=product), device)
    source = torch.zeros(COPY_BYTES[device.type] // 4, device=device)
    target = torch.zeros_like(source)
    size = source.numel() * source.element_size()
    copied = 2 * size / _best_s(lambda: target.copy_(source), device)
    summed = size / _best_s(lambda: source.sum(), device)
    return Peaks(flops, max(copied, summed))


def _best_s(run: Callable[[], Any], device: torch.device) -> float:
    best = float("inf")
    for _ in range(TRIES):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def count_work(run: Callable[[], Any], model: nn.Module) -> Work:
    """The arithmetic of a call, and the weights of `model` that it touches, each counted once."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={attention: _attention_flops}) as flops:  # noqa: SIM117
        with _WeightReads(model) as reads:
            run()
    return Work(flops.get_total_flops(), sum(reads.found.values()))


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Of attention on shapes [B, heads, L, d], whose keys may have fewer heads; a mask saves nothing."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


class _WeightReads(TorchDispatchMode):
    """Bytes of each parameter that operations have as an input, in `found`; of tables only the rows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.found: dict[tuple[int, int], int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for x in torch.utils._pytree.tree_leaves((args, kwargs)):
                if isinstance(x, Tensor) and x.untyped_storage().data_ptr() in self._weights:
                    read = out if func is torch.ops.aten.embedding.default else x
                    self.found[x.data_ptr(), x.numel()] = read.numel() * x.element_size()
        return out
