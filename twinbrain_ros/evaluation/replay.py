"""A policy run again over a recording: what it says, beside what was commanded and what the arm then did.

Everything is compared for each step of the horizon, in the units of the action space. What was commanded is
the recorded chunk of the same observation. What was done are the actions that lead from the tool's measured
pose at the observation along the measured joints, interpolated between their stamps: step k ends at the
observation's stamp + (k + 1) periods. Later steps were often driven by the chunks that followed.

Distances of poses are those of the displacements since the observation. For the composition `observation`
that is the distance of the poses themselves. With `previous_target` a chunk's deltas are composed on the pose
that was commanded, ahead of the measured one by what the arm lags behind. Displacements do not depend on
where they start: chunks are compared exactly, and what was done is compared without the lag, as far as that
stays the same over the horizon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.brain.sampling import noise_for
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.frames import Observation
from twinbrain_ros.data.messages import NS_PER_S
from twinbrain_ros.data.recorded import Moment, RecordedFrames
from twinbrain_ros.evaluation.replay_errors import Errors, Poses
from twinbrain_ros.evaluation.replay_track import DRIVERS, Done, Track
from twinbrain_ros.robot.actions import compose_ee_deltas
from twinbrain_ros.robot.chunk import Guide
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

Array = NDArray[np.float64]
Entry = TypeVar("Entry")

POINTS_KEPT, PATHS_KEPT = 4096, 32


class ReplayedPolicy(Protocol):
    """What is needed of a policy; `brain.policy.TwinBrainPolicy` is one."""

    name: str

    @property
    def state_names(self) -> tuple[str, ...]:
        """The state that `act` is to be given, in this order; () for none."""

    def take_robot(self, robot: RobotFile) -> None:
        """Acts as this robot from here on. Raises ValueError, naming both values, if it was not made for
        it."""

    def act(
        self,
        images: dict[str, NDArray[np.uint8]],
        instruction: str,
        state: Array | None,
        noise: NDArray[np.float32] | None = None,
        seed: int = 0,
        *,
        stamp_s: float | None = None,
        guide: Guide | None = None,
    ) -> Array:
        """Actions [horizon, names] in robot units; guide: what they have to agree with."""


class Thinned(Generic[Entry]):
    """At most `limit` (even) of what is added, evenly spread: when it is full, every second one goes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._stride, self._count = limit, 1, 0
        self.kept: list[Entry] = []

    def add(self, entry: Entry) -> None:
        if self._count % self._stride == 0:
            if len(self.kept) == self._limit:
                self.kept, self._stride = self.kept[::2], 2 * self._stride
            self.kept.append(entry)
        self._count += 1


@dataclass
class Repeats:
    """Recorded chunks computed again from the same observation, words and noise.

    Attributes:
        compared, same: how many, and how many of them came out bit for bit.
        largest: the largest difference of any action.
        guided: of those, made to agree with an earlier chunk.
        unguided: made to agree with an earlier chunk that is not in the bag: cannot be repeated.
        remembered: made with what the left brain remembered of an older observation: may differ.
    """

    compared: int = 0
    same: int = 0
    largest: float = 0.0
    guided: int = 0
    unguided: int = 0
    remembered: int = 0


@dataclass(frozen=True)
class Point:
    """Disagreement at a moment: when [s], who drove, and mean distances of the tool over the horizon [mm]."""

    at_s: float
    mode: Mode
    instruction: str
    commanded_mm: float | None
    done_mm: float | None


@dataclass(frozen=True)
class Paths:
    """Tool positions from an observation on [T + 1, 3] in m: replayed, commanded if it was, and
    done, NaN where not by one and the same driver."""

    replayed: Array
    commanded: Array | None
    done: Array


