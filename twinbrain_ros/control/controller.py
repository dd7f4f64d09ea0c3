"""Who drives the arm, and what it is commanded: the controller node's logic, without ROS."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.executor import VELOCITY_MARGIN, ChunkExecutor
from twinbrain_ros.control.plan import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Command, Outcome, Verdict
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

# A command tells where the arm is to be this many command periods from now. With one, a tick that comes late
# finds the arm at the end of its last point and stopped; with two, the trajectory controller always has one
# more period of motion in hand, and in steady motion it still passes every set-point at its time.
LEAD_PERIODS = 2


class Mode(enum.IntEnum):
    """Who drives, with the numbers of the ControlMode message."""

    HOLD = 0
    TELEOP = 1
    AUTONOMY = 2
    ESTOP = 3


# What can be asked for. Teleoperation and emergency stop have their numbers, but nobody serves them yet.
OFFERED = (Mode.HOLD, Mode.AUTONOMY)


class ModeError(ValueError):
    """A mode that cannot be taken now."""


@dataclass(frozen=True)
class ModeChange:
    """The mode in force: since when [ns], asked for by whom, and why."""

    mode: Mode
    since_ns: int
    source: str
    reason: str


@dataclass(frozen=True)
class _Joints:
    stamp_ns: int
    arm: NDArray[np.float64]
    finger_m: float


class ArmController:
    """Holds the arm, or lets chunks drive it. Starts in hold; every time is given by the caller.

    Args:
        robot: limits, rates and ages.
        kinematics: of the same robot.
        execution_steps: steps of each chunk that are executed; None takes the robot file's.
        velocity_margin: share of the joint velocity limits that may be used, 0 to 1.
    """

    def __init__(
        self,
        robot: RobotFile,
        kinematics: Kinematics,
        execution_steps: int | None = None,
        velocity_margin: float = VELOCITY_MARGIN,
    ) -> None:
        self.lead_s = LEAD_PERIODS / robot.rates.command_hz
        self.state = ModeChange(Mode.HOLD, 0, "", "start")
        self._executor = ChunkExecutor(robot, kinematics, execution_steps, velocity_margin)
        self._lead_ns = to_ns(self.lead_s)
        self._joints_age_s = robot.observation.max_age_s
        self._joints: _Joints | None = None

    @property
    def mode(self) -> Mode:
        """Who drives."""
        return self.state.mode

    def add_joints(self, stamp_ns: int, arm_positions: NDArray[np.float64], finger_m: float) -> None:
        """Takes in measured joints: arm [J] in rad in robot-file order, gripper joint in m; all finite."""
        self._joints = _Joints(stamp_ns, arm_positions, finger_m)

    def joints_problem(self, now_ns: int) -> str:
        """Why the measured joints cannot be relied on now; empty if they can."""
        if self._joints is None:
            return "no joint states have arrived yet"
        age_s = (now_ns - self._joints.stamp_ns) / NS_PER_S
        if age_s > self._joints_age_s:
            return f"the joint states are {age_s:.3f} s old, expected at most {self._joints_age_s} s"
        return ""

    def set_mode(self, mode: int, now_ns: int, source: str, reason: str) -> Command | None:
        """Changes who drives; gives the last command of a motion that ends by it, if there was one.

        Raises:
            ModeError: the mode is unknown, not offered, or the measured joints cannot be relied on.
        """
        if mode not in OFFERED:
            known = ", ".join(f"{offered.name} ({offered.value})" for offered in OFFERED)
            name = f"{Mode(mode).name} ({mode})" if mode in tuple(Mode) else str(mode)
            raise ModeError(f"mode is {name}, expected one that this controller offers: {known}")
        if mode == self.mode:
            return None
        if mode == Mode.HOLD:
            last = self._rest(now_ns)
        else:
            problem = self.joints_problem(now_ns)
            if problem or self._joints is None:
                raise ModeError(f"cannot start autonomy: {problem}")
            last = None
            self._executor.hold(self._joints.arm, self._joints.finger_m)
        self.state = ModeChange(Mode(mode), now_ns, source, reason)
        return last

    def add_chunk(self, chunk: ActionChunk, now_ns: int) -> Verdict:
        """Judges a chunk; an accepted one drives the arm from the next command on."""
        if self.mode is not Mode.AUTONOMY:
            return Verdict(Outcome.DISCARDED, f"the mode is {self.mode.name}")
        if chunk.observation_ns <= self.state.since_ns:
            return Verdict(Outcome.DISCARDED, "it was observed before the switch to autonomy")
        problem = self.joints_problem(now_ns)
        if problem:
            return Verdict(Outcome.DISCARDED, problem)
        return self._executor.accept(chunk, now_ns, now_ns + self._lead_ns)

    def command(self, now_ns: int) -> Command | None:
        """What to send now, stamped with when the arm is to be there; None: nothing to send, it holds."""
        if self.mode is not Mode.AUTONOMY:
            return None
        if self.joints_problem(now_ns):
            return self._rest(now_ns) if self._executor.running else None
        return self._executor.command(now_ns + self._lead_ns)

    def _rest(self, now_ns: int) -> Command | None:
        """Ends the motion; gives the command that holds its last set-point, if there is one."""
        running, setpoint = self._executor.running, self._executor.setpoint
        self._executor.hold()
        if setpoint is None:
            return None
        arm, finger_m = setpoint
        return Command(now_ns + self._lead_ns, arm, finger_m, running.sequence if running else 0)
