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
    with the same instruction, whenever it is drawn again; robots: B, the name of each sample's, None where
    there is one robot.
    """

    images: dict[str, Tensor]
    instructions: list[str]
    state: Tensor
    actions: Tensor
    known: Tensor
    weights: Tensor
    keys: np.ndarray
    grounding: Grounding | None = None
    robots: list[str] | None = None


@dataclass(frozen=True)
class Share:
    """One of `count` equal parts of a step's global batch: what one of several processes trains on."""

    index: int = 0
    count: int = 1

    def of(self, size: int) -> slice:
        """Where this share lies among `size` samples times `count`."""
        return slice(self.index * size, (self.index + 1) * size)


WHOLE = Share()


class Source(Protocol):
    """Where batches come from.

    The global batch is a function of (seed, step, its size) alone, however many processes share it: a run
    that is picked up again goes on with the data that it would have seen.
    """

    def statistics(self, robot: str | None = None) -> tuple[Normalizer, Normalizer]:
        """Of a robot's actions and states, in its units; None: of the one that is trained for."""

    def batch(self, seed: int, step: int, size: int, share: Share = WHOLE) -> PolicyBatch:
        """The `size` samples of a share; the step's global batch has `size` times `share.count`."""
