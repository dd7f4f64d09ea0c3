"""A clock that goes on in steps: too large ones move no arm, and 50 Hz are enough."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from control_fixtures import T0, TICK, Drive

from twinbrain_ros.control.clock import ClockSteps
from twinbrain_ros.control.modes import Mode, ModeError
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Command
from twinbrain_ros.control.watchdogs import PolicyBeat
from twinbrain_ros.sim.trajectory import TrajectoryError

MS = to_ns(1e-3)


class Simulation:
    """An arm in a simulation with a time of its own, of which the controller hears in steps.

    Attributes:
        fastest: of the arm's joints, as shares of their limits of velocity and acceleration.
    """

    def __init__(self, clock_hz: float, real_time_factor: float = 1.0, jitter_s: float = 0.0) -> None:
        self._step_ns, self._factor, self._jitter_s = to_ns(1.0 / clock_hz), real_time_factor, jitter_s
        self._random = np.random.default_rng(0)
        self.drive = Drive(ros_time=True)
        self._time_ns, self._ticks = T0 + 3 * MS, 0
        self._sent: list[tuple[int, Command]] = []
        self._path = [self.drive.q]

    def run(self, seconds: float) -> None:
        """Ticks that come a little early or late, commands that arrive 5 ms after them."""
        drive, controller = self.drive, self.drive.controller
        for _ in range(round(seconds / 0.02)):
            took_ns = TICK + to_ns(self._random.uniform(-self._jitter_s, self._jitter_s))
            self._move(self._time_ns + round(took_ns * self._factor))
            drive.steady += took_ns
            drive.now = self._time_ns // self._step_ns * self._step_ns
            controller.clock.tell(drive.now, drive.steady)
            controller.add_joints(self._time_ns, drive.q, 0.03, drive.steady)
            controller.add_beat(PolicyBeat(), drive.steady)
            self._ticks += 1
            if drive.mode is Mode.AUTONOMY and self._ticks % 10 == 0:
                way = np.array([0.03, 0.02, 0, 0, 0, 0.1, 1]) * (1 if self._ticks // 40 % 2 else -1)
                drive.give((*way[:6], 1))
            command = controller.tick(drive.now, drive.steady)
            if command is not None:
                self._sent.append((self._time_ns + 5 * MS, command))

    def _move(self, until_ns: int) -> None:
        arm, period_ns = self.drive.arm, self.drive.arm.kind.period_ns
        while self._time_ns < until_ns:
            while self._sent and self._sent[0][0] <= self._time_ns:
                motion = self._sent.pop(0)[1].motion
                with contextlib.suppress(TrajectoryError):  # it is over already
                    arm.receive(
                        arm.joints, motion.positions, motion.times_s, self._time_ns,
                        velocities=motion.velocities, start_ns=motion.stamp_ns,
                    )  # fmt: skip
            arm.update(self._time_ns, self.drive.q, period_ns)
            self._time_ns += period_ns
            self._path.append(self.drive.q)

    @property
    def fastest(self) -> tuple[float, float]:
        period_s = self.drive.arm.kind.period_ns / NS_PER_S
        limits = [self.drive.robot.limits[name] for name in self.drive.robot.arm_joints]
        v = np.diff(self._path, axis=0) / period_s
        a = np.diff(v, axis=0) / period_s
        velocity, acceleration = (
            np.array([getattr(limit, which) for limit in limits]) for which in ("velocity", "acceleration")
        )
        return float(np.max(np.abs(v) / velocity)), float(np.max(np.abs(a) / acceleration))


@pytest.mark.parametrize("jitter_s", [0.0, 0.004])
@pytest.mark.parametrize("clock_hz", [5, 10, 20, 30])
def test_no_arm_is_driven_by_a_clock_that_goes_on_in_large_steps(clock_hz: float, jitter_s: float) -> None:
    simulation = Simulation(clock_hz, jitter_s=jitter_s)
    simulation.run(1.0)
    said = rf"/clock goes on in steps of {1 / clock_hz:.3f} s, expected at most 0.02 s: publish it more often"
    with pytest.raises(ModeError, match=rf"cannot start autonomy: {said}"):
        simulation.drive.set_mode(Mode.AUTONOMY)


@pytest.mark.parametrize("jitter_s", [0.0, 0.004])
@pytest.mark.parametrize(
    ("clock_hz", "factor"), [(50, 1), (60, 1), (100, 1), (1000, 1), (50, 0.5), (50, 2), (1000, 2), (1000, 4)]
)
def test_a_clock_of_50_hz_or_more_moves_the_arm_within_its_limits(
    clock_hz: float, factor: float, jitter_s: float
) -> None:
    """However fast the simulation runs."""
    simulation = Simulation(clock_hz, factor, jitter_s)
    simulation.run(1.0)
    simulation.drive.set_mode(Mode.AUTONOMY)
    simulation.run(3.0)
    assert simulation.drive.mode is Mode.AUTONOMY, simulation.drive.controller.state.reason
    velocity, acceleration = simulation.fastest
    assert 0.03 < velocity < 1.0 and acceleration < 1.0


def test_a_clock_that_begins_to_go_on_in_large_steps_stops_the_arm_and_may_recover() -> None:
    simulation = Simulation(100)
    simulation.run(1.0)
    simulation.drive.set_mode(Mode.AUTONOMY)
    simulation.run(0.5)
    simulation._step_ns = to_ns(0.1)
    simulation.run(0.4)
    controller = simulation.drive.controller
    assert controller.mode is Mode.HOLD and "/clock goes on in steps of 0.100 s" in controller.state.reason
    simulation._step_ns = to_ns(0.01)
    simulation.run(0.5)
    assert controller.clock.problem == ""


def test_a_simulation_that_is_fast_pauses_and_stutters_has_no_steps() -> None:
    steps, now_ns, steady_ns = ClockSteps(), T0, T0
    for tick in range(500):
        steady_ns += TICK
        if tick % 50 not in (0, 1, 17) and tick not in range(200, 300):
            now_ns += 4 * TICK
        steps.add(now_ns, steady_ns)
        assert steps.problem() == ""
