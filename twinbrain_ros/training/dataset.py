"""Shards of demonstrations in memory, and batches drawn from them as pure functions of (seed, step)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from twinbrain_ros.brain.config import CameraInput, Normalizer
from twinbrain_ros.data.statistics import LEAST_STD
from twinbrain_ros.sim.tasks import TASKS
from twinbrain_ros.training.batch import WHOLE, Grounding, PolicyBatch, Share
from twinbrain_ros.training.demonstrations import decode_goal

# Each frame of a batch is trained with two goals, so that its images are looked at once for both: the one
# that was pursued, whose states the policy will meet, and another pick or put, so that the words matter.
GOALS_PER_FRAME = 2
AIM_VALUES = 5  # what `aims` tells of where a thing is from the tool
_AIM_UNIT_M = 0.1


class Demonstrations:
    """All frames of a data set, held in memory (about 56 kB a frame for two 96x96 views).

    cell_px: edge of an image token's cell, for grounding [pixels].
    """

    def __init__(self, paths: list[Path], cameras: tuple[CameraInput, ...], cell_px: int) -> None:
        parts: dict[str, list[np.ndarray]] = {}
        for path in tqdm(paths, desc="loading", unit="shard"):
            with np.load(path) as shard:
                for key in shard.files:
                    parts.setdefault(key, []).append(shard[key])
        self.arrays = {key: np.concatenate(parts.pop(key)) for key in list(parts)}
        self.cameras, self.cell_px = cameras, cell_px
        self.size = len(self.arrays["state"])

    def statistics(self, robot: str | None = None) -> tuple[Normalizer, Normalizer]:
        """Per-dimension mean and deviation of actions (all labels) and of states."""
        labels = self.arrays["labels"].reshape(-1, self.arrays["labels"].shape[-1])
        return _normalizer(labels), _normalizer(self.arrays["state"])

    def looks(self, count: int) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
        """About so many frames, evenly spread: their images [H, W, 3] by camera, and their states [N, S]."""
        rows = range(0, self.size, max(1, self.size // count))
        images = {c.name: [self.arrays[f"image_{c.name}"][row] for row in rows] for c in self.cameras}
        return images, self.arrays["state"][list(rows)]

    def batch(self, seed: int, step: int, size: int, share: Share = WHOLE) -> PolicyBatch:
        """The `size` samples, a multiple of GOALS_PER_FRAME, of a share of a step's global batch."""
        rng = np.random.default_rng([seed, step])
        count = size // GOALS_PER_FRAME
        mine = share.of(count)
        frames = np.sort(rng.integers(0, self.size, count * share.count))[mine]
        others = rng.integers(1, 3, count * share.count)[mine]
        pick = np.stack([np.zeros(count, int), others], axis=1).ravel()
        rows = frames.repeat(GOALS_PER_FRAME)
        goals = self.arrays["goals"][rows, pick]
        cells, offsets = {}, {}
        things = self._things(rows, goals)
        for camera in self.cameras:
            pixels = self.arrays[f"pixels_{camera.name}"][rows]
            cells[camera.name], offsets[camera.name] = cells_and_offsets(pixels, things, camera, self.cell_px)
        return PolicyBatch(
            {c.name: torch.from_numpy(self.arrays[f"image_{c.name}"][frames]) for c in self.cameras},
            [decode_goal(g).instruction() for g in goals],
            torch.from_numpy(self.arrays["state"][frames]),
            torch.from_numpy(self.arrays["labels"][rows, pick]),
            torch.ones(len(rows), self.arrays["labels"].shape[2], dtype=torch.bool),
            torch.ones(len(rows)),
            rows * self.arrays["goals"].shape[1] + pick,
            Grounding(cells, offsets, self._aims(rows, things)),
        )

    def _aims(self, rows: np.ndarray, things: np.ndarray) -> Tensor:
        """Where named things are from the tool, [B, things, 5], whether in view or not; 0 for no plate.

        A block looks the same after every quarter turn.
        """
        index = np.maximum(things, 0)
        positions = np.take_along_axis(self.arrays["positions"][rows], index[..., None], axis=1)
        yaws = np.take_along_axis(self.arrays["yaws"][rows], index, axis=1)
        found = aims(positions, yaws, self.arrays["state"][rows], 4)
        return torch.from_numpy(np.where((things >= 0)[..., None], found, np.float32(0)))

    def _things(self, rows: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Indices [B, 2] of the named block and the named plate among the objects, -1 for no plate."""
        colours = self.arrays["colours"][rows]
        blocks = colours[:, :3] == goals[:, 1:2]
        plates = colours[:, 3:] == goals[:, 2:3]
        named = (goals[:, 0] == TASKS.index("put")) & plates.any(1)
        return np.stack([blocks.argmax(1), np.where(named, 3 + plates.argmax(1), -1)], axis=1)


def _normalizer(values: np.ndarray) -> Normalizer:
    std = np.maximum(values.std(axis=0), LEAST_STD)
    return Normalizer(tuple(map(float, values.mean(axis=0))), tuple(map(float, std)))


def aims(positions: np.ndarray, yaws: np.ndarray, states: np.ndarray, alike: int) -> np.ndarray:
    """Where things are from the tool, float32 [B, things, 5]: x, y, z in the base frame [0.1 m], then cosine
    and sine of `alike` times the angle by which a thing is turned against the tool: it looks the same that
    often in a turn.

    positions [B, things, 3] in the base frame [m], yaws [B, things] [rad], states [B, 7] of the tool.
    """
    away = (positions - states[:, None, :3]) / _AIM_UNIT_M
    turned = alike * (yaws - states[:, None, 5])
    return np.concatenate(
        [away, np.cos(turned)[..., None], np.sin(turned)[..., None]], axis=-1, dtype=np.float32
    )


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
