"""A controller node on real topics; a test plays the arm, the policy and the person."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage
from twinbrain_ros.msg import ChunkStatus, ControlMode, Intervention, PolicyStatus
from twinbrain_ros.srv import SetMode

from twinbrain_ros.nodes import convert, qos, sim_messages
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower, TrajectoryError

NAME = "controller_node"
# Bench and controller share a thread, and the machine may be busy: only tests of a watchdog have it sharp.
CALM = {"joints_timeout_s": 3.0, "overrun_s": 3.0, "policy_timeout_s": 3.0, "observation_timeout_s": 3.0}
BEAT_S = 0.02
# How a way to a pose is refused where such a machine was silent for a moment.
HELD_UP = "cannot start go_to: "
# The clock has jumped, or the machine stood still: the arm goes on from now.
MOST_BEHIND_NS = 100_000_000


class ControllerRig:
    """An arm that follows its trajectories and a policy that beats, until a test stops one of them.

    Attributes:
        joints_go, policy_goes: whether joint states and signs of life are sent, every 20 ms.
        reads: what the joint states say instead of where the arm is, if not None.
        held: buttons held on the joystick, None: it is silent.
    """

    def __init__(
        self,
        bench: Any,
        robot: RobotFile,
        node: bool = True,
        prefix: str = "",
        sim_clock: bool = False,
        arm_type: type = JointTrajectory,
        gripper_type: type = JointTrajectory,
        finger_m: float | None = None,
        **parameters: Any,
    ) -> None:
        """node: whether to make one; prefix: of the command topics; sim_clock: the test plays /clock;
        arm_type, gripper_type: of the commands; finger_m: what the joint states say of it, None: open."""
        self.finger_m = robot.gripper.open_m if finger_m is None else finger_m
        self.jump_ns = 0  # by how much that clock has jumped
        self.clock = bench.node.create_publisher(Clock, "/clock", qos.SENSOR_OUT) if sim_clock else None
        if sim_clock:
            parameters["use_sim_time"] = True
            self.clock_timer = bench.node.create_timer(0.005, self._tell_time)
        self.bench, self.robot = bench, robot
        topics = robot.topics
        if node:
            self.node = bench.add(
                ControllerNode, autostart=True, **(CALM | {"robot": str(robot.path)} | parameters)
            )
            assert self.node.autostart()
        self.joints = bench.publisher(JointState, topics.joint_states)
        self.chunks = bench.publisher(ActionChunkMessage, topics.action_chunk, qos.COMMAND)
        self.beats = bench.publisher(PolicyStatus, topics.policy_status, qos.COMMAND)
        self.joy = bench.publisher(Joy, "joy", qos.EVENTS)
        self.arm = bench.record(arm_type, prefix + topics.arm_trajectory, qos.COMMAND)
        self.gripper = bench.record(gripper_type, prefix + topics.gripper_trajectory, qos.COMMAND)
        self.status = bench.record(ChunkStatus, topics.chunk_status)
        self.modes = bench.record(ControlMode, topics.control_mode, qos.LATCHED)
        self.interventions = bench.record(Intervention, topics.intervention, qos.EVENTS)
        self.follower = JointTrajectoryFollower(robot.arm_joints, robot.home)
        self._update_ns = 0
        self.path: list[tuple[int, np.ndarray]] = []  # where the arm was, every 20 ms
        self.sequence = self._followed = 0
        self.joints_go = self.policy_goes = True
        self.problem = ""
        self.reads: np.ndarray | None = None
        self.held: set[int] | None = None
        self._was_held: set[int] | None = None
        self.axes = [0.0] * 8
        bench.node.create_timer(BEAT_S, self._beat)
        bench.until(lambda: self.modes and len(self.path) > 3, "the controller is not heard")
        if node:
            self.until_settled()
        else:
            bench.until(lambda: len(self.path) > 30)

    def until_settled(self) -> None:
        """Until the controller has seen the arm for long enough to move it."""
        controller, seen = self.node._controller, len(self.path)
        self.bench.until(lambda: len(self.path) > seen + 2)  # what was sent last is there
        self.bench.until(
            lambda: (
                not (
                    controller.joints_problem(self.now_ns())
                    or controller.joints.unsettled(time.monotonic_ns())
                )
            ),
            lambda: controller.joints.unsettled(time.monotonic_ns()),
        )

    def now_ns(self) -> int:
        return int(self.bench.node.get_clock().now().nanoseconds) + self.jump_ns

    def _tell_time(self) -> None:
        assert self.clock is not None
        self.clock.publish(Clock(clock=convert.to_time(self.now_ns())))

    def _beat(self) -> None:
        now_ns = self.now_ns()
        for message in self.arm[self._followed :]:
            with contextlib.suppress(TrajectoryError):  # one that is late is refused, the next one counts
                sim_messages.follow(self.follower, message, now_ns)
        self._followed = len(self.arm)
        period_ns = self.follower.kind.period_ns
        if abs(now_ns - self._update_ns) > MOST_BEHIND_NS:
            self._update_ns = now_ns
        while self._update_ns <= now_ns:
            self.follower.update(self._update_ns, self.follower.set_point, period_ns)
            self._update_ns += period_ns
        self.path.append((now_ns, self.follower.set_point))
        if self.joints_go:
            self.joints.publish(self.joint_state())
        if self.policy_goes:
            message = PolicyStatus(problem=self.problem)
            message.header.stamp = convert.to_time(now_ns)
            self.beats.publish(message)
        if self.held is not None:
            if self._was_held is None:  # it is taken into the hand at rest
                self.joy.publish(Joy(axes=[0.0] * 8, buttons=[0] * 8))
            self.joy.publish(Joy(axes=self.axes, buttons=[int(i in self.held) for i in range(8)]))
        self._was_held = self.held

    def joint_state(self, **changes: Any) -> JointState:
        robot, now_ns = self.robot, self.now_ns()
        arm = self.follower.set_point if self.reads is None else self.reads
        message = JointState(
            name=[*robot.arm_joints, robot.gripper.joint], position=[*arm.tolist(), self.finger_m]
        )
        message.header.stamp = convert.to_time(now_ns)
        for field, value in changes.items():
            setattr(message, field, value)
        return message

    def set_mode(self, mode: int) -> SetMode.Response:
        return self.bench.call(SetMode, "set_mode", SetMode.Request(mode=mode, source="test", reason="try"))

    def trigger(self, service: str) -> Trigger.Response:
        return self.bench.call(Trigger, service, Trigger.Request())

    def go(self, service: str) -> Trigger.Response:
        """Lets the arm set off to a pose by its service."""
        while not (answer := self.trigger(service)).success:
            assert answer.message.startswith(HELD_UP), answer.message
            self.until_settled()
        return answer

    def send_chunk(self, data: Any = None, **changes: Any) -> ChunkStatus:
        """Publishes a chunk of the present moment; gives what became of it."""
        action, now = self.robot.action, self.now_ns()
        self.sequence += 1
        if data is None:
            data = np.tile([0.02, 0, 0, 0, 0, 0, 1.0], (action.horizon, 1))
        chunk = ActionChunk(
            self.sequence, now, now, action.period_s, "pick", self.robot.name, action.space,
            action.composition, action.names, data, self.follower.set_point,
        )  # fmt: skip
        message = convert.chunk_message(chunk, self.robot, now)
        for field, value in changes.items():
            setattr(message, field, value)
        before = len(self.status)
        self.chunks.publish(message)
        sequence = message.sequence
        self.bench.until(lambda: any(s.sequence == sequence for s in self.status[before:]), "no chunk_status")
        return next(s for s in self.status[before:] if s.sequence == sequence)

    def drive(self, mode: int = ControlMode.AUTONOMY) -> None:
        """In autonomy, in the middle of a motion along x."""
        if hasattr(self, "node"):
            self.until_settled()  # again: a busy machine may have been silent for a moment
        answer = self.set_mode(mode)
        assert answer.success, answer.message
        assert self.send_chunk().outcome == ChunkStatus.EXECUTED
        self.bench.until(lambda: self.speed() > 0.1, "the arm does not move")

    def speed(self) -> float:
        """Fastest joint of the arm now [rad/s]."""
        if len(self.path) < 2:
            return 0.0
        (t0, q0), (t1, q1) = self.path[-2:]
        return float(np.max(np.abs(q1 - q0)) / ((t1 - t0) / 1e9)) if t1 > t0 else 0.0

    def rests_in_time(self, stopped_ns: int, speed: float) -> None:
        """Fails unless the arm, of this speed [rad/s] when it was stopped, was at rest as soon as it must be.

        Two command periods, then what its limits need, then two of this rig's own periods to see it.
        """
        self.until_at_rest()
        robot = self.robot
        limit = robot.limits[robot.arm_joints[0]]
        needed_s = 2 / robot.rates.command_hz + speed / limit.acceleration + limit.acceleration / limit.jerk
        due_ns = stopped_ns + round((needed_s + 2 * BEAT_S) * 1e9)
        self.bench.until(lambda: self.path[-1][0] > due_ns)  # it may have been at rest long before
        later = [q for ns, q in self.path if ns > due_ns]
        assert np.max(np.abs(np.array(later) - later[-1])) < 1e-4

    def until_at_rest(self) -> None:
        """Until the arm has not moved for 0.1 s."""
        self.bench.until(
            lambda: (
                len(self.path) > 6
                and np.max(np.abs(self.path[-1][1] - self.path[-6][1])) < 1e-6
                and self.speed() < 1e-6
            ),
            "the arm does not come to rest",
        )

    def mode(self) -> ControlMode:
        """The newest that was published."""
        return self.modes[-1]
