"""Between a robot's units and the model's."""

from __future__ import annotations

import torch
from torch import Tensor

from twinbrain_ros.brain.config import Normalizer


class Units:
    """A `Normalizer` on a device. Values [.., dims]."""

    def __init__(self, normalizer: Normalizer, device: torch.device) -> None:
        self._mean = torch.tensor(normalizer.mean, dtype=torch.float32, device=device)
        self._std = torch.tensor(normalizer.std, dtype=torch.float32, device=device)
        self._constant = self._std == 0
        self._divisor = torch.where(self._constant, 1.0, self._std)
        self._binary = torch.zeros(len(normalizer.mean), dtype=torch.bool, device=device)
        self._binary[list(normalizer.binary)] = True
        self._clip, self._zero_constants = normalizer.clip, normalizer.zero_constants

    def to_model(self, values: Tensor) -> Tensor:
        """Robot units to model units."""
        constant = torch.zeros_like(values) if self._zero_constants else values
        scaled = torch.where(self._constant, constant, (values - self._mean) / self._divisor)
        if self._clip:
            scaled = scaled.clamp(-1.0, 1.0)
        return torch.where(self._binary, (values > 0.5).to(values.dtype), scaled)

    def to_robot(self, values: Tensor) -> Tensor:
        """Model units to robot units."""
        if self._clip:
            values = values.clamp(-1.0, 1.0)
        decided = (values >= 0.5).to(values.dtype)
        return torch.where(self._binary, decided, values * self._std + self._mean)
