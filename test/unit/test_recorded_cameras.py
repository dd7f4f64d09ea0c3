"""Bags of cameras that send JPEG, or whose stamps mean nothing: built again as the live node had it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_fixtures import IMAGE_NS, MS, START_NS, MadeBag, make_bag
from camera_files import robot_with
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.data.bag_writer import BagWriter
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.frames import FrameBuilder, NotReady, Observation, image_digest
from twinbrain_ros.data.messages import image_from_message
from twinbrain_ros.data.recorded import RecordedFrames
from twinbrain_ros.nodes.convert import to_time
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


def restamped(
    made: MadeBag, path: Path, robot: RobotFile, stamp: Any, leave_out: frozenset[int] = frozenset()
) -> Path:
    """The same bag with other image stamps: `stamp(old)`; leave_out: old stamps without an image."""
    source = open_bag(made.path)
    values = source.episode.to_json() | {"robot_file": robot.path.read_text(encoding="utf-8")}
    writer = BagWriter(path, values)
    for message in made.messages:
        data = message.data
        if message.type.endswith("/Image"):
            image = deserialize_message(data, Image)
            old_ns = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
            if old_ns in leave_out:
                continue
            image.header.stamp = to_time(stamp(old_ns))
            data = serialize_message(image)
        writer.write(Topic(message.topic, message.type), message.log_ns, data)
    writer.close(values)
    return path


def frames_of(path: Path, robot: RobotFile) -> RecordedFrames:
    return RecordedFrames(open_bag(path), robot, Kinematics(robot))


def test_compressed_cameras_are_recorded_and_built_again(tmp_path: Path, robot: RobotFile) -> None:
    robot = robot_with(tmp_path, robot, transport="compressed")
    made = make_bag(tmp_path / "bag", robot, 2.0)
    frames = frames_of(made.path, robot)
    moments = list(frames.chunk_moments())
    assert len(moments) == len(made.chunks) == 4 and frames.problems.sentences() == ()
    topics = {camera.name: f"/{camera.topic}/compressed" for camera in robot.cameras}
    for moment in moments:
        for name, topic in topics.items():
            sent = [deserialize_message(data, CompressedImage) for data in made.of(topic)]
            stamp = to_time(moment.observation.image_stamps_ns[name])
            (message,) = [m for m in sent if m.header.stamp == stamp]
            expected = image_from_message(message, robot.camera(name))
            np.testing.assert_array_equal(moment.observation.images[name], expected)
    assert len(list(frames_of(made.path, robot).ticks(0.2))) > 7


def as_seen(moments: list[Any]) -> list[dict[str, bytes]]:
    return [{name: image.tobytes() for name, image in m.observation.images.items()} for m in moments]


def with_digests(
    made: MadeBag, robot: RobotFile, tmp_path: Path, stamps: str
) -> tuple[MadeBag, list[dict[str, bytes]]]:
    """A bag whose chunks name images as a policy that goes by receipt does, and what they are of."""
    seen = as_seen(list(frames_of(made.path, robot).chunk_moments()))
    assert len(seen) == len(made.chunks)
    more = {}
    for chunk, images in zip(made.chunks, seen, strict=True):
        pixels = [
            np.frombuffer(images[c.name], np.uint8).reshape(c.height, c.width, 3) for c in robot.cameras
        ]
        received = tuple(ns + 2 * MS for ns in chunk.image_stamps_ns)
        boot = tuple(ns - START_NS + 10**9 for ns in chunk.image_stamps_ns)
        more[chunk.sequence] = {
            "observation_ns": min(received),
            "due_ns": min(received),
            "image_stamps_ns": boot if stamps == "boot" else received,
            "image_digests": () if stamps == "boot" else tuple(map(image_digest, pixels)),
        }
    return make_bag(tmp_path / "receipt", robot, 2.0, chunk_more=more), seen


@pytest.mark.parametrize("file_says_so", [True, False])
@pytest.mark.parametrize("stamps", ["zero", "constant", "boot"])
def test_observations_by_receipt_are_built_again_bit_for_bit(
    tmp_path: Path, robot: RobotFile, stamps: str, file_says_so: bool
) -> None:
    plain = make_bag(tmp_path / "plain", robot, 2.0)
    made, seen = with_digests(plain, robot, tmp_path, stamps)
    by_receipt = robot_with(tmp_path, robot, stamps="receipt") if file_says_so else robot
    stamp = {"zero": lambda ns: 0, "constant": lambda ns: 7, "boot": lambda ns: ns - START_NS + 10**9}[stamps]
    path = restamped(made, tmp_path / "bag", by_receipt, stamp)
    frames = frames_of(path, by_receipt)
    moments = list(frames.chunk_moments())
    assert as_seen(moments) == seen
    assert [m.observation.stamp_ns for m in moments] == [m.chunk.observation_ns for m in moments if m.chunk]
    assert frames.problems.sentences() == ()


def test_an_image_by_receipt_that_is_lost_is_named_and_the_others_are_found(
    tmp_path: Path, robot: RobotFile
) -> None:
    plain = make_bag(tmp_path / "plain", robot, 2.0)
    made, seen = with_digests(plain, robot, tmp_path, "zero")
    lost = frozenset({made.start_ns + 10 * IMAGE_NS})  # the second chunk's
    frames = frames_of(restamped(made, tmp_path / "bag", robot, lambda ns: 0, lost), robot)
    assert as_seen(list(frames.chunk_moments())) == [seen[0], *seen[2:]]
    (problem,) = frames.problems.sentences()
    assert "chunk 2: its observation is not whole: there is no image of camera 'front'" in problem


def test_unstamped_images_become_frames_by_their_receipt(tmp_path: Path, robot: RobotFile) -> None:
    made = make_bag(tmp_path / "plain", robot, 2.0, chunk_every_s=None)
    stamped = list(frames_of(made.path, robot).ticks(0.2))
    path = restamped(made, tmp_path / "bag", robot, lambda ns: 0)
    received = list(frames_of(path, robot).ticks(0.2))
    assert len(received) == len(stamped) > 7
    for (_, one), (_, other) in zip(stamped, received, strict=True):
        assert not isinstance(one, NotReady) and not isinstance(other, NotReady)
        assert as_seen([one]) == as_seen([other])
        assert abs(one.observation.stamp_ns - other.observation.stamp_ns) <= 4 * MS


def test_the_builder_names_an_unstamped_image_by_what_it_shows(robot: RobotFile) -> None:
    builder = FrameBuilder(robot, Kinematics(robot))
    now_ns = START_NS
    for index in range(3):
        now_ns += IMAGE_NS
        builder.add_joints(now_ns, robot.home, 0.03)
        for camera in robot.cameras:
            image = np.full((96, 96, 3), index, np.uint8)
            builder.add_image(camera.name, now_ns, image, 0 if camera.name == "front" else now_ns - 5)
    seen = builder.build(now_ns)
    assert isinstance(seen, Observation) and seen.unstamped == {"front"}
    digests = seen.image_digests()
    assert digests["front"] == image_digest(seen.images["front"]) and digests["wrist"] == 0
    assert seen.image_stamps_ns == {"front": now_ns, "wrist": now_ns - 5}
    assert builder.has_image("front", 0, digests["front"]) and not builder.has_image("front", 0, 1)
    again = builder.rebuild(seen.image_stamps_ns, seen.joint_stamp_ns, image_digests=digests)
    assert isinstance(again, Observation) and again.images["front"] is seen.images["front"]
    gone = builder.rebuild(seen.image_stamps_ns, seen.joint_stamp_ns, image_digests={"front": 1})
    assert isinstance(gone, NotReady)
    assert gone.message == "there is no image of camera 'front' that shows what it saw"
    assert dataclasses.replace(seen, unstamped=frozenset()).image_digests() == {"front": 0, "wrist": 0}
