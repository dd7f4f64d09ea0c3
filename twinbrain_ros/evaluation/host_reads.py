"""Counts what a computation makes the host wait for, and how many operations it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result or whose shape the host has to know before it goes on.
READING = {
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::repeat_interleave.Tensor",
    "aten::equal",
}
# Reads that never reach the dispatcher.
METHODS = ("tolist", "numpy", "__array__")


class HostReads(TorchDispatchMode):
    """A context in which host reads and operations are counted.

    `reads`: by name; `operations`: how many were dispatched that are not views. An index by a bool tensor
    counts as the `nonzero` that it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.operations = 0
        self._methods: dict[str, Callable[..., Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        if name in READING or _indexes_by_bool(name, args):
            self.reads[name] += 1
        if not func.is_view:
            self.operations += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> HostReads:
        for name in METHODS:
            self._methods[name] = getattr(Tensor, name)
            setattr(Tensor, name, self._counting(name))
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        for name, method in self._methods.items():
            setattr(Tensor, name, method)

    def _counting(self, name: str) -> Callable[..., Any]:
        method = self._methods[name]

        def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.reads[name] += 1
            return method(tensor, *args, **kwargs)

        return counted


def _indexes_by_bool(name: str, args: tuple[Any, ...]) -> bool:
    if not name.startswith(("aten::index.Tensor", "aten::index_put", "aten::_index_put")):
        return False
    return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
