"""What a trajectory controller makes of messages that were recorded, or made by hand, with a simple servo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.timing import NS_PER_S
from twinbrain_ros.control.verdict import Motion
from twinbrain_ros.sim.follower_kinds import DEFAULT, KINDS, FollowerKind
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower, TrajectoryError

Array = NDArray[np.float64]

SERVO_LAG_S = 0.05


@dataclass(frozen=True, eq=False)
class Arrival:
    """A trajectory and when it reached the driver.

    Attributes:
        time_ns: of its arrival [ns], on the driver's clock.
        stamp_ns: of its header [ns]; 0: none.
        times_s: [K] of its points, from the stamp on.
        positions: [K, J], rad or m, in the order of the follower's joints.
        velocities: [K, J] per second, or None.
    """

    time_ns: int
    stamp_ns: int
    times_s: Array
    positions: Array
    velocities: Array | None = None

    @staticmethod
    def of(motion: Motion, time_ns: int) -> Arrival:
        """A command as it is sent, with its past, which reaches the driver at a time."""
        return Arrival(time_ns, *motion.as_sent())

    def hand_to(self, follower: JointTrajectoryFollower) -> None:
        """Lets a follower receive it.

        Raises:
            TrajectoryError: it is refused.
        """
        follower.receive(
            follower.joints,
            self.positions,
            self.times_s,
            self.time_ns,
            velocities=self.velocities,
            start_ns=self.stamp_ns,
        )


@dataclass(frozen=True, eq=False)
class Followed:
    """What became of them.

    Attributes:
        times_ns: [K] of the updates.
        set_points: [K, J] that they commanded, rad or m.
        measured: [K, J], where the joints were.
        refused: why trajectories were not taken.
    """

    times_ns: NDArray[np.int64]
    set_points: Array
    measured: Array
    refused: tuple[str, ...]

    def speeds(self) -> Array:
        """Of the set-points from update to update [K - 1, J], per second."""
        return np.diff(self.set_points, axis=0) / (np.diff(self.times_ns)[:, None] / NS_PER_S)

    def accelerations(self) -> Array:
        """Least ones of the set-points over three updates [K - 2, J], per second squared."""
        return np.diff(self.speeds(), axis=0) / (np.diff(self.times_ns[1:])[:, None] / NS_PER_S)


def follow(
    messages: Sequence[Arrival],
    start: Array,
    until_ns: int,
    kind: FollowerKind = KINDS[DEFAULT],
    *,
    first_ns: int | None = None,
    servo_lag_s: float = SERVO_LAG_S,
) -> Followed:
    """Runs a controller over trajectories, in the order of their arrival.

    Args:
        messages: the trajectories; at least one.
        start: [J], where the joints are at first, at rest; rad or m.
        until_ns: no update is at or after this time.
        kind: which controller.
        first_ns: time of its first update; None: the first arrival's.
        servo_lag_s: the joints go to the set-point as a low-pass of this time [s] does; 0: at once, by the
            next update.
    """
    joints = [str(index) for index in range(len(start))]
    follower = JointTrajectoryFollower(joints, start, kind)
    refused = []
    for message in sorted(messages, key=lambda entry: entry.time_ns):
        try:
            message.hand_to(follower)
        except TrajectoryError as error:
            refused.append(str(error))
    if first_ns is None:
        first_ns = min(message.time_ns for message in messages)
    times = np.arange(first_ns, until_ns, kind.period_ns, dtype=np.int64)
    share = 1.0 if servo_lag_s <= 0.0 else 1.0 - math.exp(-kind.period_ns / NS_PER_S / servo_lag_s)
    here, measured, set_points = np.array(start, dtype=np.float64), [], []
    for time_ns in times.tolist():
        measured.append(here)
        set_points.append(follower.update(time_ns, here).copy())
        here = here + share * (set_points[-1] - here)
    return Followed(times, np.array(set_points), np.array(measured), tuple(refused))
