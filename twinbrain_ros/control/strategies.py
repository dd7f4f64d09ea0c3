"""How chunks follow one another: the choices, and the weights of those that vote."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twinbrain_ros.control.motion import Array


class Strategy(str, enum.Enum):
    """What happens when a chunk arrives while another one drives."""

    # N steps of each chunk to their end, whatever arrives; then the newest that did.
    OPEN_LOOP = "open_loop"
    # The new one takes over at once; without a new one the arm comes to rest after N steps and a little.
    RECEDING_HORIZON = "receding_horizon"
    # As receding horizon, each waypoint being a weighted mean of what all chunks say that cover its time.
    TEMPORAL_ENSEMBLE = "temporal_ensemble"
    # As receding horizon; the policy makes each chunk so that it agrees with the one it will replace
    # (real-time chunking, arXiv 2506.07339; `control/realtime.py`).
    REAL_TIME = "real_time"


class Weighting(str, enum.Enum):
    """Weights of a temporal ensemble."""

    EXPONENTIAL = "exponential"  # exp(-decay i), i = 0 for the oldest (ACT, arXiv 2304.13705)
    ADAPTIVE_COSINE = "adaptive_cosine"  # exp(decay cos(action, newest action)) (CogACT, arXiv 2411.19650)


@dataclass(frozen=True)
class ChunkSettings:
    """How chunks are executed.

    Attributes:
        execution_steps: of each chunk, 1 to the horizon; None takes the robot file's.
        decay: of the weights of a temporal ensemble; CogACT's 0.1, ACT's 0.01.
    """

    strategy: Strategy = Strategy.RECEDING_HORIZON
    execution_steps: int | None = None
    weighting: Weighting = Weighting.ADAPTIVE_COSINE
    decay: float = 0.1

    def steps(self, default: int, horizon: int) -> int:
        """Steps to execute.

        Raises:
            ValueError: they are not within 1 to the horizon.
        """
        steps = default if self.execution_steps is None else self.execution_steps
        if not 1 <= steps <= horizon:
            raise ValueError(f"execution_steps is {steps}, expected 1 to the horizon {horizon}")
        return steps


def vote_weights(weighting: Weighting, decay: float, actions: Sequence[Array]) -> Array:
    """Weights [N], summing to 1, of chunks that cover the same moment.

    Args:
        actions: [N] rows of chunk data for that moment, oldest chunk first.
    """
    if weighting is Weighting.EXPONENTIAL:
        weights = np.exp(-decay * np.arange(len(actions)))
    else:
        newest = actions[-1]
        lengths = np.array([np.linalg.norm(action) * np.linalg.norm(newest) for action in actions])
        products = np.array([float(action @ newest) for action in actions])
        # No direction to compare: as alike as can be.
        cosines = np.where(lengths > 1e-12, products / np.maximum(lengths, 1e-12), 1.0)
        weights = np.exp(decay * cosines)
    return np.asarray(weights / weights.sum(), dtype=np.float64)
