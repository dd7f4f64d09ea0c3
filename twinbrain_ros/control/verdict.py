"""What the executor says about a chunk, and what it asks the arm to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class Outcome(enum.Enum):
    """What became of a chunk on arrival."""

    ACCEPTED = "accepted"  # it replaced the running chunk
    STALE = "stale"  # too old to be executed at all
    REFUSED = "refused"  # its content is wrong or cannot be executed on this arm
    DISCARDED = "discarded"  # a newer one, or another driver, has overtaken it


@dataclass(frozen=True)
class Verdict:
    """An outcome with the reason in words.

    When accepted, the reason says why later steps are left out, and is empty if none are.
    """

    outcome: Outcome
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """True when the chunk is now the running one."""
        return self.outcome is Outcome.ACCEPTED


@dataclass(frozen=True)
class Command:
    """One set-point for the arm and the gripper.

    Attributes:
        stamp_ns: the time the set-point is meant for [ns].
        arm_positions: [J] joint positions in robot-file order [rad].
        finger_m: position of the robot file's gripper joint [m].
        sequence: the chunk it comes from.
        first: True on the first command of that chunk.
    """

    stamp_ns: int
    arm_positions: NDArray[np.float64]
    finger_m: float
    sequence: int
    first: bool = False
