"""Turns action chunks into joint trajectories; the ROS face of `control/controller.py`.

In:  action_chunk, joint_states; service set_mode.
Out: arm and gripper trajectories, chunk_status (one for each chunk), control_mode (latched).

A trajectory has one point, due two command periods from now, and is replaced every period: a ros2_control
JointTrajectoryController interpolates towards it at its own rate, so that in steady motion the arm passes
every set-point at its time, and a command that comes up to one period late leaves no pause. If commands
cease, the arm comes to rest at the last point, two periods later, all by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from rclpy.duration import Duration
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.control.controller import ArmController, Mode, ModeError
from twinbrain_ros.control.executor import VELOCITY_MARGIN
from twinbrain_ros.control.verdict import Command, Outcome, Verdict
from twinbrain_ros.data.decode import FrameError, joints_from_names
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage
from twinbrain_ros.msg import ChunkStatus, ControlMode
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.nodes.parameters import Declared
from twinbrain_ros.nodes.runner import run_node
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.srv import SetMode

HOLD_HEARD_S = 0.3
LATENCY = "observation_to_command_ms"
_STATUS = {
    Outcome.STALE: (ChunkStatus.STALE, "chunks_stale"),
    Outcome.REFUSED: (ChunkStatus.REFUSED, "chunks_refused"),
    Outcome.DISCARDED: (ChunkStatus.DISCARDED, "chunks_discarded"),
}


class ControllerNode(TwinBrainNode):
    """Holds the arm until it is told otherwise, then executes chunks."""

    parameters: ClassVar[tuple[Declared, ...]] = (
        Declared(
            "execution_steps",
            0,
            "Steps of each chunk that are executed before the arm holds; 0 takes the robot file's.",
            unit="steps",
            lower=0,
            upper=1000,
        ),
        Declared(
            "velocity_margin",
            VELOCITY_MARGIN,
            "Share of the joint velocity limits that commands may use.",
            unit="1",
            lower=0.01,
            upper=1.0,
        ),
    )

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("controller_node", **node_arguments)
        self._controller: ArmController | None = None
        self._finger_sent: float | None = None

    # Lifecycle --------------------------------------------------------------------------------------

    def setup(self, robot: RobotFile) -> None:
        steps = int(self.value("execution_steps")) or None
        margin = float(self.value("velocity_margin"))
        self._controller = ArmController(robot, Kinematics(robot), steps, margin)
        topics = robot.topics
        self._arm_out = self.advertise(JointTrajectory, topics.arm_trajectory, qos.COMMAND)
        self._gripper_out = self.advertise(JointTrajectory, topics.gripper_trajectory, qos.COMMAND)
        self._status_out = self.advertise(ChunkStatus, topics.chunk_status, qos.STATUS)
        self._mode_out = self.advertise(ControlMode, topics.control_mode, qos.LATCHED)
        self.subscribe(JointState, topics.joint_states, self._on_joints, qos.SENSOR_IN)
        self.subscribe(ActionChunkMessage, topics.action_chunk, self._on_chunk, qos.COMMAND)
        self.serve(SetMode, "set_mode", self._on_set_mode)
        for counter in ("chunks_executed", *(name for _, name in _STATUS.values())):
            self.health.count(counter, 0)
        self.health.figure(LATENCY)

    def start(self) -> None:
        assert self.robot is not None
        self._publish_mode()
        self.every(1.0 / self.robot.rates.command_hz, self._tick)

    def stop(self) -> None:
        self._hold("deactivated")
        # The process may end next: the arm must have heard it.
        self._arm_out.wait_for_all_acked(Duration(seconds=HOLD_HEARD_S))

    def teardown(self) -> None:
        self._controller = None

    def on_fault(self) -> None:
        if self.phase == "active":
            self._hold("internal error")

    def _hold(self, reason: str) -> None:
        assert self._controller is not None
        was = self._controller.mode
        self._send(self._controller.set_mode(Mode.HOLD, self.now_ns(), self.get_name(), reason))
        if was is not Mode.HOLD:
            self._publish_mode()

    # In ---------------------------------------------------------------------------------------------

    def _on_joints(self, message: JointState) -> None:
        if self._controller is None or self.robot is None:
            return
        try:
            positions = joints_from_names(message.name, message.position, self.robot)
        except FrameError as error:
            self.report(f"joint_states/{error.field}", str(error))
            return
        self.health.clear("joint_states")
        self._controller.add_joints(
            convert.from_time(message.header.stamp), positions[:-1], float(positions[-1])
        )

    def _on_chunk(self, message: ActionChunkMessage) -> None:
        if self._controller is None or self.robot is None:
            return
        now_ns = self.now_ns()
        if self.phase != "active":
            verdict = Verdict(Outcome.DISCARDED, f"the controller is {self.phase}")
        else:
            try:
                verdict = self._controller.add_chunk(convert.chunk_from_message(message, self.robot), now_ns)
            except ValueError as error:
                verdict = Verdict(Outcome.REFUSED, str(error))
        if verdict.outcome is Outcome.ACCEPTED:
            self.health.clear("chunk")
            if verdict.reason:
                self.report("chunk/cut", f"chunk {message.sequence} cut short: {verdict.reason}", Level.WARN)
            self._execute(message, verdict.reason)
            return
        outcome, counter = _STATUS[verdict.outcome]
        self.health.count(counter)
        if verdict.outcome is not Outcome.DISCARDED:
            level = Level.ERROR if verdict.outcome is Outcome.REFUSED else Level.WARN
            self.report(
                f"chunk/{verdict.outcome.value}",
                f"chunk {message.sequence} {verdict.outcome.value}: {verdict.reason}",
                level,
            )
        self._publish_status(message, outcome, verdict.reason)

    def _execute(self, message: ActionChunkMessage, cut: str) -> None:
        """The first command goes out on arrival, without waiting for the next tick."""
        assert self._controller is not None
        now_ns = self.now_ns()
        self._send(self._controller.command(now_ns), with_gripper=True)
        sent_ns = self.now_ns()
        self.health.count("chunks_executed")
        latency_ms = (sent_ns - convert.from_time(message.observation_stamp)) / 1e6
        self.health.figure(LATENCY).add(latency_ms)
        self._publish_status(message, ChunkStatus.EXECUTED, cut, sent_ns)

    def _on_set_mode(self, request: SetMode.Request, response: SetMode.Response) -> SetMode.Response:
        response.success, response.message = self._set_mode(request)
        text = f"mode {request.mode} asked for by {request.source!r} ({request.reason}): {response.message}"
        # Two calls, not one chosen: rclpy ties a severity to the line that logs.
        if response.success:
            self.get_logger().info(text)
        else:
            self.get_logger().warning(text)
        return response

    def _set_mode(self, request: SetMode.Request) -> tuple[bool, str]:
        if self._controller is None or self.phase != "active":
            return False, f"the controller is {self.phase}, expected active: the arm holds"
        before = self._controller.state
        try:
            last = self._controller.set_mode(request.mode, self.now_ns(), request.source, request.reason)
        except ModeError as error:
            return False, str(error)
        self._send(last, with_gripper=True)
        if self._controller.state is not before:
            self._finger_sent = None
            self._publish_mode()
        return True, f"{self._controller.mode.name} is in force"

    # Out --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        assert self._controller is not None
        self._send(self._controller.command(self.now_ns()))

    def check(self) -> None:
        if self.phase != "active" or self._controller is None:
            return
        problem = self._controller.joints_problem(self.now_ns())
        if problem:
            autonomy = self._controller.mode is Mode.AUTONOMY
            self.report("joints_age", problem, Level.ERROR if autonomy else Level.WARN)
        else:
            self.health.clear("joints_age")

    def _send(self, command: Command | None, with_gripper: bool = False) -> None:
        """Publishes a command; the gripper's only when it changes, as it is a switch."""
        if command is None or self._controller is None or self.robot is None:
            return
        lead_s = self._controller.lead_s
        self._arm_out.publish(
            convert.trajectory_message(self.robot.arm_joints, command.arm_positions.tolist(), lead_s)
        )
        if with_gripper or command.finger_m != self._finger_sent:
            joint = self.robot.gripper.joint
            self._gripper_out.publish(convert.trajectory_message([joint], [command.finger_m], lead_s))
            self._finger_sent = command.finger_m

    def _publish_mode(self) -> None:
        assert self._controller is not None
        state = self._controller.state
        message = ControlMode(mode=int(state.mode), source=state.source, reason=state.reason)
        message.header.stamp = convert.to_time(state.since_ns or self.now_ns())
        self._mode_out.publish(message)
        self.get_logger().info(f"mode {state.mode.name}: {state.reason}")

    def _publish_status(
        self, chunk: ActionChunkMessage, outcome: int, reason: str, first_command_ns: int = 0
    ) -> None:
        message = ChunkStatus(
            sequence=chunk.sequence,
            observation_stamp=chunk.observation_stamp,
            outcome=outcome,
            reason=reason,
            first_command_stamp=convert.to_time(first_command_ns),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._status_out.publish(message)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; returns the exit code."""
    return run_node(ControllerNode, args)


if __name__ == "__main__":
    sys.exit(main())
