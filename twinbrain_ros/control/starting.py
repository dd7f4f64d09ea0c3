"""Where an arm that holds is driven from, and where its gripper is to be."""

from __future__ import annotations

from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.joints_watch import JointsWatch
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.robot.joint_part import never_told
from twinbrain_ros.robot.robot_file import RobotFile

FINGER_OLD_S = 1.0


class StartingPlace:
    """Where the arm was left, if it stayed there; else where it is measured, if it is at rest."""

    def __init__(self, governor: Governor, joints: JointsWatch) -> None:
        self._governor, self._joints = governor, joints

    def problem(self, settings: ControlSettings, motion_ns: int, steady_ns: int) -> str:
        """Why the arm must not be driven from where it is now; empty if it may."""
        problem = self._joints.unsettled(steady_ns)
        if problem or self._stayed(settings, steady_ns):
            return problem
        if self._governor.moving(motion_ns):
            return "the arm is still coming to rest, and may not be where it was told to be"
        return self._joints.restless(steady_ns)

    def take(self, settings: ControlSettings, motion_ns: int, steady_ns: int) -> bool:
        """A motion begins; False if it goes on from where the arm was left."""
        stayed = self._stayed(settings, steady_ns)
        self._joints.forget_motion(motion_ns)
        if not stayed:
            self._governor.place(self._joints.place(steady_ns), motion_ns)
        return not stayed

    def _stayed(self, settings: ControlSettings, steady_ns: int) -> bool:
        joints = self._joints.newest
        if joints is None or not self._governor.placed or not settings.follows:
            return False
        left = self._governor.at(joints.stamp_ns).q
        return self._joints.stayed(left, settings.watchdogs.following_error_rad, steady_ns)


class Finger:
    """The gripper joint of the robot file.

    Attributes:
        wanted_m: where it is to be commanded [m]; None: as it is.
        told_m: where it was told to be last [m]; None: it was told nothing yet.
    """

    def __init__(self, robot: RobotFile, joints: JointsWatch) -> None:
        self._robot, self._joints = robot, joints
        self.wanted_m: float | None = None
        self.told_m: float | None = None

    def problem(self, motion_ns: int) -> str:
        """Why it is not known where the gripper is; empty if it is."""
        if not self._robot.gripper.commanded:
            return self._joints.finger_problem(motion_ns, FINGER_OLD_S)
        # In lock-step with a simulator it is measured all the same.
        known = self.told_m is not None or self._measured_m is not None
        return "" if known else never_told(self._robot)

    def start(self) -> None:
        """It is to be where it is measured, unless it was told something: what it holds, it holds on."""
        if self.wanted_m is None:
            self.wanted_m = self._measured_m

    @property
    def _measured_m(self) -> float | None:
        return self._joints.newest.finger_m if self._joints.newest is not None else None
