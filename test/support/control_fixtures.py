"""The arm controller's core, driven tick by tick with an arm that does what it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.control.controller import ArmController, Happening
from twinbrain_ros.control.joints_watch import SETTLE_S
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.control.verdict import Command, Judged, Outcome
from twinbrain_ros.control.watchdogs import PolicyBeat
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.joint_part import JointPart
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower

T0 = to_ns(100.0)
TICK = to_ns(0.02)
STILL = (0, 0, 0, 0, 0, 0, 1)
FORWARD = (0.02, 0, 0, 0, 0, 0, 1)
# Of the shipped robot's joystick.
DEADMAN, ESTOP, OPEN, CLOSE = 4, 1, 0, 2
AXES = {"x": 1, "y": 0, "z": 4, "pitch": 7, "yaw": 3}

T = TypeVar("T", bound=Happening)


def with_action(robot: RobotFile, **changes: Any) -> RobotFile:
    """The same robot with another action section; joint_position brings its names."""
    if changes.get("space") == "joint_position":
        changes = {"names": (*robot.arm_joints, "gripper"), **changes}
    return dataclasses.replace(robot, action=dataclasses.replace(robot.action, **changes))


def make_chunk(robot: RobotFile, delta: Sequence[float] = STILL, **changes: Any) -> ActionChunk:
    """A chunk that repeats one step over its horizon, observed at home and due at its observation."""
    action = robot.action
    observation_ns = changes.get("observation_ns", T0)
    fields: dict[str, Any] = {
        "sequence": 1,
        "observation_ns": observation_ns,
        "due_ns": observation_ns,
        "period_s": action.period_s,
        "instruction": "pick up the red block",
        "robot": robot.name,
        "action_space": action.space,
        "composition": action.composition,
        "names": action.names,
        "data": np.tile(np.asarray(delta, dtype=np.float64), (action.horizon, 1)),
        "observation_positions": np.array(robot.home),
    }
    return ActionChunk(**(fields | changes))


class Drive:
    """A controller in 20 ms ticks, with a policy that beats and an arm that follows its trajectories.

    Attributes:
        now, steady: the time of the last tick, on both clocks [ns].
        hands: called before each tick with its time: what a person does meanwhile.
        reads: gives the measured joints [J] at a time, None: none arrive; as they are, if not replaced.
        beat: what the policy says of itself at each tick, None: nothing.
        path: [J] of every tick so far, where the arm then really was.
    """

    def __init__(
        self,
        settings: ControlSettings | None = None,
        robot: RobotFile | None = None,
        q: Array | None = None,
        ros_time: bool = False,
    ) -> None:
        self.robot, self.kinematics = robot or shared_robot(), shared_kinematics()
        self.controller = ArmController(self.robot, self.kinematics, settings, ros_time)
        start = self.robot.home if q is None else q
        self.arm = JointTrajectoryFollower(self.robot.arm_joints, start)
        self.now = self.steady = T0
        self.hands: Callable[[int], object] = lambda now_ns: None
        self.reads: Callable[[int], Array | None] = lambda now_ns: self.q
        self.beat: PolicyBeat | None = PolicyBeat()
        self.path: list[Array] = []
        self.happenings: list[Happening] = []
        # It has stood there for as long as the controller wants to have seen it.
        for ago_ns in range(to_ns(SETTLE_S), -1, -TICK):
            self._measure(T0 - ago_ns, start)

    def _measure(self, stamp_ns: int, q: Array, arrived_ns: int | None = None) -> None:
        gripper = self.robot.gripper
        if not gripper.commanded:
            self.controller.add_joints(stamp_ns, q, gripper.open_m, arrived_ns)
            return
        part = JointPart(stamp_ns, tuple(range(len(q))), q)
        self.controller.add_part(part, arrived_ns or self.controller.clock.motion(stamp_ns))

    @property
    def mode(self) -> Mode:
        """Who drives."""
        return self.controller.mode

    @property
    def q(self) -> Array:
        """Where the arm is [J]."""
        return self.arm.set_point

    @property
    def tool(self) -> Array:
        """Where its tool is [3], m."""
        return self.kinematics.forward(self.q)[0]

    def set_mode(self, mode: Mode) -> None:
        """Asks for a mode, now."""
        self.controller.set_mode(mode, self.now, self.steady, "test", "asked")
        self._collect()

    def give(self, delta: Sequence[float] = STILL, **changes: Any) -> Judged:
        """Hands over a chunk that was observed now, where the arm is, if nothing else is said."""
        seen = {"observation_ns": self.now, "observation_positions": self.q}
        chunk = make_chunk(self.robot, delta, **(seen | changes))
        before = len(self.happenings)
        self.controller.add_chunk(chunk, self.now, self.steady)
        self._collect()
        return next(h for h in self.happenings[before:] if isinstance(h, Judged) and h.chunk is chunk)

    def autonomy(self, delta: Sequence[float] = STILL) -> None:
        """In autonomy, one tick later than now, with a chunk that has been accepted."""
        self.set_mode(Mode.AUTONOMY)
        self.tick()
        assert self.give(delta).verdict.outcome is Outcome.ACCEPTED

    def tick(self, clock_ns: int = TICK, steady_ns: int = TICK) -> Command | None:
        """One tick, after so much time on each clock; gives what was commanded."""
        period_ns = self.arm.kind.period_ns
        for after_ns in range(0, steady_ns, period_ns):  # it leads to where the arm is to be a period later
            self.arm.update(self.now + after_ns, self.q, period_ns)
        self.now, self.steady = self.now + clock_ns, self.steady + steady_ns
        self.controller.clock.tell(self.now, self.steady)
        self.hands(self.now)
        measured = self.reads(self.now)
        if measured is not None:
            self._measure(self.now, measured, self.steady)
        if self.beat is not None:
            self.controller.add_beat(self.beat, self.steady)
        self.path.append(self.q)
        command = self.controller.tick(self.now, self.steady)
        if command is not None:
            motion = command.motion
            self.arm.receive(
                self.arm.joints,
                motion.positions,
                motion.times_s,
                self.now,
                velocities=motion.velocities,
                start_ns=motion.stamp_ns,
            )
        self._collect()
        return command

    def run(self, duration_s: float) -> list[Command]:
        """Ticks for a while; gives all commands."""
        commands = [self.tick() for _ in range(round(duration_s / 0.02))]
        return [command for command in commands if command is not None]

    def happened(self, kind: type[T]) -> list[T]:
        """All happenings of a kind so far."""
        return [happening for happening in self.happenings if isinstance(happening, kind)]

    def _collect(self) -> None:
        self.happenings += self.controller.happenings
        self.controller.happenings = []


def joystick(drive: Drive, *down: int, **deflections: float) -> None:
    """From now on the joystick says this at every tick: buttons held, axes by the direction they are for.

    It was at rest the moment before.
    """
    if drive.controller.inputs.wish("joystick", drive.now) is None:
        drive.controller.inputs.on_joy("joystick", [0.0] * 8, [0] * 11, drive.now)
    axes = [0.0] * 8
    for name, value in deflections.items():
        axes[AXES[name]] = value
    buttons = [int(index in down) for index in range(11)]
    drive.hands = lambda now_ns: drive.controller.inputs.on_joy("joystick", axes, buttons, now_ns)
