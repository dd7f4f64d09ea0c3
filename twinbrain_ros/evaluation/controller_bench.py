"""How late commands come while the whole loop runs: as the controller says, and as a subscriber sees it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.control.timing import leads_to_s, to_ns
from twinbrain_ros.data.messages import from_time
from twinbrain_ros.demo.client import EVENTS, LoopError
from twinbrain_ros.evaluation.machine import machine_facts, package_versions
from twinbrain_ros.evaluation.results import Ticks
from twinbrain_ros.evaluation.statistics import Summary
from twinbrain_ros.msg import ControlMode
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.sim.tasks import TASKS, Judge, parse_instruction

if TYPE_CHECKING:
    from twinbrain_ros.demo.loop import Loop

IN_TIME_MS = 5.0
EPISODE_S = 15.0
FIRST_SEED = 1000
REPORT_TIMEOUT_S = 5.0  # for the controller's figures, which come once a second
# A command that comes earlier than this share of a period before its turn was sent for a chunk's arrival.
EARLY = 0.2
# Stretches of fewer commands do not show when the controller's turns are.
FEWEST = 20


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Commands of one stretch of autonomy, in their order.

    Attributes:
        times_ns: [N], when each arrived.
        moving: [N], whether the arm is still in motion where each leads to first, so that more must follow.
    """

    times_ns: NDArray[np.int64]
    moving: NDArray[np.bool_]

    def intervals_ms(self) -> list[float]:
        """From a command in motion to the next one."""
        found: list[float] = (np.diff(self.times_ns)[self.moving[:-1]] / 1e6).tolist()
        return found

    def late_ms(self, rate_hz: float) -> list[float]:
        """How late after its turn came each command that had to follow one in motion.

        Turns are a period apart, and where the middle one of all commands comes in time. A turn that was
        skipped makes the next command late by a period.
        """
        if len(self.times_ns) < FEWEST:
            return []
        turns = (self.times_ns - self.times_ns[0]) * (rate_hz / 1e9)
        mean = np.angle(np.exp(2j * np.pi * turns).mean()) / (2 * np.pi)
        turns = turns - mean
        turns = turns - np.median(turns - np.round(turns))
        late = turns[1:] - (np.floor(turns[:-1] + EARLY) + 1)
        found: list[float] = (late[self.moving[:-1] & (late > -EARLY)] * (1e3 / rate_hz)).tolist()
        return found


class CommandWatch:
    """Notes when commands arrive, by the middleware where it says so: a busy listener then adds nothing.

    command_hz: how often they come; says which of their points they lead to.
    """

    def __init__(self, command_hz: float) -> None:
        self._lead_ns = to_ns(leads_to_s(command_hz))
        self._heard: list[tuple[int, bool]] = []
        self._stretches: list[tuple[int, int]] = []

    def on_trajectory(self, message: JointTrajectory, info: Any) -> None:
        """Takes in a command of the arm; `info` is what came with it."""
        ahead = (p for p in message.points if from_time(p.time_from_start) >= self._lead_ns)
        moving = any(any(point.velocities) for point in ahead)
        self._heard.append((int(info["received_timestamp"]) or time.time_ns(), moving))

    def add_stretch(self, start_ns: int, end_ns: int) -> None:
        """The arm was in autonomy from when to when."""
        self._stretches.append((start_ns, end_ns))

    def arrivals(self) -> list[Arrivals]:
        """What came, stretch by stretch."""
        heard = sorted(self._heard)
        found = [[a for a in heard if start <= a[0] <= end] for start, end in self._stretches]
        return [
            Arrivals(
                np.array([ns for ns, _ in some], dtype=np.int64), np.array([moving for _, moving in some])
            )
            for some in found
            if some
        ]


@dataclass
class Measured:
    """What a run has measured; complete up to the moment it ends, however it does.

    Attributes:
        ticks: as the controller says; None if it said nothing.
        seconds: of the run, apart from bringing up [s].
    """

    rate_hz: float
    ticks: Ticks | None = None
    watch: CommandWatch = field(init=False)
    seconds: float = 0.0
    episodes: int = 0
    faults: list[str] = field(default_factory=list)
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.watch = CommandWatch(self.rate_hz)

    def to_json(self) -> dict[str, Any]:
        """Everything. `late_ms` and `within_5_ms` are the controller's, the latter over all ticks; those of
        `subscriber` are over the commands that had to come because the arm was in motion."""
        arrivals = self.watch.arrivals()
        intervals = [ms for some in arrivals for ms in some.intervals_ms()]
        late = [ms for some in arrivals for ms in some.late_ms(self.rate_hz)]
        return {
            "rate_hz": self.rate_hz,
            "seconds": round(self.seconds, 3),
            **(self.ticks.to_json() if self.ticks else {}),
            "subscriber": {
                "intervals_ms": Summary.of(intervals).to_json(),
                "late_ms": Summary.of(late).to_json(),
                "within_5_ms": sum(ms <= IN_TIME_MS for ms in late) / len(late) if late else None,
            },
            "episodes": self.episodes,
            "faults": self.faults,
            "interrupted": self.interrupted,
            "load_average": os.getloadavg()[0],
            "machine": machine_facts(),
            "versions": package_versions(),
        }


