"""The clock of motion: steady, whatever the ROS clock does."""

from __future__ import annotations

import numpy as np
import pytest
from control_fixtures import FORWARD, STILL, TICK, Drive

from twinbrain_ros.control.clock import MotionClock
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Outcome

T0 = to_ns(1000.0)


def test_stamps_are_taken_over_to_the_steady_clock_as_the_clocks_are_when_they_arrive() -> None:
    clock = MotionClock()
    assert clock.tell(T0 + 7 * NS_PER_S, T0) == T0
    assert clock.motion(T0 + 6 * NS_PER_S) == T0 - NS_PER_S
    assert clock.tell(T0 + 5 * NS_PER_S, T0 + TICK) == T0 + TICK  # set back by 2 s
    assert clock.motion(T0 + 5 * NS_PER_S) == T0 + TICK


def test_equal_stamps_stay_equal_though_two_clocks_cannot_be_read_at_once() -> None:
    clock, stamp_ns = MotionClock(), T0 + 3
    times = set()
    for k in range(50):
        clock.tell(T0 + k * TICK + (k % 7) * 20_000, k * TICK)
        times.add(clock.motion(stamp_ns))
    assert len(times) == 1


def test_a_clock_that_is_slewed_is_followed() -> None:
    clock = MotionClock()
    for k in range(500):
        ahead_ns = k * TICK // 2000  # 500 ppm
        clock.tell(T0 + k * TICK + ahead_ns, k * TICK)
        assert abs(clock.motion(T0 + k * TICK + ahead_ns) - k * TICK) <= to_ns(0.001)


def test_stamps_of_commands_do_not_jump_with_how_the_clocks_are_read() -> None:
    clock, random = MotionClock(), np.random.default_rng(0)
    clock.tell(T0, 0)
    gaps = []
    for k in range(1, 500):
        clock.tell(T0 + k * TICK + int(random.integers(-200_000, 200_000)), k * TICK)
        gaps.append(clock.stamp(k * TICK))
    assert np.abs(np.diff(gaps) - TICK).max() < 10_000
    clock.tell(T0 + 500 * TICK + NS_PER_S, 500 * TICK)
    assert clock.stamp(500 * TICK) == T0 + 500 * TICK + NS_PER_S


def test_in_a_simulation_motion_is_by_the_ros_clock() -> None:
    clock = MotionClock(ros_time=True)
    assert clock.tell(T0, 5) == clock.stamp(T0) == T0 and clock.motion(T0 - 1) == T0 - 1


@pytest.mark.parametrize("step_s", [-0.5, -0.24, -0.005, 0.005, 0.02, 0.1, 0.24, 0.48])
def test_a_step_of_the_ros_clock_moves_nothing_and_the_policy_goes_on(step_s: float) -> None:
    drive, same = Drive(), Drive()
    for each in (drive, same):
        each.autonomy(FORWARD)
        each.run(0.3)
    drive.tick(TICK + to_ns(step_s), TICK)
    same.tick()
    for each in (drive, same):
        each.run(0.1)
        assert each.mode is Mode.AUTONOMY
        assert each.give(STILL, sequence=2).verdict.outcome is Outcome.ACCEPTED
        each.run(0.3)
    governor, other = drive.controller.governor, same.controller.governor
    for ago in range(40):
        at = [each.steady - ago * TICK // 2 for each in (drive, same)]
        np.testing.assert_allclose(governor.at(at[0]).q, other.at(at[1]).q, atol=1e-9)


def test_commands_are_stamped_by_the_ros_clock() -> None:
    drive = Drive()
    drive.autonomy(FORWARD)
    drive.tick(TICK + to_ns(0.3), TICK)
    command = drive.tick()
    assert command is not None and command.motion.stamp_ns == drive.now
