"""Records episodes as rosbag2 bags: every topic of the robot file, as it came, and what became of it.

In:  all topics of the contract (`data/contract.py`); services episode/start, episode/stop, episode/label,
     episode/discard.
Asks: action go_to, where an episode is to begin in a pose.
Out: episode, what it is doing; bags in the parameter `directory`.

It keeps the last moment of everything, so that the observation that a first chunk was made from is in the bag
of the episode that it begins.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.contract import STRING, Topic, in_namespace, recorded_topics
from twinbrain_ros.data.episode_info import EpisodeInfo, InfoError, Verdict
from twinbrain_ros.data.recorder import Recorder, RecorderError, RecorderSettings
from twinbrain_ros.evaluation.machine import package_versions
from twinbrain_ros.msg import ControlMode, EpisodeStatus, InstructionInForce, PolicyStatus
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.nodes.image_compression import FORMATS, ImageCompression
from twinbrain_ros.nodes.parameters import Declared
from twinbrain_ros.nodes.raw_topics import RawTopics, message_class
from twinbrain_ros.nodes.recorder_instructions import EpisodeInstructions
from twinbrain_ros.nodes.recorder_parameters import MIB, PARAMETERS, extra_topics
from twinbrain_ros.nodes.recorder_start import EpisodeStart
from twinbrain_ros.nodes.runner import run_node
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.srv import LabelEpisode
from twinbrain_ros.text import sentence

STATUS_S = 1.0
AGAIN_S = 1.0  # so often it is tried to begin an episode that could not be begun
ADAPT_S = 0.2
PERSON = "person"
MODES = tuple(int(mode) for mode in Mode)
DRIVES = (ControlMode.AUTONOMY, ControlMode.TELEOP)
NICENESS = 10


class RecorderNode(TwinBrainNode):
    """Everything received goes to `data/recorder.py`; this node knows which topics, and answers."""

    parameters: ClassVar[tuple[Declared, ...]] = PARAMETERS

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("recorder_node", **node_arguments)
        self._recorder: Recorder | None = None
        self._raw: RawTopics | None = None
        self._begun = EpisodeInfo()
        self._problems: list[str] = []  # told by the writing thread
        self._mode: ControlMode | None = None
        self._policy = ""
        self._owed = False  # whether an episode is to begin as soon as it can
        self._driven = False  # whether somebody has driven since the episode began
        self._tried_s = 0.0
        self._was_recording = False

    # Lifecycle --------------------------------------------------------------------------------------

    def setup(self, robot: RobotFile) -> None:
        kind = self.value("image_compression")
        if kind not in FORMATS:
            raise ValueError(f"image_compression is {kind!r}, expected one of {', '.join(FORMATS)}")
        namespace = self.get_namespace()
        said = in_namespace(namespace, robot.topics.instruction)
        topics = [topic for topic in recorded_topics(robot, namespace) if topic.name != said]
        self._said = Topic(said, STRING, latched=True)
        if kind != FORMATS[0]:
            made = {topic.name for topic in topics if topic.type.endswith("/Image")}
            topics = [topic for topic in topics if topic.name.rpartition("/")[0] not in made]
        topics += extra_topics(self.value("extra_topics"), namespace)
        settings = RecorderSettings(
            queue_bytes=int(self.value("queue_mib")) * MIB,
            preroll_s=float(self.value("preroll_s")),
            flush_s=float(self.value("flush_s")),
            min_free_bytes=int(self.value("min_free_mib")) * MIB,
        )
        transform = None if kind == FORMATS[0] else ImageCompression(kind, int(self.value("jpeg_quality")))
        directory = Path(self.value("directory")).expanduser().resolve()
        self._recorder = Recorder(directory, settings, self._problems.append, transform)
        self._read_about = {
            in_namespace(namespace, topic): read
            for topic, read in (
                (robot.topics.instruction, self._on_said),
                (robot.topics.instruction_in_force, self._on_in_force),
                (robot.topics.policy_status, self._on_policy_status),
                (robot.topics.control_mode, self._on_control_mode),
            )
        }
        self._instructions = EpisodeInstructions(time.monotonic())
        # Now, as long as they are there.
        self._robot_file, self._urdf = robot.path.read_text(encoding="utf-8"), robot.urdf()
        self._mode, self._policy = None, ""
        self._status_out = self.advertise(EpisodeStatus, "episode", qos.LATCHED)
        self._start = EpisodeStart(self, self._check, self._begin_episode)
        self.serve(Trigger, "episode/stop", self._on_stop)
        self.serve(Trigger, "episode/discard", self._on_discard)
        self.serve(LabelEpisode, "episode/label", self._on_label)
        self.health.count("episodes", 0)
        self._raw = RawTopics(self, self._guarded(self._on_raw))
        for problem in self._raw.listen(topics):
            self.report(f"topic/{problem.partition(':')[0]}", problem, Level.WARN)

    def start(self) -> None:
        self.every(STATUS_S, self._tell)
        self.every(ADAPT_S, self._adapt)
        self._tell()
        self._follow()

    def stop(self) -> None:
        self._start.cancel("the recorder was deactivated")
        if self._recorder is not None and self._recorder.state().recording:
            self._try_to_end("the node was deactivated", wait=True)

    def teardown(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            try:
                recorder.close(self.now_ns())
            except RecorderError as error:
                self.report("recording", str(error))

    # In ---------------------------------------------------------------------------------------------

    def _on_raw(self, topic: Topic, data: bytes, information: dict[str, Any]) -> None:
        if self._recorder is None:
            return
        # When the middleware had it, not when this thread came to it; a played clock is the one that counts.
        log_ns = self.now_ns() if self.value("use_sim_time") else information["received_timestamp"]
        publisher = information["publisher_gid"]["data"] if information.get("publisher_gid") else b""
        sequence = information.get("publication_sequence_number")
        self._recorder.take(topic, log_ns, data, publisher, sequence)
        read = self._read_about.get(topic.name)
        if read is None:
            return
        try:
            message = deserialize_message(data, message_class(topic.type))
        except Exception as error:  # of the middleware's, of many kinds
            problem = f"{topic.name}: found {len(data)} bytes that are no {topic.type}: {error}"
            self.report(f"message{topic.name}", problem)
            return
        self.health.clear(f"message{topic.name}")
        read(message)

    def _on_said(self, message: String) -> None:
        self._instructions.on_said(message.data)

    def _on_in_force(self, message: InstructionInForce) -> None:
        self._instructions.on_in_force(message)

    def _on_policy_status(self, message: PolicyStatus) -> None:
        self._policy = message.policy

    def _on_control_mode(self, message: ControlMode) -> None:
        if message.mode not in MODES:
            known = ", ".join(str(mode) for mode in MODES)
            self.report("control_mode", f"control_mode: mode is {message.mode}, expected one of {known}")
            return
        self.health.clear("control_mode")
        self._mode = message
        if self.phase == "active":
            self._follow()

    def _follow(self) -> None:
        """Begins and ends episodes with autonomy; a person who takes over in between belongs to it."""
        assert self._recorder is not None
        mode, state = self._mode, self._recorder.state()
        if mode is None or not self.value("auto"):
            return
        recording = state.recording and not state.closing
        if mode.mode == ControlMode.AUTONOMY and not recording:
            self._try_to_begin()
        elif mode.mode in DRIVES:
            self._driven = True
        else:
            self._owed = False
            self.health.clear("episode")
            if recording and self._driven:
                self._try_to_end(sentence(f"nobody drives: {mode.reason}"), wait=False)

    def _try_to_begin(self) -> None:
        """Begins an episode, now or as soon as it can be."""
        assert self._recorder is not None
        self._owed = True
        if self._recorder.state().closing:
            return  # as soon as that is done
        self._tried_s = time.monotonic()
        try:
            self._begin_episode("", EpisodeInfo(note="started with autonomy"))
        except (ValueError, OSError) as error:
            self.report("episode", f"autonomy is not recorded: {error}")

    def _try_to_end(self, why: str, wait: bool) -> None:
        try:
            self._end_episode(why, wait=wait)
        except (ValueError, OSError) as error:
            self.report("recording", str(error))

    # Episodes ---------------------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        """Whether an episode can begin; raises ValueError or OSError if not."""
        if self._recorder is None or self.phase != "active":
            raise RecorderError(f"the recorder is {self.phase}, expected active")
        self._recorder.check(name or self._name())

    def _begin_episode(self, name: str, info: EpisodeInfo, anew: bool = False) -> Path:
        assert self._recorder is not None and self.robot is not None
        if anew:
            self._recorder.forget()
        self._instructions.begin()
        path = self._recorder.start(name or self._name(), self._known(info), self.now_ns())
        # From here on: an episode may break off before the recorder is looked at again.
        self._begun, self._owed, self._was_recording = info, False, True
        self._driven = self._mode is not None and self._mode.mode in DRIVES
        self.health.clear("episode")
        self.health.clear("recording")
        self.health.count("episodes")
        self.get_logger().info(f"recording {path}")
        self._tell()
        return path

    def _name(self) -> str:
        assert self.robot is not None
        now = datetime.now(timezone.utc)
        arm = self.get_namespace().strip("/").replace("/", "_") or self.robot.name
        return f"{arm}_{now:%Y-%m-%d_%H-%M-%S}_{now.microsecond // 1000:03d}"

    def _end_episode(self, why: str, wait: bool = True) -> Path:
        assert self._recorder is not None
        path = self._recorder.stop(self._known(self._begun), self.now_ns(), why=why, wait=wait)
        self._was_recording = not wait
        self.get_logger().info(f"recorded {path}: {why}")
        self._tell()
        return path

    def _known(self, info: EpisodeInfo) -> EpisodeInfo:
        """The same with what the topics and the robot file say."""
        assert self.robot is not None
        return dataclasses.replace(
            info,
            robot=self.robot.name,
            robot_file=self._robot_file,
            urdf=self._urdf,
            namespace=self.get_namespace().strip("/"),
            policy=self._policy,
            instruction=self._instructions.followed,
            refused=self._instructions.refused,
            versions=package_versions(),
        )

    # Services ---------------------------------------------------------------------------------------

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self._owed = False
        self._serve(response, lambda: self._start.cancel("stopped") or self._end_episode("stopped"))

    def _on_discard(self, request: Trigger.Request, response: Trigger.Response) -> None:
        def discard() -> Path | str:
            assert self._recorder is not None
            if cancelled := self._start.cancel("discarded"):
                return cancelled
            self._owed = self._was_recording = False
            return self._recorder.discard(self.now_ns())

        self._serve(response, discard)

    def _on_label(self, request: LabelEpisode.Request, response: LabelEpisode.Response) -> None:
        def label() -> Path:
            assert self._recorder is not None
            if request.score > 1.0:
                raise InfoError(f"label.score: found {request.score}, expected a number from 0 to 1")
            score = float(request.score) if request.score >= 0 else None
            source = request.source or PERSON
            return self._recorder.label(Verdict(request.outcome, score, request.text, source, self.now_ns()))

        self._serve(response, label)

    def _serve(self, response: Any, act: Any) -> None:
        """Answers a service with the bag's path, or with what stands against it."""
        response.success = False
        if self._recorder is None or self.phase != "active":
            response.message = f"the recorder is {self.phase}, expected active"
            return
        try:
            response.message, response.success = str(act()), True
        except (ValueError, OSError) as error:
            response.message = sentence(error)
            self.get_logger().warning(response.message)

    # Out --------------------------------------------------------------------------------------------

    def _adapt(self) -> None:
        if self._raw is None or self._recorder is None or self.robot is None:
            return
        self._start.look()
        self._raw.adapt()
        policy = self.count_publishers(self.robot.topics.instruction_in_force) > 0
        listens = self._instructions.listens(policy, time.monotonic())
        if listens and not self._raw.listens(self._said):
            self._raw.listen([self._said])
        elif not listens:
            self._raw.drop(self._said)
        state = self._recorder.state()
        if self._was_recording and not state.recording:  # it is whole, or it broke off
            self._owed = self._owed or self._mode_is_autonomy()
            self._tell()
        self._was_recording = state.recording
        if self._owed and not state.recording and time.monotonic() - self._tried_s >= AGAIN_S:
            self._try_to_begin()

    def _mode_is_autonomy(self) -> bool:
        return self._mode is not None and self._mode.mode == ControlMode.AUTONOMY

    def _tell(self) -> None:
        assert self._recorder is not None
        state = self._recorder.state()
        message = EpisodeStatus(
            recording=state.recording,
            bag=str(state.bag or ""),
            seconds=state.seconds,
            bytes=state.bytes_written,
            queued_bytes=state.queued_bytes,
            topics=list(state.counts),
            received=[counts.received for counts in state.counts.values()],
            written=[counts.written for counts in state.counts.values()],
            lost=[counts.lost for counts in state.counts.values()],
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._status_out.publish(message)

    def check(self) -> None:
        while self._problems:
            self.report("recording", self._problems.pop(0))
        if self._recorder is None:
            return
        counts = self._recorder.state().counts.values()
        self.health.set("messages_received", sum(entry.received for entry in counts))
        self.health.set("messages_written", sum(entry.written for entry in counts))
        self.health.set("messages_lost", sum(entry.lost for entry in counts))

    def condition(self) -> str:
        if self._recorder is None:
            return self.phase
        if self._start.pose:
            return f"{self.phase}, on the way to {self._start.pose!r}, where an episode begins"
        return f"{self.phase}, recording" if self._recorder.state().recording else self.phase


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node, and ends the process."""
    # Before there are other threads, which inherit it. What is recorded waits in queues; a controller that
    # shares the cores cannot.
    os.nice(NICENESS)
    run_node(RecorderNode, args)


if __name__ == "__main__":
    main()
