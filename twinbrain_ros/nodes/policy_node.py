"""Turns observations and words into action chunks.

In:  the robot file's cameras, joint_states, instruction, chunk_status; service ask.
Out: action_chunk; policy_status, its sign of life.

The policy runs on an observation the moment its last part arrives, once per `execution_steps` periods, so
that what it sees is as fresh as it can be. A changed instruction does not wait for the period. Questions
about the newest images are answered meanwhile, by the same weights' left brain, also while the node is
inactive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np

from twinbrain_ros.control.realtime import RealTimeGuide
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.data.frames import (
    FrameBuilder,
    Look,
    NotReady,
    Observation,
)
from twinbrain_ros.data.frozen import FrozenCameras
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage
from twinbrain_ros.msg import ChunkStatus, PolicyStatus
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.asking import Asking
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.camera_topics import CameraTopics, Why
from twinbrain_ros.nodes.graph_watch import LOOK_S, GraphWatch
from twinbrain_ros.nodes.instructions import Instructions
from twinbrain_ros.nodes.joint_topics import JointTopics
from twinbrain_ros.nodes.parameters import Declared
from twinbrain_ros.nodes.policy_loading import (
    Loading,
    LoadPolicy,
    MakeGeneralist,
    generalist_of,
    load_policy,
    views_of,
)
from twinbrain_ros.nodes.policy_parameters import PARAMETERS
from twinbrain_ros.nodes.policy_worker import Answer, Policy, PolicyWorker, Request
from twinbrain_ros.nodes.runner import run_node
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.srv import Ask
from twinbrain_ros.text import sentence

INFERENCE = "inference_ms"
LEFT_AGE = "left_age_ms"
STATUS_HZ = 20.0


class PolicyNode(TwinBrainNode):
    """Runs a policy on what arrives. Both arguments may be replaced, as by tests of bad messages."""

    parameters: ClassVar[tuple[Declared, ...]] = PARAMETERS

    def __init__(
        self,
        load: LoadPolicy = load_policy,
        generalist: MakeGeneralist = generalist_of,
        **node_arguments: Any,
    ) -> None:
        super().__init__("policy_node", **node_arguments)
        self._load, self._make_generalist = load, generalist
        self._policy: Policy | None = None
        self._loading: Loading | None = None
        self._worker: PolicyWorker | None = None
        self._frames: FrameBuilder | None = None
        self._cameras: CameraTopics | None = None
        self._asking: Asking | None = None
        self._answered = self.create_guard_condition(self._guarded(self._take_answers))
        self._said = self.create_guard_condition(self._guarded(self._take_said))
        self._instructions: Instructions | None = None
        self._joints: JointTopics | None = None
        self._not_ready = ""  # why there was no observation when last looked
        self._sequence = 0
        self._rival = ""  # why another policy stands against this one

    # Lifecycle --------------------------------------------------------------------------------------

    def setup(self, robot: RobotFile) -> None:
        steps = int(self.value("execution_steps")) or robot.action.execution_steps
        if steps > robot.action.horizon:
            raise ValueError(
                f"execution_steps is {steps}, expected at most the horizon {robot.action.horizon}"
            )
        self._instructions = Instructions(self, robot)
        self._status_out = self.advertise(PolicyStatus, robot.topics.policy_status, qos.COMMAND)
        policy = self._policy = self._loaded(robot)
        # Frames come in a fixed rhythm: the one nearest to the wanted time is taken, not the one after it.
        half_a_frame_s = 0.5 / max(camera.rate_hz for camera in robot.cameras)
        self._replan_ns = to_ns(steps * robot.action.period_s - half_a_frame_s)
        kinematics = Kinematics(robot)
        self._frames, self._frozen = FrameBuilder(robot, kinematics), FrozenCameras()
        self._guide = RealTimeGuide(robot, kinematics) if self.value("real_time") else None
        self._forget()
        self._seeds = np.random.default_rng(int(self.value("seed")))
        self._chunk_out = self.advertise(ActionChunkMessage, robot.topics.action_chunk, qos.COMMAND)
        self._graph = GraphWatch(self, {robot.topics.action_chunk: "chunks"})
        self.subscribe(ChunkStatus, robot.topics.chunk_status, self._on_chunk_status, qos.STATUS)
        self._asking = Asking(self._make_generalist(policy), self._look, self._said.trigger)
        self._asking.answers = self.serve(Ask, "ask", self._asking.on_ask)
        self._listen(robot)

    def _loaded(self, robot: RobotFile) -> Policy:
        wanted = tuple(self.value(name) for name in ("checkpoint", "device", "threads", "dtype"))
        loading = self._loading = Loading(self._load, wanted, self._say)
        settings = {name: float(self.value(name)) for name in ("left_period_s", "guidance")}
        sizes = {camera.name: (camera.height, camera.width) for camera in robot.cameras}
        try:
            guided = bool(self.value("real_time"))
            policy = self.meanwhile(lambda: loading.run(robot, settings, sizes, guided), loading.look)
        finally:
            self._loading = None
        loading.done(policy)
        return policy

    def _say(self, line: str) -> None:
        self.get_logger().info(line)

    def _listen(self, robot: RobotFile) -> None:
        assert self._frames is not None and self._policy is not None
        self._cameras = CameraTopics(
            self, robot, self._frames, self._frozen, views_of(self._policy), self._consider
        )
        self.health.count("chunks_published", 0)
        self.health.figure(INFERENCE)
        self.health.figure(LEFT_AGE)
        self._joints = JointTopics(self, robot, self._frames, self._frozen)
        assert self._instructions is not None
        self._instructions.listen(self._policy.prompts, self._on_instruction)

    def start(self) -> None:
        assert self._policy is not None and self.robot is not None
        from twinbrain_ros.brain.sampling import noise_for

        shape = (self.robot.action.horizon, len(self.robot.action.names))
        self._forget()
        self._worker = PolicyWorker(
            self._policy,
            lambda seed: noise_for(seed, *shape),
            self._answered.trigger,
            float(self.value("inject_delay_s")),
        )
        if self._guide is not None:
            self._guide.restart()
        self._look_round()
        self.every(LOOK_S, self._look_round)
        self.every(1.0 / STATUS_HZ, self._beat)

    def _look_round(self) -> None:
        """One policy at a time: of two, neither runs."""
        self._rival = self._graph.problem()
        if self._rival:
            self.report("other_policy", self._rival)
        else:
            self.health.clear("other_policy")

    def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel("cancelled: the node stops")
        worker, self._worker = self._worker, None
        if worker is not None and not worker.close():
            self.report("policy/hung", "the policy did not come back in time and was left behind")

    def teardown(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None and not asking.close("cancelled: the node is cleaned up"):
            self.report("ask/hung", "the generalist did not come back in time and was left behind")
        self._policy = None
        self._frames = self._cameras = self._joints = None
        instructions, self._instructions = self._instructions, None
        if instructions is not None:
            instructions.close()

    def _forget(self) -> None:
        """Nothing has been answered yet: the next complete observation is due at once."""
        self._seen_ns = -1  # stamp of the newest observation that was complete
        self._asked_ns = -1  # stamp of the last one that the policy was run on
        self._due_at_once = True

    @property
    def instruction(self) -> str:
        """What is to be done; "" if there is nothing."""
        return self._instructions.text if self._instructions is not None else ""

    # In ---------------------------------------------------------------------------------------------

    def _on_instruction(self) -> None:
        self._due_at_once = True

    # The policy -------------------------------------------------------------------------------------

    def _consider(self) -> None:
        """Runs the policy if an observation has just become complete and a chunk is due."""
        assert self._frames is not None and self._cameras is not None
        if self._worker is None or self._worker.busy or not self.instruction or self._rival:
            return
        result = self._frames.build(self.now_ns())
        if isinstance(result, NotReady) or result.stamp_ns == self._seen_ns:
            return
        if self._cameras.problem() or self._frozen.problem():
            return
        self._seen_ns = result.stamp_ns
        # A stamp that went back is a source that was started again.
        if self._due_at_once or not 0 <= result.stamp_ns - self._asked_ns < self._replan_ns:
            self._ask(self._worker, result)

    def _ask(self, worker: PolicyWorker, observation: Observation) -> None:
        self._due_at_once = False
        self._asked_ns = observation.stamp_ns
        for name in observation.images:
            self.health.count(f"frames_used/{name}")
        noise_seed = int(self._seeds.integers(2**63))
        guided = self._guide and self._guide.guide(
            observation.stamp_ns, observation.arm_positions, self.instruction
        )
        guide, sequence = guided or (None, 0)
        worker.ask(Request(observation, self.instruction, noise_seed, guide, sequence))

    def _take_answers(self) -> None:
        """Publishes what the worker has, unless the instruction it follows is gone or another policy came."""
        answer = self._worker.take() if self._worker is not None else None
        if answer is None or self._rival:
            return
        if answer.error is not None:
            self.report("policy", f"no chunk: {answer.error}")
            return
        if answer.request.instruction != self.instruction:
            return
        self.health.clear("policy")
        self._publish(answer)

    def _publish(self, answer: Answer) -> None:
        assert self.robot is not None
        request = answer.request
        seen, actions = request.observation, np.asarray(answer.actions)
        digests = seen.image_digests()
        chunk = ActionChunk.for_robot(
            self.robot,
            self._sequence + 1,
            seen.stamp_ns,
            request.instruction,
            actions,
            seen.arm_positions,
            noise_seed=request.noise_seed,
            inference_time_s=answer.taken_s,
            left_age_s=answer.left_age_s,
            guide_sequence=request.guide_sequence,
            guide_frozen=request.guide.frozen if request.guide is not None else 0,
            image_stamps_ns=tuple(seen.image_stamps_ns[camera.name] for camera in self.robot.cameras),
            joint_stamp_ns=seen.joint_stamp_ns,
            joint_stamps_ns=seen.joint_stamps_ns,
            image_digests=tuple(digests[c.name] for c in self.robot.cameras) if seen.unstamped else (),
        )
        try:
            chunk.validate(self.robot)
        except ValueError as error:
            self.report("policy", f"no chunk: the policy's answer: {error}")
            return
        self._sequence += 1
        if self._guide is not None:
            self._guide.sent(chunk)
        self._chunk_out.publish(convert.chunk_message(chunk, self.robot, self.now_ns()))
        self.health.count("chunks_published")
        self.health.figure(INFERENCE).add(answer.taken_s * 1e3)
        self.health.figure(LEFT_AGE).add(answer.left_age_s * 1e3)

    def _on_chunk_status(self, message: ChunkStatus) -> None:
        """What drives the arm is what the controller says, not what was sent."""
        if self._guide is None:
            return
        if message.outcome == ChunkStatus.EXECUTED:
            stamps = (convert.from_time(message.due), convert.from_time(message.first_command_stamp))
            self._guide.executed(int(message.sequence), *stamps)
        elif message.outcome == ChunkStatus.DISCARDED:
            self._guide.rest()

    # Signs of life ----------------------------------------------------------------------------------

    def _beat(self) -> None:
        assert self._frames is not None
        result = self._frames.build(self.now_ns())
        seen_ns = 0 if isinstance(result, NotReady) else result.stamp_ns
        self._publish_status(self.clock_problem() or self._problem(result), seen_ns)

    def _publish_status(self, problem: str, seen_ns: int = 0) -> None:
        message = PolicyStatus(
            problem=sentence(problem),
            busy_s=self._worker_busy_s(),
            policy=self._policy_name(),
            observation_stamp=convert.to_time(seen_ns),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._status_out.publish(message)

    def _problem(self, result: Observation | NotReady) -> str:
        """Why there is nothing to act on; empty if there is."""
        assert self._cameras is not None
        if self._rival:
            return self._rival
        if isinstance(result, NotReady):
            return self._explained(result).message
        return (
            self._cameras.problem()
            or self._frozen.problem()
            or ("" if self.instruction else "there is no instruction")
        )

    def _explained(self, result: NotReady) -> Why:
        assert self._cameras is not None and self._joints is not None
        return self._joints.refused(result) or self._cameras.explained(result)

    def _policy_name(self) -> str:
        return self._policy.name if self._policy is not None else ""

    def _worker_busy_s(self) -> float:
        return self._worker.busy_s() if self._worker is not None else 0.0

    # Questions --------------------------------------------------------------------------------------

    def _look(self, cameras: Sequence[str]) -> Look | NotReady:
        assert self._frames is not None and self._cameras is not None
        result = self._frames.look(cameras, self.now_ns())
        if isinstance(result, NotReady):
            return dataclasses.replace(result, message=self._explained(result).message)
        return result

    def _take_said(self) -> None:
        if self._asking is not None:
            self._asking.take()

    def check(self) -> None:
        """A camera that has gone silent makes no event: look at what the frames say."""
        if self._loading is not None:
            self._publish_status(str(self._loading))
        if self.phase != "active" or self._frames is None or self._cameras is None:
            return
        self._cameras.check()
        result = self._frames.build(self.now_ns())
        cause = ""
        if isinstance(result, NotReady):
            why = self._explained(result)
            cause = why.cause
            self.report(why.cause, why.message, why.level)
        else:
            self._cameras.compare(result)
            if wrong := self._cameras.ahead():
                cause = "observation/clock"
            elif wrong := self._frozen.problem():
                cause = "observation/frozen"
            if wrong:
                self.report(cause, wrong)
        if self._not_ready != cause:
            self.health.clear(self._not_ready)
        self._not_ready = cause

    def condition(self) -> str:
        if self._loading is not None:
            return f"{self.phase}, {self._loading}"
        waiting = self.phase == "active" and not self.instruction
        return "active, waiting for an instruction" if waiting else self.phase


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node, and ends the process."""
    run_node(PolicyNode, args)


if __name__ == "__main__":
    main()
