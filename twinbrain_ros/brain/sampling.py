"""Noise for the action expert, as a pure function of a seed, so that every chunk can be computed again."""

from __future__ import annotations

import numpy as np


def noise_for(seed: int, horizon: int, dims: int) -> np.ndarray:
    """Standard normal noise, float32 [horizon, dims], the same on every machine for the same seed."""
    return np.random.Generator(np.random.Philox(seed)).standard_normal((horizon, dims), dtype=np.float32)
