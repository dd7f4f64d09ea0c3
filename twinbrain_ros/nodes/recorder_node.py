"""Records episodes as rosbag2 bags: every topic of the robot file, as it came, and what became of it.

In:  all topics of the contract (`data/contract.py`); services episode/start, episode/stop, episode/label,
     episode/discard.
Out: episode, what it is doing; bags in the parameter `directory`.

It keeps the last moment of everything, so that the observation that a first chunk was made from is in the bag
of the episode that it begins.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from std_srvs.srv import Trigger

from twinbrain_ros.data.contract import Topic, in_namespace, recorded_topics
from twinbrain_ros.data.episode_info import EpisodeInfo, InfoError, Verdict
from twinbrain_ros.data.recorder import Recorder, RecorderSettings
from twinbrain_ros.evaluation.machine import package_versions
from twinbrain_ros.msg import ControlMode, EpisodeStatus, PolicyStatus
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.nodes.image_compression import FORMATS, ImageCompression
from twinbrain_ros.nodes.parameters import Declared
from twinbrain_ros.nodes.raw_topics import RawTopics
from twinbrain_ros.nodes.recorder_parameters import MIB, PARAMETERS
from twinbrain_ros.nodes.runner import run_node
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.srv import LabelEpisode, StartEpisode
from twinbrain_ros.text import sentence

STATUS_S = 1.0
ADAPT_S = 0.2
PERSON = "person"
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
        self._newest: dict[str, bytes] = {}  # of the topics that say what an episode is about

    # Lifecycle --------------------------------------------------------------------------------------

    def setup(self, robot: RobotFile) -> None:
        kind = self.value("image_compression")
        if kind not in FORMATS:
            raise ValueError(f"image_compression is {kind!r}, expected one of {', '.join(FORMATS)}")
        namespace = self.get_namespace()
        topics = recorded_topics(robot, namespace)
        if kind != FORMATS[0]:
            made = {topic.name for topic in topics if topic.type.endswith("/Image")}
            topics = [topic for topic in topics if topic.name.rpartition("/")[0] not in made]
        topics += _extra(self.value("extra_topics"), namespace)
        settings = RecorderSettings(
            queue_bytes=int(self.value("queue_mib")) * MIB,
            preroll_s=float(self.value("preroll_s")),
            flush_s=float(self.value("flush_s")),
            min_free_bytes=int(self.value("min_free_mib")) * MIB,
        )
        transform = None if kind == FORMATS[0] else ImageCompression(kind, int(self.value("jpeg_quality")))
        directory = Path(self.value("directory")).expanduser().resolve()
        self._recorder = Recorder(directory, settings, self._problems.append, transform)
        names = robot.topics
        about = (names.instruction, names.policy_status, names.control_mode)
        self._about = {in_namespace(namespace, topic): topic for topic in about}
        self._newest.clear()
        self._status_out = self.advertise(EpisodeStatus, "episode", qos.LATCHED)
        self.serve(StartEpisode, "episode/start", self._on_start)
        self.serve(Trigger, "episode/stop", self._on_stop)
        self.serve(Trigger, "episode/discard", self._on_discard)
        self.serve(LabelEpisode, "episode/label", self._on_label)
        self.health.count("episodes", 0)
        self._raw = RawTopics(self, self._on_raw)
        for problem in self._raw.listen(topics):
            self.report(f"topic/{problem.partition(':')[0]}", problem, Level.WARN)

    def start(self) -> None:
        self.every(STATUS_S, self._tell)
        self.every(ADAPT_S, self._adapt)
        self._tell()
        self._follow()

    def stop(self) -> None:
        if self._recorder is not None and self._recorder.state().recording:
            self._end_episode("the node was deactivated")

    def teardown(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close(self.now_ns())

    # In ---------------------------------------------------------------------------------------------

    def _on_raw(self, topic: Topic, data: bytes, information: dict[str, Any]) -> None:
        if self._recorder is None:
            return
        # When the middleware had it, not when this thread came to it; a played clock is the one that counts.
        log_ns = self.now_ns() if self.value("use_sim_time") else information["received_timestamp"]
        publisher = information["publisher_gid"]["data"] if information.get("publisher_gid") else b""
        sequence = information.get("publication_sequence_number")
        self._recorder.take(topic, log_ns, data, publisher, sequence)
        about = self._about.get(topic.name)
        if about is None:
            return
        self._newest[about] = data
        assert self.robot is not None
        if about == self.robot.topics.control_mode and self.phase == "active":
            self._follow()

    def _follow(self) -> None:
        """Begins and ends episodes with autonomy; a person who takes over in between belongs to it."""
        assert self._recorder is not None and self.robot is not None
        newest = self._newest.get(self.robot.topics.control_mode)
        if newest is None or not self.value("auto"):
            return
        mode = deserialize_message(newest, ControlMode)
        recording = self._recorder.state().recording
        if mode.mode == ControlMode.AUTONOMY and not recording:
            self._begin_episode("", EpisodeInfo(note="started with autonomy"))
        elif mode.mode not in (ControlMode.AUTONOMY, ControlMode.TELEOP) and recording:
            self._end_episode(sentence(f"nobody drives: {mode.reason}"))

    # Episodes ---------------------------------------------------------------------------------------

    def _begin_episode(self, name: str, info: EpisodeInfo) -> Path:
        assert self._recorder is not None and self.robot is not None
        now = datetime.now(timezone.utc)
        arm = self.get_namespace().strip("/").replace("/", "_") or self.robot.name
        name = name or f"{arm}_{now:%Y-%m-%d_%H-%M-%S}_{now.microsecond // 1000:03d}"
        path = self._recorder.start(name, self._known(info), self.now_ns())
        self._begun = info  # what it was started with
        self.health.count("episodes")
        self.get_logger().info(f"recording {path}")
        self._tell()
        return path

    def _end_episode(self, why: str, discard: bool = False) -> Path:
        assert self._recorder is not None
        path = self._recorder.stop(self._known(self._begun), self.now_ns(), discard, why)
        self.get_logger().info(f"{'discarded' if discard else 'recorded'} {path}: {why}")
        self._tell()
        return path

    def _known(self, info: EpisodeInfo) -> EpisodeInfo:
        """The same with what the topics and the robot file say."""
        assert self.robot is not None
        names = self.robot.topics
        said = self._newest.get(names.instruction)
        alive = self._newest.get(names.policy_status)
        return dataclasses.replace(
            info,
            robot=self.robot.name,
            robot_file=self.robot.path.read_text(encoding="utf-8"),
            urdf=self.robot.urdf(),
            namespace=self.get_namespace().strip("/"),
            policy=deserialize_message(alive, PolicyStatus).policy if alive else "",
            instruction=deserialize_message(said, String).data if said else "",
            versions=package_versions(),
        )

    # Services ---------------------------------------------------------------------------------------

    def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> None:
        seed = int(request.seed) if request.seed >= 0 else None
        info = EpisodeInfo(task=request.task, seed=seed, note=request.note)
        self._serve(response, lambda: self._begin_episode(request.name, info))
        if response.success:
            response.bag, response.message = response.message, ""

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self._serve(response, lambda: self._end_episode("stopped"))

    def _on_discard(self, request: Trigger.Request, response: Trigger.Response) -> None:
        def discard() -> Path:
            assert self._recorder is not None
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
        if self._raw is not None:
            self._raw.adapt()

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
        recording = self._recorder is not None and self._recorder.state().recording
        return f"{self.phase}, recording" if recording else self.phase


def _extra(text: str, namespace: str) -> list[Topic]:
    """Topics from a parameter; raises ValueError for what is not `name type`."""
    topics = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        words = entry.split()
        if len(words) != 2:
            raise ValueError(f"extra_topics: found {entry!r}, expected `name type`")
        topics.append(Topic(in_namespace(namespace, words[0]), words[1]))
    return topics


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; returns the exit code."""
    # Before there are other threads, which inherit it. What is recorded waits in queues; a controller that
    # shares the cores cannot.
    os.nice(NICENESS)
    return run_node(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
