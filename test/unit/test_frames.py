"""From stamped images and joint states to observations, and what is refused on the way."""

from __future__ import annotations

import array
import dataclasses
from typing import Any

import numpy as np
import pytest

from twinbrain_ros.data.frames import (
    FrameBuilder,
    FrameError,
    Look,
    NotReady,
    Observation,
    Problem,
    image_from_buffer,
)
from twinbrain_ros.robot.actions import tool_state
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import Camera, RobotFile, load_robot

MS = 1_000_000
T0 = 50_000 * MS


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


@pytest.fixture
def frames(robot: RobotFile) -> FrameBuilder:
    return FrameBuilder(robot, Kinematics(robot))


def picture(robot: RobotFile, camera: str, value: int = 0) -> np.ndarray:
    spec = robot.camera(camera)
    return np.full((spec.height, spec.width, 3), value, np.uint8)


def fill(frames: FrameBuilder, robot: RobotFile, front: int = T0, wrist: int = T0, joints: int = T0) -> None:
    frames.add_image("front", front, picture(robot, "front", 1))
    frames.add_image("wrist", wrist, picture(robot, "wrist", 2))
    frames.add_joints(joints, robot.home, robot.gripper.open_m)


def ready(result: Observation | NotReady) -> Observation:
    assert isinstance(result, Observation), result
    return result


def not_ready(result: Observation | NotReady) -> NotReady:
    assert isinstance(result, NotReady), result
    return result


# Observations ---------------------------------------------------------------------------------------


def test_a_complete_set_becomes_an_observation(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot)
    observation = ready(frames.build(T0 + 10 * MS))
    assert observation.stamp_ns == T0
    assert observation.images["front"][0, 0, 0] == 1 and observation.images["wrist"][0, 0, 0] == 2
    assert observation.gripper_opening == pytest.approx(1.0)
    np.testing.assert_array_equal(observation.arm_positions, robot.home)
    np.testing.assert_allclose(observation.state, tool_state(*Kinematics(robot).forward(robot.home), 1.0))


def test_the_stamp_is_the_oldest_cameras(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot, front=T0 + 30 * MS, wrist=T0 + 10 * MS, joints=T0 + 20 * MS)
    assert ready(frames.build(T0 + 40 * MS)).stamp_ns == T0 + 10 * MS


@pytest.mark.parametrize("stream", ["front", "wrist", "joint_states"])
def test_a_missing_stream_is_named(frames: FrameBuilder, robot: RobotFile, stream: str) -> None:
    if stream != "front":
        frames.add_image("front", T0, picture(robot, "front"))
    if stream != "wrist":
        frames.add_image("wrist", T0, picture(robot, "wrist"))
    if stream != "joint_states":
        frames.add_joints(T0, robot.home, 0.03)
    problem = not_ready(frames.build(T0))
    assert (problem.problem, problem.stream) == (Problem.MISSING, stream)


def test_a_fast_camera_is_paired_with_the_slow_ones_newest_image(
    frames: FrameBuilder, robot: RobotFile
) -> None:
    frames.add_image("wrist", T0, picture(robot, "wrist"))
    for i in range(3):
        frames.add_image("front", T0 + 40 * i * MS, picture(robot, "front", i))
    for i in range(12):
        frames.add_joints(T0 + 10 * i * MS, np.full(6, 0.01 * i), 0.03)
    observation = ready(frames.build(T0 + 110 * MS))
    assert observation.stamp_ns == T0
    assert observation.images["front"][0, 0, 0] == 0
    assert observation.arm_positions[0] == 0.0


def test_who_only_looks_waits_for_no_other_stream(frames: FrameBuilder, robot: RobotFile) -> None:
    for i in range(3):
        frames.add_image("front", T0 + 40 * i * MS, picture(robot, "front", i))
    seen = frames.look(("front",), T0 + 90 * MS)
    assert isinstance(seen, Look) and list(seen.images) == ["front"]
    assert seen.stamp_ns == T0 + 80 * MS and seen.images["front"][0, 0, 0] == 2
    missing = frames.look(("front", "wrist"), T0 + 90 * MS)
    assert isinstance(missing, NotReady) and (missing.problem, missing.stream) == (Problem.MISSING, "wrist")
    frames.add_image("wrist", T0 + 45 * MS, picture(robot, "wrist", 9))
    both = frames.look(("front", "wrist"), T0 + 90 * MS)
    assert isinstance(both, Look) and both.stamp_ns == T0 + 40 * MS and both.images["front"][0, 0, 0] == 1
    old = frames.look(("front",), T0 + 2000 * MS)
    assert isinstance(old, NotReady) and old.problem is Problem.AGE


def test_joint_states_nearest_to_the_images_are_taken(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot, front=T0 + 8 * MS, wrist=T0 + 8 * MS, joints=T0)
    frames.add_joints(T0 + 10 * MS, np.full(6, 0.5), 0.03)
    frames.add_joints(T0 + 20 * MS, np.full(6, 0.7), 0.03)
    assert ready(frames.build(T0 + 21 * MS)).arm_positions[0] == 0.5


def test_the_newest_set_replaces_the_older(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot)
    fill(frames, robot, T0 + 50 * MS, T0 + 50 * MS, T0 + 50 * MS)
    assert ready(frames.build(T0 + 60 * MS)).stamp_ns == T0 + 50 * MS


def test_an_old_observation_is_not_given(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot)
    problem = not_ready(frames.build(T0 + 251 * MS))
    assert problem.problem is Problem.AGE
    assert problem.message == "the image of camera 'front' is 0.251 s old, expected at most 0.25 s"


