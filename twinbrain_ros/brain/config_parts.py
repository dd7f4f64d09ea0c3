"""The parts of a `TwinBrainConfig`: cameras, expert, actions and units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinbrain_ros.text import NAME_EXPECTED, is_name, shown

if TYPE_CHECKING:
    from twinbrain_ros.robot.robot_file import ActionSpec


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: what is wrong with it, what was found and what was expected."""


class CheckpointMismatch(CheckpointError):
    """A sound checkpoint that does not fit this robot; the message names both values."""


def one_of(key: str, found: str, allowed: tuple[str, ...]) -> None:
    """Raises CheckpointError unless `found` is one of those."""
    if found not in allowed:
        raise CheckpointError(f"{key}: found {found!r}, expected one of {list(allowed)}")


def at_least(least: int, **numbers: int) -> None:
    """Raises CheckpointError for a number, given by its key, that is less."""
    for key, found in numbers.items():
        if not found >= least:
            raise CheckpointError(f"{key}: found {found}, expected at least {least}")


def different(key: str, found: Sequence[str]) -> None:
    """Raises CheckpointError unless these are names, each once."""
    if not all(found) or len(set(found)) < len(found):
        raise CheckpointError(f"{key}: found {list(found)}, expected different names")


def robot_name(key: str, found: str) -> None:
    """Raises CheckpointError for what cannot be a robot's name: it is put into prompts."""
    if not is_name(found):
        raise CheckpointError(f"{key}: found {shown(found)}, expected {NAME_EXPECTED}")


@dataclass(frozen=True)
class CameraInput:
    """One camera view as the brains see it: its size in pixels; 0 takes the image as it comes.

    crop: the part of the image that they see, left, top, right, bottom as shares of its sides; None: all.
    With `TwinBrainConfig.pixel_limits`, this size is then brought to multiples of patch * merge within these
    limits, as the Qwen processors do; without, both sides must be multiples already.
    """

    name: str
    width: int
    height: int
    crop: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.width < 0 or self.height < 0:
            raise CheckpointError(
                f"camera {self.name}: found {self.width}x{self.height} pixels, expected 0 or more"
            )
        if self.crop is None:
            return
        starts, ends = self.crop[:2], self.crop[2:]
        if len(self.crop) != 4 or not all(0 <= a < b <= 1 for a, b in zip(starts, ends, strict=True)):
            raise CheckpointError(
                f"camera {self.name}: crop is {list(self.crop)}, expected left, top, right, bottom with "
                "0 <= left < right <= 1 and 0 <= top < bottom <= 1"
            )


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
    # The published head projects to output_width before a decoder of its own width; None: one width for all.
    output_width: int | None = None
    decoder_width: int | None = None
    # Frequencies of the time embedding are exp(-i ln(1e4) / (half - shift)); the published head has shift 1.
    time_frequency_shift: int = 0
    # Whether it was trained with steps of the chunk given, at flow time 1 (arXiv 2512.05964): then real-time
    # chunking needs no guidance.
    prefix_trained: bool = False
    # What cross-attention reads of the right brain: "last_layer", its final states in every cross block, or
    # "layer_wise": cross block j of C reads the states after layer ceil((j + 1) N / C) - 1 of the N that are
    # run, counted from 0, so the last one the last layer's. Whichever they are, they pass the final norm.
    reads: str = "last_layer"

    def __post_init__(self) -> None:
        one_of("expert.prediction", self.prediction, ("velocity", "clean"))
        one_of("expert.reads", self.reads, ("last_layer", "layer_wise"))
        least = {key: getattr(self, key) for key in ("width", "heads", "layers", "ff_mult", "denoise_steps")}
        at_least(1, **{f"expert.{key}": found for key, found in least.items()})
        if self.width % self.heads:
            raise CheckpointError(f"expert.width {self.width} is not a multiple of expert.heads {self.heads}")

    @property
    def cross_blocks(self) -> int:
        """How many blocks attend to the right brain: every other one, from the first on."""
        return (self.layers + 1) // 2

    def layers_read(self, layers: int) -> tuple[int, ...]:
        """Which of the right brain's `layers` each cross block reads the states of, counted from 0."""
        if self.reads == "last_layer":
            return (layers - 1,) * self.cross_blocks
        return tuple(-(-(j + 1) * layers // self.cross_blocks) - 1 for j in range(self.cross_blocks))


@dataclass(frozen=True)
class ActionConfig:
    """The action chunk this policy emits; it must equal the robot file's contract."""

    space: str
    composition: str
    names: tuple[str, ...]
    horizon: int
    period_s: float

    def __post_init__(self) -> None:
        different("action.names", self.names)
        at_least(1, **{"action.horizon": self.horizon})
        if not 0 < self.period_s < math.inf:
            raise CheckpointError(f"action.period_s: found {self.period_s}, expected seconds above 0")

    @classmethod
    def of(cls, spec: ActionSpec) -> ActionConfig:
        """The part of a robot file's contract that a policy keeps: how a chunk is executed is the robot's."""
        return cls(spec.space, spec.composition, spec.names, spec.horizon, spec.period_s)


@dataclass(frozen=True)
class Normalizer:
    """Per-dimension map between robot units and the model's: x_model = (x - mean) / std.

    std 0 marks a constant: on the way in the value stays as it is (or becomes 0, with zero_constants), on the
    way out it is the constant. clip: the model side is clamped to [-1, 1], both ways. binary: dimensions that
    are 0 or 1, decided at 0.5, both ways.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: bool = False
    binary: tuple[int, ...] = ()
    zero_constants: bool = False

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if len(self.mean) != len(self.std) or not finite or any(s < 0 for s in self.std):
            raise CheckpointError(
                f"statistics: found mean {list(self.mean)} and std {list(self.std)}, expected a finite "
                "number of each per dimension, and no std below 0"
            )
        if any(not 0 <= i < len(self.mean) for i in self.binary):
            raise CheckpointError(f"statistics: binary {self.binary} of {len(self.mean)} dimensions")


@dataclass(frozen=True)
class Embodiment:
    """One of several robots that a twin was trained on: its name, its chunks and its units."""

    robot: str
    action: ActionConfig
    action_statistics: Normalizer | None = None
    state_statistics: Normalizer | None = None