@dataclass
class Replay:
    """What came of it.

    Attributes:
        robot: whose horizon, names and units these are.
        policy, recorded_policy: which checkpoints ("": not known).
        every_s: period of the observations; None: those of the recorded chunks.
        commanded: differences to the recorded chunks; done: to what the arm did, by who drove.
        left_out: steps that were not compared with what was done, by reason.
        modes, instructions: changes, in seconds from the first joint state; end_s: where the last one is.
        problems: what could not be used.
    """

    robot: RobotFile
    policy: str
    recorded_policy: str
    every_s: float | None
    commanded: Errors
    done: dict[str, Errors]
    observations: int = 0
    repeats: Repeats = field(default_factory=Repeats)
    left_out: Counter[str] = field(default_factory=Counter)
    points: Thinned[Point] = field(default_factory=lambda: Thinned(POINTS_KEPT))
    paths: Thinned[Paths] = field(default_factory=lambda: Thinned(PATHS_KEPT))
    modes: list[tuple[float, Mode]] = field(default_factory=list)
    instructions: list[tuple[float, str]] = field(default_factory=list)
    end_s: float = 0.0
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The figures; of more than POINTS_KEPT moments evenly spread ones."""
        action = self.robot.action
        return {
            "robot": self.robot.name,
            "policy": self.policy,
            "recorded_policy": self.recorded_policy,
            "action_space": action.space,
            "composition": action.composition,
            "names": list(action.names),
            "period_s": action.period_s,
            "horizon": action.horizon,
            "every_s": self.every_s,
            "observations": self.observations,
            "repeats": asdict(self.repeats),
            "commanded": self.commanded.to_json(),
            "done": {driver: errors.to_json() for driver, errors in self.done.items()},
            "left_out_steps": dict(self.left_out),
            "modes": _changes(self.modes),
            "instructions": _changes(self.instructions),
            "moments": [{**asdict(point), "mode": point.mode.name} for point in self.points.kept],
            "problems": list(self.problems),
        }


def _changes(changes: list[tuple[float, Any]]) -> list[dict[str, Any]]:
    return [
        {"at_s": at_s, "value": value.name if isinstance(value, Mode) else value} for at_s, value in changes
    ]


def expected_observations(frames: RecordedFrames, every_s: float | None) -> int:
    """About how many there will be: recorded chunks, or one every so often."""
    if every_s is None:
        topic = frames.bag.topics.get(frames.topic(frames.robot.topics.action_chunk))
        return topic.count if topic else 0
    return round((frames.bag.end_ns - frames.bag.start_ns) / NS_PER_S / every_s)


def replay(
    frames: RecordedFrames,
    kinematics: Kinematics,
    policy: ReplayedPolicy,
    *,
    every_s: float | None = None,
    instruction: str | None = None,
    seed: int = 0,
    on_observation: Callable[[], None] = lambda: None,
) -> Replay:
    """Runs a policy on the observations of a bag.

    Args:
        frames: of the bag, not yet gone through; kinematics: of the same robot.
        every_s: runs it on an observation every so often [s] instead of on those of the recorded chunks; None
            takes those, or, in a bag without chunks, one for each chunk that would have been asked for.
        instruction: in place of the recorded ones.
        seed: of the noise where none is recorded; counts up from observation to observation.
        on_observation: called after each.
    Raises:
        ValueError: the policy was not made for the bag's robot (`take_robot`).
        BagError: the bag turns out to be damaged.
    """
    robot = frames.robot
    policy.take_robot(robot)
    if every_s is None and not expected_observations(frames, None):
        every_s = robot.action.execution_steps * robot.action.period_s
    return _Replaying(frames, kinematics, policy, every_s, instruction, seed).run(on_observation)


class _Replaying:
    """One run over a bag."""

    def __init__(
        self,
        frames: RecordedFrames,
        kinematics: Kinematics,
        policy: ReplayedPolicy,
        every_s: float | None,
        instruction: str | None,
        seed: int,
    ) -> None:
        self._frames, self._kinematics, self._policy = frames, kinematics, policy
        self._instruction, self._seed = instruction, seed
        self._robot = robot = frames.robot
        self._track = Track(frames, kinematics)
        shape = (robot.action.horizon, len(robot.action.names))
        done = {name: Errors(*shape) for name in DRIVERS.values()}
        self._result = Replay(robot, policy.name, frames.info.policy, every_s, Errors(*shape), done)

    def run(self, on_observation: Callable[[], None]) -> Replay:
        result, frames, track = self._result, self._frames, self._track
        every_s = result.every_s
        moments: Iterator[Moment] = (
            frames.chunk_moments() if every_s is None else frames.timed_moments(every_s)
        )
        for moment in moments:
            self._take(moment)
            on_observation()
        track.read()
        start_ns = max(track.start_ns, 0)
        result.modes = [(max(at - start_ns, 0) / NS_PER_S, mode) for at, mode in track.modes]
        result.instructions = [(max(at - start_ns, 0) / NS_PER_S, text) for at, text in track.instructions]
        result.end_s = max(track.newest_ns - start_ns, 0) / NS_PER_S
        if not track.modes:
            topic = frames.topic(self._robot.topics.control_mode)
            frames.problems.add("modes", f"{topic}: no messages in the bag: not known who drove")
        result.problems = frames.problems.sentences()
        return result

    def _take(self, moment: Moment) -> None:
        """Runs the policy on an observation, and compares."""
        seen, chunk, result = moment.observation, moment.chunk, self._result
        found = self._act(moment)
        if found is None:
            return
        result.observations += 1
        if chunk is not None:
            self._count_repeat(moment, found)
        poses, done = self._poses(seen, found), self._track.done(seen)
        start = self._kinematics.forward(seen.arm_positions)[0][None]
        commanded_mm, commanded = None, None
        if chunk is not None:
            there, every = self._poses(seen, chunk.data), np.ones(len(found), np.bool_)
            apart = poses.apart(there)
            result.commanded.add(found, chunk.data, every, apart, every)
            commanded_mm, commanded = float(apart[0].mean()), np.vstack([start, there.positions])
        done_mm = self._compare_done(found, poses, done)
        driven = np.array([driver is not None for driver in done.steady])[:, None]
        at_s = (seen.stamp_ns - self._track.start_ns) / NS_PER_S
        result.points.add(Point(at_s, moment.mode, self._words(moment), commanded_mm, done_mm))
        walked = np.vstack([start, np.where(driven, done.poses.positions, np.nan)])
        result.paths.add(Paths(np.vstack([start, poses.positions]), commanded, walked))

    def _words(self, moment: Moment) -> str:
        return moment.instruction if self._instruction is None else self._instruction

    def _act(self, moment: Moment) -> Array | None:
        """The policy's actions [T, A]; None, and named, where it cannot act."""
        seen, words, problems = moment.observation, self._words(moment), self._frames.problems
        if not words:
            problems.add("words", "an observation without an instruction: name one with --instruction")
            return None
        number = self._result.observations
        noise_seed = self._seed + number if moment.chunk is None else moment.chunk.noise_seed
        action = self._robot.action
        # Another policy, or another instruction, is not to be drawn to what was commanded then.
        again = moment.guide is not None and self._instruction is None
        guide = moment.guide if again and self._policy.name == self._frames.info.policy else None
        try:
            found = self._policy.act(
                seen.images,
                words,
                seen.named_state(self._policy.state_names),
                noise=noise_for(noise_seed, action.horizon, len(action.names)),
                stamp_s=seen.stamp_ns / NS_PER_S,
                guide=guide,
            )
        except ValueError as error:
            problems.add(f"act/{type(error).__name__}", f"the policy cannot act: {error}")
            return None
        return np.asarray(found, dtype=np.float64)

    def _count_repeat(self, moment: Moment, found: Array) -> None:
        chunk, repeats = moment.chunk, self._result.repeats
        assert chunk is not None
        if chunk.guide_sequence > 0 and moment.guide is None:
            repeats.unguided += 1
        elif chunk.left_age_s > 0:
            repeats.remembered += 1
        elif self._words(moment) == chunk.instruction:
            repeats.compared += 1
            repeats.guided += moment.guide is not None
            repeats.same += np.array_equal(found, chunk.data)
            repeats.largest = max(repeats.largest, float(np.abs(found - chunk.data).max()))

    def _poses(self, seen: Observation, actions: Array) -> Poses:
        """Of the tool after each step of actions [T, A]."""
        if self._robot.action.space == "ee_delta":
            return Poses(*compose_ee_deltas(*self._kinematics.forward(seen.arm_positions), actions))
        return Poses.of(self._kinematics, actions[:, :-1])

    def _compare_done(self, found: Array, poses: Poses, done: Done) -> float | None:
        """Adds to the errors; returns the mean distance [mm] over the steps by one and the same driver."""
        apart = poses.apart(done.poses)
        for mode, name in DRIVERS.items():
            steps = np.array([driver is mode for driver in done.drivers])
            steady = np.array([driver is mode for driver in done.steady])
            self._result.done[name].add(found, done.actions, steps, apart, steady)
        self._result.left_out.update(reason for reason in done.reasons if reason)
        driven = np.array([driver is not None for driver in done.steady])
        return float(apart[0][driven].mean()) if driven.any() else None
