"""Follows joint trajectories as ros2_control's JointTrajectoryController does: position in, position out.

Reads no clock: it is updated at its own rate, with the time and the measured positions of the moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.sim.follower_kinds import DEFAULT, KINDS, FollowerKind
from twinbrain_ros.sim.trajectory_message import TrajectoryError, knots_of
from twinbrain_ros.sim.trajectory_path import Knot, Path, Sample

__all__ = ["JointTrajectoryFollower", "TrajectoryError"]

Array = NDArray[np.float64]


class JointTrajectoryFollower:
    """Set-points of some joints, from the newest trajectory.

    The first update at or after a trajectory's arrival forgets the one before and begins the new one at the
    measured positions, at rest, or where its kind says. Points whose time is over are passed over; until the
    time of the first one it goes there from where it begins. Between points it is linear, cubic where both
    have velocities, quintic where both have accelerations too. After the last point that is held.

    Args:
        joints: names, in the order of all arrays here.
        positions: [J], where they are; held until a trajectory comes; rad or m.
        kind: which controller, and how it is set up.

    Attributes:
        set_point: [J], what was commanded last.
        problem: why it holds instead of following, "" if it does not.
    """

    def __init__(self, joints: Sequence[str], positions: Array, kind: FollowerKind = KINDS[DEFAULT]) -> None:
        self.joints = tuple(joints)
        self.kind = kind
        self.activate(positions)

    def activate(self, positions: Array) -> None:
        """Begins anew: holds ``positions`` [J]."""
        self.set_point: Array = np.array(positions, dtype=np.float64).reshape(len(self.joints))
        self.problem = ""
        self._arrived: deque[tuple[int, Path]] = deque()
        self._path = _held(self.set_point)
        self._holding = True
        self._last = Knot(0, self.set_point)  # what was commanded, with its derivatives where there are any
        self._sent_ns: int | None = None
        self._updated_ns: int | None = None
        self._time_ns = 0  # within the trajectory, as a time of the clock

    def receive(
        self,
        names: Sequence[str],
        points: Sequence[Sequence[float]] | Array,
        times_s: Sequence[float] | Array,
        now_ns: int,
        *,
        velocities: Sequence[Sequence[float]] | Array | None = None,
        accelerations: Sequence[Sequence[float]] | Array | None = None,
        start_ns: int = 0,
    ) -> None:
        """Takes in a trajectory that arrives now, for the next update; the newest one counts.

        Args:
            names: all joints of this follower, in any order; the order of the columns below.
            points: [K, J] positions, rad or m.
            times_s: [K] seconds from the start, strictly increasing.
            now_ns: the time now; not before that of the last call.
            velocities: [K, J] per second, or None; an empty row: this point has none.
            accelerations: likewise, per second squared, where there are velocities.
            start_ns: when the trajectory starts; 0 (a header without stamp): at its first update.

        Raises:
            TrajectoryError: it is refused; what ran before goes on.
        """
        knots = knots_of(self.joints, names, points, times_s, velocities, accelerations)
        last = knots[-1]
        if start_ns != 0 and start_ns + last.time_ns < now_ns:
            late = (now_ns - start_ns - last.time_ns) / NS_PER_S
            raise TrajectoryError(f"the last point was due {late:.3f} s ago, expected one in the future")
        if self.kind.distribution.ends_at_rest and last.v is not None:
            moving = np.flatnonzero(np.abs(last.v) > np.finfo(np.float32).eps)
            if len(moving):
                joint, found = self.joints[moving[0]], last.v[moving[0]]
                raise TrajectoryError(f"velocity of joint {joint!r} at the last point is {found}, expected 0")
        self._arrived.append((now_ns, Path(knots, start_ns)))

    def update(self, now_ns: int, measured: Array, period_ns: int | None = None) -> Array:
        """One update; gives the set-point [J].

        Args:
            now_ns: the time now.
            measured: [J], where the joints are.
            period_ns: since the last update; None: as the times say.
        """
        kind = self.kind
        if period_ns is None:
            period_ns = kind.period_ns if self._updated_ns is None else now_ns - self._updated_ns
        self._updated_ns = now_ns
        self._take_newest(now_ns)
        path = self._path
        first = not path.begun
        if first:
            self._begin(path, now_ns, measured)
        elif kind.distribution.counts_periods:
            self._time_ns += period_ns
        else:
            self._time_ns = now_ns
        if kind.distribution.looks_ahead:
            command = path.sample(self._time_ns + kind.period_ns, ahead=True)
        else:
            command = path.sample(self._time_ns)
        if command is None:  # the clock went back to before its beginning
            return self.set_point
        if self._within_tolerances(command, measured, first):
            # A copy: the end of a path is a point of it, and nobody's to change.
            self.set_point = command.position().copy()
            if kind.from_command:
                self._last = Knot(0, self.set_point, command.velocity(), command.acceleration())
            self._sent_ns = now_ns
        return self.set_point

    def _take_newest(self, now_ns: int) -> None:
        """The newest trajectory that has arrived replaces the running one."""
        newest = None
        while self._arrived and self._arrived[0][0] <= now_ns:
            newest = self._arrived.popleft()[1]
        if newest is None:
            return
        self.problem = ""
        splices = self.kind.distribution.splices and not self._holding and len(self._path.knots) > 1
        self._path = self._spliced(newest, now_ns) if splices else newest
        self._holding = False

    def _begin(self, path: Path, now_ns: int, measured: Array) -> None:
        self._time_ns = now_ns
        if not self.kind.from_command:
            path.begin(now_ns, now_ns, Knot(0, np.array(measured, dtype=np.float64)))
            return
        dated = self.kind.distribution.dates_commands and self._sent_ns is not None
        path.begin(now_ns, self._sent_ns if dated and self._sent_ns is not None else now_ns, self._last)

    def _spliced(self, new: Path, now_ns: int) -> Path:
        """A new trajectory after what is left of the running one, from the time in that on.

        One that is to start later starts so much later, its knots follow those of the running one and a
        bridge between both; one that was to start before now starts now.
        """
        old, cursor_ns = self._path, self._time_ns
        wait_ns = max(new.start_ns - now_ns, 0) if new.start_ns else 0
        knots = [
            Knot(old.start_ns + knot.time_ns - cursor_ns, knot.q, knot.v, knot.a)
            for knot in old.knots
            if cursor_ns < old.start_ns + knot.time_ns < cursor_ns + wait_ns
        ]
        bridge = old.sample(cursor_ns + wait_ns, ahead=True)
        if bridge is not None and new.knots[0].time_ns > 0:
            knots.append(Knot(wait_ns, bridge.position(), bridge.velocity(), bridge.acceleration()))
        knots += [Knot(wait_ns + knot.time_ns, knot.q, knot.v, knot.a) for knot in new.knots]
        return Path(knots, 0)

    def _within_tolerances(self, command: Sample, measured: Array, first: bool) -> bool:
        """Whether to go on; if not, the measured positions are held from the next update on."""
        allowed = self.kind.tolerances
        if self._holding or (allowed.path <= 0.0 and allowed.goal <= 0.0):
            return True
        now = self._path.sample(self._time_ns, ahead=True) or command
        error = np.abs(now.position() - measured)
        if allowed.path > 0.0 and (first or not command.ended) and np.any(error > allowed.path):
            what, most = "its path", allowed.path
        elif (
            allowed.goal > 0.0
            and allowed.goal_time_s > 0.0
            and command.ended
            and self._time_ns - command.since_ns > to_ns(allowed.goal_time_s)
            and np.any(error > allowed.goal)
        ):
            what, most = f"its goal, {allowed.goal_time_s:g} s after it was due", allowed.goal
        else:
            return True
        worst = int(np.argmax(error))
        self.problem = f"{self.joints[worst]!r} is {error[worst]:.3f} from {what}, at most {most:g}: it holds"
        self._path, self._holding = _held(measured), True
        return False


def _held(positions: Array) -> Path:
    return Path([Knot(0, np.array(positions, dtype=np.float64))], 0)
