"""Turns action chunks, or what a person does, into commands; the ROS face of `control/controller.py`.

In:  action_chunk, policy_status, joint_states, teleop inputs; services set_mode, estop, reset, go_<pose>,
     torque_off, torque_on; action go_to.
Out: arm and gripper commands, chunk_status (one for each chunk), control_mode (latched), intervention,
     commanded_joint_states.

An arm trajectory is the committed way of the arm, from a little before its decision to a rest that was
checked; it is replaced every period. A ros2_control JointTrajectoryController interpolates at a rate of its
own: it takes each one up on the way, and one that comes up to 20 ms late leaves no trace. If commands cease,
the arm comes to a controlled stop all by itself.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from sensor_msgs.msg import JointState

from twinbrain_ros.control.controller import ArmController, Happening
from twinbrain_ros.control.go_to import WayEnd
from twinbrain_ros.control.modes import Intervention, Mode, ModeChange
from twinbrain_ros.control.verdict import Command, Outcome, Verdict
from twinbrain_ros.control.watchdogs import PolicyBeat
from twinbrain_ros.data.decode import FrameError
from twinbrain_ros.data.joint_parts import part_of_message
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage
from twinbrain_ros.msg import ChunkStatus, ControlMode, PolicyStatus
from twinbrain_ros.msg import Intervention as InterventionMessage
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.arm_out import ArmOut, make_arm_out
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.commanded_joints import CommandedJoints
from twinbrain_ros.nodes.control_parameters import FIXED, LIVE, settings_of
from twinbrain_ros.nodes.driver_watch import DriverWatch
from twinbrain_ros.nodes.graph_watch import LOOK_S
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.nodes.mode_services import ModeServices
from twinbrain_ros.nodes.pacing import Rhythm, Schedule
from twinbrain_ros.nodes.parameters import Declared
from twinbrain_ros.nodes.pose_action import PoseAction
from twinbrain_ros.nodes.runner import run_node
from twinbrain_ros.nodes.teleop_topics import TeleopTopics
from twinbrain_ros.nodes.torque import Torque
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.text import sentence

SAME_MOMENT_NS, READ_AGAIN = 200_000, 5
LATENCY = "observation_to_command_ms"
LATE = "tick_late_ms"
LATE_KEPT = 6000  # one minute at 100 Hz
WELL_IN_TIME_MS = 5.0
_STATUS = {
    Outcome.STALE: (ChunkStatus.STALE, "chunks_stale"),
    Outcome.REFUSED: (ChunkStatus.REFUSED, "chunks_refused"),
    Outcome.DISCARDED: (ChunkStatus.DISCARDED, "chunks_discarded"),
}


class ControllerNode(TwinBrainNode):
    """Holds the arm until it is told otherwise, then executes chunks or follows a person."""

    parameters: ClassVar[tuple[Declared, ...]] = (*FIXED, *LIVE)
    live: ClassVar[frozenset[str]] = frozenset(parameter.name for parameter in LIVE)

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("controller_node", **node_arguments)
        self._controller: ArmController | None = None
        self._out: ArmOut | None = None

    # Lifecycle --------------------------------------------------------------------------------------

    def setup(self, robot: RobotFile) -> None:
        rate_hz = float(self.value("command_hz")) or robot.rates.command_hz
        robot = dataclasses.replace(robot, rates=dataclasses.replace(robot.rates, command_hz=rate_hz))
        self._kinematics = Kinematics(robot)
        controller = ArmController(
            robot, self._kinematics, settings_of(self.value), bool(self.value("use_sim_time"))
        )
        self._rhythm, self._looks = Rhythm(rate_hz), Schedule(1.0 / LOOK_S)
        topics = robot.topics
        self._out = make_arm_out(self, robot, bool(self.value("dry_run")))
        self._status_out = self.advertise(ChunkStatus, topics.chunk_status, qos.STATUS)
        self._mode_out = self.advertise(ControlMode, topics.control_mode, qos.LATCHED)
        self._intervention_out = self.advertise(InterventionMessage, topics.intervention, qos.EVENTS)
        self._commanded = CommandedJoints(self, robot)
        for topic in topics.measured_joint_states:
            self.subscribe(JointState, topic, self._on_joints, qos.JOINTS_IN)
        self.subscribe(ActionChunkMessage, topics.action_chunk, self._on_chunk, qos.COMMAND)
        self.subscribe(PolicyStatus, topics.policy_status, self._on_policy_status, qos.COMMAND)
        TeleopTopics(self, robot, controller.inputs, self._estop_pressed, self._tool_rotation)
        self._poses = PoseAction(
            self, robot, controller, self._times, self._refusal, self._tell, self._guarded
        )
        self._driver = DriverWatch(self, robot, controller)
        ModeServices(self, controller, self._times, self._refusal, self._tell, self._look_round)
        Torque(self, robot, controller, self._driver.falls)
        for counter in (
            "chunks_executed",
            "ticks",
            "ticks_over_5_ms",
            "ticks_skipped",
            *(name for _, name in _STATUS.values()),
        ):
            self.health.count(counter, 0)
        self.health.figure(LATENCY)
        self.health.figure(LATE, (50, 99, 100), LATE_KEPT)
        self._controller = controller
        self._rate_hz = rate_hz

    def start(self) -> None:
        assert self._controller is not None
        self._rival = ""  # whom it has told of
        self._controller.begin_anew()
        self._publish_mode(self._controller.state)
        self._look_round()
        self._looks.restart()
        self._rhythm.restart(time.monotonic_ns())
        self.every(1.0 / self._rate_hz, self._tick)

    def stop(self) -> None:
        self._hold("deactivated")
        self._poses.close()
        self.wait_until_heard()  # the last command, which leads to rest

    def teardown(self) -> None:
        self._controller = self._out = None

    def on_fault(self, reason: str) -> None:
        if self.phase == "active" and self._controller is not None:
            self._controller.fault(*self._times(), self.get_name(), reason)
            self._tell()

    def _look_round(self) -> None:
        """One driver and one policy at a time: the tick stops the arm, a person is told meanwhile."""
        assert self._controller is not None
        driver, policy = self._driver.look_round()
        self._controller.barred.driver, self._controller.barred.policy = driver, policy
        state = self._controller.state
        if (driver or policy) != self._rival and not state.latched and not self._controller.driven:
            told = dataclasses.replace(state, reason=driver or policy or state.reason)
            self._mode_out.publish(convert.mode_message(told, state.since_ns or self.now_ns()))
        self._rival = driver or policy

    def _hold(self, reason: str) -> None:
        """Comes to rest: nothing has to be sent for it, see `control/governor.py`."""
        if self._controller is not None and self._controller.mode is not Mode.ESTOP:
            self._controller.set_mode(Mode.HOLD, *self._times(), self.get_name(), reason)
            self._tell()

    def _times(self) -> tuple[int, int]:
        """The ROS clock and a steady one [ns], of the same moment: again if held up between."""
        for _ in range(READ_AGAIN):
            before_ns, now_ns, after_ns = time.monotonic_ns(), self.now_ns(), time.monotonic_ns()
            if after_ns - before_ns < SAME_MOMENT_NS:
                break
        return now_ns, (before_ns + after_ns) // 2

    def _refusal(self) -> str:
        """Why nothing may be asked of the controller now; empty if it may."""
        inactive = f"the controller is {self.phase}, expected active: the arm holds"
        return "" if self.phase == "active" else inactive

    def clock_problem(self) -> str:
        problem = super().clock_problem()
        return problem or (self._controller.clock.problem if self._controller is not None else "")

    def condition(self) -> str:
        advice = (
            self._controller.advice if self._controller is not None and not self._controller.driven else ""
        )
        return f"{self.phase}; {advice}" if advice else self.phase

    # In ---------------------------------------------------------------------------------------------

    def _on_joints(self, message: JointState) -> None:
        if self._controller is None or self.robot is None:
            return
        try:
            part = part_of_message(message, self.robot, now_ns=self.now_ns())
        except FrameError as error:
            self._controller.joints.refuse(str(error), time.monotonic_ns())
            self.report(f"joint_states/{error.field}", str(error))
            return
        if part is None:
            self._controller.joints.strangers(tuple(message.name))
            return
        self.health.clear("joint_states")
        self._controller.clock.tell(*self._times())
        self._driver.add_stamp(part.stamp_ns, self.now_ns())
        self._controller.add_part(part, time.monotonic_ns())

    def _on_policy_status(self, message: PolicyStatus) -> None:
        if self._controller is not None:
            self._controller.add_beat(PolicyBeat(message.problem, message.busy_s), time.monotonic_ns())

    def _on_chunk(self, message: ActionChunkMessage) -> None:
        if self._controller is None or self.robot is None:
            return
        try:
            chunk = convert.chunk_from_message(message, self.robot)
        except ValueError as error:
            verdict = Verdict(Outcome.REFUSED, str(error))
            self._judged(int(message.sequence), convert.from_time(message.observation_stamp), verdict)
            return
        if self.phase != "active":
            verdict = Verdict(Outcome.DISCARDED, f"the controller is {self.phase}")
            self._judged(chunk.sequence, chunk.observation_ns, verdict)
            return
        self._controller.add_chunk(chunk, *self._times())
        # The first command goes out on arrival, without waiting for the next tick.
        self._send(self._controller.command(*self._times()))
        self._tell()

    def _estop_pressed(self, source: str) -> None:
        if self._controller is not None:
            self._controller.estop(*self._times(), source, f"pressed on {source}")
            self._tell()

    def _tool_rotation(self) -> Any:
        if self._controller is None or not self._controller.governor.placed:
            return None
        return self._kinematics.forward(self._controller.commanded(self.now_ns()))[1]

    # Out --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        assert self._controller is not None and self._out is not None
        now_ns, steady_ns = self._times()
        late_ms = self._rhythm.late_s(steady_ns) * 1e3
        self.health.figure(LATE).add(late_ms)
        self.health.count("ticks")
        self.health.count("ticks_over_5_ms", int(late_ms > WELL_IN_TIME_MS))
        self.health.set("ticks_skipped", self._rhythm.skipped)
        command = self._controller.tick(now_ns, steady_ns)
        self._send(command)
        if command is None and (settling := self._controller.settling(now_ns)) is not None:
            self._out.settle(settling)
        self._commanded.tell(self._controller.finger.told_m, now_ns)
        self._tell()
        self._poses.tick(now_ns)
        if self._looks.due(steady_ns):  # it takes a while: when the command is out
            self._look_round()

    def _send(self, command: Command | None) -> None:
        if command is None or self._out is None:
            return
        self._out.send(command)
        if command.first_of is None:
            return
        chunk, verdict, sent_ns = command.first_of.chunk, command.first_of.verdict, self.now_ns()
        self.health.count("chunks_executed")
        self.health.figure(LATENCY).add((sent_ns - chunk.observation_ns) / 1e6)
        self._publish_status(chunk.sequence, chunk.observation_ns, ChunkStatus.EXECUTED, verdict, sent_ns)

    def check(self) -> None:
        if self._controller is None or self._out is None:
            return
        self._driver.check()
        if self.phase != "active":
            return
        self._out.check()
        pose = self._controller.pose
        self.health.tell("pose", pose.name if pose is not None else "")
        problem = self._controller.joints_problem(self.now_ns())
        if problem:
            self.report("joints_age", problem, Level.ERROR if self._controller.driven else Level.WARN)
        else:
            self.health.clear("joints_age")
        joints = self._controller.joints
        self.health.set("joint_states_left_out", joints.left_out)
        self.health.set("joint_states_repeated", joints.repeated)
        motion_ns = self._controller.clock.motion(self.now_ns())
        finger = "" if problem else self._controller.finger.problem(motion_ns)
        if finger:
            self.report("joints_finger", finger, Level.WARN)
        else:
            self.health.clear("joints_finger")

    # What happened ----------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Publishes whatever has happened in the core since the last time."""
        assert self._controller is not None
        happenings, self._controller.happenings = self._controller.happenings, []
        for happening in happenings:
            self._tell_one(happening)
        problem = self._controller.teleop_problem
        if problem:
            self.report("teleop/way", problem, Level.WARN)
        else:
            self.health.clear("teleop/way")
        unrested = self._controller.inputs.problem(self._controller.clock.motion(self.now_ns()))
        if unrested:
            self.report("teleop/rest", unrested, Level.WARN)
        else:
            self.health.clear("teleop/rest")

    def _tell_one(self, happening: Happening) -> None:
        if isinstance(happening, ModeChange):
            self._publish_mode(happening)
        elif isinstance(happening, Intervention):
            self._intervention_out.publish(convert.intervention_message(happening, self.now_ns()))
        elif isinstance(happening, WayEnd):
            self._poses.over(happening)
        else:
            chunk, verdict = happening.chunk, happening.verdict
            self._judged(chunk.sequence, chunk.observation_ns, verdict)

    def _judged(self, sequence: int, observation_ns: int, verdict: Verdict) -> None:
        """What became of a chunk; of one that drives, its first command tells."""
        if verdict.outcome not in _STATUS:
            self.health.clear("chunk")
            if verdict.reason:
                self.report("chunk/cut", f"chunk {sequence} cut short: {verdict.reason}", Level.WARN)
            return
        outcome, counter = _STATUS[verdict.outcome]
        self.health.count(counter)
        if verdict.outcome is not Outcome.DISCARDED:
            level = Level.ERROR if verdict.outcome is Outcome.REFUSED else Level.WARN
            name = verdict.outcome.value
            self.report(f"chunk/{name}", f"chunk {sequence} {name}: {verdict.reason}", level)
        self._publish_status(sequence, observation_ns, outcome, verdict)

    def _publish_status(
        self, sequence: int, observation_ns: int, outcome: int, verdict: Verdict, first_command_ns: int = 0
    ) -> None:
        message = ChunkStatus(
            sequence=sequence,
            observation_stamp=convert.to_time(observation_ns),
            outcome=outcome,
            reason=sentence(verdict.reason),
            first_command_stamp=convert.to_time(first_command_ns),
            due=convert.to_time(verdict.due_ns),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._status_out.publish(message)

    def _publish_mode(self, state: ModeChange) -> None:
        self._mode_out.publish(convert.mode_message(state, state.since_ns or self.now_ns()))
        if state.latched:
            self._driver.stopped()
        if state.latched and state.mode is not Mode.ESTOP:
            # Stays on /diagnostics until it is reset; logged once.
            self.report("fault", f"stopped, call reset to go on: {state.reason}")
        elif state.mode is Mode.ESTOP:
            self.report("estop", f"emergency stop, call reset to go on: {state.reason}")
        else:
            self.health.clear("fault")
            self.health.clear("estop")
            self.get_logger().info(f"mode {state.mode.name}: {state.reason}")

    # Parameters -------------------------------------------------------------------------------------

    def check_change(self, values: dict[str, Any]) -> None:
        assert self._controller is not None
        settings = settings_of(lambda name: values.get(name, self.value(name)))
        self._controller.check(settings)

    def take_change(self) -> None:
        assert self._controller is not None
        self._controller.use(settings_of(self.value))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node, and ends the process."""
    run_node(ControllerNode, args)


if __name__ == "__main__":
    main()
