"""What a TwinBrain policy is made of, as plain data that round-trips through JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

CONFIG_FILE = "config.json"

# Role tokens of the Qwen chat format; a TwinBrain tokenizer must know them all.
IMAGE_TOKEN = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
STATE_TOKEN = "<|propri|>"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: what is wrong with it, what was found and what was expected."""


class CheckpointMismatch(CheckpointError):
    """A sound checkpoint that does not fit this robot; the message names both values."""


@dataclass(frozen=True)
class CameraInput:
    """One camera view as the brains see it: pixels after resizing, both multiples of patch * merge."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class ExpertConfig:
    """The flow-matching action expert (a DiT with alternating cross- and self-attention blocks)."""

    width: int = 128
    heads: int = 4
    layers: int = 6
    ff_mult: int = 2
    future_tokens: int = 4
    denoise_steps: int = 5
    # What the network regresses: "velocity" (x1 - x0) itself, or the "clean" actions x1, from which the
    # velocity follows as (x1 - x_t) / (1 - t). Both are trained by the same flow-matching objective.
    prediction: str = "clean"
    time_buckets: int = 1000

    def __post_init__(self) -> None:
        if self.prediction not in ("velocity", "clean"):
            raise CheckpointError(
                f"expert.prediction: found {self.prediction!r}, expected 'velocity' or 'clean'"
            )
        if self.width % self.heads:
            raise CheckpointError(f"expert.width {self.width} is not a multiple of expert.heads {self.heads}")


@dataclass(frozen=True)
class ActionConfig:
    """The action chunk this policy emits; it must equal the robot file's contract."""

    space: str
    composition: str
    names: tuple[str, ...]
    horizon: int
    period_s: float


@dataclass(frozen=True)
class Standardizer:
    """Per-dimension affine map between robot units and the model's units: (x - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or any(not s > 0 for s in self.std):
            raise CheckpointError(
                f"statistics: mean has {len(self.mean)} and std {len(self.std)} entries; "
                "both need one entry per dimension and every std must be > 0"
            )


@dataclass(frozen=True)
class TwinBrainConfig:
    """Everything needed to build a TwinBrain policy, apart from its weights and its tokenizer.

    `vlm` is the transformers config (as a dict) that both brains are built from; the paper's twins
    start from the same checkpoint. `interaction_interval` k makes every (k+1)-th layer a joint one
    (TwinBrainVLA, section on AsyMoT; k = 0: every layer).
    """

    vlm: dict[str, Any]
    robot: str
    cameras: tuple[CameraInput, ...]
    left_cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    action: ActionConfig
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    state_hidden: int = 128
    interaction_interval: int = 0
    # The reference shows the images first. With the words first, image tokens can look for what is named.
    images_first: bool = True
    left_prompt: str = "{instruction}"
    right_prompt: str = "state " + STATE_TOKEN + " {instruction}"
    action_statistics: Standardizer | None = None
    state_statistics: Standardizer | None = None

    def __post_init__(self) -> None:
        names = [c.name for c in self.cameras]
        unknown = [n for n in self.left_cameras if n not in names]
        if unknown:
            raise CheckpointError(f"left_cameras: found {unknown}, expected some of {names}")
        if self.right_prompt.count(STATE_TOKEN) != 1:
            raise CheckpointError(
                f"right_prompt: found {self.right_prompt!r}, expected {STATE_TOKEN} exactly once"
            )
        for key, stats, dims in (
            ("action_statistics", self.action_statistics, len(self.action.names)),
            ("state_statistics", self.state_statistics, len(self.state_names)),
        ):
            if stats is not None and len(stats.mean) != dims:
                raise CheckpointError(f"{key}: found {len(stats.mean)} entries, expected {dims}")

    def vlm_config(self) -> PretrainedConfig:
        """The transformers configuration object of either brain."""
        values = dict(self.vlm)
        return AutoConfig.for_model(values.pop("model_type"), **values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TwinBrainConfig:
        """Builds a config from JSON data; names missing and unknown keys."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known))
        missing = sorted(
            n
            for n, f in known.items()
            if n not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        )
        if unknown or missing:
            raise CheckpointError(f"config: unknown keys {unknown}, missing keys {missing}")
        data = dict(values)
        try:
            data["cameras"] = tuple(CameraInput(**c) for c in data["cameras"])
            data["left_cameras"] = tuple(data["left_cameras"])
            data["state_names"] = tuple(data["state_names"])
            data["action"] = ActionConfig(**{**data["action"], "names": tuple(data["action"]["names"])})
            if "expert" in data:
                data["expert"] = ExpertConfig(**data["expert"])
            for key in ("action_statistics", "state_statistics"):
                if data.get(key) is not None:
                    data[key] = Standardizer(tuple(data[key]["mean"]), tuple(data[key]["std"]))
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"config: {error}") from error
        return cls(**data)

    def save(self, directory: Path) -> None:
        (directory / CONFIG_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> TwinBrainConfig:
        path = directory / CONFIG_FILE
        if not path.is_file():
            raise CheckpointError(f"{directory}: no {CONFIG_FILE} here, expected a TwinBrain checkpoint")
        try:
            values = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path}: not valid JSON: {error}") from error
        try:
            return cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
