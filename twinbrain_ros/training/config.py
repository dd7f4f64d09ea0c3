"""The training file: one YAML that a checkpoint follows from."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from twinbrain_ros.brain.config import ActionConfig, CameraInput, ExpertConfig, TwinBrainConfig
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.training.demonstrations import DataConfig
from twinbrain_ros.training.loop import LoopConfig
from twinbrain_ros.training.policy import PolicyLosses

T = TypeVar("T")


class TrainConfigError(ValueError):
    """A training file that cannot be used; names the key, what was found and what is expected."""


@dataclass(frozen=True)
class ModelConfig:
    """The parts of a TwinBrainConfig that are chosen; the rest follows from robot and data."""

    vlm: dict[str, Any]
    cameras: tuple[CameraInput, ...]
    left_cameras: tuple[str, ...]
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    state_hidden: int = 128
    interaction_interval: int = 0
    images_first: bool = True


@dataclass(frozen=True)
class EvaluationConfig:
    """Lock-step episodes after training. episodes: per task; max_seconds: simulated, per episode."""

    episodes: int = 200
    first_seed: int = 500_000
    max_seconds: float = 20.0


@dataclass(frozen=True)
class TrainConfig:
    """A training file."""

    robot: str
    model: ModelConfig
    vlm: LoopConfig
    policy: LoopConfig
    checkpoint_seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    losses: PolicyLosses = field(default_factory=PolicyLosses)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def load_train_config(path: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Reads a training file; also returns it as plain data. Raises TrainConfigError naming file and key."""
    if not path.is_file():
        raise TrainConfigError(
            f"{path}: no such file, expected a training file such as config/train/demo.yaml"
        )
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise TrainConfigError(f"{path}: not valid YAML: {error}") from error
    return _build(TrainConfig, values, str(path)), values


def _build(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from a mapping, strictly: unknown, missing and mistyped keys are named."""
    if not isinstance(values, dict):
        raise TrainConfigError(f"{where}: found {values!r}, expected a mapping")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise TrainConfigError(f"{where}: unknown key {key!r}, expected some of {sorted(fields)}")
    out = {}
    for name, spec in fields.items():
        if name in values:
            out[name] = _value(hints[name], values[name], f"{where}: {name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise TrainConfigError(f"{where}: key {name!r} is missing")
    return cls(**out)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise TrainConfigError(f"{where}: found {value!r}, expected a list")
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, v, f"{where}[{i}]") for i, v in enumerate(value))
    if typing.get_origin(hint) is dict:
        return value
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise TrainConfigError(f"{where}: found {value!r}, expected {getattr(hint, '__name__', hint)}")
    return float(value) if hint is float else value


def twin_config(config: TrainConfig, robot: RobotFile, tokenizer: Any) -> TwinBrainConfig:
    """The architecture that a training file asks for, on a robot and with a tokenizer."""
    model = config.model
    vlm = {**model.vlm, "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>")}
    # Whole blocks of 32 rows, as the published vocabularies are padded too.
    rows = -(-len(tokenizer) // 32) * 32
    vlm["text_config"] = {**vlm["text_config"], "vocab_size": rows}
    action = robot.action
    return TwinBrainConfig(
        vlm=vlm,
        robot=robot.name,
        cameras=model.cameras,
        left_cameras=model.left_cameras,
        state_names=robot.observation.state_names,
        action=ActionConfig(action.space, action.composition, action.names, action.horizon, action.period_s),
        expert=model.expert,
        state_hidden=model.state_hidden,
        interaction_interval=model.interaction_interval,
        images_first=model.images_first,
    )
