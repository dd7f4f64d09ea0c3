"""Executes action chunks in time: which chunk is running, and where the arm is to be now.

A new chunk replaces the running one the moment it is accepted. Steps whose time has passed are skipped, the
path goes on from the current set-point to the chunk's next waypoint, and after `execution_steps` periods, or
at the chunk's own end, the last set-point is held until another chunk comes. Everything is a function of the
calls and their `now_ns`: no clock is read here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.limits import SetpointLimiter
from twinbrain_ros.control.plan import NS_PER_S, JointPlan, to_ns
from twinbrain_ros.control.verdict import Command, Outcome, Verdict
from twinbrain_ros.control.waypoints import WaypointError, WaypointMaker
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

__all__ = ["ChunkExecutor", "Command", "Outcome", "Verdict"]

Array = NDArray[np.float64]

VELOCITY_MARGIN = 0.9
# Stamps of two machines never agree to the last millisecond; more than this is a clock that is wrong.
FUTURE_TOLERANCE_S = 0.05


@dataclass
class _Running:
    chunk: ActionChunk
    plan: JointPlan
    started: bool = False


class ChunkExecutor:
    """Decides about arriving chunks and gives the set-point for any moment.

    Args:
        robot: action space, limits, workspace and ages.
        kinematics: of the same robot.
        execution_steps: steps of each chunk that are executed before holding, 1 to the horizon; None takes
            the robot file's.
        velocity_margin: share of the joint velocity limits that may be used, 0 to 1.
    """

    def __init__(
        self,
        robot: RobotFile,
        kinematics: Kinematics,
        execution_steps: int | None = None,
        velocity_margin: float = VELOCITY_MARGIN,
    ) -> None:
        steps = robot.action.execution_steps if execution_steps is None else execution_steps
        if not 1 <= steps <= robot.action.horizon:
            raise ValueError(f"execution_steps is {steps}, expected 1 to the horizon {robot.action.horizon}")
        self.execution_steps = steps
        self._robot = robot
        self._max_tick_s = 2.0 / robot.rates.command_hz
        self._limiter = SetpointLimiter(robot, kinematics, velocity_margin, self._max_tick_s)
        self._waypoints = WaypointMaker(robot, kinematics)
        self._max_age_ns = to_ns(robot.action.max_chunk_age_s)
        self.reset()

    # Who moves the arm from where -------------------------------------------------------------------

    def reset(self) -> None:
        """Forgets everything, the reference position too: nothing is accepted until `hold` gives one."""
        self._running: _Running | None = None
        self._setpoint: Array | None = None  # [J+1] arm in rad, gripper in m
        self._setpoint_ns: int | None = None
        self._sent: deque[tuple[int, Array]] = deque()  # (time, arm [J]) of past set-points, oldest first
        self._newest_observation_ns: int | None = None

    def hold(self, arm_q: Array | None = None, finger_m: float | None = None) -> None:
        """Drops the running chunk and holds.

        Args:
            arm_q: [J] joints to hold [rad], such as the measured ones when the driver changes; None holds
                the last set-point.
            finger_m: gripper position to hold [m]; needed with the first `arm_q`.
        Raises:
            ValueError: no position is known to hold, or a given one is not finite or has a wrong length.
        """
        self._running = None
        if arm_q is None:
            return
        count = len(self._robot.arm_joints)
        arm = np.asarray(arm_q, dtype=np.float64)
        if arm.shape != (count,) or not np.all(np.isfinite(arm)):
            raise ValueError(f"arm_q is {arm.tolist()}, expected {count} finite joint positions in rad")
        if finger_m is None:
            if self._setpoint is None:
                raise ValueError("finger_m is None, expected a position in m with the first arm_q")
            finger_m = float(self._setpoint[-1])
        self._setpoint = np.append(arm, finger_m)
        self._sent.clear()
        self._setpoint_ns = None

    @property
    def setpoint(self) -> tuple[Array, float] | None:
        """The last set-point: arm [J] in rad and gripper in m; None before the first `hold`."""
        if self._setpoint is None:
            return None
        return self._setpoint[:-1].copy(), float(self._setpoint[-1])

    @property
    def running(self) -> ActionChunk | None:
        """The chunk being executed, None when holding."""
        return self._running.chunk if self._running else None

    # Chunks in --------------------------------------------------------------------------------------

    def accept(self, chunk: ActionChunk, now_ns: int, takeover_ns: int | None = None) -> Verdict:
        """Judges a chunk and, if it is good, makes it the running one. The other verdicts change nothing.

        Args:
            chunk: as it arrived.
            now_ns: the time now, by which its age is judged.
            takeover_ns: the time of the first set-point it can still influence, for a caller that gives
                set-points ahead of their time; now if None.
        """
        takeover_ns = now_ns if takeover_ns is None else takeover_ns
        try:
            chunk.validate(self._robot)
        except ValueError as error:
            return Verdict(Outcome.REFUSED, str(error))
        verdict = self._judge_time(chunk, now_ns, takeover_ns)
        if verdict is not None:
            return verdict
        if self._setpoint is None:
            return Verdict(Outcome.REFUSED, "the position of the arm is not known yet")
        try:
            plan, cut = self._plan(chunk, takeover_ns, self._setpoint)
        except WaypointError as error:
            return Verdict(Outcome.REFUSED, str(error))
        self._running = _Running(chunk, plan)
        self._newest_observation_ns = chunk.observation_ns
        if self._setpoint_ns is None:
            self._remember(takeover_ns, self._setpoint)
        return Verdict(Outcome.ACCEPTED, cut)

    def _judge_time(self, chunk: ActionChunk, now_ns: int, takeover_ns: int) -> Verdict | None:
        age_ns = now_ns - chunk.observation_ns
        future_ns = max(-age_ns, chunk.due_ns - now_ns)
        if future_ns > to_ns(FUTURE_TOLERANCE_S):
            return Verdict(
                Outcome.REFUSED,
                f"the chunk lies {future_ns / NS_PER_S:.3f} s in the future, expected at most "
                f"{FUTURE_TOLERANCE_S} s: do the clocks agree?",
            )
        newest = self._newest_observation_ns
        if newest is not None and chunk.observation_ns <= newest:
            behind_ms = (newest - chunk.observation_ns) / 1e6
            reason = f"its observation is not newer than the last chunk's, {behind_ms:.1f} ms behind it"
            return Verdict(Outcome.DISCARDED, reason)
        if age_ns > self._max_age_ns:
            limit = self._robot.action.max_chunk_age_s
            return Verdict(
                Outcome.STALE, f"its observation is {age_ns / NS_PER_S:.3f} s old, expected at most {limit} s"
            )
        end_ns = chunk.due_ns + to_ns(len(chunk.data) * chunk.period_s)
        if takeover_ns >= end_ns:
            late = (takeover_ns - end_ns) / NS_PER_S
            return Verdict(Outcome.STALE, f"its last step was due {late:.3f} s ago")
        return None

    def _plan(self, chunk: ActionChunk, takeover_ns: int, setpoint: Array) -> tuple[JointPlan, str]:
        """The motion, and why it ends before the window does, empty if it does not."""
        period_ns = to_ns(chunk.period_s)
        start_ns = max(takeover_ns, chunk.due_ns)
        chunk_end_ns = chunk.due_ns + len(chunk.data) * period_ns
        end_ns = min(takeover_ns + self.execution_steps * period_ns, chunk_end_ns)
        # Waypoint k is due at due + (k + 1) periods: the first one is the next that is still to come, the
        # last one the first at or after the end of the window.
        first = (start_ns - chunk.due_ns) // period_ns
        last = max(first, -(-(end_ns - chunk.due_ns) // period_ns) - 1)
        arm = setpoint[:-1]
        points = self._waypoints.make(chunk, first, last, arm, lambda: self._commanded_at(chunk.due_ns))
        last = first + len(points.arm) - 1
        end_ns = min(end_ns, chunk.due_ns + (last + 1) * period_ns)
        # In motion the path goes on from the last set-point's own time, else it would pause until `start_ns`.
        times = [self._moving_since(start_ns)] + [
            chunk.due_ns + (k + 1) * period_ns for k in range(first, last + 1)
        ]
        plan = JointPlan(times, np.vstack([arm, points.arm]), points.finger_m, max(end_ns, start_ns))
        return plan, points.cut

    def _moving_since(self, start_ns: int) -> int:
        """Time of the last set-point if the arm is in motion, else `start_ns`."""
        if self._running is None or self._setpoint_ns is None:
            return start_ns
        recent = 0 <= start_ns - self._setpoint_ns <= to_ns(self._max_tick_s)
        return self._setpoint_ns if recent else start_ns

    def _commanded_at(self, stamp_ns: int) -> Array:
        """The arm set-point [J] that was in force at `stamp_ns` (the oldest known one before that)."""
        assert self._setpoint is not None
        found: Array = self._sent[0][1] if self._sent else self._setpoint[:-1]
        for sent_ns, arm in self._sent:
            if sent_ns > stamp_ns:
                break
            found = arm
        return found

    # Set-points out ---------------------------------------------------------------------------------

    def command(self, now_ns: int) -> Command | None:
        """The set-point for `now_ns`; None when there is nothing to execute and the arm holds.

        The end of a window is sent once, then None. Calls with a time that goes backwards repeat the last
        set-point.
        """
        running = self._running
        if running is None or self._setpoint is None:
            return None
        elapsed_ns = 0 if self._setpoint_ns is None else now_ns - self._setpoint_ns
        arm, finger = running.plan.sample(now_ns)
        arm = self._limiter.next(self._setpoint[:-1], arm, elapsed_ns / NS_PER_S)
        gripper = self._robot.gripper
        setpoint = np.append(arm, min(max(finger, gripper.closed_m), gripper.open_m))
        self._remember(max(now_ns, self._setpoint_ns or now_ns), setpoint)
        first, running.started = not running.started, True
        if now_ns >= running.plan.end_ns:
            self._running = None
        return Command(now_ns, setpoint[:-1].copy(), float(setpoint[-1]), running.chunk.sequence, first)

    def _remember(self, now_ns: int, setpoint: Array) -> None:
        self._setpoint, self._setpoint_ns = setpoint, now_ns
        self._sent.append((now_ns, setpoint[:-1]))
        while len(self._sent) > 1 and self._sent[1][0] < now_ns - self._max_age_ns:
            self._sent.popleft()
