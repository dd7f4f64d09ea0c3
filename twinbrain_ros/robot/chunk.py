"""The action chunk as the core sees it: what a policy wants done, when, and from which observation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from twinbrain_ros.robot.robot_file import RobotFile


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """A chunk of actions.

    Attributes:
        sequence: counts the chunks of one policy.
        observation_ns: stamp of the observation it answers [ns].
        due_ns: when its first step starts [ns]; step k is to be reached at ``due_ns`` + (k + 1) periods.
        period_s: between steps [s].
        instruction: the words it follows.
        robot: name of the robot file it is meant for.
        action_space: ``ee_delta`` or ``joint_position``.
        composition: ``observation`` or ``previous_target``.
        names: of the columns of ``data``.
        data: [T, len(names)], units of the robot file.
        observation_positions: [joints], arm joints at the observation [rad]; relative actions are composed on
            their tool pose.
        noise_seed: seed of the noise the policy integrated, for replay.
        inference_time_s: how long the policy took [s].
        left_age_s: how much older than the observation was what the left brain remembers [s].
        guide_sequence, guide_frozen: the chunk that this one was made to agree with, 0: none; and how many
            steps were frozen (`Guide`).
        image_stamps_ns, joint_stamp_ns: of what the observation was built from, cameras in robot-file order.
        joint_stamps_ns: of every joint, the gripper's last, where they came in parts, else empty.
        image_digests: of images that have no stamp, 0 for the others; empty: all have one.
    """

    sequence: int
    observation_ns: int
    due_ns: int
    period_s: float
    instruction: str
    robot: str
    action_space: str
    composition: str
    names: tuple[str, ...]
    data: np.ndarray
    observation_positions: np.ndarray
    noise_seed: int = 0
    inference_time_s: float = 0.0
    left_age_s: float = 0.0
    guide_sequence: int = 0
    guide_frozen: int = 0
    image_stamps_ns: tuple[int, ...] = ()
    joint_stamp_ns: int = 0
    joint_stamps_ns: tuple[int, ...] = ()
    image_digests: tuple[int, ...] = ()

    @classmethod
    def for_robot(
        cls,
        robot: RobotFile,
        sequence: int,
        observation_ns: int,
        instruction: str,
        data: np.ndarray,
        observation_positions: np.ndarray,
        **more: Any,
    ) -> ActionChunk:
        """Return a chunk as the robot file wants it, due at its observation; ``more``: its other fields."""
        action = robot.action
        return cls(
            sequence=sequence,
            observation_ns=observation_ns,
            due_ns=observation_ns,
            period_s=action.period_s,
            instruction=instruction,
            robot=robot.name,
            action_space=action.space,
            composition=action.composition,
            names=action.names,
            data=np.asarray(data, dtype=np.float64),
            observation_positions=observation_positions,
            **more,
        )

    def validate(self, robot: RobotFile) -> None:
        """Hold the chunk against the robot file.

        Raises:
            ValueError: names the field, what was found and what was expected.
        """
        action = robot.action
        _expect("robot", self.robot, robot.name)
        _expect("action_space", self.action_space, action.space)
        _expect("composition", self.composition, action.composition)
        _expect("names", tuple(self.names), action.names)
        if not math.isclose(self.period_s, action.period_s, rel_tol=1e-6):
            raise ValueError(f"period_s is {self.period_s!r}, expected {action.period_s!r}")
        _expect("data shape", np.shape(self.data), (action.horizon, len(action.names)))
        _expect("observation_positions shape", np.shape(self.observation_positions), (len(robot.arm_joints),))
        _expect_finite("data", self.data)
        _expect_finite("observation_positions", self.observation_positions)
        if self.observation_ns < 0:
            raise ValueError(f"observation_ns is {self.observation_ns}, expected 0 or later")
        if self.due_ns < self.observation_ns:
            raise ValueError(
                f"due_ns is {self.due_ns}, expected observation_ns, {self.observation_ns}, or later"
            )


@dataclass(frozen=True, eq=False)
class Guide:
    """What a chunk that is still to be predicted has to agree with (real-time chunking, arXiv 2506.07339).

    Attributes:
        actions: [T, names], robot units, in the coordinates of the new chunk's own observation.
        weights: [T], how binding each step is: 1 for the first `frozen` steps, which will have been executed
            when the chunk arrives, then falling to 0.
        frozen: number of steps that are as good as executed.
    """

    actions: np.ndarray
    weights: np.ndarray
    frozen: int

    def validate(self, horizon: int, dims: int) -> None:
        """Raises ValueError, naming the field, what was found and what was expected."""
        _expect("guide.actions shape", np.shape(self.actions), (horizon, dims))
        _expect("guide.weights shape", np.shape(self.weights), (horizon,))
        _expect_finite("guide.actions", self.actions)
        _expect_finite("guide.weights", self.weights)
        if np.any((self.weights < 0) | (self.weights > 1)):
            raise ValueError(f"guide.weights are {self.weights.tolist()}, expected values within [0, 1]")
        if not 0 <= self.frozen <= horizon or np.any(self.weights[: self.frozen] != 1.0):
            raise ValueError(f"guide.frozen is {self.frozen}, expected as many leading weights of 1")


def _expect(field: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"{field} is {found!r}, expected {expected!r}")


def _expect_finite(field: str, values: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise ValueError(f"{field}{list(index)} is {values[index]}, expected a finite number")
