"""What a training file's datasets come to: a source of batches, and the units a policy is trained in."""

from __future__ import annotations

import dataclasses
from typing import Any

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.training.batch import Source
from twinbrain_ros.training.config import TrainConfig
from twinbrain_ros.training.mixture import MixtureSource


def from_datasets(config: TrainConfig, robot: RobotFile, policy: TwinBrainPolicy) -> MixtureSource:
    """The source of a training file's datasets, for a policy that fits the robot file.

    Raises CheckpointMismatch if it does not, DatasetError for what cannot be trained on.
    """
    policy.check_robot(robot, to_act=False)
    own = policy.config
    return MixtureSource(
        config.datasets,
        robot,
        own.cameras,
        own.action.horizon,
        config.dataset_options,
        own.state_names,
        policy.model.layout,
        own.pixel_limits,
    )


def with_statistics(policy: TwinBrainPolicy, source: Source, config: TrainConfig) -> TwinBrainPolicy:
    """The policy in the units it is trained in: its own, where it has any that shall stay, or the data's."""
    keep = config.dataset_options.keep_statistics and policy.config.action_statistics is not None
    own = policy.config
    expert = dataclasses.replace(own.expert, prefix_trained=config.losses.prefix_steps > 0)
    changes: dict[str, Any] = {} if expert == own.expert else {"expert": expert}
    if not keep:
        actions, states = source.statistics()
        changes |= {"action_statistics": actions, "state_statistics": states}
    if not changes:
        return policy
    model = policy.model
    model.config = dataclasses.replace(own, **changes)
    model.expert.config = model.config.expert
    return TwinBrainPolicy(model, policy.tokenizer)
