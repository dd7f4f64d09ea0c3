"""Executes action chunks in time: which chunk is running, and where the arm is wanted to be.

Steps whose time has passed are skipped as far as the arm was in motion meanwhile, so that what was not
executed is not left out; the way goes on from the commanded state to the chunk's next waypoint. Everything is
a function of the calls and their `now_ns`, the time of motion: no clock is read here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.motion import Array, State
from twinbrain_ros.control.spline import MonotoneSpline
from twinbrain_ros.control.strategies import ChunkSettings, Strategy, vote_weights
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Judged, Outcome, Verdict
from twinbrain_ros.control.waypoints import WaypointError, WaypointMaker
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

# Stamps of two machines never agree to the last millisecond; more than this is a clock that is wrong.
FUTURE_TOLERANCE_S = 0.05
# A waypoint that is due sooner than this share of a step is passed over for the one after it.
NEAREST_WAYPOINT = 0.25
# The end of a plan counts as reached within this, and is given up this long after its time.
REACHED_RAD = 1e-4
GIVE_UP_S = 0.5


@dataclass(frozen=True, eq=False)
class _Timed:
    """Waypoints of a chunk with their times: times_ns [N], arm [N, J], finger_m [N], actions [N, A]."""

    times_ns: list[int]
    arm: Array
    finger_m: Array
    actions: Array

    def at(self, time_ns: int) -> tuple[Array, float, Array] | None:
        """Arm [J], gripper [m] and action [A] for a moment between two waypoints; None for any other."""
        if not self.times_ns[0] <= time_ns <= self.times_ns[-1]:
            return None
        arm = [np.interp(time_ns, self.times_ns, joint) for joint in self.arm.T]
        i = int(np.searchsorted(self.times_ns, time_ns))
        return np.array(arm), float(self.finger_m[i]), self.actions[i]


@dataclass(frozen=True, eq=False)
class _Arrived:
    """A chunk, and by how much the clock of its stamps is ahead of the clock of motion [ns]."""

    chunk: ActionChunk
    offset_ns: int

    @property
    def observation_ns(self) -> int:
        return self.chunk.observation_ns - self.offset_ns

    @property
    def due_ns(self) -> int:
        return self.chunk.due_ns - self.offset_ns


@dataclass
class _Running:
    chunk: ActionChunk
    spline: MonotoneSpline
    finger_m: Array  # [N], towards each of the spline's waypoints but the first
    verdict: Verdict
    started: bool = False

    def finger(self, time_ns: int) -> float:
        """A switch, not interpolated: what holds on the way to the next waypoint."""
        i = int(np.searchsorted(self.spline.times_ns[1:], time_ns, side="left"))
        return float(self.finger_m[min(i, len(self.finger_m) - 1)])


class ChunkExecutor:
    """Decides about arriving chunks and says where the arm is wanted to be.

    Args:
        robot: action space, workspace and ages.
        kinematics: of the same robot.
        governor: knows what has been commanded, and from when on a chunk can take over.
        settings: strategy and steps.
    """

    def __init__(
        self, robot: RobotFile, kinematics: Kinematics, governor: Governor, settings: ChunkSettings
    ) -> None:
        self._robot = robot
        self._governor = governor
        self._waypoints = WaypointMaker(robot, kinematics)
        self._max_age_ns = to_ns(robot.action.max_chunk_age_s)
        self.use(settings)
        self.reset()

    def use(self, settings: ChunkSettings) -> None:
        """Other settings, from the next chunk on.

        Raises:
            ValueError: they do not fit the robot's horizon; the old ones stay.
        """
        action = self._robot.action
        self._steps = settings.steps(action.execution_steps, action.horizon)
        self.settings = settings

    def reset(self) -> None:
        """Forgets all chunks, those that voted and those that were refused too."""
        self._running: _Running | None = None
        self._waiting: _Arrived | None = None
        self._votes: deque[_Timed] = deque()
        self._newest_observation_ns: int | None = None
        self._run: tuple[int, int] | None = None  # since when, and until when, chunks have driven unbroken

    def drop(self) -> list[Judged]:
        """Nothing drives any more; gives those that never will."""
        given_up = [] if self._waiting is None else [self._waiting.chunk]
        if self._running is not None and not self._running.started:
            given_up.append(self._running.chunk)
        self._running = self._waiting = None
        self._votes.clear()
        return [Judged(chunk, Verdict(Outcome.DISCARDED, "the arm was stopped first")) for chunk in given_up]

    @property
    def running(self) -> ActionChunk | None:
        """The chunk that drives, None when there is none."""
        return self._running.chunk if self._running else None

    # Chunks in --------------------------------------------------------------------------------------

    def accept(self, chunk: ActionChunk, now_ns: int, offset_ns: int = 0) -> list[Judged]:
        """Judges a chunk and, if it is good, lets it drive or wait; gives what became of it and of others.

        Args:
            now_ns: the time of motion.
            offset_ns: by how much the clock of the chunk's stamps is ahead of that.
        """
        try:
            chunk.validate(self._robot)
        except ValueError as error:
            return [Judged(chunk, Verdict(Outcome.REFUSED, str(error)))]
        arrived = _Arrived(chunk, offset_ns)
        verdict = self._judge_time(arrived, now_ns) or self._judge_order(arrived)
        if verdict is not None:
            return [Judged(chunk, verdict)]
        if self.settings.strategy is Strategy.OPEN_LOOP and self._running is not None:
            replaced, self._waiting = self._waiting, arrived
            self._newest_observation_ns = arrived.observation_ns
            overtaken = _overtaken(None if replaced is None else replaced.chunk)
            return [*overtaken, Judged(chunk, Verdict(Outcome.WAITING))]
        return self._start(arrived, now_ns)

    def _judge_order(self, chunk: _Arrived) -> Verdict | None:
        newest = self._newest_observation_ns
        if newest is None or chunk.observation_ns > newest:
            return None
        behind_ms = (newest - chunk.observation_ns) / 1e6
        reason = f"its observation is not newer than the last chunk's, {behind_ms:.1f} ms behind it"
        return Verdict(Outcome.DISCARDED, reason)

    def _judge_time(self, chunk: _Arrived, now_ns: int) -> Verdict | None:
        age_ns = now_ns - chunk.observation_ns
        future_ns = max(-age_ns, chunk.due_ns - now_ns)
        if future_ns > to_ns(FUTURE_TOLERANCE_S):
            return Verdict(
                Outcome.REFUSED,
                f"the chunk lies {future_ns / NS_PER_S:.3f} s in the future, expected at most "
                f"{FUTURE_TOLERANCE_S} s: do the clocks agree?",
            )
        if age_ns > self._max_age_ns:
            limit = self._robot.action.max_chunk_age_s
            return Verdict(
                Outcome.STALE, f"its observation is {age_ns / NS_PER_S:.3f} s old, expected at most {limit} s"
            )
        return None

    def _start(self, arrived: _Arrived, now_ns: int) -> list[Judged]:
        """Lets a chunk drive from the next command on."""
        chunk = arrived.chunk
        if not self._governor.placed:
            return [Judged(chunk, Verdict(Outcome.REFUSED, "the position of the arm is not known yet"))]
        start_ns, state = self._governor.start(now_ns)
        due_ns = self._placed(arrived, start_ns)
        first, last = self._window(chunk, start_ns - due_ns)
        if first >= len(chunk.data):
            late_s = (start_ns - due_ns) / NS_PER_S - len(chunk.data) * chunk.period_s
            return [Judged(chunk, Verdict(Outcome.STALE, f"its last step was due {late_s:.3f} s ago"))]
        base = self._governor.at(due_ns).q
        try:
            points = self._waypoints.make(chunk, first, last, state.q, lambda: base)
        except WaypointError as error:
            return [Judged(chunk, Verdict(Outcome.REFUSED, str(error)))]
        period_ns = to_ns(chunk.period_s)
        times = [due_ns + (k + 1) * period_ns for k in range(first, first + len(points.arm))]
        rows = chunk.data[first : first + len(points.arm)]
        limits = self._governor.limits
        timed = _Timed(times, np.clip(points.arm, limits.lower, limits.upper), points.finger_m, rows)
        accepted = Judged(chunk, Verdict(Outcome.ACCEPTED, points.cut, due_ns + arrived.offset_ns))
        self._newest_observation_ns = arrived.observation_ns
        return [*self._run_on(accepted, self._voted(timed), state, start_ns), accepted]

    def _run_on(self, accepted: Judged, timed: _Timed, state: State, start_ns: int) -> list[Judged]:
        """Goes on from the commanded state; gives what became of the chunk that this replaces."""
        before, since = self._running, start_ns
        if self._run is not None and start_ns <= self._run[1]:
            since = self._run[0]
        spline = MonotoneSpline([start_ns, *timed.times_ns], np.vstack([state.q, timed.arm]), state.v)
        self._running = _Running(accepted.chunk, spline, timed.finger_m, accepted.verdict)
        self._run = since, spline.end_ns
        return _overtaken(before.chunk if before is not None and not before.started else None)

    def _placed(self, chunk: _Arrived, start_ns: int) -> int:
        """When the chunk's first step starts: as it says, but later by how long the arm stood still since."""
        if start_ns <= chunk.due_ns:
            return chunk.due_ns
        moved_ns = 0
        if self._run is not None:
            moved_ns = max(0, min(start_ns, self._run[1]) - max(chunk.due_ns, self._run[0]))
        return start_ns - moved_ns

    def _window(self, chunk: ActionChunk, elapsed_ns: int) -> tuple[int, int]:
        """First and last step to plan for, when so much of the chunk is over already.

        Waypoint k ends at (k + 1) periods. A chunk that will be replaced is planned one step further, rounded
        up, so that the arm does not slow down before its successor comes.
        """
        period_ns = to_ns(chunk.period_s)
        first = max(0, -(-(elapsed_ns + round(NEAREST_WAYPOINT * period_ns)) // period_ns) - 1)
        if self.settings.strategy is Strategy.OPEN_LOOP:
            last = (elapsed_ns + self._steps * period_ns) // period_ns - 1
        else:
            last = -(-(elapsed_ns + (self._steps + 1) * period_ns) // period_ns) - 1
        return first, min(max(first, last), len(chunk.data) - 1)

    def _voted(self, newest: _Timed) -> _Timed:
        """The waypoints after all live chunks have voted on each."""
        if self.settings.strategy is not Strategy.TEMPORAL_ENSEMBLE:
            return newest
        while self._votes and self._votes[0].times_ns[-1] < newest.times_ns[0]:
            self._votes.popleft()
        self._votes.append(newest)
        arm, finger = newest.arm.copy(), newest.finger_m.copy()
        for k, time_ns in enumerate(newest.times_ns):
            votes = [said for vote in self._votes if (said := vote.at(time_ns)) is not None]
            actions = [action for _, _, action in votes]
            weights = vote_weights(self.settings.weighting, self.settings.decay, actions)
            arm[k] = weights @ np.array([joints for joints, _, _ in votes])
            finger[k] = self._gripper(float(weights @ np.array([opening for _, opening, _ in votes])))
        return _Timed(newest.times_ns, arm, finger, newest.actions)

    def _gripper(self, finger_m: float) -> float:
        """A mean of votes as a command: where the gripper is a switch, what most weight is for."""
        gripper = self._robot.gripper
        if self._robot.action.space == "joint_position":
            return finger_m
        return gripper.open_m if gripper.opening(finger_m) > 0.5 else gripper.closed_m

    # The way out ------------------------------------------------------------------------------------

    def follow(self, now_ns: int) -> tuple[MonotoneSpline | None, list[Judged]]:
        """The reference for a command given now, None if nothing drives; what became of a waiting chunk."""
        judged: list[Judged] = []
        if self._over(now_ns):
            self._running = None
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                late = self._judge_time(waiting, now_ns)
                judged = self._start(waiting, now_ns) if late is None else [Judged(waiting.chunk, late)]
        return (None if self._running is None else self._running.spline), judged

    def _over(self, now_ns: int) -> bool:
        """Whether the commanded way ends where the running chunk's does."""
        running = self._running
        start_ns = self._governor.start(now_ns)[0]
        if running is None or start_ns < running.spline.end_ns:
            return False
        here = self._governor.at(start_ns)
        reached = np.max(np.abs(here.q - running.spline.points[-1])) <= REACHED_RAD
        at_rest = not self._governor.moving(start_ns)
        return bool(reached and at_rest) or start_ns >= running.spline.end_ns + to_ns(GIVE_UP_S)

    def commanded(self, time_ns: int) -> tuple[float, Judged | None]:
        """The gripper [m] at a time, and the running chunk if this is its first command."""
        running, gripper = self._running, self._robot.gripper
        assert running is not None
        first, running.started = not running.started, True
        finger_m = gripper.clipped(running.finger(time_ns))
        return finger_m, Judged(running.chunk, running.verdict) if first else None


def _overtaken(chunk: ActionChunk | None) -> list[Judged]:
    reason = "a newer chunk came before its first command"
    return [] if chunk is None else [Judged(chunk, Verdict(Outcome.DISCARDED, reason))]
