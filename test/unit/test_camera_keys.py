"""The optional keys of a camera in a robot file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from camera_files import robot_with

from twinbrain_ros.data.contract import COMPRESSED_IMAGE, IMAGE, info_topic, recorded_topics
from twinbrain_ros.robot.robot_file import RobotFile, RobotFileError, load_robot


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


def test_left_out_they_are_as_they_were(robot: RobotFile) -> None:
    camera = robot.camera("front")
    assert (camera.transport, camera.stamps, camera.value_range) == ("raw", "header", (0.0, 65535.0))
    assert camera.image_topic == camera.base_topic == camera.topic


@pytest.mark.parametrize("topic", ["camera/front/image_raw", "camera/front/image_raw/compressed"])
def test_compressed_images_have_a_topic_of_their_own(tmp_path: Path, robot: RobotFile, topic: str) -> None:
    described = robot_with(tmp_path, robot, ["front"], transport="compressed", topic=topic)
    camera = described.camera("front")
    assert camera.image_topic == "camera/front/image_raw/compressed"
    assert info_topic(camera) == "camera/front/camera_info"
    recorded = {topic.name: topic.type for topic in recorded_topics(described, "arm")}
    assert recorded["/arm/camera/front/image_raw/compressed"] == COMPRESSED_IMAGE
    assert "/arm/camera/front/image_raw" not in recorded
    assert recorded["/arm/camera/wrist/image_raw"] == IMAGE


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"transport": "theora"}, r"'cameras\[0\].transport' is 'theora', expected one of raw, compressed"),
        ({"stamps": "mine"}, r"'cameras\[0\].stamps' is 'mine', expected one of header, receipt"),
        ({"value_range": [5, 5]}, r"'cameras\[0\].value_range' is \[5.0, 5.0\], expected \[black, white\]"),
        ({"encoding": "yuv"}, r"'cameras\[0\].encoding' is 'yuv', expected one of rgb8, "),
        ({"stamp": "receipt"}, r"unknown key 'cameras\[0\].stamp': did you mean 'stamps'"),
        ({"topic": "camera/wrist/image_raw"}, "expected cameras of different topics"),
    ],
)
def test_what_they_cannot_be_is_refused(
    tmp_path: Path, robot: RobotFile, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(RobotFileError, match=words):
        robot_with(tmp_path, robot, ["front"], **keys)