def measure(loop: Loop, seconds: float, measured: Measured) -> None:
    """Run episodes for this long on a loop that is up, into `measured`.

    Raises:
        LoopError: the loop does not do what it is asked to.
        NodeDied: a node ended.
    """
    client = loop.client
    client.node.create_subscription(
        JointTrajectory, loop.robot.topics.arm_trajectory, measured.watch.on_trajectory, EVENTS
    )
    before = _ticks_now(loop)
    start = time.monotonic()
    try:
        run_episodes(loop, seconds, measured)
        _ticks_now(loop)
    finally:  # by what was said last, if there is no time to wait for more
        measured.seconds = time.monotonic() - start
        measured.faults = list(client.faults)
        if (after := client.ticks()) is not None and after.count > before.count:
            measured.ticks = replace(
                after,
                count=after.count - before.count,
                over_5_ms=after.over_5_ms - before.over_5_ms,
                skipped=after.skipped - before.skipped,
            )


def _ticks_now(loop: Loop) -> Ticks:
    """The controller's figures from now on or later."""
    client, now_ns = loop.client, loop.client.now_ns()
    if not client.spin_until(lambda: client.counter("ticks", now_ns) is not None, REPORT_TIMEOUT_S):
        raise LoopError(f"/diagnostics: no ticks of the controller within {REPORT_TIMEOUT_S:g} s")
    ticks = client.ticks()
    if ticks is None:
        raise LoopError(f"/diagnostics: of the controller's {', '.join(Ticks.KEYS)} some are missing")
    return ticks


def run_episodes(loop: Loop, seconds: float, measured: Measured | None = None) -> None:
    """One episode after another on a loop that is up, for so long [s]."""
    measured = measured or Measured(loop.robot.rates.command_hz)
    start_s = time.monotonic()
    while (left_s := start_s + seconds - time.monotonic()) > 0:
        _episode(loop, min(left_s, EPISODE_S), measured)


def _episode(loop: Loop, seconds: float, measured: Measured) -> None:
    """Let the arm do what a scene asks for, until it is done, the arm is stopped or the time is over [s]."""
    client, number = loop.client, measured.episodes
    client.release()
    instruction = client.reset_scene(FIRST_SEED + number, TASKS[number % len(TASKS)])
    judge = Judge(parse_instruction(instruction))
    client.instruct(instruction)
    client.set_mode(ControlMode.AUTONOMY, f"bench, episode {number + 1}")
    start_ns = time.time_ns()

    def see(scene: SceneState) -> None:
        judge.update(scene)

    client.watch_scene(see)
    try:
        client.spin_until(lambda: judge.outcome.success or client.stopped, seconds)
    finally:
        client.watch_scene(None)
        measured.watch.add_stretch(start_ns, time.time_ns())
        measured.episodes += 1
    client.set_mode(ControlMode.HOLD, f"bench, episode {number + 1} is over")


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of `Measured.to_json` as lines for a person."""
    seen = facts["subscriber"]
    lines = [
        ("rate", f"{facts['rate_hz']:g} Hz for {facts['seconds']:.1f} s, {facts['episodes']} episodes"),
        ("machine", f"{facts['machine']['cores']} cores, load {facts['load_average']:.1f}"),
    ]
    if "ticks" in facts:
        lines += [
            ("ticks", f"{facts['ticks']}, {facts['skipped']} skipped"),
            ("  late, last minute", _times(facts["late_ms"])),
            ("  within 5 ms", f"{facts['within_5_ms']:.2%}, skipped ones counted as late"),
        ]
    lines += [
        ("commands in motion", f"{seen['intervals_ms']['count']}, as a subscriber sees them"),
        ("  intervals", _times(seen["intervals_ms"])),
        ("  late", _times(seen["late_ms"])),
        ("  within 5 ms", "not known" if seen["within_5_ms"] is None else f"{seen['within_5_ms']:.2%}"),
        *(("arm stopped", reason) for reason in facts["faults"]),
    ]
    return lines


def _times(summary: dict[str, Any]) -> str:
    if summary["p50"] is None:
        return "nothing measured"
    return "p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {max:.2f} ms".format(**summary)
