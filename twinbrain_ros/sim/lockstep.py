"""The real controller on the simulator's clock, without ROS: what the nodes do over topics, in one loop."""

from __future__ import annotations

import numpy as np

from twinbrain_ros.control.controller import ArmController, ControlSettings
from twinbrain_ros.control.joints_watch import SETTLE_S
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Command, Judged, Verdict
from twinbrain_ros.control.watchdogs import PolicyBeat
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower

_UPDATE_S = 0.01  # how often servo targets follow the trajectory and the joints are read


class LockStepArm:
    """A simulated arm that is driven by chunks.

    Args:
        robot: the arm.
        sim: it stands in.
        settings: of the controller.
    """

    def __init__(self, robot: RobotFile, sim: TabletopSim, settings: ControlSettings | None = None) -> None:
        self._robot, self._sim, self._settings = robot, sim, settings
        self._kinematics = Kinematics(robot)
        self._arm = JointTrajectoryFollower(robot.arm_joints, robot.home)
        self._finger = JointTrajectoryFollower([robot.gripper.joint], np.array([robot.gripper.open_m]))
        self.tick_s = 1.0 / robot.rates.command_hz
        self.start()

    def start(self) -> None:
        """In autonomy, from where the simulated arm is."""
        sim = self._sim
        self._arm.hold(sim.arm_positions)
        self._finger.hold(np.array([sim.finger_position]))
        self.controller = ArmController(self._robot, self._kinematics, self._settings)
        # It has stood there for as long as the controller wants to have seen it.
        for ago_ns in range(to_ns(SETTLE_S), -1, -to_ns(_UPDATE_S)):
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
            motion = command.motion
            self._arm.set(
                self._arm.joints,
                motion.positions,
                motion.times_s.tolist(),
                now_ns,
                velocities=motion.velocities,
            )
            if command.finger_m is not None:
                self._finger.set(self._finger.joints, [[command.finger_m]], [motion.lead_s], now_ns)
        end_ns = now_ns + to_ns(self.tick_s)
        while sim.time_ns < end_ns:
            at_ns = sim.time_ns + to_ns(_UPDATE_S)
            sim.set_arm_target(self._arm.sample(at_ns))
            sim.set_gripper_target(float(self._finger.sample(at_ns)[0]))
            sim.step(min(_UPDATE_S, (end_ns - sim.time_ns) / NS_PER_S))
        return command

    def _read_joints(self, ago_ns: int = 0) -> None:
        sim = self._sim
        self.controller.add_joints(sim.time_ns - ago_ns, sim.arm_positions, sim.finger_position)
