"""Shards of demonstrations in memory, and batches drawn from them as pure functions of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from twinbrain_ros.brain.config import CameraInput, Standardizer
from twinbrain_ros.sim.tasks import TASKS
from twinbrain_ros.training.demonstrations import decode_goal

# How often a frame is trained with the goal that was pursued, with another pick and with another put.
GOAL_SHARES = (0.6, 0.2, 0.2)
# A dimension that hardly varies would have its noise blown up to unit size; this is the least deviation
# [m, rad] that an action or state dimension is divided by.
LEAST_STD = 0.01


@dataclass(frozen=True)
class PolicyBatch:
    """images per camera uint8 [B, H, W, 3]; state [B, S]; actions [B, T, A]; grounding per camera."""

    images: dict[str, Tensor]
    instructions: list[str]
    state: Tensor
    actions: Tensor
    cells: dict[str, Tensor]
    offsets: dict[str, Tensor]


class Demonstrations:
    """All frames of a data set, held in memory (about 56 kB a frame for two 96x96 views)."""

    def __init__(self, paths: list[Path], cameras: tuple[CameraInput, ...]) -> None:
        parts: dict[str, list[np.ndarray]] = {}
        for path in tqdm(paths, desc="loading", unit="shard"):
            with np.load(path) as shard:
                for key in shard.files:
                    parts.setdefault(key, []).append(shard[key])
        self.arrays = {key: np.concatenate(parts.pop(key)) for key in list(parts)}
        self.cameras = cameras
        self.size = len(self.arrays["state"])

    def statistics(self) -> tuple[Standardizer, Standardizer]:
        """Per-dimension mean and deviation of actions (all labels) and of states."""
        labels = self.arrays["labels"].reshape(-1, self.arrays["labels"].shape[-1])
        return _standardizer(labels), _standardizer(self.arrays["state"])

    def batch(self, seed: int, step: int, size: int, cell_px: int) -> PolicyBatch:
        """The batch of a step. cell_px: edge of an image token's cell, for the grounding targets."""
        rng = np.random.default_rng([seed, step])
        rows = np.sort(rng.integers(0, self.size, size))
        pick = rng.choice(len(GOAL_SHARES), size, p=GOAL_SHARES)
        goals = self.arrays["goals"][rows, pick]
        cells, offsets = {}, {}
        things = self._things(rows, goals)
        for camera in self.cameras:
            pixels = self.arrays[f"pixels_{camera.name}"][rows]
            cells[camera.name], offsets[camera.name] = cells_and_offsets(pixels, things, camera, cell_px)
        return PolicyBatch(
            {c.name: torch.from_numpy(self.arrays[f"image_{c.name}"][rows]) for c in self.cameras},
            [decode_goal(g).instruction() for g in goals],
            torch.from_numpy(self.arrays["state"][rows]),
            torch.from_numpy(self.arrays["labels"][rows, pick]),
            cells,
            offsets,
        )

    def _things(self, rows: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Indices [B, 2] of the named block and the named plate among the objects, -1 for no plate."""
        colours = self.arrays["colours"][rows]
        blocks = colours[:, :3] == goals[:, 1:2]
        plates = colours[:, 3:] == goals[:, 2:3]
        named = (goals[:, 0] == TASKS.index("put")) & plates.any(1)
        return np.stack([blocks.argmax(1), np.where(named, 3 + plates.argmax(1), -1)], axis=1)


def _standardizer(values: np.ndarray) -> Standardizer:
    std = np.maximum(values.std(axis=0), LEAST_STD)
    return Standardizer(tuple(map(float, values.mean(axis=0))), tuple(map(float, std)))


def cells_and_offsets(
    pixels: np.ndarray, things: np.ndarray, camera: CameraInput, cell_px: int
) -> tuple[Tensor, Tensor]:
    """Cell index [B, things] (-1 out of view) and place inside the cell [B, things, 2] of named objects."""
    at = np.take_along_axis(pixels, np.maximum(things, 0)[..., None], axis=1)
    limit = np.array([camera.width, camera.height])
    with np.errstate(invalid="ignore"):
        seen = (things >= 0) & ((at >= 0) & (at < limit)).all(-1)
    at = np.where(seen[..., None], at, 0.0) / cell_px
    column, row = np.floor(at[..., 0]), np.floor(at[..., 1])
    cells = np.where(seen, row * (camera.width // cell_px) + column, -1)
    offsets = np.stack([at[..., 0] - column, at[..., 1] - row], axis=-1)
    return torch.from_numpy(cells.astype(np.int64)), torch.from_numpy(offsets.astype(np.float32))