def test_a_camera_that_stopped_is_the_one_named(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot)
    for i in range(1, 20):
        frames.add_image("front", T0 + 50 * i * MS, picture(robot, "front"))
        frames.add_joints(T0 + 50 * i * MS, robot.home, 0.03)
    problem = not_ready(frames.build(T0 + 950 * MS))
    assert (problem.problem, problem.stream) == (Problem.AGE, "wrist")


def test_parts_far_apart_are_not_paired(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot, front=T0, wrist=T0 + 101 * MS, joints=T0)
    problem = not_ready(frames.build(T0 + 110 * MS))
    assert (problem.problem, problem.stream) == (Problem.SKEW, "wrist")
    assert problem.message == "wrist is 101.0 ms from camera 'front', expected at most 100.0 ms"


def test_joint_states_that_stopped_are_named(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot, front=T0 + 150 * MS, wrist=T0 + 150 * MS, joints=T0)
    assert not_ready(frames.build(T0 + 160 * MS)).stream == "joint_states"


def test_a_stamp_in_the_future_is_a_clock_that_is_wrong(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot)
    problem = not_ready(frames.build(T0 - 500 * MS))
    assert problem.problem is Problem.FUTURE
    assert "0.500 s in the future: do the clocks agree?" in problem.message


@pytest.mark.parametrize(
    ("back_ms", "found"), [(0, "the same as that of the last one"), (5, "5.0 ms before the last one")]
)
def test_an_image_out_of_order_or_repeated_is_refused(
    frames: FrameBuilder, robot: RobotFile, back_ms: int, found: str
) -> None:
    fill(frames, robot)
    with pytest.raises(FrameError, match=f"front: stamp is {found}, expected a later"):
        frames.add_image("front", T0 - back_ms * MS, picture(robot, "front"))
    assert ready(frames.build(T0)).stamp_ns == T0


def test_a_source_that_starts_again_starts_a_new_time_line(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot)
    earlier = T0 - 10_000 * MS
    frames.add_image("front", earlier, picture(robot, "front"))
    assert not_ready(frames.build(earlier)).stream == "wrist"
    frames.add_image("wrist", earlier, picture(robot, "wrist"))
    frames.add_joints(earlier, robot.home, 0.03)
    assert ready(frames.build(earlier)).stamp_ns == earlier


def test_clear_forgets_everything(frames: FrameBuilder, robot: RobotFile) -> None:
    fill(frames, robot)
    frames.clear()
    assert not_ready(frames.build(T0)).problem is Problem.MISSING


def test_an_unknown_camera_or_a_wrong_picture_is_refused(frames: FrameBuilder, robot: RobotFile) -> None:
    with pytest.raises(FrameError, match=r"left: camera is 'left', expected one of \['front', 'wrist'\]"):
        frames.add_image("left", T0, picture(robot, "front"))
    with pytest.raises(FrameError, match=r"front: image is uint8 \(5, 5, 3\), expected uint8 \(96, 96, 3\)"):
        frames.add_image("front", T0, np.zeros((5, 5, 3), np.uint8))


def test_joints_that_are_no_positions_are_refused(frames: FrameBuilder, robot: RobotFile) -> None:
    with pytest.raises(FrameError, match=r"shape of positions is \(5,\), expected \(6,\)"):
        frames.add_joints(T0, np.zeros(5), 0.03)
    with pytest.raises(FrameError, match="expected finite numbers"):
        frames.add_joints(T0, robot.home, float("nan"))


# Images ---------------------------------------------------------------------------------------------

SMALL = Camera("front", "camera/front/image_raw", "third_person", 4, 3, "rgb8", 20.0)


def camera(encoding: str) -> Camera:
    return dataclasses.replace(SMALL, encoding=encoding)


def test_rgb8_is_a_view_of_the_message() -> None:
    data = array.array("B", range(36))
    image = image_from_buffer(data, 4, 3, 12, "rgb8", SMALL)
    assert image.shape == (3, 4, 3) and image.dtype == np.uint8
    data[0] = 200
    assert image[0, 0, 0] == 200


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", [10, 20, 30]),
        ("bgr8", [30, 20, 10]),
        ("rgba8", [10, 20, 30, 99]),
        ("bgra8", [30, 20, 10, 99]),
        ("mono8", [10]),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_every_encoding_becomes_rgb(encoding: str, pixel: list[int], padding: int) -> None:
    row = bytes(pixel * 4) + bytes(padding)
    image = image_from_buffer(row * 3, 4, 3, len(row), encoding, camera(encoding))
    expected = [10, 10, 10] if encoding == "mono8" else [10, 20, 30]
    np.testing.assert_array_equal(image, np.broadcast_to(expected, (3, 4, 3)))
    assert image.flags.c_contiguous


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoding": "bgr8"}, r"front: encoding is 'bgr8', expected 'rgb8' \(robot file\)"),
        ({"encoding": ""}, "front: encoding is '', expected 'rgb8'"),
        ({"width": 5}, "front: width is 5 pixels, expected 4"),
        ({"height": 2}, "front: height is 2 pixels, expected 3"),
        ({"step": 11}, "front: step is 11 bytes, expected at least 12 for rgb8"),
        ({"step": 0}, "front: step is 0 bytes"),
        ({"step": 13}, "front: length of data is 36 bytes, expected step x height = 39"),
        ({"data": bytes(35)}, "front: length of data is 35 bytes, expected step x height = 36"),
        ({"data": b""}, "front: length of data is 0 bytes"),
    ],
)
def test_a_wrong_image_is_refused_with_its_field(changes: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {
        "data": bytes(36), "width": 4, "height": 3, "step": 12, "encoding": "rgb8", "camera": SMALL,
    }  # fmt: skip
    with pytest.raises(FrameError, match=words):
        image_from_buffer(**(good | changes))
