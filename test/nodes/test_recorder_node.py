"""The recorder node on real topics: what is published is in the bag, and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from controller_rig import ControllerRig
from policy_rig import StandIn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from twinbrain_ros.msg import ControlMode, EpisodeStatus
from twinbrain_ros.srv import LabelEpisode, ResetScene, StartEpisode

from twinbrain_ros.data.bag import Bag, open_bag
from twinbrain_ros.data.decode import image_from_compressed
from twinbrain_ros.data.episode_info import EpisodeInfo
from twinbrain_ros.data.frames import Observation
from twinbrain_ros.data.recorded import RecordedFrames, robot_of
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.nodes.recorder_node import RecorderNode
from twinbrain_ros.nodes.sim_node import SimNode
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

NAME = "recorder_node"


class Recording:
    """A recorder node, and a person who uses its services."""

    def __init__(self, bench: Any, directory: Path, **parameters: Any) -> None:
        self.bench = bench
        self.node = bench.add(
            RecorderNode, **{"autostart": True, "directory": str(directory), "min_free_mib": 1} | parameters
        )
        assert self.node.autostart()
        self.status = bench.record(EpisodeStatus, "episode", qos.LATCHED)

    def start(self, name: str = "", **request: Any) -> Path:
        answer = self.bench.call(StartEpisode, "episode/start", StartEpisode.Request(name=name, **request))
        assert answer.success, answer.message
        return Path(answer.bag)

    def ask(self, what: str) -> Trigger.Response:
        return self.bench.call(Trigger, f"episode/{what}", Trigger.Request())

    def label(self, **request: Any) -> LabelEpisode.Response:
        return self.bench.call(LabelEpisode, "episode/label", LabelEpisode.Request(**request))

    def stop(self) -> Bag:
        answer = self.ask("stop")
        assert answer.success, answer.message
        return open_bag(answer.message)

    def received(self, topic: str) -> int:
        """Of the present episode."""
        assert self.node._recorder is not None
        counts = self.node._recorder.state().counts
        return counts[topic].received if topic in counts else 0


@pytest.fixture
def recording(bench: Any, tmp_path: Path) -> Recording:
    return Recording(bench, tmp_path / "bags")


def info_of(bag: Bag) -> EpisodeInfo:
    return EpisodeInfo.from_json(bag.info)


def test_messages_are_recorded_as_they_came(bench: Any, recording: Recording, robot: RobotFile) -> None:
    joints = bench.publisher(JointState, robot.topics.joint_states)
    words = bench.publisher(String, robot.topics.instruction, qos.LATCHED)
    words.publish(String(data="pick up the red block"))
    recording.start("e1", task="pick", seed=7, note="the first")
    sent = []
    for i in range(50):
        message = JointState(name=["a", "b"], position=[float(i), 0.5])
        sent.append(message)
        joints.publish(message)
        bench.until(lambda: recording.received("/joint_states") == len(sent), "the joint states")
    bag = recording.stop()
    stored = [deserialize_message(m.data, JointState) for m in bag.messages(["/joint_states"])]
    assert stored == sent
    info = info_of(bag)
    assert (info.task, info.seed, info.note) == ("pick", 7, "the first")
    assert info.instruction == "pick up the red block"
    assert info.robot_file == robot.path.read_text() and info.urdf == robot.urdf()
    assert info.versions["twinbrain_ros"] and info.counts["/joint_states"].lost == 0
    assert bag.topics["/instruction"].latched
    times = [message.log_ns for message in bag.messages(["/joint_states"])]
    assert times == sorted(times) and info.started_ns <= times[0] <= times[-1] <= info.ended_ns


def test_best_effort_publishers_are_recorded_too(bench: Any, recording: Recording, robot: RobotFile) -> None:
    profile = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    joints = bench.publisher(JointState, robot.topics.joint_states, profile)
    recording.start()

    def heard() -> bool:
        joints.publish(JointState(name=["a"]))
        return recording.received("/joint_states") > 0

    bench.until(heard, "a best-effort publisher")
    assert recording.stop().count("/joint_states") > 0


def test_a_namespace_is_in_the_topics_and_in_the_record(bench: Any, tmp_path: Path, robot: RobotFile) -> None:
    def make(**arguments: Any) -> RecorderNode:
        return RecorderNode(namespace="/left", **arguments)

    node = bench.add(make, autostart=True, directory=str(tmp_path), min_free_mib=1)
    assert node.autostart()
    joints = bench.publisher(JointState, "/left/joint_states")
    answer = bench.call(StartEpisode, "/left/episode/start", StartEpisode.Request())
    assert answer.success and Path(answer.bag).name.startswith("left_")
    joints.publish(JointState(name=["a"]))
    bench.until(lambda: node._recorder.state().counts.get("/left/joint_states"))
    bench.call(Trigger, "/left/episode/stop", Trigger.Request())
    bag = open_bag(answer.bag)
    assert bag.count("/left/joint_states") == 1 and info_of(bag).namespace == "left"


def test_it_says_what_it_is_doing(bench: Any, recording: Recording, robot: RobotFile) -> None:
    joints = bench.publisher(JointState, robot.topics.joint_states)
    path = recording.start("e")
    joints.publish(JointState())
    bench.until(lambda: "/joint_states" in recording.status[-1].topics)
    status = recording.status[-1]
    assert status.recording and status.bag == str(path) and status.seconds > 0
    index = status.topics.index("/joint_states")
    assert status.received[index] == 1 and status.lost[index] == 0
    bench.until(lambda: bench.says(NAME, 0, "active, recording"))
    recording.stop()
    bench.until(lambda: not recording.status[-1].recording)
    bench.until(lambda: bench.value(NAME, "messages_lost") == "0" and bench.value(NAME, "episodes") == "1")


# Services -----------------------------------------------------------------------------------------------


def test_labels_by_service(bench: Any, recording: Recording) -> None:
    assert "no episode" in recording.label(outcome="success").message
    recording.start("e")
    assert recording.label(outcome="failure").success
    bag = recording.stop()
    assert recording.label(outcome="success", score=0.75, text="at last", source="ann").success
    verdicts = info_of(open_bag(bag.path)).verdicts
    assert [(v.outcome, v.score, v.text, v.source) for v in verdicts] == [
        ("failure", None, "", "person"),
        ("success", 0.75, "at last", "ann"),
    ]
    assert all(verdict.at_ns > 0 for verdict in verdicts)
    for request, words in (
        ({"outcome": "fine"}, "outcome: found 'fine'"),
        ({"score": 3.0}, "score: found 3.0"),
        ({}, "found nothing"),
    ):
        answer = recording.label(**request)
        assert not answer.success and words in answer.message
    assert info_of(open_bag(bag.path)).verdicts == verdicts


def test_refused_requests_say_why(bench: Any, recording: Recording, tmp_path: Path) -> None:
    assert "no episode is being recorded" in recording.ask("stop").message
    recording.start("e")
    for name, words in (("f", "is being recorded"),):
        answer = bench.call(StartEpisode, "episode/start", StartEpisode.Request(name=name))
        assert not answer.success and words in answer.message
    assert recording.ask("discard").success
    assert not (tmp_path / "bags" / "e").exists()
    recording.node.trigger_deactivate()
    answer = bench.call(StartEpisode, "episode/start", StartEpisode.Request(name="g"))
    assert not answer.success and "inactive, expected active" in answer.message


def test_deactivation_closes_the_episode(bench: Any, recording: Recording) -> None:
    path = recording.start("e")
    recording.node.trigger_deactivate()
    bag = open_bag(path)
    assert not bag.truncated and info_of(bag).ended == "the node was deactivated"


def test_it_follows_autonomy_if_asked_to(bench: Any, tmp_path: Path, robot: RobotFile) -> None:
    """A real controller's mode: a person who takes over in between belongs to the episode."""
    recording = Recording(bench, tmp_path / "bags", auto=True)
    rig = ControllerRig(bench, robot)
    assert not recording.status[-1].recording
    rig.drive()
    bench.until(lambda: recording.status[-1].recording, "no episode began with autonomy")
    assert rig.set_mode(ControlMode.TELEOP).success
    assert rig.set_mode(ControlMode.AUTONOMY).success
    assert rig.set_mode(ControlMode.HOLD).success
    bench.until(lambda: not recording.status[-1].recording, "the episode did not end")
    (path,) = (tmp_path / "bags").iterdir()
    bag = open_bag(path)
    modes = [bag.decode(message).mode for message in bag.messages(["/control_mode"])]
    driven = [ControlMode.AUTONOMY, ControlMode.TELEOP, ControlMode.AUTONOMY, ControlMode.HOLD]
    assert modes[-4:] == driven
    assert bag.count("/arm_controller/joint_trajectory") > 0


