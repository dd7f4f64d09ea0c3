"""The real controller on the simulator's clock, without ROS: what the nodes do over topics, in one loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.control.joints_watch import SETTLE_S
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Command, Judged, Motion, Verdict
from twinbrain_ros.control.watchdogs import PolicyBeat
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.follower_kinds import DEFAULT, KINDS, FollowerKind
from twinbrain_ros.sim.following import Arrival
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower, TrajectoryError

# The driver's clock when simulated time is 0: a stamp of 0 would say nothing.
_EPOCH_NS = 1_000_000 * NS_PER_S
_READ_NS = to_ns(0.01)  # between readings of an arm that stands still at the beginning


class Watcher(Protocol):
    """Is told what passes between controller and driver."""

    def sent(self, motion: Motion) -> None:
        """The controller sends a motion."""

    def updated(self, time_ns: int, set_point: np.ndarray, measured: np.ndarray) -> None:
        """The driver commands a set-point [J] at a simulated time, where the joints are as measured [J]."""

    def refused(self, reason: str) -> None:
        """The driver refuses a trajectory."""


@dataclass(frozen=True)
class Driver:
    """The arm's driver and the way to it.

    Attributes:
        kind: its trajectory controllers.
        clock_behind_s: by how much its clock is behind the controller's [s]; below 0: ahead of it. Joint
            states are stamped with it.
        latest_s: each trajectory takes up to so long to arrive [s], drawn anew; they keep their order.
        phase: of its first update, as a share of its period, 0 to 1.
        seed: of those draws.
    """

    kind: FollowerKind = KINDS[DEFAULT]
    clock_behind_s: float = 0.0
    latest_s: float = 0.0
    phase: float = 0.0
    seed: int = 0


class LockStepArm:
    """A simulated arm that is driven by chunks.

    Args:
        robot: the arm.
        sim: it stands in.
        settings: of the controller.
        driver: what moves the arm.
        watcher: is told of commands and set-points, if there is one.
    """

    def __init__(
        self,
        robot: RobotFile,
        sim: TabletopSim,
        settings: ControlSettings | None = None,
        driver: Driver | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._robot, self._sim, self._settings = robot, sim, settings
        self._kinematics = Kinematics(robot)
        self._driver, self._watcher = driver or Driver(), watcher
        kind, finger = self._driver.kind, np.array([robot.gripper.open_m])
        self._arm = JointTrajectoryFollower(robot.arm_joints, robot.home, kind)
        self._finger = JointTrajectoryFollower([robot.gripper.joint], finger, kind)
        self._ahead_ns = _EPOCH_NS - to_ns(self._driver.clock_behind_s)  # driver's clock less simulated time
        self.tick_s = 1.0 / robot.rates.command_hz
        self.start()

    def start(self) -> None:
        """In autonomy, from where the simulated arm is."""
        sim = self._sim
        self._arm.activate(sim.arm_positions)
        self._finger.activate(np.array([sim.finger_position]))
        period_steps = self._driver.kind.period_ns / NS_PER_S / sim.timestep_s
        self._update_ns = sim.time_ns + to_ns(int(self._driver.phase * period_steps) * sim.timestep_s)
        self._arrived_ns = self._driver_ns()
        self._draws = np.random.default_rng(self._driver.seed)
        self._finger_m: float | None = None
        self.controller = ArmController(self._robot, self._kinematics, self._settings)
        # It has stood there for as long as the controller wants to have seen it.
        for ago_ns in range(to_ns(SETTLE_S), -1, -_READ_NS):
            self._read_joints(ago_ns)
        # A chunk of this very moment is later than the switch.
        before_ns = sim.time_ns - 1
        self.controller.set_mode(Mode.AUTONOMY, before_ns, before_ns, "lock-step", "episode")

    def take(self, chunk: ActionChunk) -> Verdict:
        """Hands over a chunk; gives what became of it."""
        now_ns = self._sim.time_ns
        self.controller.happenings.clear()
        self.controller.add_chunk(chunk, now_ns, now_ns)
        judged = [h for h in self.controller.happenings if isinstance(h, Judged) and h.chunk is chunk]
        return judged[-1].verdict

    def tick(self) -> Command | None:
        """One tick of the controller, and the physics until the next; gives what was commanded."""
        sim, now_ns = self._sim, self._sim.time_ns
        self._read_joints()
        self.controller.add_beat(PolicyBeat(), now_ns)
        command = self.controller.tick(now_ns, now_ns)
        if command is not None:
            try:
                self._send(command)
            except TrajectoryError as error:
                if self._watcher is not None:
                    self._watcher.refused(str(error))
        end_ns = now_ns + to_ns(self.tick_s)
        while sim.time_ns < end_ns:
            if sim.time_ns >= self._update_ns:
                self._update()
            sim.step((min(end_ns, self._update_ns) - sim.time_ns) / NS_PER_S)
        return command

    def _send(self, command: Command) -> None:
        """Trajectories as the node sends them, the gripper's when it changes and with a chunk's first."""
        motion = command.motion
        late_ns = to_ns(self._draws.uniform(0.0, self._driver.latest_s)) if self._driver.latest_s else 0
        self._arrived_ns = max(self._arrived_ns, self._driver_ns() + late_ns)
        if self._watcher is not None:
            self._watcher.sent(motion)
        changed = command.finger_m != self._finger_m or command.first_of is not None
        if command.finger_m is not None and changed:
            names, goal = self._finger.joints, [[command.finger_m]]
            self._finger.receive(names, goal, [motion.lead_s], self._arrived_ns)
            self._finger_m = command.finger_m
        stamped = replace(motion, stamp_ns=_EPOCH_NS + motion.stamp_ns)
        Arrival.of(stamped, self._arrived_ns).hand_to(self._arm)

    def _update(self) -> None:
        """The driver's controllers, once."""
        sim, at_ns = self._sim, self._driver_ns()
        set_point = self._arm.update(at_ns, sim.arm_positions)
        finger = self._finger.update(at_ns, np.array([sim.finger_position]))
        if self._watcher is not None:
            self._watcher.updated(sim.time_ns, set_point.copy(), sim.arm_positions.copy())
        sim.set_arm_target(set_point)
        sim.set_gripper_target(float(finger[0]))
        self._update_ns += self._driver.kind.period_ns

    def _driver_ns(self) -> int:
        """The driver's clock now."""
        return self._sim.time_ns + self._ahead_ns

    def _read_joints(self, ago_ns: int = 0) -> None:
        sim = self._sim
        stamp_ns = self._driver_ns() - _EPOCH_NS - ago_ns
        self.controller.add_joints(stamp_ns, sim.arm_positions, sim.finger_position)
