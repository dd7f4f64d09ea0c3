"""What the arm makes of our commands with each trajectory controller of the field, in lock-step.

For each driver: episodes by the scripted expert, and a joint at steady speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.modes import Mode, ModeError
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Motion
from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.lockstep import Driver, LockStepArm
from twinbrain_ros.sim.rollout import EpisodeRecord, Rollout, expert_policy
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.tasks import TASKS

Array = NDArray[np.float64]

LATENCY_S = 0.04
# Controllers are not in step with ours: these shares of their period lie between.
PHASES = (0.0, 0.25, 0.5, 0.75)
STEADY_RAD_S = 0.5
STEADY_S = 2.0
# The joint has its speed after so long; what is measured lies behind that.
RUN_UP_S = 0.5


class Trace:
    """Set-points of a run, and what became of commands; a `Watcher` of the loop."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.set_points: list[Array] = []
        self.measured: list[Array] = []
        self.motions: list[Motion] = []
        self.refusals: list[str] = []

    def sent(self, motion: Motion) -> None:
        """A command."""
        self.motions.append(motion)

    def updated(self, time_ns: int, set_point: Array, measured: Array) -> None:
        """A set-point."""
        self.times_s.append(time_ns / NS_PER_S)
        self.set_points.append(set_point)
        self.measured.append(measured)

    def refused(self, reason: str) -> None:
        """A trajectory that the driver does not take."""
        self.refusals.append(reason)

    def speeds(self) -> Array:
        """Of the set-points between updates [K, J], per second."""
        return np.diff(self.set_points, axis=0) / np.diff(self.times_s)[:, None]


@dataclass
class DriverResult:
    """What was measured with one driver.

    Attributes:
        records: its episodes.
        fastest: largest speed of a set-point as a share of its joint's limit, over all runs.
        slowest: smallest speed of a set-point as a share of the commanded one, in steady motion.
        stopped: share of the updates in steady motion with less than a fifth of the commanded speed.
        lag_s: how far the arm is behind the committed path in steady motion [s].
        faults: why episodes ended before their time.
        not_started: whether the controller did not even begin, for the reason in `faults`.
        sent: trajectories of the arm, and those `refused` by the driver, with the first reason.
    """

    name: str
    driver: Driver
    records: list[EpisodeRecord] = field(default_factory=list)
    fastest: float = 0.0
    slowest: float = 1.0
    stopped: float = 0.0
    lag_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    not_started: bool = False
    sent: int = 0
    refused: int = 0
    refusal: str = ""

    def to_json(self) -> dict[str, Any]:
        """Figures for programs."""
        wins = sum(record.success for record in self.records)
        return {
            "driver": self.name,
            "clock_behind_s": self.driver.clock_behind_s,
            "latest_s": self.driver.latest_s,
            "episodes": len(self.records),
            "successes": wins,
            "success_interval": list(wilson_interval(wins, len(self.records))),
            "fastest_of_limit": self.fastest,
            "slowest_of_commanded": float(self.slowest),
            "stopped_share": self.stopped,
            "lag_s": self.lag_s,
            "faults": self.faults,
            "not_started": self.not_started,
            "sent": self.sent,
            "refused": self.refused,
            "refusal": self.refusal,
        }

    def row(self) -> tuple[str, str]:
        """Figures for a person: what was measured, and what was found."""
        wins, count = sum(record.success for record in self.records), len(self.records)
        low, high = wilson_interval(wins, count)
        driver, said = self.driver, self.name
        said += f", clock {1e3 * driver.clock_behind_s:+.0f} ms behind" if driver.clock_behind_s else ""
        said += f", up to {1e3 * driver.latest_s:.0f} ms late" if driver.latest_s else ""
        if self.not_started:
            return said, f"not started: {self.faults[0]}"
        late = f"{1e3 * self.lag_s:.0f} ms behind"
        return said, (
            f"{wins}/{count} ({low:.0%} to {high:.0%}), fastest {self.fastest:.2f} of the limit, slowest "
            f"{self.slowest:.2f} of the command, stopped {self.stopped:.0%}, {late}, "
            f"{len(self.faults)} faults, {self.refused} of {self.sent} refused"
        )


