"""The simulated tabletop in real time: cameras, joint states, a trajectory follower, as a real arm has.

In:  arm and gripper trajectories; service reset_scene.
Out: the robot file's cameras, joint_states, robot_description (latched), scene_state (the truth).

All of it happens in one timer at the rate of the joint states: the physics advances to the node's clock, then
what is due is published with the time of the state it shows. Cameras whose images are due together show the
same state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.msg import SceneState as SceneStateMessage
from twinbrain_ros.nodes import convert, qos, sim_messages
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.pacing import Pacer, Schedule
from twinbrain_ros.nodes.parameters import Declared
from twinbrain_ros.nodes.runner import run_node
from twinbrain_ros.robot.poses import HOME
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.follower_kinds import DEFAULT, follower_kind
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower, TrajectoryError
from twinbrain_ros.srv import ResetScene

SCENE_STATE_HZ = 20.0


class SimNode(TwinBrainNode):
    """A simulated arm on a table."""

    parameters: ClassVar[tuple[Declared, ...]] = (
        Declared(
            "cameras_hz",
            0.0,
            "Rate of every camera; 0 takes the robot file's.",
            unit="Hz",
            lower=0.0,
            upper=1000.0,
        ),
        Declared("seed", 0, "Seed of the first scene.", lower=0, upper=2**31 - 1),
        Declared("task", "pick", "Task of the first scene: pick or put."),
        Declared("pose", HOME, "Pose of the robot file in which the arm starts, as sleep."),
        Declared(
            "follower",
            DEFAULT,
            "The trajectory controller that is simulated: ROS distribution, update rate [Hz], and _open_loop "
            "(humble) or _from_desired for the option with which trajectories begin at the last command.",
        ),
    )

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("sim_node", **node_arguments)
        self._sim: TabletopSim | None = None
        self._episode = 0

    # Lifecycle --------------------------------------------------------------------------------------

    def setup(self, robot: RobotFile) -> None:
        sim = TabletopSim(robot)
        sim.reset(int(self.value("seed")), self.value("task"), self.value("pose"))
        kind = follower_kind(str(self.value("follower")))
        self._arm = JointTrajectoryFollower(robot.arm_joints, sim.arm_positions, kind)
        self._finger = JointTrajectoryFollower([robot.gripper.joint], np.array([sim.finger_position]), kind)
        self._pacer = Pacer()
        self._published_ns = 0
        rate_hz = float(self.value("cameras_hz"))
        self._beats = {camera.name: Schedule(rate_hz or camera.rate_hz) for camera in robot.cameras}
        self._scene_beat = Schedule(SCENE_STATE_HZ)
        self._sim = sim
        self._connect(robot)

    def _connect(self, robot: RobotFile) -> None:
        topics = robot.topics
        self._images_out = {
            camera.name: self.advertise(convert.image_type(camera), camera.image_topic, qos.SENSOR_OUT)
            for camera in robot.cameras
        }
        for camera in robot.cameras:
            self.health.count(f"frames_sent/{camera.name}", 0)
        self._joints_out = self.advertise(JointState, topics.joint_states, qos.SENSOR_OUT)
        self._scene_out = self.advertise(SceneStateMessage, "scene_state", qos.STATUS)
        self.advertise(String, topics.robot_description, qos.LATCHED).publish(String(data=robot.urdf()))
        self.subscribe(JointTrajectory, topics.arm_trajectory, self._on_arm, qos.COMMAND)
        self.subscribe(JointTrajectory, topics.gripper_trajectory, self._on_gripper, qos.COMMAND)
        self.serve(ResetScene, "reset_scene", self._on_reset)

    def start(self) -> None:
        assert self.robot is not None
        self._go_on_from_now()
        self.every(1.0 / self.robot.rates.joint_states_hz, self._tick)

    def teardown(self) -> None:
        self._sim = None

    def _go_on_from_now(self) -> None:
        sim = self._sim
        assert sim is not None
        self._arm.activate(sim.arm_positions)
        self._finger.activate(np.array([sim.finger_position]))
        self._update_ns = sim.time_ns  # of both, in simulated time
        self._pacer.start(self.now_ns(), sim.time_ns)
        for beat in (*self._beats.values(), self._scene_beat):
            beat.restart()

    # In ---------------------------------------------------------------------------------------------

    def _on_arm(self, message: JointTrajectory) -> None:
        self._follow("arm", self._arm, message)

    def _on_gripper(self, message: JointTrajectory) -> None:
        self._follow("gripper", self._finger, message)

    def _follow(self, part: str, follower: JointTrajectoryFollower, message: JointTrajectory) -> None:
        if self.phase != "active":
            return
        try:
            sim_messages.follow(follower, message, self.now_ns())
        except TrajectoryError as error:
            self.report(f"trajectory/{part}", f"{part} trajectory refused: {error}")
            return
        self.health.clear(f"trajectory/{part}")

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        """From the response on, every message shows the new scene: its stamps are later than all old ones."""
        if self._sim is None or self.phase != "active":
            response.message = f"the simulator is {self.phase}, expected active"
            return response
        try:
            scene = self._sim.reset(request.seed, request.task, request.pose or HOME)
        except ValueError as error:
            response.message = str(error)
            return response
        self._episode += 1
        self._go_on_from_now()
        self._publish_due()
        response.success, response.instruction = True, scene.instruction
        return response

    # Out --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._advance()
        self._publish_due()

    def _advance(self) -> None:
        """Brings the physics to the node's clock; the trajectory controllers are updated on the way.

        Each update knows what had arrived by its own time, however far the physics is behind.
        """
        sim = self._sim
        assert sim is not None
        behind_s = self._pacer.behind_s(self.now_ns(), sim.time_ns)
        while behind_s >= sim.timestep_s:
            if sim.time_ns >= self._update_ns:
                at_ns = self._pacer.stamp_ns(sim.time_ns)
                sim.set_arm_target(self._arm.update(at_ns, sim.arm_positions))
                sim.set_gripper_target(float(self._finger.update(at_ns, np.array([sim.finger_position]))[0]))
                self._update_ns += self._arm.kind.period_ns
            until_s = (self._update_ns - sim.time_ns) / convert.NS_PER_S
            step_s = min(behind_s // sim.timestep_s * sim.timestep_s, until_s)
            sim.step(step_s)
            behind_s -= step_s

    def _publish_due(self) -> None:
        sim, robot = self._sim, self.robot
        assert sim is not None and robot is not None
        stamp_ns = self._pacer.stamp_ns(sim.time_ns)
        if stamp_ns <= self._published_ns:  # less than a timestep has passed: there is nothing new to tell
            return
        self._published_ns = stamp_ns
        self._joints_out.publish(sim_messages.joint_states(sim, stamp_ns))
        for camera in robot.cameras:
            if self._beats[camera.name].due(stamp_ns):
                pixels = sim.render(camera.name)
                self._images_out[camera.name].publish(convert.image_message(pixels, camera, stamp_ns))
                self.health.count(f"frames_sent/{camera.name}")
        # Last: nobody acts on the truth, but the policy waits for the images.
        if self._scene_beat.due(stamp_ns):
            truth = sim_messages.scene_state(
                sim.scene_state(), sim.scene, self._episode, robot.base_frame, stamp_ns
            )
            self._scene_out.publish(truth)

    def check(self) -> None:
        if self._sim is None:
            return
        self.health.set("slipped_ms", round(self._pacer.slipped_s * 1e3))
        for name, beat in self._beats.items():
            self.health.set(f"frames_skipped/{name}", beat.missed)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node, and ends the process."""
    run_node(SimNode, args)


if __name__ == "__main__":
    main()
