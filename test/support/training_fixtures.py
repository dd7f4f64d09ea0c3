"""A source of random samples, the same whenever the same are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from twinbrain_ros.brain.config import Normalizer, TwinBrainConfig
from twinbrain_ros.training.batch import WHOLE, PolicyBatch, Share

INSTRUCTIONS = ("pick up the red block", "put the green block on the blue plate", "pick up the yellow block")


@dataclass(frozen=True)
class RandomSource:
    """`frames` frames with `goals` instructions each; all else of a sample follows from which one it is.

    weights: of a share's samples, again and again.
    """

    config: TwinBrainConfig
    frames: int = 6
    goals: int = 2
    weights: tuple[float, ...] = (1.0,)

    def statistics(self, robot: str | None = None) -> tuple[Normalizer, Normalizer]:
        dims = len(self.config.action.names), len(self.config.state_names)
        return tuple(Normalizer((0.0,) * n, (1.0,) * n) for n in dims)  # type: ignore[return-value]

    def batch(self, seed: int, step: int, size: int, share: Share = WHOLE) -> PolicyBatch:
        rng = np.random.default_rng([seed, step])
        count = size // self.goals
        frames = rng.integers(0, self.frames, count * share.count)[share.of(count)]
        samples = (frames[:, None] * self.goals + np.arange(self.goals)).ravel()
        draws = [np.random.default_rng([7, int(f)]) for f in frames]
        action = self.config.action
        known = torch.ones(size, action.horizon, dtype=torch.bool)
        if share.index == 0:
            known[0, -2:] = False
        return PolicyBatch(
            {
                c.name: torch.from_numpy(
                    np.stack([d.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for d in draws])
                )
                for c in self.config.cameras
            },
            [INSTRUCTIONS[s % len(INSTRUCTIONS)] for s in samples],
            torch.from_numpy(np.stack([d.normal(size=len(self.config.state_names)) for d in draws])).float(),
            torch.from_numpy(
                np.stack(
                    [
                        np.random.default_rng([8, int(s)]).normal(size=(action.horizon, len(action.names)))
                        for s in samples
                    ]
                )
            ).float(),
            known,
            torch.tensor(self.weights).repeat(-(-size // len(self.weights)))[:size],
            samples,
        )
