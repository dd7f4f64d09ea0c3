"""What is known of one recorded episode, computed from its bag: the rows that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data.episode_info import FAILURE, SUCCESS, Verdict

__all__ = ["FAILURE", "SUCCESS", "EpisodeFigures", "Event", "Film", "Motion", "Verdict"]

Array = NDArray[np.float64]

# Kinds of events on an episode's timeline.
MODE, WATCHDOG, ESTOP, INTERVENTION, INSTRUCTION, LABEL = (
    "mode",
    "watchdog",
    "estop",
    "intervention",
    "instruction",
    "label",
)


@dataclass(frozen=True)
class Event:
    """Something that happened `time_s` after the episode's start; `until_s` if it lasted."""

    time_s: float
    kind: str
    text: str
    until_s: float | None = None


@dataclass(frozen=True, eq=False)
class Film:
    """A few moments of an episode: times_s [M], and of each camera M images as JPEG bytes, or None each."""

    times_s: tuple[float, ...]
    images: Mapping[str, tuple[bytes | None, ...]]


@dataclass(frozen=True, eq=False)
class Motion:
    """The executed trajectory: times_s [N], joints [N, J] rad, tool [N, 3] m in the base frame, opening [N].

    `driver` [N] is who drove: the numbers of ControlMode (0 hold, 1 teleop, 2 autonomy, 3 estop).
    """

    joints_names: tuple[str, ...]
    times_s: Array
    joints: Array
    tool: Array
    opening: Array
    driver: NDArray[np.int64]


@dataclass(frozen=True)
class EpisodeFigures:
    """One episode. Times in seconds from the bag's first message; what is not known is None or empty.

    Attributes:
        bag: its path, as given.
        robot: name of the robot file.
        policy: short name of the checkpoint, such as `demo@1a2b3c4d` (name and first digits of its hash).
        task, seed: what two policies are matched by; task "" and seed None if not recorded.
        instruction: the last one given.
        started_ns: stamp of the first message [ns].
        label: what the person (or the simulator's truth) says, None without one.
        judged: what a machine says, None if none was asked.
        autonomy_s, teleop_s: how long each drove.
        time_to_success_s: from the beginning of autonomy to success.
        interventions: how often a person took over from the policy.
        observation_to_command_ms, inference_ms: of each executed and of each published chunk.
        tick_jitter_ms: of each command, how far the time since the one before is from the period.
        seam_steps: at each chunk's first command, the largest change of a joint's commanded velocity [rad/s].
        seam_limit: acceleration limit times period, the most that the controller allows [rad/s].
        jerk_rms: root mean square over commands and joints, of the commanded jerk [rad/s3].
        tracking_error: at each command, the joint that is farthest from where it was commanded [rad].
        chunks: how many were published, executed, stale, refused, discarded.
        lost: messages known to be lost, by topic; only topics that lost some.
        events: for the timeline, in order of time.
        film, motion: for the page; None where the bag has no pictures or joint states, or none are wanted.
        left_out: what could not be used, and why: one sentence each.
        truncated: whether the recording was cut off.
    """

    bag: str
    robot: str = ""
    policy: str = ""
    task: str = ""
    seed: int | None = None
    instruction: str = ""
    started_ns: int = 0
    duration_s: float = 0.0
    label: Verdict | None = None
    judged: Verdict | None = None
    autonomy_s: float = 0.0
    teleop_s: float = 0.0
    time_to_success_s: float | None = None
    interventions: int = 0
    observation_to_command_ms: tuple[float, ...] = ()
    inference_ms: tuple[float, ...] = ()
    tick_jitter_ms: tuple[float, ...] = ()
    seam_steps: tuple[float, ...] = ()
    seam_limit: float | None = None
    jerk_rms: float | None = None
    tracking_error: tuple[float, ...] = ()
    chunks: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    film: Film | None = None
    motion: Motion | None = None
    left_out: tuple[str, ...] = ()
    truncated: bool = False

    @property
    def success(self) -> bool | None:
        """What the label says; None without one, or where it gives a score only."""
        return None if self.label is None or not self.label.outcome else self.label.outcome == SUCCESS
