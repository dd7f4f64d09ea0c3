"""What the arm's velocity does where one chunk takes over from another, for each way of executing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.realtime import RealTimeGuide
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Outcome
from twinbrain_ros.robot.actions import compose_ee_deltas
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.lockstep import LockStepArm
from twinbrain_ros.sim.tabletop import TabletopSim

Array = NDArray[np.float64]

PLAIN = "plain swap, no governor"
SPEED_M_S = 0.06  # of the tool along its circle
RADIUS_M = 0.05
# How much successive chunks disagree: where the tool should be, and how fast it should go.
STRAY_M, STRAY_SHARE = 0.008, 0.3
SHOWN_RAD_S = 1.5  # panels of the picture show so much of the velocity


@dataclass(frozen=True, eq=False)
class SeamRecord:
    """Commanded motion of a run: times_s [N], velocities [N, J] in rad/s, seams [N] (a chunk took over)."""

    name: str
    joints: tuple[str, ...]
    times_s: Array
    velocities: Array
    seams: NDArray[np.bool_]

    def largest_step(self) -> float:
        """The largest change of a joint's velocity from one command to the first of a new chunk [rad/s]."""
        return float(self._steps()[self.seams[1:]].max())

    def largest_step_anywhere(self) -> float:
        """The largest change of a joint's velocity from any command to the next [rad/s]."""
        return float(self._steps().max())

    def largest_acceleration(self) -> float:
        """The largest change of a joint's velocity anywhere, per second [rad/s2]."""
        return float((self._steps() / np.diff(self.times_s)).max())

    def _steps(self) -> Array:
        """[N - 1], of the joint that changes most [rad/s]."""
        return np.asarray(np.abs(np.diff(self.velocities, axis=0)).max(axis=1), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """The figures."""
        return {
            "strategy": self.name,
            "seams": int(self.seams.sum()),
            "largest_step_rad_s": self.largest_step(),
            "largest_step_anywhere_rad_s": self.largest_step_anywhere(),
            "largest_acceleration_rad_s2": self.largest_acceleration(),
        }


class _Circling:
    """A policy that leads the tool round a circle, each chunk disagreeing a little with the last one."""

    def __init__(self, robot: RobotFile, kinematics: Kinematics, seed: int) -> None:
        self._robot, self._kinematics = robot, kinematics
        self._random = np.random.default_rng(seed)
        self._centre = kinematics.forward(robot.home)[0] + [0.0, 0.0, -0.02]
        self._count = 0

    def chunk(self, now_ns: int, q: Array) -> ActionChunk:
        """From where the arm is, towards a place near the circle, and on along it."""
        action, random = self._robot.action, self._random
        self._count += 1
        position = self._kinematics.forward(q)[0]
        stray = random.normal(0.0, STRAY_M, 3)
        speed = SPEED_M_S * (1.0 + random.normal(0.0, STRAY_SHARE))
        angle = np.arctan2(position[1] - self._centre[1], position[0] - self._centre[0])
        angles = angle + speed * action.period_s / RADIUS_M * np.arange(1, action.horizon + 1)
        circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(action.horizon)], axis=1)
        points = self._centre + stray + RADIUS_M * circle
        data = np.zeros((action.horizon, len(action.names)))
        data[:, :3] = np.diff(np.vstack([position, points]), axis=0)
        data[:, -1] = 1.0
        return ActionChunk.for_robot(self._robot, self._count, now_ns, "circle", data, np.array(q))


def measure_seams(
    robot: RobotFile, strategy: Strategy, delay_s: float, seconds: float, seed: int
) -> SeamRecord:
    """In lock-step, chunks late by `delay_s`; with real_time, they agree with the guide where it binds."""
    kinematics, sim = Kinematics(robot), TabletopSim(robot)
    sim.reset(0, "pick")
    arm = LockStepArm(robot, sim, ControlSettings(ChunkSettings(strategy)))
    policy, guides = _Circling(robot, kinematics, seed), RealTimeGuide(robot, kinematics)
    pending: list[tuple[int, ActionChunk]] = []
    replan_ns, next_ns = to_ns(robot.action.execution_steps * robot.action.period_s), 0
    rows: list[tuple[float, Array, bool]] = []
    while sim.time_ns < to_ns(seconds):
        now_ns = sim.time_ns
        if now_ns >= next_ns and not pending:
            chunk = policy.chunk(now_ns, sim.arm_positions.copy())
            if strategy is Strategy.REAL_TIME:
                chunk = _agreeing(chunk, guides)
            pending.append((now_ns + to_ns(delay_s), chunk))
            next_ns = now_ns + replan_ns
        if pending and now_ns >= pending[0][0]:
            chunk = pending.pop()[1]
            verdict = arm.take(chunk)
            if verdict.outcome is Outcome.ACCEPTED:
                guides.sent(chunk)
                guides.executed(chunk.sequence, verdict.due_ns, now_ns)
        command = arm.tick()
        if command is not None:
            rows.append(
                (
                    now_ns / NS_PER_S,
                    command.motion.velocities[command.motion.leads_to],
                    command.first_of is not None,
                )
            )
    times, velocities, seams = zip(*rows, strict=True)
    return SeamRecord(
        strategy.value, tuple(robot.arm_joints), np.array(times), np.array(velocities), np.array(seams)
    )


