"""What one step is trained on, whatever it was drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from twinbrain_ros.brain.config import Normalizer


@dataclass(frozen=True)
class Grounding:
    """Where the things that an instruction names are; only a simulator knows.

    cells long [B, things] per camera of which it is known (-1: out of view); offsets [B, things, 2] in them;
    aims [B, things, 5] from the tool (`training/dataset.py`).
    """

    cells: dict[str, Tensor]
    offsets: dict[str, Tensor]
    aims: Tensor


@dataclass(frozen=True)
class PolicyBatch:
    """N frames and B samples: B / N in a row for each frame, which share its images.

    images: per camera uint8 RGB [N, H, W, 3] of the size that the brains see; instructions: B; state [N, S]
    and actions [B, T, A] float32 in robot units; known: bool [B, T], False for steps past an episode's end;
    weights: float32 [B], how much each sample counts; keys: int64 [B], the same number for the same frame
    with the same instruction, whenever it is drawn again.
    """

    images: dict[str, Tensor]
    instructions: list[str]
    state: Tensor
    actions: Tensor
    known: Tensor
    weights: Tensor
    keys: np.ndarray
    grounding: Grounding | None = None


class Source(Protocol):
    """Where batches come from.

    They are functions of (seed, step, rank) alone: a run that is picked up again goes on with the data that
    it would have seen.
    """

    def statistics(self) -> tuple[Normalizer, Normalizer]:
        """Of actions and of states, in robot units."""

    def batch(self, seed: int, step: int, size: int, rank: int = 0) -> PolicyBatch:
        """The `size` samples of a step for one of several processes."""
