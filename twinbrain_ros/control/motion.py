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
# A command has a state every period, and trajectory controllers draw a cubic between two of them. A way that
# takes so many periods to reach full acceleration peaks at 1.06 times what was planned when it is drawn so;
# with a jerk that only finer commands could express, at 1.65 times. So less is planned than is allowed.
JERK_PERIODS = 2.5
# Faster commands do not make it finer: what is late by up to 20 ms tears open as much.
MOST_HZ = 100.0
PLANNED_ACCELERATION = 0.94
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
    """Limits of everything that is commanded, [J] each: position [rad], velocity, acceleration, jerk."""

    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    jerk: Array

    @staticmethod
    def of(robot: RobotFile, velocity_margin: float) -> MotionLimits:
        """A robot file's limits, less its margin of position and the part of velocity left to the servos.

        Of jerk no more than commands at the robot file's rate can express.

        Raises:
            ValueError: velocity_margin is not within (0, 1].
        """
        if not 0.0 < velocity_margin <= 1.0:
            raise ValueError(f"velocity_margin is {velocity_margin}, expected above 0 and at most 1")
        limits = [robot.limits[name] for name in robot.arm_joints]
        acceleration = np.array([limit.acceleration for limit in limits])
        jerk = np.array([limit.jerk for limit in limits])
        return MotionLimits(
            robot.lower + robot.limit_margin_rad,
            robot.upper - robot.limit_margin_rad,
            velocity_margin * np.array([limit.velocity for limit in limits]),
            acceleration,
            np.minimum(jerk, acceleration * min(robot.rates.command_hz, MOST_HZ) / JERK_PERIODS),
        )

    def outside(self, low: Array, high: Array) -> float:
        """How far positions between `low` and `high` [J] are beyond the limits [rad]; 0 inside."""
        return max(float((self.lower - low).max()), float((high - self.upper).max()), 0.0)

    def joins(self, start: State, end: State, dt_s: float) -> bool:
        """Whether the limits allow the cubic from one state to the other in exactly this time."""
        ends = (start.q, start.v, start.a, end.q, end.v, end.a)
        limits = (self.velocity, self.acceleration, self.jerk)
        # Joint by joint: for so few of them that is several times as fast as numpy.
        joints = zip(*(values.tolist() for values in (*ends, *limits)), strict=True)
        return all(_joins(dt_s, *joint) for joint in joints)


def _joins(
    dt: float, q0: float, v0: float, a0: float, q1: float, v1: float, a1: float,
    velocity: float, acceleration: float, jerk: float,
) -> bool:  # fmt: skip
    """One joint of `MotionLimits.joins`; False if something is NaN."""
    velocity, acceleration, jerk = (limit * (1.0 + _ROUNDING) for limit in (velocity, acceleration, jerk))
    way, speed = q1 - q0, v1 - v0
    # A trajectory controller's cubic has an acceleration that is linear in time: worst at the ends.
    first = (6 * way / dt - 4 * v0 - 2 * v1) / dt
    last = (2 * v0 + 4 * v1 - 6 * way / dt) / dt
    # Where it changes its sign, the velocity is at its peak.
    peak = abs(v0 + first / (first - last) * first * dt / 2) if first * last < 0 else 0.0
    return (
        abs(first) <= acceleration
        and abs(last) <= acceleration
        and abs(a1) <= acceleration
        and abs(speed) <= acceleration * dt
        and abs(v1) <= velocity
        and peak <= max(velocity, abs(v0))
        # What is left after the motion that goes on as it began has to be made up by jerk alone.
        and abs(a1 - a0) <= jerk * dt
        and abs(speed - a0 * dt) <= jerk * dt**2 / 2
        and abs(way - v0 * dt - a0 * dt**2 / 2) <= jerk * dt**3 / 6
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

    def sampled(self, period_ns: int, most: int) -> list[tuple[int, State]]:
        """States after the start, the last at rest; a period apart, or `most` of a way that takes longer."""
        length_ns = self.end_ns - self.start_ns
        count = min(-(-length_ns // period_ns), most)
        times = [self.start_ns + length_ns * (k + 1) // count for k in range(count)]
        states = [self.at(time_ns) for time_ns in times[:-1]]
        return [*zip(times, [*states, State.rest(self.at(self.end_ns).q)], strict=True)] if count else []

    def extent(self) -> tuple[Array, Array]:
        """Lowest and highest positions on the way, [J] each."""
        extrema = self._trajectory.position_extrema
        low, high = np.array([x.min for x in extrema]), np.array([x.max for x in extrema])
        return self._origin + low, self._origin + high


@dataclass(frozen=True, eq=False)
class Meeting:
    """A way to a reference in steady motion: from `q` [J] rad with `v` [J] rad/s, `profile` away from it.

    `duration_s`: until they are together [s].
    """

    profile: Profile
    q: Array
    v: Array
    duration_s: float

    def at(self, after_s: float) -> State:
        """The state a time [s] after the start."""
        away = self.profile.at(round(after_s * NS_PER_S))
        return State(away.q + self.q + self.v * after_s, away.v + self.v, away.a)


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
            wanted.max_acceleration = (PLANNED_ACCELERATION * limits.acceleration).tolist()
            wanted.max_jerk = limits.jerk.tolist()
            wanted.target_position = wanted.target_velocity = wanted.target_acceleration = [0.0] * count
            self._inputs[interface] = wanted

    def stop(self, state: State, start_ns: int) -> Profile | None:
        """The way to rest from a state, wherever that is; None if none can be computed."""
        # Seen from its start: the extent that ruckig gives for a joint that stands still reaches to 0.
        start = State(np.zeros_like(state.q), state.v, state.a)
        trajectory = self._solve(self._inputs[ControlInterface.Velocity], start)
        return None if trajectory is None else Profile(trajectory, start_ns, state.q)

    def meet(self, start: State, wanted: State, ahead_s: float) -> Meeting | None:
        """The fastest way to meet a reference, at `wanted` in `ahead_s`, if it moves steadily until then.

        Seen from a reference in steady motion, meeting it is coming to rest; acceleration and jerk are the
        same there, velocity limits are shifted. None if no way can be computed.
        """
        most = _MET_VELOCITY * self._limits.velocity
        v = np.clip(wanted.v, -most, most)
        way = self._inputs[ControlInterface.Position]
        way.max_velocity = (self._limits.velocity - v).tolist()
        way.min_velocity = (-self._limits.velocity - v).tolist()
        q = np.clip(wanted.q, self._limits.lower, self._limits.upper) - v * ahead_s
        trajectory = self._solve(way, State(start.q - q, start.v - v, start.a))
        return None if trajectory is None else Meeting(Profile(trajectory, 0), q, v, trajectory.duration)

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