def _agreeing(chunk: ActionChunk, guides: RealTimeGuide) -> ActionChunk:
    """What a guided flow tends to: the old chunk's actions where they bind, its own where they do not."""
    found = guides.guide(chunk.observation_ns, chunk.observation_positions, chunk.instruction)
    if found is None:
        return chunk
    guide, sequence = found
    weights = guide.weights[:, None]
    data = weights * guide.actions + (1 - weights) * chunk.data
    return replace(chunk, data=data, guide_sequence=sequence, guide_frozen=guide.frozen)


def measure_plain(robot: RobotFile, delay_s: float, seconds: float, seed: int) -> SeamRecord:
    """As it is often done: straight from waypoint to waypoint of the newest chunk, by time."""
    kinematics = Kinematics(robot)
    policy, period_ns = _Circling(robot, kinematics, seed), to_ns(robot.action.period_s)
    tick_ns = to_ns(1.0 / robot.rates.command_hz)
    replan_ns = to_ns(robot.action.execution_steps * robot.action.period_s)
    running: tuple[int, Array] | None = None
    arriving: tuple[int, int, Array] | None = None
    q, rows, next_ns = np.array(robot.home), [], 0
    for now_ns in range(0, to_ns(seconds), tick_ns):
        if now_ns >= next_ns and arriving is None:
            points = _waypoints(kinematics, policy.chunk(now_ns, q), q)
            arriving, next_ns = (now_ns + to_ns(delay_s), now_ns, points), now_ns + replan_ns
        seam = arriving is not None and now_ns >= arriving[0]
        if arriving is not None and seam:
            running, arriving = (arriving[1], arriving[2]), None
        if running is None:
            continue
        steps = (now_ns - running[0]) / period_ns
        there = np.array([np.interp(steps, np.arange(len(running[1])), joint) for joint in running[1].T])
        rows.append((now_ns / NS_PER_S, (there - q) * (NS_PER_S / tick_ns), seam))
        q = there
    times, velocities, seams = zip(*rows, strict=True)
    return SeamRecord(PLAIN, tuple(robot.arm_joints), np.array(times), np.array(velocities), np.array(seams))


def _waypoints(kinematics: Kinematics, chunk: ActionChunk, q: Array) -> Array:
    """Joints [T + 1, J] of a chunk, from where it was observed."""
    positions, rotations = compose_ee_deltas(*kinematics.forward(q), chunk.data)
    found = [q]
    for position, rotation in zip(positions, rotations, strict=True):
        found.append(kinematics.inverse(position, rotation, found[-1]).q)
    return np.array(found)


def plot_seams(records: Sequence[SeamRecord], bound: float, path: Path) -> None:
    """One panel each: commanded velocities, seams marked; bound: of a step from one command to the next."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(records), 1, figsize=(10, 2.3 * len(records)), sharex=True, squeeze=False)
    for axis, record in zip(axes[:, 0], records, strict=True):
        _draw(axis, record)
    axes[-1, 0].set_xlabel("time [s]; dotted: a chunk takes over")
    figure.suptitle(
        f"Commanded joint velocities. No step from one command to the next may exceed {bound:.3f} rad/s: "
        "acceleration limit x tick.",
        y=0.995,
        fontsize=10,
    )
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, 0.985), ncol=6, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.975))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis: Any, record: SeamRecord) -> None:
    """A record's panel; what is faster than its border is cut off, and said in the title."""
    # The waist and the wrist that keeps the tool's direction turn alike: one of them has to be seen through.
    for number, (joint, velocity) in enumerate(zip(record.joints, record.velocities.T, strict=True)):
        style = (0, (4, 4)) if number >= len(record.joints) // 2 else "-"
        axis.plot(record.times_s, velocity, label=joint, linewidth=1.2, linestyle=style)
    for time_s in record.times_s[record.seams]:
        axis.axvline(time_s, color="0.5", linewidth=0.8, linestyle=":")
    peak = float(np.abs(record.velocities).max())
    cut = f"; peaks of {peak:.1f} rad/s are cut off" if peak > SHOWN_RAD_S else ""
    axis.set_title(
        f"{record.name}: largest step at a seam {record.largest_step():.3f}, "
        f"anywhere {record.largest_step_anywhere():.3f} rad/s{cut}",
        fontsize=10,
    )
    axis.set_ylabel("rad/s")
    axis.set_ylim(-SHOWN_RAD_S, SHOWN_RAD_S)
    axis.grid(alpha=0.3)
