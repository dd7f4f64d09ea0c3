"""The training file: one YAML that a checkpoint follows from."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from twinbrain_ros.brain.config import STATES, ActionConfig, CameraInput, ExpertConfig, TwinBrainConfig
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.plain_data import PlainDataError, build
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.training.dataset import GOALS_PER_FRAME
from twinbrain_ros.training.demonstrations import DataConfig
from twinbrain_ros.training.loop import PRECISIONS, LoopConfig
from twinbrain_ros.training.lora import LoraConfig
from twinbrain_ros.training.mixture import MixtureEntry, MixtureOptions
from twinbrain_ros.training.policy import PolicyLosses
from twinbrain_ros.training.vlm import QUESTIONS_PER_VIEW

# The least and the most of numbers that would else train nothing, for ever, or away from what is taught.
_ANY = math.inf
LOOP_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, _ANY),
    "batch_size": (1, _ANY),
    "learning_rate": (0, _ANY),
    "warmup_steps": (0, _ANY),
    "final_rate_fraction": (0, 1),
    "weight_decay": (0, _ANY),
    "clip_norm": (1e-12, _ANY),
    "ema_decay": (0, 0.999999),
    "seed": (0, 2**63 - 1),
    "save_every_steps": (1, _ANY),
    "workers": (0, _ANY),
}
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "vlm": LOOP_RANGES,
    "policy": LOOP_RANGES,
    "losses": {"noise_repeats": (1, _ANY), "prefix_steps": (0, _ANY), "grounding_weight": (0, _ANY)},
    "lora": {"rank": (0, _ANY), "dropout": (0, 0.99)},
    "dataset_options": {"held_out_episodes": (0, _ANY)},
    "evaluation": {
        "episodes": (0, _ANY),
        "every_steps": (0, _ANY),
        "trial_episodes": (0, _ANY),
        "held_out_batches": (1, _ANY),
    },
}


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
    """Lock-step episodes in the simulator, of a robot that it has. max_seconds: simulated, per episode.

    episodes: per task, after training. every_steps: also while training, 0: not, with trial_episodes per
    task; the policy with the most successes is kept as `best`. With datasets, the loss on episodes held out
    of each is taken every so many steps too; where there are no trials, the policy with the least is kept.
    """

    episodes: int = 200
    first_seed: int = 500_000
    max_seconds: float = 20.0
    every_steps: int = 0
    trial_episodes: int = 20
    held_out_batches: int = 8


@dataclass(frozen=True)
class DatasetOptions(MixtureOptions):
    """And keep_statistics: units of the checkpoint that training starts from stay, where it has any."""

    keep_statistics: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """A training file.

    Data: either `data`, demonstrations generated in the simulator, or `datasets`. The policy begins as the
    checkpoint `start`, or, without, as a twin of a VLM that is built (`model`) and taught (`vlm`) from
    nothing, which takes demonstrations. state: who has to take the state in `start`, "right" (brain),
    "expert" or "none"; "": whoever does. losses, lora, left_cache_gb, recompute: see
    `training.policy.PolicyOptions`.
    """

    robot: str
    policy: LoopConfig
    start: str = ""
    state: str = ""
    model: ModelConfig | None = None
    vlm: LoopConfig | None = None
    checkpoint_seed: int = 0
    data: DataConfig | None = None
    datasets: tuple[MixtureEntry, ...] = ()
    dataset_options: DatasetOptions = field(default_factory=DatasetOptions)
    losses: PolicyLosses = field(default_factory=PolicyLosses)
    lora: LoraConfig = field(default_factory=LoraConfig)
    left_cache_gb: float = 0.0
    recompute: bool = False
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        self._check_ranges()
        if self.state not in ("", *STATES):
            raise TrainConfigError(f"state: found {self.state!r}, expected one of {list(STATES)}, or nothing")
        if (self.data is None) == (not self.datasets):
            found = "both" if self.datasets else "neither"
            raise TrainConfigError(f"data, datasets: found {found}, expected one of them")
        taught = self.model is not None and self.vlm is not None
        if taught == bool(self.start) or (not taught and (self.model or self.vlm)):
            raise TrainConfigError(
                f"start: found {self.start!r} with model {'given' if self.model else 'missing'} and vlm "
                f"{'given' if self.vlm else 'missing'}, expected a checkpoint to start from, or both model "
                "and vlm to start from nothing"
            )
        if taught and self.data is None:
            raise TrainConfigError("vlm: a VLM is taught on scenes of the simulator: expected `data`")
        shared = QUESTIONS_PER_VIEW, GOALS_PER_FRAME if self.data else 1
        for name, loop, multiple in zip(("vlm", "policy"), (self.vlm, self.policy), shared, strict=True):
            if loop is not None and loop.precision not in PRECISIONS:
                raise TrainConfigError(
                    f"{name}: precision: found {loop.precision!r}, expected one of {sorted(PRECISIONS)}"
                )
            if loop is not None and loop.batch_size % multiple:
                raise TrainConfigError(
                    f"{name}: batch_size: found {loop.batch_size}, expected a multiple of {multiple}: so "
                    "many share an image"
                )

    def _check_ranges(self) -> None:
        for section, ranges in RANGES.items():
            part = getattr(self, section)
            for key, (least, most) in ranges.items() if part is not None else ():
                _check_range(f"{section}: {key}", getattr(part, key), least, most)
        for section in ("vlm", "policy"):
            loop = getattr(self, section)
            for name, rate in loop.learning_rates.items() if loop is not None else ():
                _check_range(f"{section}: learning_rates: {name}", rate, 0, _ANY)
        _check_range("left_cache_gb", self.left_cache_gb, 0, _ANY)


def _check_range(key: str, found: float, least: float, most: float) -> None:
    if not least <= found <= most or not math.isfinite(found):
        upper = "" if most == _ANY else f" and at most {most:g}"
        raise TrainConfigError(f"{key}: found {found:g}, expected a number of at least {least:g}{upper}")


def load_train_config(path: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Reads a training file; also returns it as plain data. Raises TrainConfigError naming file and key."""
    values = read_train_file(path)
    return build_train_config(values, str(path)), values


