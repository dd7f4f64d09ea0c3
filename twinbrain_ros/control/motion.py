"""Motion within limits of velocity, acceleration and jerk, from any state; the profiles are ruckig's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from ruckig import (
    ControlInterface,
    InputParameter,
    Result,
    Ruckig,
    RuckigError,
    Synchronization,
    Trajectory,
)

from twinbrain_ros.control.timing import NS_PER_S
from twinbrain_ros.robot.robot_file import RobotFile

Array = NDArray[np.float64]

# Share of the velocity limits at which a reference can be met: with all of it, it could not be caught up.
_MET_VELOCITY = 0.95
# Relative room for rounding when a state is held against limits.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class State:
    """Arm joints: positions [J] in rad, velocities [J] in rad/s, accelerations [J] in rad/s2."""

    q: Array
    v: Array
    a: Array

    @staticmethod
    def rest(q: Array) -> State:
        """At rest at `q` [J]."""
        return State(np.array(q, dtype=np.float64), np.zeros(len(q)), np.zeros(len(q)))


class Reference(Protocol):
    """Where the arm is wanted to be, over time."""

    def at(self, time_ns: int) -> State:
        """The wanted state at a time."""


@dataclass(frozen=True, eq=False)
class MotionLimits:
    """Limits of every commanded state, [J] each: position [rad], velocity, acceleration, jerk."""

    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    jerk: Array

    @staticmethod
    def of(robot: RobotFile, velocity_margin: float) -> MotionLimits:
        """A robot file's limits, less its margin of position and the part of velocity left to the servos.

        Raises:
            ValueError: velocity_margin is not within (0, 1].
        """
        if not 0.0 < velocity_margin <= 1.0:
            raise ValueError(f"velocity_margin is {velocity_margin}, expected above 0 and at most 1")
        limits = [robot.limits[name] for name in robot.arm_joints]
        return MotionLimits(
            robot.lower + robot.limit_margin_rad,
            robot.upper - robot.limit_margin_rad,
            velocity_margin * np.array([limit.velocity for limit in limits]),
            np.array([limit.acceleration for limit in limits]),
            np.array([limit.jerk for limit in limits]),
        )

    def outside(self, low: Array, high: Array) -> float:
        """How far positions between `low` and `high` [J] are beyond the limits [rad]; 0 inside."""
        return float(max(np.max(self.lower - low), np.max(high - self.upper), 0.0))

    def joins(self, start: State, end: State, dt_s: float) -> bool:
        """Whether a motion within the limits can lead from one state to the other in exactly this time."""
        more = 1.0 + _ROUNDING
        if np.any(np.abs(end.v) > more * self.velocity) or np.any(np.abs(end.a) > more * self.acceleration):
            return False
        most = more * self.acceleration * dt_s
        jerk = more * self.jerk * dt_s
        # What is left after the motion that goes on as it began has to be made up by jerk alone.
        speed = end.v - start.v - start.a * dt_s
        way = end.q - start.q - start.v * dt_s - start.a * (0.5 * dt_s**2)
        return bool(
            np.all(np.abs(end.v - start.v) <= most)
            and np.all(np.abs(end.a - start.a) <= jerk)
            and np.all(np.abs(speed) <= jerk * (dt_s / 2))
            and np.all(np.abs(way) <= jerk * (dt_s**2 / 6))
        )


class Profile:
    """A motion over time, from an origin [J]; at rest after its end if it is a stop."""

    def __init__(self, trajectory: Any, start_ns: int, origin: Array | float = 0.0) -> None:
        self._trajectory, self._origin = trajectory, origin
        self.start_ns = start_ns
        self.end_ns = start_ns + int(np.ceil(trajectory.duration * NS_PER_S))

    def at(self, time_ns: int) -> State:
        """The state at a time, not before the start; after the end it goes on as it ended."""
        q, v, a = self._trajectory.at_time(max(time_ns - self.start_ns, 0) / NS_PER_S)
        return State(self._origin + np.array(q), np.array(v), np.array(a))

    def extent(self) -> tuple[Array, Array]:
        """Lowest and highest positions on the way, [J] each."""
        extrema = self._trajectory.position_extrema
        low, high = np.array([x.min for x in extrema]), np.array([x.max for x in extrema])
        return self._origin + low, self._origin + high


class Profiles:
    """Time-optimal profiles within the limits; joints arrive together, where that can be computed.

    Args:
        limits: velocity, acceleration and jerk; positions are the caller's to watch.
    """

    def __init__(self, limits: MotionLimits) -> None:
        count = len(limits.velocity)
        self._limits = limits
        self._otg = Ruckig(count)
        self._inputs = {}
        for interface in (ControlInterface.Velocity, ControlInterface.Position):
            wanted = InputParameter(count)
            wanted.control_interface = interface
            wanted.max_velocity = limits.velocity.tolist()
            wanted.max_acceleration = limits.acceleration.tolist()
            wanted.max_jerk = limits.jerk.tolist()
            wanted.target_position = wanted.target_velocity = wanted.target_acceleration = [0.0] * count
            self._inputs[interface] = wanted

    def stop(self, state: State, start_ns: int) -> Profile | None:
        """The way to rest from a state, wherever that is; None if none can be computed."""
        # Seen from its start: the extent that ruckig gives for a joint that stands still reaches to 0.
        start = State(np.zeros_like(state.q), state.v, state.a)
        trajectory = self._solve(self._inputs[ControlInterface.Velocity], start)
        return None if trajectory is None else Profile(trajectory, start_ns, state.q)

    def meet(self, start: State, wanted: State, ahead_s: float, dt_s: float) -> tuple[State, float] | None:
        """The way to meet a reference that is at `wanted` in `ahead_s`, if it moves steadily until then.

        Seen from a reference in steady motion, meeting it is coming to rest; acceleration and jerk are the
        same there, velocity limits are shifted.

        Returns:
            The state after `dt_s` on the fastest way, and how long that takes in all [s]; or None.
        """
        most = _MET_VELOCITY * self._limits.velocity
        v = np.clip(wanted.v, -most, most)
        way = self._inputs[ControlInterface.Position]
        way.max_velocity = (self._limits.velocity - v).tolist()
        way.min_velocity = (-self._limits.velocity - v).tolist()
        q = np.clip(wanted.q, self._limits.lower, self._limits.upper)
        trajectory = self._solve(way, State(start.q - (q - v * ahead_s), start.v - v, start.a))
        if trajectory is None:
            return None
        there = Profile(trajectory, 0).at(round(dt_s * NS_PER_S))
        return State(there.q + q - v * (ahead_s - dt_s), there.v + v, there.a), trajectory.duration

    def _solve(self, wanted: Any, state: State) -> Any:
        wanted.current_position = state.q.tolist()
        wanted.current_velocity = state.v.tolist()
        wanted.current_acceleration = state.a.tolist()
        # Just where profiles of one kind become those of another, ruckig may find none that takes as long as
        # the slowest joint needs; each joint for itself always has one.
        for synchronization in (Synchronization.Time, Synchronization.No):
            wanted.synchronization = synchronization
            trajectory = Trajectory(len(state.q))
            try:
                result = self._otg.calculate(wanted, trajectory)
            except RuckigError:
                continue
            if result in (Result.Working, Result.Finished) and np.isfinite(trajectory.duration):
                return trajectory
        return None