def bench_driver(
    driver: Driver,
    robot: RobotFile,
    episodes: int,
    first_seed: int,
    each: Callable[[], object] = lambda: None,
) -> DriverResult:
    """Both tasks in turn, on the same scenes for every driver; `each` is called after every episode."""
    result = DriverResult(driver.kind.name, driver)
    limits = np.array([robot.limits[name].velocity for name in robot.arm_joints])
    sim, expert = TabletopSim(robot), expert_policy(robot)
    for number in range(episodes):
        trace = Trace()
        placed = replace(driver, phase=PHASES[number % len(PHASES)], seed=first_seed + number)
        try:
            rollout = Rollout(robot, sim, images=False, latency_s=LATENCY_S, driver=placed, watcher=trace)
        except ModeError as error:  # the joint states cannot be relied on: nothing moves
            result.faults, result.not_started = [str(error)], True
            return result
        record = rollout.run(expert, first_seed + number, TASKS[number % len(TASKS)])
        result.records.append(record)
        _add(result, trace, limits)
        state = rollout.arm.controller.state
        if state.mode is not Mode.AUTONOMY:
            result.faults.append(state.reason)
        each()
    steady = [_steady(replace(driver, phase=phase, seed=first_seed), robot, sim) for phase in PHASES]
    for trace, _ in steady:
        _add(result, trace, limits)
    shares = np.concatenate([share for _, share in steady])
    result.slowest = float(np.min(shares))
    result.stopped = float(np.mean(shares < 0.2))
    result.lag_s = float(np.mean([_lag_s(trace) for trace, _ in steady]))
    return result


def _add(result: DriverResult, trace: Trace, limits: Array) -> None:
    result.fastest = max(result.fastest, float(np.max(np.abs(trace.speeds()) / limits)))
    result.sent += len(trace.motions)
    result.refused += len(trace.refusals)
    result.refusal = result.refusal or "".join(trace.refusals[:1])


def _steady(driver: Driver, robot: RobotFile, sim: TabletopSim) -> tuple[Trace, Array]:
    """The first joint at steady speed: the trace, and the speeds there as shares of the commanded one."""
    sim.reset(0, "pick")
    action = replace(
        robot.action, space="joint_position", composition="observation", names=(*robot.arm_joints, "gripper")
    )
    turned, trace = replace(robot, action=action), Trace()
    arm = LockStepArm(turned, sim, driver=driver, watcher=trace)
    steps = np.arange(1, action.horizon + 1) * action.period_s
    start, next_ns, count = robot.home, 0, 0
    while sim.time_ns < to_ns(STEADY_S):
        if sim.time_ns >= next_ns:
            count, next_ns = count + 1, sim.time_ns + to_ns(action.execution_steps * action.period_s)
            data = np.tile([*start, 1.0], (action.horizon, 1))
            data[:, 0] += STEADY_RAD_S * (sim.time_ns / NS_PER_S + steps)
            positions = sim.arm_positions.copy()
            arm.take(ActionChunk.for_robot(turned, count, sim.time_ns, "turn", data, positions))
        arm.tick()
    speeds, times = trace.speeds()[:, 0], np.array(trace.times_s)
    return trace, speeds[times[:-1] >= RUN_UP_S] / STEADY_RAD_S


def _lag_s(trace: Trace) -> float:
    """How far the first joint is behind its committed path on average, in steady motion [s]."""
    known = [m.stamp_ns / NS_PER_S for m in trace.motions]
    path = [m.positions[0, 0] for m in trace.motions]
    times = np.array(trace.times_s)
    within = (times >= RUN_UP_S) & (times <= known[-1])
    behind = np.interp(times[within], known, path) - np.array(trace.measured)[within, 0]
    return float(np.mean(behind)) / STEADY_RAD_S