def test_started_amid_autonomy_it_records_at_once(bench: Any, tmp_path: Path, robot: RobotFile) -> None:
    rig = ControllerRig(bench, robot)
    rig.drive()
    node = bench.add(RecorderNode, directory=str(tmp_path / "bags"), min_free_mib=1, auto=True)
    assert node.trigger_configure().name == "SUCCESS"
    bench.until(lambda: node._mode, "the mode is not heard")
    assert not node._recorder.state().recording
    assert node.trigger_activate().name == "SUCCESS"
    assert node._recorder.state().recording


# Images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_lossless_compression_keeps_every_pixel(
    bench: Any, tmp_path: Path, robot: RobotFile, encoding: str
) -> None:
    recording = Recording(bench, tmp_path / "bags", image_compression="png")
    camera = robot.cameras[0]
    images = bench.publisher(Image, camera.topic)
    recording.start("e")
    depth = 1 if encoding == "mono8" else 3
    raw = np.random.default_rng(0).integers(0, 256, (camera.height, camera.width, depth), np.uint8)
    message = Image(height=camera.height, width=camera.width, encoding=encoding, step=camera.width * depth)
    message.data.frombytes(raw.tobytes())
    images.publish(message)
    topic = f"/{camera.topic}"
    bench.until(lambda: recording.received(topic) == 1)
    bag = recording.stop()
    assert bag.count(topic) == 0
    (stored,) = bag.messages([f"{topic}/compressed"])
    compressed = deserialize_message(stored.data, CompressedImage)
    assert compressed.format.startswith(f"{encoding}; png compressed")
    expected = {"rgb8": raw, "bgr8": raw[..., ::-1], "mono8": raw.repeat(3, axis=2)}[encoding]
    np.testing.assert_array_equal(image_from_compressed(compressed.data, camera), expected)
    assert info_of(bag).counts[topic].written == 1


