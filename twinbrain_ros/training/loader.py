"""Batches made ahead of time, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

PREFETCHED = 4  # batches ahead, per process


class _Steps(Dataset[Any]):
    """The batches of a stage by their step: what a worker process is handed."""

    def __init__(self, batches: Callable[[int], Any]) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Any:
        return self._batches(step)


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def batches_from(batches: Callable[[int], Any], start: int, end: int, workers: int) -> Iterator[Any]:
    """batches(start), batches(start + 1), .. batches(end - 1), in this order; made by `workers` processes, 0:
    when they are asked for. An error in a worker is raised here."""
    if workers == 0:
        return map(batches, range(start, end))
    loader: DataLoader[Any] = DataLoader(
        _Steps(batches),
        batch_size=None,
        sampler=range(start, end),
        num_workers=workers,
        prefetch_factor=PREFETCHED,
        collate_fn=_as_it_is,
        worker_init_fn=_one_thread,
    )
    return iter(loader)
