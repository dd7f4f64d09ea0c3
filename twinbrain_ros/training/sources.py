"""What a training file's datasets come to: a source of batches, and the units a policy is trained in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.data.views import SIDEWAYS, TrainedView, make_views
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.training.batch import Source
from twinbrain_ros.training.config import TrainConfig
from twinbrain_ros.training.dataset import Demonstrations
from twinbrain_ros.training.mixture import MixtureSource
from twinbrain_ros.training.policy import PolicyLosses

FRAMES_LOOKED_AT = 1000  # for what a checkpoint keeps of its cameras' views
REPORT_FILE = "training.json"  # in a checkpoint: how it was trained


def from_datasets(config: TrainConfig, robot: RobotFile, policy: TwinBrainPolicy) -> MixtureSource:
    """The source of a training file's datasets, for a policy that fits the robot file.

    Raises CheckpointMismatch if it does not, DatasetError for what cannot be trained on.
    """
    policy.check_robot(robot, to_act=False)
    own = policy.config
    source = MixtureSource(
        config.datasets,
        robot,
        own.cameras,
        own.action.horizon,
        config.dataset_options,
        own.state_names,
        policy.model.layout,
        own.pixel_limits,
    )
    weight = config.losses.grounding_weight
    if weight and not source.knows_things:
        raise DatasetError(
            f"grounding_weight: found {weight:g}, expected 0: it takes two `things` in every dataset file, "
            "which only simulators tell, and a view of a fixed size"
        )
    return source


def keeps_units(policy: TwinBrainPolicy, config: TrainConfig) -> bool:
    """Whether the policy goes on in the units it was trained in so far."""
    return config.dataset_options.keep_statistics and policy.config.action_statistics is not None


def losses_of(policy: TwinBrainPolicy, config: TrainConfig, checkpoint: Path) -> PolicyLosses:
    """The losses, with the weights of steps and dimensions that the checkpoint was trained with where the
    file gives none and the units stay: what is noise in these units would else drown the rest."""
    report = checkpoint / REPORT_FILE
    if not keeps_units(policy, config) or not report.is_file():
        return config.losses
    values = json.loads(report.read_text(encoding="utf-8"))
    taught = values.get("losses") or values.get("config", {}).get("losses") or {}
    steps, actions = (tuple(taught.get(name) or ()) for name in ("step_weights", "action_weights"))
    return dataclasses.replace(
        config.losses,
        step_weights=config.losses.step_weights or steps,
        action_weights=config.losses.action_weights or actions,
    )


def with_statistics(policy: TwinBrainPolicy, source: Source, config: TrainConfig) -> TwinBrainPolicy:
    """The policy in the units it is trained in: its own, where it has any that shall stay, or the data's."""
    own = policy.config
    expert = dataclasses.replace(own.expert, prefix_trained=config.losses.prefix_steps > 0)
    changes: dict[str, Any] = {} if expert == own.expert else {"expert": expert}
    if not keeps_units(policy, config):
        actions, states = source.statistics()
        changes |= {"action_statistics": actions, "state_statistics": states}
    if not changes:
        return policy
    model = policy.model
    model.config = dataclasses.replace(own, **changes)
    model.expert.config = model.config.expert
    return TwinBrainPolicy(model, policy.tokenizer)


def views_of(source: Demonstrations | MixtureSource) -> dict[str, TrainedView]:
    """What there is to be seen of each camera in what a policy is trained on (`data/views.py`)."""
    images, states = source.looks(FRAMES_LOOKED_AT)
    return make_views(images, np.asarray(states[:, SIDEWAYS], np.float64))
