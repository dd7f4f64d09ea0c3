"""The statistics of a mixture of datasets: each robot's actions and states in units of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twinbrain_ros.brain.config import PAD_STATE, Normalizer
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.data.robot_dataset import RobotDataset
from twinbrain_ros.data.statistics import Statistics, combined, normalizer, to_json
from twinbrain_ros.robot.robot_file import RobotFile

MIXTURE = "mixture"  # key of a mixture's own statistics


@dataclass(frozen=True)
class MixtureUnits:
    """Of datasets that are drawn with `weights` [N] and are of `robots`, each with its statistics of actions
    and of all that is known of its states; state_names: of the policy's state."""

    datasets: Sequence[RobotDataset]
    weights: np.ndarray
    robots: Sequence[str]
    statistics: Sequence[tuple[Statistics, Statistics]]
    state_names: tuple[str, ...]

    def of_robot(self, robot: str) -> tuple[Statistics, Statistics]:
        """Of actions and states of a robot's part of the mixture (`data.statistics.combined`)."""
        mine = [i for i, name in enumerate(self.robots) if name == robot]
        weights = [float(self.weights[i]) for i in mine]
        actions = [self.statistics[i][0] for i in mine]
        states = [_of_names(self.statistics[i][1], self.state_names) for i in mine]
        return combined(actions, weights), combined(states, weights)

    def normalizers(self, robot: str, method: str, binary_gripper: bool) -> tuple[Normalizer, Normalizer]:
        """Of a robot's actions and states; see `data.statistics.normalizer`."""
        action, state = self.of_robot(robot)
        found = []
        for one in (action, state):
            grippers = [i for i, name in enumerate(one.names) if "gripper" in name]
            binary = grippers if binary_gripper and method != "mean_std" else []
            found.append(normalizer(one, method, binary))
        return found[0], _rearranged(found[1], state.names, self.state_names)

    def to_json(self) -> dict[str, Any]:
        """The content of a dataset_statistics.json: of the mixture, and each dataset by its file's name. With
        several robots each has a mixture of its own."""
        robots = dict.fromkeys(self.robots)
        found = {MIXTURE if len(robots) == 1 else f"{MIXTURE}_{name}": self.of_robot(name) for name in robots}
        for dataset, (action, state) in zip(self.datasets, self.statistics, strict=True):
            key = dataset.file.name
            own = action, _of_names(state, self.state_names)
            found[key if key not in found else f"{key}_{dataset.name}"] = own
        return to_json(found)


def check_robots(robots: Sequence[RobotFile], horizon: int) -> None:
    """Refuses robots whose chunks one policy cannot make: the same numbers, and so many steps."""
    first = robots[0]
    for robot in robots[1:]:
        for key, found, expected in (
            ("space", robot.action.space, first.action.space),
            ("names", list(robot.action.names), list(first.action.names)),
            ("horizon", robot.action.horizon, horizon),
        ):
            if found != expected:
                raise DatasetError(
                    f"datasets: robot file {robot.name!r}: action.{key} is {found}, expected {expected} as "
                    f"of {first.name!r}: one policy makes both their chunks"
                )


def _of_names(statistics: Statistics, names: Sequence[str]) -> Statistics:
    """Of the named dimensions that were recorded, in their order."""
    kept = tuple(name for name in names if name in statistics.names)
    columns = [statistics.names.index(name) for name in kept]
    arrays = (getattr(statistics, key)[..., columns] for key in ("low", "high", "mean", "std", "quantiles"))
    return Statistics(kept, statistics.count, *arrays)


def _rearranged(own: Normalizer, names: Sequence[str], wanted: Sequence[str]) -> Normalizer:
    """For a state of other dimensions; `PAD_STATE` stays 0."""
    if tuple(names) == tuple(wanted):
        return own
    mean = tuple(0.0 if n == PAD_STATE else own.mean[names.index(n)] for n in wanted)
    std = tuple(1.0 if n == PAD_STATE else own.std[names.index(n)] for n in wanted)
    binary = tuple(i for i, n in enumerate(wanted) if n != PAD_STATE and names.index(n) in own.binary)
    return Normalizer(mean, std, own.clip, binary, own.zero_constants)
