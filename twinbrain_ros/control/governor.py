"""The committed path: what the arm has been told, which always ends at rest.

Every command carries the way to rest from the state it leads to, and is only given if that way keeps every
limit. So the way out is checked before it is needed: to stop, nothing has to be sent, and if this process
ends, the arm comes to rest by itself.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from twinbrain_ros.control.motion import Array, MotionLimits, Profile, Profiles, Reference, State
from twinbrain_ros.control.path import CommittedPath
from twinbrain_ros.control.room import Border, Room
from twinbrain_ros.control.timing import NS_PER_S, PAST_S, TRANSPORT_S, lead_s, to_ns
from twinbrain_ros.control.verdict import Motion
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

_MEETINGS, _MET_S = 3, 2e-3
# Waypoints lie inside the workspace box, but between two of them the tool moves on a slight curve. Less than
# this outside is not worth an inverse kinematics per tick.
BOX_TOLERANCE_M = 1e-3
# A joint that is further outside its limits is not there: what was measured is wrong.
FAR_OUTSIDE_RAD = 0.3
LIMIT_TOLERANCE_RAD = 1e-6
_STOP_SAMPLES = (4, 16)  # of a way to rest: where it is far from the border of the box, and where it is not
_FAR_M = 0.03
_MOST_POINTS = 24  # of a way to rest; a stop takes a fraction of a second


class Governor:
    """Turns references into commands that keep every limit.

    Args:
        robot: limits, workspace box and rates.
        kinematics: of the same robot.
        velocity_margin: share of each velocity limit that may be used, 0 to 1. The rest is left to the
            servo, which must be able to catch up.
    """

    def __init__(self, robot: RobotFile, kinematics: Kinematics, velocity_margin: float) -> None:
        self.limits = MotionLimits.of(robot, velocity_margin)
        self.period_ns = to_ns(1.0 / robot.rates.command_hz)
        self.lead_ns = to_ns(lead_s(robot.rates.command_hz))
        self._profiles = Profiles(self.limits)
        self.room = Room(robot.workspace)
        self._border, self._box = Border.SLIDE, robot.workspace
        self._kinematics = kinematics
        self._kept_ns = to_ns(robot.action.max_chunk_age_s + robot.observation.max_age_s) + self.lead_ns
        self._path: CommittedPath | None = None
        self._until_ns = 0  # the last decided state's time; from there on the path leads to rest

    # What has been commanded ------------------------------------------------------------------------

    @property
    def placed(self) -> bool:
        """Whether there is a commanded state at all."""
        return self._path is not None

    def place(self, q: Array, now_ns: int) -> None:
        """Forgets everything: the arm is at rest at `q` [J].

        Raises:
            ValueError: that is no place where this arm can be.
        """
        outside = self.limits.outside(q, q) if np.all(np.isfinite(q)) else np.inf
        if outside > FAR_OUTSIDE_RAD:
            raise ValueError(
                f"the arm's joints are at {np.asarray(q).tolist()} rad, expected finite positions at most "
                f"{FAR_OUTSIDE_RAD} rad outside {self.limits.lower.tolist()} .. {self.limits.upper.tolist()}"
            )
        self.room.hold(self._kinematics.forward(q)[0])
        self._path = CommittedPath(now_ns, State.rest(q))
        self._until_ns = now_ns

    def at(self, time_ns: int) -> State:
        """The commanded state at a time; the oldest one that is known, if it was before that."""
        assert self._path is not None
        return self._path.at(time_ns)

    def moving(self, time_ns: int) -> bool:
        """Whether what has been commanded is not over at a time."""
        return self._path is not None and time_ns < self._path.end_ns

    def rests_ns(self) -> int:
        """When the arm is at rest if nothing more is commanded."""
        assert self._path is not None
        return self._path.end_ns

    def resting_place(self) -> Array:
        """Where the arm comes to rest [J] if nothing more is commanded."""
        assert self._path is not None
        return self._path.at(self._path.end_ns).q

    def forget(self) -> None:
        """Nothing that was commanded is known any more, as after a jump of the clock."""
        self._path = None

    def start(self, now_ns: int) -> tuple[int, State]:
        """From when on a command that is given now can change the motion, and the state at that time."""
        start_ns = max(self._until_ns, now_ns + to_ns(TRANSPORT_S))
        return start_ns, self.at(start_ns)

    # Commands ---------------------------------------------------------------------------------------

    def advance(self, reference: Reference, now_ns: int, border: Border = Border.SLIDE) -> Motion | None:
        """The next command towards a reference; None if the last one already reaches as far or further."""
        assert self._path is not None
        self._take_border(border, now_ns)
        start_ns, start = self.start(now_ns)
        horizon_ns = now_ns + self.lead_ns
        if horizon_ns <= start_ns:
            return None
        way = self._towards(start, reference, start_ns, horizon_ns)
        if way is not None:
            stop = self._profiles.stop(way[-1][1], horizon_ns)
            # Otherwise the way to rest that was checked before stays in force.
            if stop is not None and self._keeps_limits(stop, start):
                rest = stop.sampled(self.period_ns, _MOST_POINTS)
                self._path.replace_from(start_ns, start, [*way, *rest])
        self._until_ns = horizon_ns
        self._path.forget_before(now_ns - self._kept_ns)
        return self.rest_of_path(now_ns)

    def rest_of_path(self, now_ns: int) -> Motion:
        """What is committed from now on, to its end at rest."""
        assert self._path is not None
        times, states, now = self._path.around(now_ns - to_ns(PAST_S), now_ns)
        if times[-1] < now_ns + self.lead_ns:
            # It is at rest by then, and controllers refuse what is over already.
            times, states = [*times, now_ns + self.lead_ns], [*states, states[-1]]
        times_s = (np.array(times) - now_ns) / NS_PER_S
        positions = np.array([state.q for state in states])
        velocities = np.array([state.v for state in states])
        velocities[-1] = 0.0  # exactly: trajectory controllers refuse an end in motion
        leads_to = bisect_left(times, now_ns + self.lead_ns) - now
        past = times_s[:now], positions[:now], velocities[:now]
        return Motion(now_ns, times_s[now:], positions[now:], velocities[now:], leads_to, past)

    def _towards(
        self, start: State, reference: Reference, start_ns: int, horizon_ns: int
    ) -> list[tuple[int, State]] | None:
        """States on the way to meet the reference, up to the horizon; None if no way can be computed."""
        wanted, dt_s = self._inside(reference, horizon_ns), (horizon_ns - start_ns) / NS_PER_S
        if self.limits.joins(start, wanted, dt_s):
            return [(horizon_ns, wanted)]
        # A reference changes its speed on the way: what counts is how it moves where it is met.
        ahead_s, found = dt_s, None
        for _ in range(_MEETINGS):
            meeting = self._profiles.meet(start, wanted, ahead_s)
            if meeting is None:
                break
            found, needed_s = meeting, meeting.duration_s
            if abs(needed_s - ahead_s) < _MET_S or needed_s <= dt_s:
                break
            ahead_s = needed_s
            wanted = self._inside(reference, start_ns + to_ns(ahead_s))
        if found is None:
            return None
        count = -(-(horizon_ns - start_ns) // self.period_ns)
        times = [start_ns + (horizon_ns - start_ns) * (k + 1) // count for k in range(count)]
        return [(time_ns, found.at((time_ns - start_ns) / NS_PER_S)) for time_ns in times]

    def _inside(self, reference: Reference, time_ns: int) -> State:
        """The reference, or, where it slides along the border of the room, its shadow on that."""
        wanted = reference.at(time_ns)
        if self._border is not Border.SLIDE or self._beyond_m(wanted.q) <= BOX_TOLERANCE_M / 4:
            return wanted
        later_ns = time_ns + self.period_ns
        q = self.into_box(wanted.q)
        v = (self.into_box(reference.at(later_ns).q) - q) * (NS_PER_S / self.period_ns)
        return State(q, v, np.zeros_like(q))

    def _keeps_limits(self, stop: Profile, start: State) -> bool:
        """Whether a way to rest stays inside limits and room, or no further outside than the arm is now."""
        allowed = max(LIMIT_TOLERANCE_RAD, self.limits.outside(start.q, start.q))
        if self.limits.outside(*stop.extent()) > allowed:
            return False
        if self._border is Border.CROSS:
            return True
        worst = -np.inf
        for count in _STOP_SAMPLES:
            step_ns = (stop.end_ns - stop.start_ns) / (count - 1)
            samples = [stop.start_ns + int(k * step_ns) for k in range(count)]
            worst = max(self._beyond_m(stop.at(ns).q) for ns in samples)
            if worst < -_FAR_M:
                return True
        # Half of the tolerance is for what lies between two samples.
        return worst <= BOX_TOLERANCE_M / 2 or worst <= self._beyond_m(start.q)

    def _take_border(self, border: Border, now_ns: int) -> None:
        """Another rule at the border; the room becomes smaller as the arm comes in."""
        crossed, self._border = self._border is Border.CROSS, border
        if border is not Border.CROSS and (crossed or self.room.wide):
            here_q = self.start(now_ns)[1].q
            needed = [self._kinematics.forward(q)[0] for q in (here_q, self.resting_place())]
            (self.room.hold if crossed else self.room.shrink)(*needed)

    def _beyond_m(self, q: Array) -> float:
        """How far the tool is outside the room along its worst axis [m]; negative inside."""
        return self.room.outside_m(self._kinematics.forward(q)[0])

    def outside_m(self, q: Array) -> float:
        """How far the tool is outside the workspace box along its worst axis [m]; negative inside."""
        position, _ = self._kinematics.forward(q)
        return float(np.max(np.maximum(self._box.lower - position, position - self._box.upper)))

    def into_box(self, q: Array) -> Array:
        """Joints [J] whose tool pose is the nearest one inside the room, as near as the arm gets to it."""
        position, rotation = self._kinematics.forward(q)
        inside = self.room.clip(position)
        found = self._kinematics.inverse(inside, rotation, q).q
        return np.clip(found, self.limits.lower, self.limits.upper)
