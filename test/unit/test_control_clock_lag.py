"""A step of the ROS clock that joint states and chunks learn of earlier or later than the controller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from control_fixtures import FORWARD, TICK, Drive

from twinbrain_ros.control.arrivals import Arrivals
from twinbrain_ros.control.clock import MotionClock
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.stamps import StampWatch
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.control.verdict import Outcome

STEPS_S = [sign * size for size in (0.005, 0.02, 0.1, 0.15, 0.24, 0.48) for sign in (-1, 1)]
LAGS = (1, 2, 3, 10, 20)


class Stepped(Drive):
    """A drive whose clock is stepped `at` some tick of `stamps`; joint states know of it when that says so.

    In the middle of a motion that goes on; messages take 4 ms.
    """

    def __init__(self, step_s: float, new: Callable[[int], bool]) -> None:
        super().__init__()
        self.step_ns, self.new, self.since = to_ns(step_s), new, -100
        self.autonomy(FORWARD)
        self.run(0.3)

    def _measure(self, stamp_ns: int, q: np.ndarray, arrived_ns: int | None = None) -> None:
        if arrived_ns is None:
            super()._measure(stamp_ns, q)
            return
        if hasattr(self, "since"):
            ours, theirs = self.since >= 0, self.new(self.since)
            stamp_ns += self.step_ns * (theirs - ours) * (self.since > -30)
        super()._measure(stamp_ns - to_ns(0.004), q, arrived_ns)

    def steps(self, before: int, after: int) -> None:
        """Ticks before the step and after it; a chunk goes on every fifth."""
        for self.since in range(-before, after):
            self.tick(TICK + self.step_ns * (self.since == 0), TICK)
            if self.since % 5 == 4:
                self.give(FORWARD)
        self.since = -100


def check(drive: Stepped) -> None:
    assert drive.mode is Mode.AUTONOMY, drive.controller.state.reason
    moved = np.abs(np.diff(drive.path[20:50], axis=0)).max(axis=1)
    assert moved.max() > 1e-4, "the arm stood"


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("lag", LAGS)
def test_joint_states_of_the_clock_before_a_step_leave_the_arm_driving(step_s: float, lag: int) -> None:
    drive = Stepped(step_s, lambda k: k >= lag)
    drive.steps(10, 40)
    check(drive)


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("lead", LAGS)
def test_a_driver_that_is_stepped_first_leaves_the_arm_driving(step_s: float, lead: int) -> None:
    drive = Stepped(step_s, lambda k: k >= -lead)
    drive.steps(30, 40)
    check(drive)


@pytest.mark.parametrize("step_s", STEPS_S)
def test_stamps_of_both_clocks_in_turn_leave_the_arm_driving(step_s: float) -> None:
    drive = Stepped(step_s, lambda k: k >= 20 or (k >= 0 and k % 3 != 0))
    drive.steps(10, 40)
    check(drive)


@pytest.mark.parametrize("step_s", [-2.0, -0.6, 0.6, 2.0])
@pytest.mark.parametrize("lag", [-10, -1, 0, 1, 5, 20])
def test_a_step_above_the_parameter_is_told_as_one_of_the_clock(step_s: float, lag: int) -> None:
    drive = Stepped(step_s, lambda k: k >= lag)
    drive.steps(20, 20)
    assert drive.mode is Mode.HOLD and "the clock jumped" in drive.controller.state.reason


@pytest.mark.parametrize("step_s", [-0.3, -0.1, 0.1, 0.3])
@pytest.mark.parametrize("seen_s", [0.06, 0.12, 0.2])
def test_a_chunk_that_was_observed_before_a_step_is_placed_in_time_as_without_one(
    step_s: float, seen_s: float
) -> None:
    drive, same = Stepped(step_s, lambda k: k >= 0), Stepped(0.0, lambda k: True)
    for each in (drive, same):
        each.run(0.2)
        seen = each.now - to_ns(seen_s)
        assert each.give(FORWARD, sequence=2, observation_ns=seen).verdict.outcome is Outcome.ACCEPTED
        seen = each.now - to_ns(seen_s - 0.02)
        each.since = 0
        each.tick(TICK + each.step_ns, TICK)
        each.since = -100
        assert each.give(FORWARD, sequence=3, observation_ns=seen).verdict.outcome is Outcome.ACCEPTED
        each.run(0.2)
        seen = each.now - to_ns(seen_s)
        assert each.give(FORWARD, sequence=4, observation_ns=seen).verdict.outcome is Outcome.ACCEPTED
        each.run(0.3)
    governor, other = drive.controller.governor, same.controller.governor
    for ago in range(40):
        ago_ns = ago * TICK // 2
        np.testing.assert_allclose(governor.at(drive.steady - ago_ns).q, other.at(same.steady - ago_ns).q)


@pytest.mark.parametrize("step_s", [-0.4, 0.4])
def test_a_driver_whose_clock_really_differs_is_told_and_holds_the_arm_after_a_while(step_s: float) -> None:
    drive, watch = Stepped(step_s, lambda k: k == -29), StampWatch()  # ours is not stepped
    for drive.since in [-29] * 150:
        drive.tick()
        if drive.mode is Mode.AUTONOMY and len(drive.path) % 5 == 0:
            drive.give(FORWARD)
        watch.add(drive.now + drive.step_ns - to_ns(0.004), drive.now)
    assert drive.mode is Mode.HOLD and "joint states" in drive.controller.state.reason
    assert "the driver's clock is" in watch.problem()


def test_messages_that_are_late_or_out_of_order_stay_so() -> None:
    clock = MotionClock()
    arrivals = Arrivals(clock)
    for k in range(50):
        now = to_ns(100) + k * TICK
        clock.tell(now, now)
        assert arrivals.measured(now - to_ns(0.002), now, 0) == now - to_ns(0.002)
        if k % 7 == 3:  # a relay's
            assert arrivals.measured(now - to_ns(0.1), now + 1, 0) == now - to_ns(0.1)
    for late_s in (0.3, 0.2, 0.1, 0.0):  # what was held up comes at once
        stamp = now + to_ns(0.3 - late_s)
        assert arrivals.measured(stamp, now + to_ns(0.302), 0) == stamp