def test_jpeg_is_small_and_an_odd_image_is_told(bench: Any, tmp_path: Path, robot: RobotFile) -> None:
    recording = Recording(bench, tmp_path / "bags", image_compression="jpeg", jpeg_quality=90)
    camera = robot.cameras[0]
    images = bench.publisher(Image, camera.topic)
    recording.start("e")
    ramp = np.linspace(0, 255, camera.width).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (camera.height, camera.width, 3))
    images.publish(convert.image_message(pixels, camera, 5))
    odd = convert.image_message(pixels, camera, 6)
    odd.encoding = "32FC1"
    images.publish(odd)
    bench.until(lambda: recording.received(f"/{camera.topic}") == 2)
    bag = recording.stop()
    (stored,) = bag.messages([f"/{camera.topic}/compressed"])
    assert len(stored.data) < camera.height * camera.width
    seen = image_from_compressed(deserialize_message(stored.data, CompressedImage).data, camera)
    assert np.abs(seen.astype(int) - pixels).max() <= 8
    bench.until(lambda: bench.says(NAME, 2, "encoding is '32FC1'"))
    counts = info_of(bag).counts[f"/{camera.topic}"]
    assert (counts.received, counts.written) == (2, 1)


def test_images_that_come_compressed_stay_as_they_are(
    bench: Any, recording: Recording, robot: RobotFile
) -> None:
    """And observations are built from them where there are no raw ones."""
    stamp_ns = 1_700_000_000 * 10**9
    packed = {}
    publishers = [bench.publisher(CompressedImage, f"{c.topic}/compressed") for c in robot.cameras]
    joints = bench.publisher(JointState, robot.topics.joint_states)
    recording.start("e")
    for camera, publisher in zip(robot.cameras, publishers, strict=True):
        pixels = np.random.default_rng(1).integers(0, 256, (camera.height, camera.width, 3), np.uint8)
        packed[camera.name] = cv2.imencode(".jpg", pixels)[1].tobytes()
        message = CompressedImage(format="bgr8; jpeg compressed bgr8")
        message.header.stamp = convert.to_time(stamp_ns)
        message.data.frombytes(packed[camera.name])
        publisher.publish(message)
        bench.until(lambda camera=camera: recording.received(f"/{camera.topic}/compressed") == 1)
    state = JointState(name=[*robot.arm_joints, "left_finger"], position=[*robot.home.tolist(), 0.03])
    state.header.stamp = convert.to_time(stamp_ns)
    joints.publish(state)
    bench.until(lambda: recording.received("/joint_states") == 1)
    bag = recording.stop()
    for camera in robot.cameras:
        (stored,) = bag.messages([f"/{camera.topic}/compressed"])
        assert deserialize_message(stored.data, CompressedImage).data.tobytes() == packed[camera.name]
    frames = RecordedFrames(bag, robot, Kinematics(robot))
    stamps = {camera.name: stamp_ns for camera in robot.cameras}
    for _ in frames._feed():
        pass
    seen = frames._builder.rebuild(stamps, stamp_ns)
    assert isinstance(seen, Observation)
    for camera in robot.cameras:
        expected = image_from_compressed(packed[camera.name], camera)
        np.testing.assert_array_equal(seen.images[camera.name], expected)


