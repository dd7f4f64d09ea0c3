"""What the left brain thinks of a sample never changes: remembered, it need not be thought again.

The frozen brain's keys and values of a frame with an instruction depend on nothing that is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from twinbrain_ros.brain.asymot import LeftMemory, is_joint_layer
from twinbrain_ros.brain.decoder import Side
from twinbrain_ros.brain.prompt import PromptBatch
from twinbrain_ros.brain.twin import TwinBrain

Pairs = dict[int, tuple[Tensor, Tensor]]


class LeftCache:
    """Keys and values of the left brain by sample, in host memory, up to a number of bytes.

    What came first stays: with samples drawn at random no order of leaving is better. hits, asked: samples
    that were remembered, and all.
    """

    def __init__(self, model: TwinBrain, most_bytes: int) -> None:
        self._model, self._most_bytes = model, most_bytes
        self._kept: dict[int, Pairs] = {}
        self.bytes = self.hits = self.asked = 0

    @torch.no_grad()
    def remember(
        self, keys: np.ndarray, images: Mapping[str, Tensor], prompts: PromptBatch, side: Side
    ) -> LeftMemory:
        """As `TwinBrain.remember_left`, for samples [B] of these keys, of N images each for B / N in a
        row."""
        lengths = prompts.valid.sum(1).tolist()
        frames = len(next(iter(images.values())))
        times = len(keys) // frames
        known = np.array([int(key) in self._kept for key in keys])
        self.asked += len(keys)
        self.hits += int(known.sum())
        # The tower looks once for all samples of a frame: a frame is thought of anew as a whole.
        fresh = ~known.reshape(frames, times).all(1)
        found: list[Pairs | None] = [self._kept.get(int(key)) for key in keys]
        if fresh.any():
            rows = torch.from_numpy(np.flatnonzero(fresh.repeat(times)))
            picked = {name: image[torch.from_numpy(fresh)] for name, image in images.items()}
            memory = self._model.remember_left(picked, _rows(side, rows.to(side.embeds.device)))
            for at, row in enumerate(rows.tolist()):
                found[row] = self._pairs(memory, at, lengths[row])
                self._keep(int(keys[row]), found[row])
        return _together(found, prompts.valid.shape[1], side.embeds.device)

    def _pairs(self, memory: LeftMemory, at: int, length: int) -> Pairs:
        """What one sample left behind at the layers that are read, without its padding."""
        interval = self._model.config.interaction_interval
        return {
            layer: (keys[at, :, :length].cpu(), values[at, :, :length].cpu())
            for layer, (keys, values) in memory.pairs.items()
            if is_joint_layer(layer, interval)
        }

    def _keep(self, key: int, pairs: Pairs | None) -> None:
        if key in self._kept or pairs is None:
            return
        size = sum(t.numel() * t.element_size() for pair in pairs.values() for t in pair)
        if self.bytes + size <= self._most_bytes:
            # Their own memory: views would keep the whole batch.
            self._kept[key] = {layer: (k.clone(), v.clone()) for layer, (k, v) in pairs.items()}
            self.bytes += size


def _rows(side: Side, rows: Tensor) -> Side:
    """Some of a side's prompts."""
    cos, sin = side.rotary
    return dataclasses.replace(
        side,
        embeds=side.embeds[rows],
        rotary=(cos[rows], sin[rows]),
        mask=side.mask if side.mask is None or len(side.mask) == 1 else side.mask[rows],
        image_slots=side.image_slots[rows],
        state_slots=side.state_slots[rows],
        rows=None if side.rows is None else side.rows[rows],
        valid=None if side.valid is None else side.valid[rows],
    )


def _together(found: Sequence[Pairs | None], length: int, device: torch.device) -> LeftMemory:
    """The pairs of all samples, padded at their end with what no query sees."""
    memory = LeftMemory()
    whole = [pairs for pairs in found if pairs is not None]
    for layer in whole[0]:
        joined = []
        for part in (0, 1):
            one = whole[0][layer][part]
            out = one.new_zeros(len(whole), one.shape[0], length, one.shape[2])
            for row, pairs in enumerate(whole):
                tensor = pairs[layer][part]
                out[row, :, : tensor.shape[1]] = tensor
            joined.append(out.to(device, non_blocking=True))
        memory.pairs[layer] = (joined[0], joined[1])
    return memory
