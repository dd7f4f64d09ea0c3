"""The way to a named pose: straight lines in joint space, from rest to rest, each checked for the floor."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from ruckig import InputParameter, Ruckig, Trajectory

from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.motion import Array, MotionLimits, State
from twinbrain_ros.control.timing import NS_PER_S
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.poses import Pose, pose_of, way_between
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.text import shown

# What a way asks for at speed 1, of the limits that are left to commands: the arm must be able to keep up.
_VELOCITY, _ACCELERATION, _JERK = 0.9, 0.8, 0.8
# The arm has arrived when it was commanded there this exactly, and is measured this near.
_COMMANDED_RAD, ARRIVED_RAD = 1e-3, 0.1
_SETTLE_S, _GIVE_UP_S = 1.0, 3.0  # for the arm to come there after its commands, and they after their time
_FLOOR_TOLERANCE_M = 1e-3
_STEP_RAD = 0.05  # between two places of a way where its height is looked at
_SAME_RAD = 1e-4
LEAST_SPEED = 0.01
_ROUNDED = 1e-6  # of a speed that came as a float of 32 bits


class WayError(ValueError):
    """There is no way to a pose; says why and what would help."""


@dataclass(frozen=True)
class WayEnd:
    """What became of a way to a pose: `message` says where the arm is, or why it is not there.

    problem: whether the arm could not get there; not so if it was stopped, or led elsewhere.
    """

    number: int
    goal: str
    success: bool
    message: str
    problem: bool = False


@dataclass(frozen=True, eq=False)
class _Leg:
    """A straight line in joint space, from rest to rest: where it leads by name, and when it begins."""

    towards: str
    start: Array
    end: Array
    trajectory: Trajectory
    start_ns: int

    @property
    def end_ns(self) -> int:
        return self.start_ns + int(np.ceil(self.trajectory.duration * NS_PER_S))

    def at(self, time_ns: int) -> State:
        after_s = min(max(time_ns - self.start_ns, 0) / NS_PER_S, self.trajectory.duration)
        (share,), (v,), (a,) = self.trajectory.at_time(after_s)
        way = self.end - self.start
        return State(self.start + share * way, v * way, a * way)


class GoTo:
    """Leads the arm to a pose, from where it comes to rest by itself; a `Reference`.

    Args:
        goal: name of the pose.
        speed: share of the limits of velocity, acceleration and jerk, LEAST_SPEED to 1.
        number: of this way, for its `WayEnd`.
    Raises:
        WayError: there is no such pose, the speed is no share, or every way would lead through the floor.
    """

    def __init__(
        self,
        robot: RobotFile,
        kinematics: Kinematics,
        governor: Governor,
        goal: str,
        speed: float,
        now_ns: int,
        number: int = 0,
    ) -> None:
        self.goal, self.number = find_pose(robot, goal), number
        if not LEAST_SPEED - _ROUNDED <= speed <= 1.0:
            raise WayError(f"speed is {speed:g}, expected a share of the limits within [{LEAST_SPEED:g}, 1]")
        self._governor, self._joints = governor, robot.arm_joints
        start = governor.resting_place()
        poses = way_between(robot.poses, pose_of(robot.poses, start), self.goal)
        points = [(pose.name, pose.arm) for pose in poses]
        corners = _Floor(kinematics, robot).lead(start, points)
        begin_ns = max(now_ns + governor.lead_ns, governor.rests_ns())
        self._legs: list[_Leg] = []
        for towards, end in corners:
            leg = _leg(towards, start, end, speed, governor.limits, begin_ns)
            self._legs.append(leg)
            start, begin_ns = end, leg.end_ns
        self.end_ns = begin_ns

    def _leg_at(self, time_ns: int) -> _Leg:
        return next((leg for leg in self._legs if time_ns < leg.end_ns), self._legs[-1])

    def at(self, time_ns: int) -> State:
        """The reference."""
        return self._leg_at(time_ns).at(time_ns)

    def progress(self, now_ns: int) -> tuple[str, float, float]:
        """The pose that it leads to next, and what is left: [rad] of the longest joint's way, and [s]."""
        leg = self._leg_at(now_ns)
        later = self._legs[self._legs.index(leg) + 1 :]
        left = np.abs(leg.end - leg.at(now_ns).q) + sum(np.abs(other.end - other.start) for other in later)
        return leg.towards, float(np.max(left)), max(self.end_ns - now_ns, 0) / NS_PER_S

    @property
    def arrived(self) -> str:
        """What `outcome` says of an arm that is there."""
        return f"the arm is in {self.goal.name!r}"

    def outcome(self, now_ns: int, measured: Array | None) -> str | None:
        """`arrived`, or why the arm does not get there; None while it is on its way.

        measured: joints [J]; None: they do not count, as in a dry run.
        """
        late_s = (now_ns - self.end_ns) / NS_PER_S
        if late_s < 0:
            return None
        commanded = (self._governor.at(now_ns).q, self._governor.resting_place())
        if np.max(np.abs(np.array(commanded) - self.goal.arm)) > _COMMANDED_RAD:
            if late_s < _GIVE_UP_S:
                return None
            return f"the arm does not get to {self.goal.name!r}: its limits stand against the way"
        away = np.abs(measured - self.goal.arm) if measured is not None else np.zeros(1)
        if np.max(away) <= ARRIVED_RAD:
            return self.arrived
        if late_s < _SETTLE_S:
            return None
        joint = self._joints[int(np.argmax(away))]
        stands = f"{joint!r} stands {np.max(away):.2f} rad from {self.goal.name!r}"
        return f"{stands}, expected at most {ARRIVED_RAD} rad"


