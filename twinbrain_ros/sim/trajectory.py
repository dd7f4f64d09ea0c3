"""Follows joint trajectories as a ros2_control JointTrajectoryController does; reads no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NS = 1_000_000_000


class TrajectoryError(ValueError):
    """A refused trajectory; the message names what is wrong, what was found and what was expected."""


@dataclass(frozen=True, eq=False)
class _Path:
    """Knots: times [K] in ns, positions [K, J], velocities [K, J] per second or None for linear."""

    times_ns: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None


class JointTrajectoryFollower:
    """Set-points of some joints, from the newest trajectory.

    A new trajectory replaces the running one at once and goes on from the current set-point. Between points
    it is linear, or cubic where the trajectory gives velocities. After the last point that is held.

    Args:
        joints: names, in the order of the arrays `sample` returns.
        positions: [J], what to hold until a trajectory comes; rad or m.
    """

    def __init__(self, joints: Sequence[str], positions: np.ndarray) -> None:
        self.joints = tuple(joints)
        self.hold(positions)

    def hold(self, positions: np.ndarray) -> None:
        """Drop the running trajectory and hold ``positions`` [J]."""
        held = np.array(positions, dtype=np.float64).reshape(1, len(self.joints))
        self._path = _Path(np.zeros(1, dtype=np.int64), held, None)

    def set(
        self,
        names: Sequence[str],
        points: Sequence[Sequence[float]] | np.ndarray,
        times_s: Sequence[float],
        now_ns: int,
        *,
        velocities: Sequence[Sequence[float]] | np.ndarray | None = None,
        start_ns: int = 0,
    ) -> None:
        """Take over a trajectory.

        Args:
            names: all joints of this follower, in any order; the order of the columns below.
            points: [K, J] positions, rad or m.
            times_s: [K] seconds from the start, not negative, strictly increasing.
            now_ns: the time now.
            velocities: [K, J] per second, or None.
            start_ns: when the trajectory starts; 0 (a header without stamp) means now.

        Raises:
            TrajectoryError: it is refused; what ran before goes on.
        """
        columns = self._columns(names)
        times = _check_times(times_s)
        positions = _check_points("positions", points, len(times), len(columns))[:, columns]
        speeds = None
        if velocities is not None:
            speeds = _check_points("velocities", velocities, len(times), len(columns))[:, columns]
        start = start_ns if start_ns != 0 else now_ns
        times_ns = start + np.round(times * _NS).astype(np.int64)
        if times_ns[-1] < now_ns:
            late = (now_ns - int(times_ns[-1])) / _NS
            raise TrajectoryError(f"the last point was due {late:.3f} s ago, expected one in the future")
        ahead = times_ns > now_ns
        if not ahead.any():  # a single point due now: take its place at once
            self._path = _Path(times_ns[-1:], positions[-1:], None)
            return
        here, here_speed = self._state(now_ns)
        knots = np.concatenate([np.array([now_ns], dtype=np.int64), times_ns[ahead]])
        path_positions = np.concatenate([here[None], positions[ahead]])
        path_speeds = None if speeds is None else np.concatenate([here_speed[None], speeds[ahead]])
        self._path = _Path(knots, path_positions, path_speeds)

    def sample(self, now_ns: int) -> np.ndarray:
        """Return the set-point [J] at ``now_ns``."""
        return self._state(now_ns)[0]

    def done(self, now_ns: int) -> bool:
        """Return whether the last point is reached, or there has been no trajectory."""
        return now_ns >= int(self._path.times_ns[-1])

    def _columns(self, names: Sequence[str]) -> list[int]:
        """Return the column of ``names`` for each joint."""
        given = list(names)
        missing = [joint for joint in self.joints if joint not in given]
        unknown = [name for name in given if name not in self.joints]
        if missing or unknown or len(given) != len(self.joints):
            wanted = list(self.joints)
            raise TrajectoryError(f"joint names are {given}, expected each of {wanted} once, in any order")
        return [given.index(joint) for joint in self.joints]

    def _state(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return position and velocity [J] of the set-point at ``now_ns``."""
        times, positions, speeds = self._path.times_ns, self._path.positions, self._path.velocities
        after = int(np.searchsorted(times, now_ns, side="right"))
        if after == 0 or after == len(times):
            end = positions[0 if after == 0 else -1]
            return end.copy(), np.zeros_like(end)
        span = (int(times[after]) - int(times[after - 1])) / _NS
        u = (now_ns - int(times[after - 1])) / _NS / span
        p0, p1 = positions[after - 1], positions[after]
        if speeds is None:
            return p0 + u * (p1 - p0), (p1 - p0) / span
        m0, m1 = span * speeds[after - 1], span * speeds[after]
        rise = 3 * u**2 - 2 * u**3
        position = (1 - rise) * p0 + (u**3 - 2 * u**2 + u) * m0 + rise * p1 + (u**3 - u**2) * m1
        slope = 6 * (u**2 - u) * (p0 - p1) + (3 * u**2 - 4 * u + 1) * m0 + (3 * u**2 - 2 * u) * m1
        return position, slope / span


def _check_times(times_s: Sequence[float]) -> np.ndarray:
    times = np.array(times_s, dtype=np.float64).reshape(-1)
    if len(times) == 0:
        raise TrajectoryError("the trajectory has 0 points, expected at least 1")
    previous = -math.inf
    for index, time in enumerate(times.tolist()):
        if not math.isfinite(time) or time < 0.0:
            raise TrajectoryError(f"time_from_start of point {index} is {time} s, expected 0 or more")
        if time <= previous:
            raise TrajectoryError(
                f"time_from_start of point {index} is {time} s, expected more than the {previous} s before it"
            )
        previous = time
    return times


def _check_points(
    field: str, values: Sequence[Sequence[float]] | np.ndarray, count: int, joints: int
) -> np.ndarray:
    if len(values) != count:
        raise TrajectoryError(f"there are {len(values)} rows of {field}, expected {count}, one for each time")
    for index, row in enumerate(values):
        if len(row) != joints:
            raise TrajectoryError(f"point {index} has {len(row)} {field}, expected {joints}, one a joint")
    array = np.array(values, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        point, joint = (int(i) for i in bad[0])
        found = array[point, joint]
        raise TrajectoryError(f"{field}[{joint}] of point {point} is {found}, expected a finite number")
    return array