def read_train_file(path: Path) -> dict[str, Any]:
    """A training file as plain data. Raises TrainConfigError if there is none, or it is no mapping."""
    if not path.is_file():
        raise TrainConfigError(
            f"{path}: no such file, expected a training file such as config/train/demo.yaml"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise TrainConfigError(f"{path}: found {values!r}, expected a mapping")
    return values


def build_train_config(values: Any, where: str) -> TrainConfig:
    """A training file from plain data; errors begin with `where`."""
    try:
        return build(TrainConfig, values, where)
    except (PlainDataError, TrainConfigError, DatasetError) as error:
        text = str(error)
        raise TrainConfigError(text if text.startswith(where) else f"{where}: {text}") from error


def twin_config(config: TrainConfig, robot: RobotFile, tokenizer: Any) -> TwinBrainConfig:
    """The architecture that a training file's `model` asks for, on a robot and with a tokenizer."""
    model = config.model
    assert model is not None
    vlm = {**model.vlm, "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>")}
    # Whole blocks of 32 rows, as the published vocabularies are padded too.
    rows = -(-len(tokenizer) // 32) * 32
    vlm["text_config"] = {**vlm["text_config"], "vocab_size": rows}
    return TwinBrainConfig(
        vlm=vlm,
        robot=robot.name,
        cameras=model.cameras,
        left_cameras=model.left_cameras,
        state_names=robot.observation.state_names,
        action=ActionConfig.of(robot.action),
        expert=dataclasses.replace(model.expert, prefix_trained=config.losses.prefix_steps > 0),
        state_hidden=model.state_hidden,
        interaction_interval=model.interaction_interval,
        images_first=model.images_first,
    )