def find_pose(robot: RobotFile, name: str) -> Pose:
    """The pose of that name; raises WayError, which names those there are."""
    if name not in robot.poses:
        raise WayError(f"there is no pose {shown(name)}, expected one of {', '.join(robot.poses)}")
    return robot.poses[name]


def _leg(towards: str, start: Array, end: Array, speed: float, limits: MotionLimits, start_ns: int) -> _Leg:
    """The fastest that no joint's limits stand against, as one number that goes from 0 to 1."""
    way = np.maximum(np.abs(end - start), 1e-9)
    wanted = InputParameter(1)
    wanted.current_position, wanted.target_position = [0.0], [1.0]
    wanted.max_velocity = [float(np.min(speed * _VELOCITY * limits.velocity / way))]
    wanted.max_acceleration = [float(np.min(speed * _ACCELERATION * limits.acceleration / way))]
    wanted.max_jerk = [float(np.min(speed * _JERK * limits.jerk / way))]
    trajectory = Trajectory(1)
    Ruckig(1).calculate(wanted, trajectory)
    return _Leg(towards, start, end, trajectory, start_ns)


class _Floor:
    """Keeps ways above the floor of the workspace box; of an arm below it, above where they begin and end.

    What else a way may meet, the robot file has to know: `through`.
    """

    def __init__(self, kinematics: Kinematics, robot: RobotFile) -> None:
        self._kinematics, self._floor_m = kinematics, float(robot.workspace.lower[2])

    def lead(self, start: Array, points: list[tuple[str, Array]]) -> list[tuple[str, Array]]:
        """Corners of the way through points; joints in two turns where all at once would lead too low."""
        corners: list[tuple[str, Array]] = []
        for name, end in points:
            middle = self._detour(name, start, end)
            corners += [(name, middle)] if middle is not None else []
            if np.max(np.abs(end - start)) > _SAME_RAD or name == points[-1][0]:
                corners.append((name, end))
            start = end
        return corners

    def _detour(self, name: str, start: Array, end: Array) -> Array | None:
        least_m = min(self._floor_m, self._height(start), self._height(end)) - _FLOOR_TOLERANCE_M
        best_m = self._lowest(start, end)
        if best_m >= least_m:
            return None
        best = None
        # Some joints first, the others after them; those that move most decide.
        order = np.argsort(-np.abs(end - start))[:6]
        for count in range(1, len(order)):
            for first in itertools.combinations(order.tolist(), count):
                middle = start.copy()
                middle[list(first)] = end[list(first)]
                height_m = min(self._lowest(start, middle), self._lowest(middle, end))
                if height_m >= least_m:
                    return middle
                if height_m > best_m:
                    best, best_m = middle, height_m
        if self._height(start) < self._floor_m:
            return best  # it is below already: by the way that leads least further down
        raise WayError(
            f"the way to {name!r} would lead the tool {least_m - best_m:.2f} m below the floor of the "
            "workspace box: raise the arm first, in TELEOP"
        )

    def _lowest(self, start: Array, end: Array) -> float:
        count = 2 + int(np.max(np.abs(end - start)) / _STEP_RAD)
        return min(self._height(start + share * (end - start)) for share in np.linspace(0.0, 1.0, count))

    def _height(self, q: Array) -> float:
        return float(self._kinematics.forward(q)[0][2])
