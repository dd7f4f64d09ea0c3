"""Datasets in the layouts of the public conversions of BridgeData V2 and of Fractal, a few frames each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lerobot_fixtures import Episode, Layout, write_dataset

BRIDGE = Layout("v2.0", fps=5, cameras=("observation.images.image_0",), height=48, width=64, twinbrain=None)
FRACTAL = Layout("v2.0", fps=3, cameras=("observation.images.image",), height=64, width=80, twinbrain=None)


def _deltas(rng: np.random.Generator, length: int, metres: float) -> np.ndarray:
    moves = rng.normal(0, metres, (length, 3))
    turns = rng.normal(0, 0.03, (length, 3))
    return np.hstack([moves, turns, rng.integers(0, 2, (length, 1))]).astype(np.float32)


def bridge(root: Path, episodes: int = 2, length: int = 12) -> Path:
    """State x, y, z, roll, pitch, yaw, pad, gripper; actions of about a centimetre."""
    made = []
    for seed in range(episodes):
        rng = np.random.default_rng(seed)
        action = _deltas(rng, length, 0.01)
        pose = np.cumsum(action[:, :6], axis=0) + np.array([0.3, 0.0, 0.15, 0.0, 0.1, 0.0])
        state = np.hstack([pose, np.zeros((length, 1)), action[:, 6:]])
        made.append(Episode(state.astype(np.float32), action, "put carrot on plate", 100 * seed))
    return write_dataset(root, made, BRIDGE)


def fractal(root: Path, episodes: int = 2, length: int = 12) -> Path:
    """State x, y, z, quaternion, gripper closed; actions of about a decimetre."""
    made = []
    for seed in range(episodes):
        rng = np.random.default_rng(100 + seed)
        action = _deltas(rng, length, 0.1)
        position = np.cumsum(action[:, :3] * 0.1, axis=0) + np.array([0.5, 0.0, 0.9])
        turns = np.tile([0.0, 1.0, 0.0, 0.0], (length, 1))
        state = np.hstack([position, turns, 1 - action[:, 6:]])
        made.append(Episode(state.astype(np.float32), action, "pick coke can", 1000 + 100 * seed))
    return write_dataset(root, made, FRACTAL)
