"""The committed path: every command keeps the limits, and carries its own way to rest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from control_fixtures import T0, TICK
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.control.governor import BOX_TOLERANCE_M, Governor
from twinbrain_ros.control.motion import Array, MotionLimits, State
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.control.verdict import Motion
from twinbrain_ros.robot.robot_file import RobotFile

DT = 0.02


@pytest.fixture
def robot() -> RobotFile:
    return shared_robot()


@pytest.fixture
def governor(robot: RobotFile) -> Governor:
    governor = Governor(robot, shared_kinematics(), 0.9)
    governor.place(robot.home, T0)
    return governor


@dataclasses.dataclass
class Line:
    """Through `q` at T0 with a constant velocity."""

    q: Array
    v: Array

    def at(self, time_ns: int) -> State:
        return State(self.q + self.v * ((time_ns - T0) / 1e9), self.v, np.zeros_like(self.v))


def step_to(q: Array) -> Line:
    return Line(q, np.zeros_like(q))


def drive(governor: Governor, reference: Line, ticks: int, start: int = 1) -> list[Motion]:
    found = [governor.advance(reference, T0 + n * TICK) for n in range(start, start + ticks)]
    return [motion for motion in found if motion is not None]


def states(governor: Governor, ticks: int) -> tuple[Array, Array, Array]:
    kept = [governor.at(T0 + 2 * TICK + n * TICK) for n in range(1, ticks)]
    return np.array([s.q for s in kept]), np.array([s.v for s in kept]), np.array([s.a for s in kept])


def test_a_step_is_taken_within_every_limit_and_reached(governor: Governor, robot: RobotFile) -> None:
    target = robot.home + np.array([0.6, 0.1, -0.2, 0.0, 0.3, -0.5])
    drive(governor, step_to(target), 40)
    q, v, a = states(governor, 40)
    limits = governor.limits
    np.testing.assert_allclose(q[-1], target, atol=1e-6)
    np.testing.assert_allclose(v[-1], 0.0, atol=1e-6)
    assert np.all(np.abs(v) <= limits.velocity + 1e-9)
    assert np.all(np.abs(np.diff(v, axis=0)) <= limits.acceleration * DT + 1e-9)
    assert np.all(np.abs(np.diff(a, axis=0)) <= limits.jerk * DT + 1e-9)
    # It is worth its limits: about as quick as they allow.
    assert np.abs(v[:, 0]).max() > 1.5


def test_a_feasible_motion_is_followed_exactly(governor: Governor, robot: RobotFile) -> None:
    line = Line(robot.home, np.array([0.1, 0, 0, 0, 0, -0.2]))
    drive(governor, line, 30)
    for n in (25, 30):
        horizon = T0 + (n + 2) * TICK
        np.testing.assert_allclose(governor.at(horizon).q, line.at(horizon).q, atol=1e-9)
        np.testing.assert_allclose(governor.at(horizon).v, line.v, atol=1e-9)


def test_a_motion_it_lags_behind_is_met_without_overshoot(governor: Governor, robot: RobotFile) -> None:
    line = Line(robot.home + np.array([0.3, 0, 0, 0, 0, 0]), np.array([0.5, 0, 0, 0, 0, 0]))
    drive(governor, line, 50)
    ahead = [governor.at(ns).q[0] - line.at(ns).q[0] for ns in range(T0 + 3 * TICK, T0 + 52 * TICK, TICK)]
    assert max(ahead) < 2e-3 and abs(ahead[-1]) < 1e-6


def test_every_command_ends_at_rest_inside_the_limits(governor: Governor, robot: RobotFile) -> None:
    beyond = robot.home + np.array([9.0, 0, 0, 0, 0, 9.0])
    motions = drive(governor, step_to(beyond), 80)
    for motion in motions:
        assert not motion.velocities[-1].any()
        assert np.all(motion.positions <= governor.limits.upper + 1e-6)
        assert np.all(np.diff(motion.times_s) > 0) and len(motion.times_s) <= 28
    fastest = max(motions, key=lambda motion: float(np.abs(motion.velocities).max()))
    assert np.abs(fastest.velocities).max() > 2.0 and fastest.times_s[-1] < 0.4


def test_if_commands_cease_the_arm_is_where_the_last_one_led(governor: Governor, robot: RobotFile) -> None:
    """Nothing has to be sent to stop: what was sent last says the whole way to rest."""
    line = Line(robot.home, np.array([1.0, 0, 0, 0, 0, 0]))
    last = drive(governor, line, 30)[-1]
    sent_ns = T0 + 30 * TICK
    end_ns = sent_ns + round(float(last.times_s[-1]) * 1e9)
    assert governor.moving(end_ns - TICK) and not governor.moving(end_ns + TICK)
    np.testing.assert_allclose(governor.at(end_ns + to_ns(5.0)).q, last.positions[-1], atol=1e-9)
    # Two periods, and what the deceleration limit needs.
    speed, limits = float(last.velocities[0][0]), governor.limits
    needed_s = speed / limits.acceleration[0] + limits.acceleration[0] / limits.jerk[0]
    assert last.times_s[-1] <= 2 * DT + needed_s + DT


def test_a_tick_that_comes_late_goes_on_from_where_the_arm_is_by_then(
    governor: Governor, robot: RobotFile
) -> None:
    line = Line(robot.home, np.array([1.0, 0, 0, 0, 0, 0]))
    drive(governor, line, 20)
    late_ns = T0 + 20 * TICK + to_ns(0.12)  # the arm has begun to stop by itself
    slowed = governor.at(late_ns + to_ns(0.005))
    assert slowed.v[0] < 0.9
    motion = governor.advance(line, late_ns)
    assert motion is not None
    limits = governor.limits
    assert abs(motion.velocities[0][0] - slowed.v[0]) <= limits.acceleration[0] * 0.035 + 1e-9
    assert abs(motion.positions[0][0] - slowed.q[0]) <= limits.velocity[0] * 0.035 + 1e-9


def test_a_second_command_at_the_same_time_is_none(governor: Governor, robot: RobotFile) -> None:
    line = Line(robot.home, np.array([0.1, 0, 0, 0, 0, 0]))
    assert governor.advance(line, T0 + TICK) is not None
    assert governor.advance(line, T0 + TICK) is None
    assert governor.advance(line, T0) is None


def test_the_tool_stays_in_the_box_and_slides_along_its_border(governor: Governor, robot: RobotFile) -> None:
    kinematics = shared_kinematics()
    position, rotation = kinematics.forward(robot.home)
    below = position * [1, 1, 0] + [0.06, 0.02, robot.workspace.lower[2] - 0.03]
    target = kinematics.inverse(below, rotation, robot.home).q
    drive(governor, step_to(target), 120)
    tools = np.array([kinematics.forward(governor.at(T0 + n * TICK).q)[0] for n in range(3, 120)])
    assert tools[:, 2].min() >= robot.workspace.lower[2] - BOX_TOLERANCE_M
    np.testing.assert_allclose(tools[-1], [*below[:2], robot.workspace.lower[2]], atol=2e-3)


def test_an_arm_outside_the_box_may_come_back_but_not_leave_further(robot: RobotFile) -> None:
    kinematics = shared_kinematics()
    position, rotation = kinematics.forward(robot.home)
    top = robot.workspace.upper[2]
    start, nearer, further = (
        kinematics.inverse(np.array([position[0], 0, z]), rotation, robot.home).q
        for z in (top + 0.04, top + 0.01, top + 0.08)
    )
    governor = Governor(robot, kinematics, 0.9)
    governor.place(start, T0)
    drive(governor, step_to(further), 60)
    highest = max(kinematics.forward(governor.at(T0 + n * TICK).q)[0][2] for n in range(60))
    assert highest <= top + 0.04 + 1e-4
    governor.place(start, T0)
    drive(governor, step_to(nearer), 60)
    assert kinematics.forward(governor.resting_place())[0][2] <= top + 0.02


def test_an_arm_beyond_a_joint_limit_may_come_back(robot: RobotFile) -> None:
    governor = Governor(robot, shared_kinematics(), 0.9)
    start = robot.home.copy()
    start[0] = governor.limits.upper[0] + 0.01
    governor.place(start, T0)
    drive(governor, step_to(start - np.array([0.1, 0, 0, 0, 0, 0])), 60)
    # The tool is behind the arm there, outside the box; it may turn as long as it leads no further out.
    assert governor.resting_place()[0] <= start[0]


def test_limits_keep_the_margin_of_the_robot_file(robot: RobotFile) -> None:
    limits = MotionLimits.of(robot, 0.5)
    np.testing.assert_allclose(limits.upper, robot.upper - robot.limit_margin_rad)
    np.testing.assert_allclose(limits.velocity, 0.5 * np.pi)


@pytest.mark.parametrize("margin", [0.0, 1.5, -1.0, float("nan")])
def test_a_margin_that_is_no_share_is_refused(robot: RobotFile, margin: float) -> None:
    with pytest.raises(ValueError, match=r"velocity_margin is .*, expected above 0 and at most 1"):
        MotionLimits.of(robot, margin)


def test_a_state_that_needs_more_jerk_than_there_is_does_not_join(governor: Governor) -> None:
    limits, rest = governor.limits, State.rest(np.zeros(6))
    dt = 0.02
    shift = limits.jerk * dt**3 / 6
    on_the_way = State(shift, limits.jerk * dt**2 / 2, limits.jerk * dt)
    assert limits.joins(rest, on_the_way, dt)
    assert not limits.joins(rest, State(1.2 * shift, on_the_way.v, on_the_way.a), dt)
    assert not limits.joins(rest, State(shift, 1.2 * on_the_way.v, on_the_way.a), dt)
    assert not limits.joins(rest, State(shift, on_the_way.v, 1.2 * on_the_way.a), dt)
