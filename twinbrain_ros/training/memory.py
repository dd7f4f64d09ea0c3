"""What a stage of training needs of each process's memory, told before it is taken."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from twinbrain_ros.brain.memory import memory_of, size_text


class MemoryLacking(ValueError):
    """A device that cannot hold what is trained, whatever is done in its batches; names both numbers."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a process. Activations come on top: they depend on batch and prompts. beginning: all that is
    there at once when training begins, with the float32 weights that it begins from."""

    weights: int
    gradients: int
    optimiser: int
    averages: int
    beginning: int

    @classmethod
    def of(
        cls, module: nn.Module, kept: nn.Module, processes: int, sharded: bool, rounded: bool, averaged: bool
    ) -> TrainingMemory:
        """Of all parameters of `module`, with averages of those in `kept`.

        sharded: ZeRO; rounded: with weights in bfloat16, which it copies from masters in float32.
        """
        every = sum(p.numel() for p in module.parameters())
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        followed = sum(p.numel() for p in kept.parameters() if p.requires_grad) if averaged else 0
        width = 2 if sharded and rounded else 4
        if sharded:  # each part: master and two moments, gradients once in each width
            gradients = (width + 4) * trained // processes
            beginning = max(4 * every, width * every + 4 * trained + 4 * trained // processes)
            optimiser, averages = 12 * trained // processes, 4 * followed // processes
            return cls(width * every, gradients, optimiser, averages, beginning)
        buckets = 4 * trained if processes > 1 else 0  # in which DDP sends them
        return cls(4 * every, 4 * trained + buckets, 8 * trained, 4 * followed, 4 * every)

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.averages

    def line(self) -> str:
        """For a person."""
        parts = ", ".join(
            f"{name} {size_text(size)}"
            for name, size in (
                ("weights", self.weights),
                ("gradients", self.gradients),
                ("optimiser", self.optimiser),
                ("averages", self.averages),
            )
            if size
        )
        more = f"; {size_text(self.beginning)} while it begins" if self.beginning > self.total else ""
        return f"each process needs {size_text(self.total)} ({parts}), and its activations{more}"

    def check(self, device: torch.device) -> None:
        """Raises MemoryLacking where the device has less than that in all; processes of a machine share its
        CPU's."""
        _, has = memory_of(device)
        if has is None:
            return
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
        if max(self.total, self.beginning) * beside > has:
            together = f", {beside} of them here" if beside > 1 else ""
            raise MemoryLacking(f"{device}: {self.line()}{together}; found {size_text(has)} there")
