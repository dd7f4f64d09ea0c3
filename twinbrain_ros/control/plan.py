"""A chunk turned into joint space: set-points over time for the arm and the gripper."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1_000_000_000


def to_ns(seconds: float) -> int:
    """Seconds to whole nanoseconds."""
    return round(seconds * NS_PER_S)


@dataclass(frozen=True)
class JointPlan:
    """Arm joints piecewise linear in time, gripper constant over each segment.

    The arm is linear because the policy's waypoints are 0.2 s apart and the joint motion between two of
    them is small; the gripper is a switch and must not be interpolated through half-open values.

    Attributes:
        times_ns: [N+1] strictly increasing; times_ns[0] is the start of the motion.
        arm: [N+1, J] joint positions at those times [rad].
        finger_m: [N] gripper target during each segment [m].
        end_ns: nothing of the plan is executed after this time; at most times_ns[-1].
    """

    times_ns: Sequence[int]
    arm: NDArray[np.float64]
    finger_m: NDArray[np.float64]
    end_ns: int

    def sample(self, now_ns: int) -> tuple[NDArray[np.float64], float]:
        """Arm [J] in rad and gripper in m at `now_ns`, held before the start and after the end."""
        now_ns = min(max(now_ns, self.times_ns[0]), self.end_ns)
        segment = min(bisect.bisect_right(self.times_ns, now_ns), len(self.times_ns) - 1) - 1
        start, stop = self.times_ns[segment], self.times_ns[segment + 1]
        share = (now_ns - start) / (stop - start)
        arm = self.arm[segment] + share * (self.arm[segment + 1] - self.arm[segment])
        return arm, float(self.finger_m[segment])
