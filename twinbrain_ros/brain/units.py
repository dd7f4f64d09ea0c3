"""Between a robot's units and the model's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twinbrain_ros.brain.config import CheckpointError, CheckpointMismatch, Normalizer, TwinBrainConfig


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


class RobotUnits:
    """The units of every robot that a checkpoint knows, on a device."""

    def __init__(self, config: TwinBrainConfig, device: torch.device) -> None:
        self._takes_state = config.takes_state
        self._units: dict[str, dict[str, Units | None]] = {}
        for known in config.known_embodiments:
            both = {"action": known.action_statistics, "state": known.state_statistics}
            self._units[known.robot] = {
                kind: None if statistics is None else Units(statistics, device)
                for kind, statistics in both.items()
            }

    def of(self, robot: str, kind: str) -> Units:
        """Of a robot's "action" or "state".

        Raises CheckpointMismatch for a robot that is not known, CheckpointError where there are no units.
        """
        if robot not in self._units:
            raise CheckpointMismatch(f"robot: found {robot!r}, the checkpoint knows {list(self._units)}")
        units = self._units[robot][kind]
        if units is None:
            raise CheckpointError(
                f"config: {kind}_statistics are missing: this checkpoint knows normalised units only, "
                "until it is trained"
            )
        return units

    def standardize(
        self, state: Tensor, actions: Tensor, robots: str | Sequence[str]
    ) -> tuple[Tensor | None, Tensor]:
        """As of `TwinBrainPolicy.standardize`; robots: one for all samples, or each one's."""
        if isinstance(robots, str):
            given = self.of(robots, "state").to_model(state) if self._takes_state else None
            return given, self.of(robots, "action").to_model(actions)
        states, chunks = torch.empty_like(state), torch.empty_like(actions)
        for robot in dict.fromkeys(robots):
            mine = torch.tensor([name == robot for name in robots], device=actions.device)
            chunks[mine] = self.of(robot, "action").to_model(actions[mine])
            if self._takes_state:
                frames = mine[:: len(robots) // len(state)]
                states[frames] = self.of(robot, "state").to_model(state[frames])
        return states if self._takes_state else None, chunks
