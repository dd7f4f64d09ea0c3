"""What the executor says about a chunk, and what it asks the arm to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.timing import PAST_S, to_ns
from twinbrain_ros.robot.chunk import ActionChunk


class Outcome(enum.Enum):
    """What became of a chunk."""

    ACCEPTED = "accepted"  # it drives the arm from the next command on
    WAITING = "waiting"  # it will, when the running one is over
    STALE = "stale"  # too old to be executed at all
    REFUSED = "refused"  # its content is wrong or cannot be executed on this arm
    DISCARDED = "discarded"  # a newer one, or another driver, has overtaken it


@dataclass(frozen=True)
class Verdict:
    """An outcome with the reason in words.

    When accepted, the reason says why later steps are left out, and is empty if none are; due_ns is when its
    first step starts as it is executed, on the clock of its stamps: later than it says itself by how long the
    arm stood still since.
    """

    outcome: Outcome
    reason: str = ""
    due_ns: int = 0

    @property
    def accepted(self) -> bool:
        """True when the chunk is now the running one."""
        return self.outcome is Outcome.ACCEPTED


@dataclass(frozen=True, eq=False)
class Judged:
    """A chunk and what became of it."""

    chunk: ActionChunk
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Motion:
    """The arm's way from a decision on, to its end at rest; cubic between its points.

    Attributes:
        stamp_ns: when it was decided, on the clock of stamps [ns].
        times_s: [K], seconds after that, from 0 on.
        positions: [K, J], robot-file order [rad].
        velocities: [K, J] [rad/s]; the last are 0.
        leads_to: index of the point that the decision leads to; those before it were committed already,
            those after it are the way to rest.
        past: how it came there: times [P] after the decision, all negative; positions, velocities [P, J].
    """

    stamp_ns: int
    times_s: NDArray[np.float64]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    leads_to: int = 0
    past: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None = None

    def as_sent(self) -> tuple[int, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """With its past, as trajectory controllers get it.

        Returns:
            The stamp [ns], PAST_S before the decision; times after that [P + K] s; positions and velocities
            then [P + K, J].
        """
        own = times_s, positions, velocities = self.times_s, self.positions, self.velocities
        if self.past is not None:
            both = zip(self.past, own, strict=True)
            times_s, positions, velocities = (np.concatenate(parts) for parts in both)
        return self.stamp_ns - to_ns(PAST_S), times_s + PAST_S, positions, velocities

    @property
    def lead_s(self) -> float:
        """When the point that it leads to is due, after the decision [s]."""
        return float(self.times_s[self.leads_to])


@dataclass(frozen=True, eq=False)
class Command:
    """What to send.

    Attributes:
        motion: of the arm.
        finger_m: position of the robot file's gripper joint [m]; None: as it is, which is not known.
        first_of: the chunk whose first command this is, if it is one.
    """

    motion: Motion
    finger_m: float | None
    first_of: Judged | None = None
