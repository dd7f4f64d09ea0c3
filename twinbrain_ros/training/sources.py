"""What a training file's datasets come to: a source of batches, and the units a policy is trained in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from twinbrain_ros.brain.config import ActionConfig, CheckpointMismatch, Embodiment, TwinBrainConfig
from twinbrain_ros.brain.fitting import check_fits
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.data.views import SIDEWAYS, TrainedView, make_views
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
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
    policy.take_robot(robot, to_act=False)
    own = policy.config
    for other in (load_robot(entry.robot) for entry in config.datasets if entry.robot):
        if other.name in own.robots:
            check_fits(own, other, to_act=False)
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


def check_start(config: TrainConfig, checkpoint: Path) -> None:
    """Refuses a checkpoint whose state goes elsewhere than the training file says, before its weights are
    read. Raises CheckpointMismatch naming both."""
    if not config.state or not checkpoint.is_dir():  # which is refused by whoever reads it
        return
    own = TwinBrainConfig.load(checkpoint)
    found = own.state_goes_to if own.takes_state else "none"
    if found != config.state:
        raise CheckpointMismatch(
            f"{checkpoint}: state: found {found!r}, the training file has {config.state!r}: expected a twin "
            f"of `twinbrain init --state {config.state}`"
        )


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
    """The policy in the units it is trained in, and knowing the robots it is trained on: its own units, where
    it has any that shall stay, or the data's."""
    own = policy.config
    expert = dataclasses.replace(own.expert, prefix_trained=config.losses.prefix_steps > 0)
    changes: dict[str, Any] = {} if expert == own.expert else {"expert": expert}
    keeps = keeps_units(policy, config)
    robots = list(source.actions) if isinstance(source, MixtureSource) else [own.robot]
    old = {embodiment.robot: embodiment for embodiment in own.known_embodiments}
    known = dict(old) if keeps else {}
    for robot in robots:
        if robot not in known:
            known[robot] = _embodiment(policy, source, robot)
    if known != old:
        changes |= vars(known[own.robot]) | {"embodiments": tuple(known.values()) if len(known) > 1 else ()}
    if not changes:
        return policy
    model = policy.model
    model.config = dataclasses.replace(own, **changes)
    model.expert.config = model.config.expert
    return TwinBrainPolicy(model, policy.tokenizer)


def _embodiment(policy: TwinBrainPolicy, source: Source, robot: str) -> Embodiment:
    """A robot of the data, in the data's units."""
    own, action = policy.config, policy.config.action
    if isinstance(source, MixtureSource):
        action = ActionConfig.of(source.actions[robot])
    actions, states = source.statistics(robot)
    return Embodiment(robot, action, actions, states if own.state_names else None)


def views_of(source: Demonstrations | MixtureSource) -> dict[str, TrainedView]:
    """What there is to be seen of each camera in what a policy is trained on (`data/views.py`)."""
    images, states = source.looks(FRAMES_LOOKED_AT)
    return make_views(images, np.asarray(states[:, SIDEWAYS], np.float64))