def test_parameters_that_mean_nothing_are_refused(bench: Any, tmp_path: Path) -> None:
    for parameters, words in (
        ({"image_compression": "gif"}, "image_compression is 'gif'"),
        ({"extra_topics": "/tf"}, "extra_topics: found '/tf', expected `name type`"),
    ):
        node = bench.add(RecorderNode, directory=str(tmp_path), **parameters)
        assert node.trigger_configure().name == "FAILURE"
        bench.until(lambda words=words: bench.says(NAME, 2, words), words)


def test_extra_topics_and_types_that_are_not_installed(bench: Any, tmp_path: Path) -> None:
    extra = "chatter std_msgs/msg/String, /odd no_such/msg/Thing"
    recording = Recording(bench, tmp_path / "bags", extra_topics=extra)
    chatter = bench.publisher(String, "chatter")
    recording.start("e")
    chatter.publish(String(data="hello"))
    bench.until(lambda: recording.received("/chatter") == 1)
    assert recording.stop().count("/chatter") == 1
    bench.until(lambda: bench.says(NAME, 1, "/odd: not recorded: message type 'no_such/msg/Thing'"))


# One way to build a frame -------------------------------------------------------------------------------


class Seen(StandIn):
    """Keeps whole observations by the seed of their noise; answers with the noise."""

    def act(self, images: Any, instruction: str, state: Any, *, noise: Any, stamp_s: float) -> np.ndarray:
        self.observations: dict[bytes, Any] = getattr(self, "observations", {})
        self.observations[np.asarray(noise, dtype=np.float64).tobytes()] = (dict(images), state)
        return np.asarray(noise, dtype=np.float64)


@pytest.mark.parametrize("compression", ["none", "png"])
def test_observations_from_a_bag_are_those_that_the_policy_saw(
    bench: Any, tmp_path: Path, robot: RobotFile, compression: str
) -> None:
    """A simulated arm and its cameras; every bit of every image and of every state."""
    policy = Seen()
    recording = Recording(bench, tmp_path / "bags", image_compression=compression)
    node = bench.add(
        lambda **arguments: PolicyNode(lambda *_: policy, lambda _: None, **arguments),
        autostart=True, execution_steps=1,
    )  # fmt: skip
    sim = bench.add(SimNode, autostart=True)
    assert node.autostart() and sim.autostart()
    chunks = f"/{robot.topics.action_chunk}"
    bench.call(ResetScene, "reset_scene", ResetScene.Request(seed=4, task="pick"))
    recording.start("e")
    words = bench.publisher(String, robot.topics.instruction, qos.LATCHED)
    words.publish(String(data="pick up the red block"))
    bench.until(lambda: recording.received(chunks) >= 6, "no chunks")
    bag = recording.stop()
    frames = RecordedFrames(bag, robot_of(bag), Kinematics(robot))
    moments = list(frames.chunk_moments())
    assert len(moments) == bag.count(chunks) >= 6 and frames.problems.sentences() == ()
    for moment in moments:
        assert moment.chunk is not None and moment.instruction == "pick up the red block"
        images, state = policy.observations[moment.chunk.data.tobytes()]
        assert images.keys() == moment.observation.images.keys()
        for name, image in images.items():
            np.testing.assert_array_equal(moment.observation.images[name], image)
        assert moment.observation.state.tobytes() == state.tobytes()
    assert info_of(bag).policy == "stand-in"


def test_a_recorder_process_that_is_asked_to_end_closes_its_bag(
    bench: Any, tmp_path: Path, start_process: Callable[..., Any]
) -> None:
    process = start_process("recorder_node", autostart=True, directory=str(tmp_path / "b"), min_free_mib=1)
    answer = bench.call(StartEpisode, "episode/start", StartEpisode.Request(name="e"))
    # If it had to be asked again, the second answer is that it records already.
    assert (tmp_path / "b" / "e").is_dir(), answer.message
    answer = bench.call(LabelEpisode, "episode/label", LabelEpisode.Request(outcome="success"))
    assert answer.success, answer.message
    code, _ = process.end()
    bag = open_bag(tmp_path / "b" / "e")
    assert code == 0 and not bag.truncated
    label = info_of(bag).label
    assert label is not None and (label.outcome, label.source) == ("success", "person")
