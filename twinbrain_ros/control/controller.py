"""Who drives the arm, and what it is commanded: the controller node's logic, without ROS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.arrivals import Arrivals
from twinbrain_ros.control.clock import MotionClock
from twinbrain_ros.control.executor import ChunkExecutor
from twinbrain_ros.control.go_to import GoTo, WayEnd, find_pose
from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.joints_watch import JointsWatch
from twinbrain_ros.control.modes import (
    ASKED,
    Event,
    Intervention,
    Interventions,
    Mode,
    ModeChange,
    ModeError,
    Modes,
)
from twinbrain_ros.control.motion import Reference
from twinbrain_ros.control.rivals import Barred
from twinbrain_ros.control.room import Border
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.starting import Finger, StartingPlace
from twinbrain_ros.control.teleop import Inputs, TeleopDrive
from twinbrain_ros.control.verdict import Command, Judged, Outcome, Verdict
from twinbrain_ros.control.watchdogs import ClockWatch, PolicyBeat, PolicyWatch
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.joint_part import JointPart
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.poses import Pose, pose_of
from twinbrain_ros.robot.robot_file import RobotFile

Happening = Judged | ModeChange | Intervention | WayEnd


class ArmController:
    """Holds the arm, or lets chunks or a person drive it. Starts in hold; every time is given by the caller.

    `now_ns` is the ROS clock, by which stamps are; `steady_ns` a clock that never jumps, by which motion,
    silence and rhythm are. Stamps are taken over to the clock of motion when they arrive, see `clock`. What
    happens by the way is collected in `happenings` until the caller takes it from there.

    Args:
        robot: limits, rates, ages and teleop inputs.
        kinematics: of the same robot.
        settings: strategy, margins and watchdogs; may be replaced while the arm holds.
        ros_time: motion is by the ROS clock, as in a simulation.

    Attributes:
        governor, joints, inputs: their times are those of motion; `clock` knows how these differ from stamps.
    """

    def __init__(
        self,
        robot: RobotFile,
        kinematics: Kinematics,
        settings: ControlSettings | None = None,
        ros_time: bool = False,
    ) -> None:
        self.settings = settings or ControlSettings()
        self.clock = MotionClock(ros_time)
        self._arrivals = Arrivals(self.clock)
        self.governor = Governor(robot, kinematics, self.settings.velocity_margin)
        self.happenings: list[Happening] = []
        self.still = ""  # why nothing may move the arm, as when its motors are off; empty if it may
        self._robot, self._kinematics = robot, kinematics
        self._executor = ChunkExecutor(robot, kinematics, self.governor, self.settings.chunks)
        self._modes = Modes()
        self.joints = JointsWatch(robot, self.governor, ros_time)
        pose = lambda: self.joints.newest.arm if self.joints.newest else None  # noqa: E731
        self.inputs = Inputs(robot, pose, self.clock)
        self._policy, self._clock_watch = PolicyWatch(), ClockWatch(ros_time)
        self._since_ns = 0  # the present mode, by the clock of motion
        self._drive: TeleopDrive | None = None
        self._go_to: GoTo | None = None
        self._interventions = Interventions()
        self.finger = Finger(robot, self.joints)
        self._place = StartingPlace(self.governor, self.joints)
        self._kept_from = ""  # why an input that would take over cannot
        self.barred = Barred()
        self._ways = 0

    @property
    def state(self) -> ModeChange:
        """Who drives since when, and why."""
        return self._modes.now

    @property
    def mode(self) -> Mode:
        """Who drives."""
        return self._modes.now.mode

    @property
    def driven(self) -> bool:
        """Whether somebody or something may move the arm."""
        return self.mode in (Mode.AUTONOMY, Mode.TELEOP, Mode.GO_TO)

    def commanded(self, now_ns: int) -> NDArray[np.float64]:
        """Where the arm is told to be now [J]; only while that is known, see `Governor.placed`."""
        return self.governor.at(self.clock.motion(now_ns)).q

    @property
    def running(self) -> ActionChunk | None:
        """The chunk that drives, if one does."""
        return self._executor.running

    @property
    def pose(self) -> Pose | None:
        """The pose that the arm is measured in; None: none that has a name, or the joints are not known."""
        newest = self.joints.newest
        return pose_of(self._robot.poses, newest.arm) if newest is not None else None

    @property
    def advice(self) -> str:
        """What to do before the arm can be driven from where it lies; empty if nothing."""
        pose = self.pose
        return f"the arm lies in {pose.name!r}: go_to home first" if pose is not None and pose.rest else ""

    @property
    def on_the_way(self) -> GoTo | None:
        """The way to a pose that leads the arm, if one does."""
        return self._go_to

    @property
    def teleop_problem(self) -> str:
        """Why the arm does not go where a person asks it to; empty if it does."""
        problem = self._drive.problem if self._drive is not None else self._kept_from
        return f"{problem}; {self.advice}" if problem and self.advice else problem

    def use(self, settings: ControlSettings) -> None:
        """Other settings.

        Raises:
            ValueError: they are wrong, or cannot change while the arm is driven; the old ones stay.
        """
        self.check(settings)
        self._executor.use(settings.chunks)
        self.settings = settings

    def begin_anew(self) -> None:
        """Forgets where the arm was left: while nobody ticked, anything may have moved it."""
        self.governor.forget()
        self._clock_watch = ClockWatch(self.clock.ros_time)

    def check(self, settings: ControlSettings) -> None:
        """Raises ValueError as `use` would, and changes nothing."""
        if self.driven:
            raise ValueError(f"the mode is {self.mode.name}: settings change in HOLD only")
        if settings.velocity_margin != self.settings.velocity_margin:
            raise ValueError("velocity_margin is fixed once the controller is made")
        settings.chunks.steps(self._robot.action.execution_steps, self._robot.action.horizon)

    # In ---------------------------------------------------------------------------------------------

    def add_joints(
        self,
        stamp_ns: int,
        arm_positions: NDArray[np.float64],
        finger_m: float,
        arrived_ns: int | None = None,
    ) -> None:
        """Takes in measured joints: arm [J] in rad in robot-file order, gripper joint in m; all finite.

        arrived_ns: on the steady clock; None: when they are stamped.
        """
        self.add_part(
            JointPart.whole(stamp_ns, arm_positions, finger_m), arrived_ns or self.clock.motion(stamp_ns)
        )

    def add_part(self, part: JointPart, arrived_ns: int) -> None:
        """Takes in what was measured of some joints; when it arrived is on the steady clock."""
        stamp_ns = self._arrivals.measured(part.stamp_ns, arrived_ns, part.indices)
        self.joints.add(JointPart(stamp_ns, part.indices, part.positions), arrived_ns)

    def joints_problem(self, now_ns: int) -> str:
        """Why the measured joints cannot be relied on now; empty if they can."""
        return self.joints.problem(self.clock.motion(now_ns), self.settings.watchdogs.joints_timeout_s)

    def add_beat(self, beat: PolicyBeat, steady_ns: int) -> None:
        """Takes in what the policy says of itself."""
        self._policy.add(beat, steady_ns)

    def add_chunk(self, chunk: ActionChunk, now_ns: int, steady_ns: int) -> None:
        """Judges a chunk; an accepted one drives the arm from the next command on."""
        motion_ns, reason = self.clock.tell(now_ns, steady_ns), ""
        offset_ns = self._arrivals.offset_ns(chunk.observation_ns, motion_ns)
        if self.mode is not Mode.AUTONOMY:
            reason = f"the mode is {self.mode.name}"
        elif chunk.observation_ns - offset_ns <= self._since_ns:
            reason = "it was observed before the switch to autonomy"
        else:
            reason = self.joints_problem(now_ns)
        if reason:
            self.happenings.append(Judged(chunk, Verdict(Outcome.DISCARDED, reason)))
            return
        judged = self._executor.accept(chunk, motion_ns, offset_ns)
        if judged[-1].verdict.outcome in (Outcome.ACCEPTED, Outcome.WAITING):
            self._policy.answered(steady_ns)
        self.happenings += judged

    # Who drives -------------------------------------------------------------------------------------

    def set_mode(self, mode: int, now_ns: int, steady_ns: int, source: str, reason: str) -> None:
        """Changes who drives. The same mode again changes nothing.

        Raises:
            ModeError: the mode is unknown, cannot follow the present one, or the joints cannot be relied on.
        """
        if mode not in ASKED:
            known = ", ".join(f"{asked.name} ({asked.value})" for asked in ASKED)
            hints = {
                Mode.ESTOP: "; the service estop stops",
                Mode.GO_TO: "; the action go_to leads to a pose",
            }
            more = hints.get(Mode(mode), "") if mode in set(Mode) else ""
            raise ModeError(f"mode is {mode}, expected one of {known}{more}")
        event = ASKED[Mode(mode)]
        self._modes.next(event)
        if mode != self.mode or self._modes.taken_over:
            self._change(event, now_ns, steady_ns, source, reason)

    def go_to(
        self, pose: str, speed: float, now_ns: int, steady_ns: int, source: str, reason: str = ""
    ) -> int:
        """Leads the arm to a pose at a share of its limits; gives the number of its `WayEnd`.

        Raises:
            ModeError: it cannot follow the present mode, or the joints cannot be relied on.
            WayError: there is no such pose, or no way there.
        """
        self._modes.next(Event.ASK_GO_TO)
        goal = find_pose(self._robot, pose)
        motion_ns = self.clock.tell(now_ns, steady_ns)
        self._start(Event.ASK_GO_TO, now_ns, steady_ns)
        self._ways += 1
        way = GoTo(self._robot, self._kinematics, self.governor, pose, speed, motion_ns, self._ways)
        self._change(Event.ASK_GO_TO, now_ns, steady_ns, source, reason or f"go to {pose!r}")
        self._go_to = way
        if goal.finger_m is not None:
            self.finger.wanted_m = goal.finger_m
        return self._ways

    def estop(self, now_ns: int, steady_ns: int, source: str, reason: str) -> None:
        """Comes to rest now, and stays there until `reset`."""
        if self.mode is not Mode.ESTOP:
            self._change(Event.ESTOP, now_ns, steady_ns, source, reason)

    def fault(self, now_ns: int, steady_ns: int, source: str, reason: str) -> None:
        """Comes to rest, if the arm is driven, and holds until `reset`."""
        if self.driven:
            self._change(Event.FAULT, now_ns, steady_ns, source, reason)

    def reset(self, now_ns: int, steady_ns: int, source: str, reason: str) -> None:
        """Releases a latched fault or emergency stop; the arm holds.

        Raises:
            ModeError: there is nothing to release, because the arm is driven.
        """
        self._modes.next(Event.RESET)
        if self.state.latched:
            self._change(Event.RESET, now_ns, steady_ns, source, reason)

    def _change(self, event: Event, now_ns: int, steady_ns: int, source: str, reason: str) -> None:
        """The only place where the mode changes."""
        before, motion_ns = self.mode, self.clock.tell(now_ns, steady_ns)
        self._start(event, now_ns, steady_ns)
        if self._go_to is not None:
            way, arrived = self._go_to, reason == self._go_to.arrived
            stuck = event is Event.ARRIVE and not arrived
            self.happenings.append(WayEnd(way.number, way.goal.name, arrived, reason, stuck))
        self._drive = self._go_to = None
        self.happenings += self._executor.drop()
        after = self._modes.enter(event, now_ns, source, reason)
        self._since_ns = motion_ns
        if after.mode is Mode.AUTONOMY:
            self._executor.reset()
            self._policy.start(steady_ns)
        self.happenings.append(after)
        self.happenings += self._interventions.note(before, after)

    def _start(self, event: Event, now_ns: int, steady_ns: int) -> None:
        """Makes ready for the mode that an event leads to; ModeError if the joints stand against it."""
        mode = self._modes.next(event)
        if mode not in (Mode.TELEOP, Mode.AUTONOMY, Mode.GO_TO):
            return
        if problem := self._kept_still(mode, now_ns, steady_ns):
            raise ModeError(f"cannot start {mode.name.lower()}: {problem}")
        if self.mode is Mode.HOLD and self._place.take(self.settings, self.clock.motion(now_ns), steady_ns):
            self.finger.start()

    def _against(self, mode: Mode, now_ns: int) -> str:
        """What stands against a mode that moves, at its start as on the way; empty if nothing does."""
        return self.clock.problem or self.barred.reason(mode) or self.joints_problem(now_ns)

    def _kept_still(self, mode: Mode, now_ns: int, steady_ns: int) -> str:
        """Why the arm cannot be driven now, by what holds it still or is measured; empty if it can."""
        problem = self.still or self._against(mode, now_ns)
        if mode is Mode.AUTONOMY and self._robot.gripper.commanded:
            problem = problem or self.finger.problem(self.clock.motion(now_ns))
        if problem or self.mode is not Mode.HOLD:
            return problem
        return self._place.problem(self.settings, self.clock.motion(now_ns), steady_ns)

    # Out --------------------------------------------------------------------------------------------

    def tick(self, now_ns: int, steady_ns: int) -> Command | None:
        """To be called once a period: what to send now; None: nothing, the arm is or comes to rest."""
        self._watch(now_ns, steady_ns)
        self._arbitrate(now_ns, steady_ns)
        self._arrive(now_ns, steady_ns)
        return self.command(now_ns, steady_ns)

    def command(self, now_ns: int, steady_ns: int | None = None) -> Command | None:
        """What to send now, apart from the regular tick: as soon as a chunk has come.

        steady_ns: None takes the clocks to differ as they did at the last call.
        """
        at_ns = self.clock.motion(now_ns) if steady_ns is None else self.clock.tell(now_ns, steady_ns)
        reference: Reference | None = None
        border = Border.SLIDE
        if self.mode is Mode.AUTONOMY:
            reference, judged = self._executor.follow(at_ns)
            self.happenings += judged
        elif self.mode is Mode.TELEOP:
            reference = self._person(at_ns)
            border = self._drive.border if self._drive is not None else border
        elif self.mode is Mode.GO_TO:
            reference, border = self._go_to, Border.CROSS
        if reference is None:
            return None
        motion = self.governor.advance(reference, at_ns, border)
        if motion is None:
            return None
        first_of = None
        if self.mode is Mode.AUTONOMY:
            self.finger.wanted_m, first_of = self._executor.commanded(at_ns + self.governor.lead_ns)
        self.finger.told_m = self.finger.wanted_m
        return Command(replace(motion, stamp_ns=self.clock.stamp(at_ns)), self.finger.told_m, first_of)

    def settling(self, now_ns: int) -> NDArray[np.float64] | None:
        """Where the arm is to be [J] a lead from now while it comes to rest without commands, else None."""
        at_ns = self.clock.motion(now_ns) + self.governor.lead_ns
        return self.governor.at(at_ns).q if self.governor.moving(at_ns) else None

    def _watch(self, now_ns: int, steady_ns: int) -> None:
        """Stops the arm if something is wrong that must not be while it is driven."""
        watchdogs = self.settings.watchdogs
        motion_ns = self.clock.tell(now_ns, steady_ns)
        clock, rhythm = self._clock_watch.tick(now_ns, steady_ns, watchdogs)
        reason = clock or rhythm or self._against(self.mode, now_ns)
        if not reason and self.driven and self.settings.follows:
            names = self._robot.arm_joints
            reason = self.joints.astray(motion_ns, self.governor, watchdogs, names)
        if not reason and self.mode is Mode.AUTONOMY:
            reason = self._policy.problem(steady_ns, watchdogs)
        if reason:
            self.fault(now_ns, steady_ns, "watchdog", reason)
        if clock and self.clock.ros_time:
            self.governor.forget()

    def _arbitrate(self, now_ns: int, steady_ns: int) -> None:
        """Lets inputs take over, and lets go of the one that did."""
        taken_over, self._kept_from = self._modes.taken_over, ""
        if self.state.latched or (self.mode is Mode.TELEOP and not taken_over):
            return
        motion_ns = self.clock.motion(now_ns)
        strongest = self.inputs.strongest(motion_ns, unasked=True)
        if strongest is not None and not taken_over:
            name, problem = strongest.name, self._kept_still(Mode.TELEOP, now_ns, steady_ns)
            if problem:
                self._kept_from = f"{name} cannot take over: {problem}"
            else:
                self._change(Event.TAKE_OVER, now_ns, steady_ns, name, f"{name} took over")
        elif strongest is None and taken_over:
            driving = self._drive.name if self._drive is not None else self.state.source
            silent = self.inputs.wish(driving, motion_ns) is None
            event, what = (Event.FALL_SILENT, "fell silent") if silent else (Event.LET_GO, "let go")
            self._change(event, now_ns, steady_ns, driving, f"{driving} {what}")

    def _arrive(self, now_ns: int, steady_ns: int) -> None:
        """Ends a way to a pose that is over."""
        if self._go_to is None or self._go_to.goal.finger_m not in (None, self.finger.told_m):
            return  # a tick that comes late may find the way over before the gripper was told
        newest = self.joints.newest if self.settings.follows else None
        outcome = self._go_to.outcome(self.clock.motion(now_ns), newest.arm if newest is not None else None)
        if outcome is not None:
            self._change(Event.ARRIVE, now_ns, steady_ns, self.state.source, outcome)

    def _person(self, now_ns: int) -> TeleopDrive | None:
        """The reference of the input that drives; without one it stands where the arm comes to rest."""
        strongest = self.inputs.strongest(now_ns, unasked=self._modes.taken_over)
        if strongest is None:
            self._drive = None
            return None
        if self._drive is None or self._drive.name != strongest.name:
            self._drive = TeleopDrive(strongest, self._kinematics, self._robot, self.governor, now_ns)
        wish = self.inputs.wish(strongest.name, now_ns)
        self._drive.follow(wish, now_ns)
        if wish is not None and wish.finger_m is not None:
            self.finger.wanted_m = wish.finger_m
        return self._drive
