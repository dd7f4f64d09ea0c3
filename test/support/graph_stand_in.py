"""torch.cuda's streams and graphs played on the CPU, so that tests see what a GPU would do without one.

While a graph is recorded nothing is run: results hold NaN, what the host reads is refused, and what is
written in place stays as it was. A replay does the recorded operations at the addresses where they were
recorded. Only operations on the device that the tensors are on are recorded there. After each replay, what
lies in a pool holds NaN: whoever still needs it would show it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from twinbrain_ros.evaluation.host_reads import READING

EMPTY = (
    "The CUDA Graph is empty. This usually means that the graph was attempted to be captured on wrong device "
    "or stream."
)


class Stream:
    def __init__(self, device: int) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)


class Cuda:
    """GPUs of which one holds all tensors.

    captures, replays: the device and the stream that were current; pools: what was recorded into each;
    recording: device and pool, as the allocator believes; fails: raised by capture_end, as after an error
    inside; deaf: replays do nothing.
    """

    def __init__(self, tensors_on: int = 0) -> None:
        self.tensors_on = tensors_on
        self.index, self.streams = 0, {i: Stream(i) for i in range(tensors_on + 1)}
        self.captures: list[tuple[int, Stream]] = []
        self.replays: list[tuple[int, Stream]] = []
        self.pools: dict[int, list[Tensor]] = {}
        self.fails: Exception | None = None
        self.deaf = False
        self.recording: list[tuple[int, int]] = []

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before = self.index
        self.index = self.tensors_on if device.type == "cpu" else device.index
        try:
            yield
        finally:
            self.index = before

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        index, before = self.index, self.streams[stream.device]
        self.index, self.streams[stream.device] = stream.device, stream
        try:
            yield
        finally:
            self.index, self.streams[stream.device] = index, before

    def current_stream(self) -> Stream:
        return self.streams[self.index]

    def current_device(self) -> int:
        return self.index

    def end_allocate(self, device: int, pool: int) -> None:
        self.recording.remove((device, pool))

    def graph_pool_handle(self) -> int:
        self.pools[len(self.pools)] = []
        return len(self.pools) - 1

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> Cuda:
        for name in ("device", "stream", "current_stream", "current_device", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocate, raising=False)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(self.index))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "empty_cache", self.empty_cache)
        return self

    def empty_cache(self) -> None:
        assert not self.recording, "captures_underway.empty() INTERNAL ASSERT FAILED"


class Graph:
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.recorder = cuda, Recorder(cuda)

    def capture_begin(self, pool: int, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        cuda = self.cuda
        cuda.captures.append((cuda.index, cuda.current_stream()))
        self.pool = (cuda.index, pool)
        cuda.recording.append(self.pool)
        self.recorder.pool = cuda.pools[pool]
        self.recorder.__enter__()

    def capture_end(self) -> None:
        self.recorder.__exit__(None, None, None)
        if self.cuda.fails is not None:
            raise self.cuda.fails  # as in torch, before the allocator is told
        self.cuda.recording.remove(self.pool)
        if not self.recorder.calls:
            warnings.warn(EMPTY, UserWarning, stacklevel=2)

    def replay(self) -> None:
        cuda = self.cuda
        cuda.replays.append((cuda.index, cuda.current_stream()))
        if cuda.deaf:
            return
        with _disable_current_modes(), torch.inference_mode():
            for func, args, kwargs, results in self.recorder.calls:
                again = func(*args, **kwargs)
                for own, new in zip(results, tree_leaves(again) if results else (), strict=True):
                    if own is not None:
                        own.copy_(new)
            if left := [t for t in self.recorder.pool if t.is_floating_point()]:
                torch._foreach_mul_(left, float("nan"))


class Recorder(TorchDispatchMode):
    """calls: operation, arguments, and the results that a replay has to fill in."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__()
        self.cuda, self.pool = cuda, []
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor | None]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.name() in READING:
            raise RuntimeError(f"{func.name()}: operation not permitted when stream is capturing")
        if self.cuda.index != self.cuda.tensors_on:
            return func(*args, **kwargs)  # it runs where its tensors are, and nobody records there
        if func._schema.is_mutable:
            self.calls.append((func, args, kwargs, []))
            return args[0] if func._schema.returns else None
        out = func(*args, **kwargs)
        held = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        results: list[Tensor | None] = []
        for result in tree_leaves(out):
            fresh = isinstance(result, Tensor) and result.untyped_storage()._cdata not in held
            results.append(result if fresh else None)
            if fresh:
                self.pool.append(result)
                result.fill_(float("nan") if result.is_floating_point() else 0)
        if any(r is not None for r in results):
            self.calls.append((func, args, kwargs, results))
        return out
