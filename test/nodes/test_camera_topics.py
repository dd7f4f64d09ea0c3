"""Cameras as they are, over real topics: what is taken, and what one is told of the rest."""

from __future__ import annotations

import array
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from camera_files import robot_with
from policy_rig import Rig
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from twinbrain_ros.msg import PolicyStatus

from twinbrain_ros.data.frames import image_digest
from twinbrain_ros.nodes import convert
from twinbrain_ros.robot.robot_file import RobotFile

ERROR, WARN = 2, 1
NAME = "policy_node"
WORDS = "pick up the red block"
S = 1_000_000_000


def problems(rig: Rig) -> list[Any]:
    """What policy_status says, as it comes."""
    return rig.bench.record(PolicyStatus, rig.robot.topics.policy_status)


def says(rig: Rig, statuses: list[Any], level: int, words: str, **changes: Any) -> str:
    """Observes until /diagnostics and policy_status both say so; gives the status' sentence."""

    def told() -> bool:
        return rig.bench.says(NAME, level, words) and bool(statuses) and words in statuses[-1].problem

    rig.observe_until(told, f"{words!r} never came", **changes)
    return str(statuses[-1].problem)


def yuyv(value: int) -> array.array[int]:
    return array.array("B", np.tile(np.array([value, 128], np.uint8), 96 * 96).tobytes())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoding": "yuv422_yuy2", "step": 192}, "front: encoding is 'yuv422_yuy2', expected 'rgb8'"),
        ({"encoding": "x\n[FATAL] fake" * 70_000}, r"front: encoding is 'x\n[FATAL] fake"),
        (
            {"encoding": "32FC1", "step": 384},
            "expected 'rgb8' (robot file); with `encoding: 32FC1` there only cv_bridge could convert it",
        ),
        (
            {"width": 0, "height": 0, "step": 0, "data": array.array("B")},
            "front: width is 0 pixels, expected 96",
        ),
    ],
)
def test_what_is_refused_is_said_everywhere(
    bench: Any, robot: RobotFile, changes: dict[str, Any], words: str
) -> None:
    rig = Rig(bench, robot)
    sentence = says(rig, problems(rig), ERROR, words, front=changes)
    assert len(sentence) < 700 and "\n" not in sentence
    assert rig.policy.seen == []


def test_a_camera_that_changes_its_encoding_is_told_of_and_held(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot)
    statuses = problems(rig)
    rig.say(WORDS)
    rig.chunk(1)
    says(rig, statuses, ERROR, "front: encoding is 'mono8', expected 'rgb8'", front={"encoding": "mono8"})
    before = len(rig.policy.seen)
    for _ in range(5):
        rig.observe(front={"encoding": "mono8"})
    assert len(rig.policy.seen) == before
    rig.chunk(len(rig.chunks) + 1)
    rig.bench.until(lambda: statuses[-1].problem == "")


def test_yuv_that_the_robot_file_names_is_converted(bench: Any, robot: RobotFile, tmp_path: Path) -> None:
    described = robot_with(tmp_path, robot, ["front"], encoding="yuyv")
    rig = Rig(bench, robot, robot_file=str(described.path))
    rig.say(WORDS)
    changes = {"encoding": "yuv422_yuy2", "step": 192, "data": yuyv(235)}
    rig.observe_until(lambda: rig.chunks, "no chunk", front=changes)
    assert (rig.policy.seen[0][0]["front"] == 255).all()  # the white of limited range


def test_compressed_images_are_taken_where_the_robot_file_says_so(
    bench: Any, robot: RobotFile, tmp_path: Path
) -> None:
    described = robot_with(tmp_path, robot, transport="compressed")
    rig = Rig(bench, described, robot_file=str(described.path))
    rig.say(WORDS)
    rig.chunk(1)
    assert all((image == 7).all() for image in rig.policy.seen[0][0].values())
    statuses = problems(rig)
    says(rig, statuses, ERROR, "front: format is 'h264', expected JPEG or PNG", front={"format": "h264"})
    torn = rig.image("front", 0).data[:300]
    says(rig, statuses, ERROR, "front: data is 300 bytes without the end of the image", front={"data": torn})
    small = array.array("B", cv2.imencode(".png", np.zeros((48, 96), np.uint8))[1].tobytes())
    says(rig, statuses, ERROR, "front: height, width is (48, 96), expected (96, 96)", front={"data": small})


@pytest.mark.parametrize(
    ("described", "kind", "topic", "words"),
    [
        ({}, CompressedImage, "camera/front/image_raw/compressed", "`transport: compressed` at this camera"),
        (
            {"topic": "camera/front/image_raw/compressed"},
            CompressedImage,
            "camera/front/image_raw/compressed",
            "expected sensor_msgs/msg/Image; `transport: compressed` at this camera",
        ),
        ({"transport": "compressed"}, Image, "camera/front/image_raw", "`transport: raw` at this camera"),
        ({}, String, "camera/front/image_raw/theora", "/camera/front/image_raw/theora (std_msgs/msg/String)"),
        ({}, Image, "other/image_raw", "there are images on /other/image_raw (sensor_msgs/msg/Image)"),
        ({}, None, "", "nobody publishes on camera/front/image_raw"),
        ({}, Image, "camera/front/image_raw", "though node 'usb_cam' publishes on camera/front/image_raw"),
    ],
)  # fmt: skip
def test_where_nothing_comes_the_graph_is_asked(
    bench: Any, robot: RobotFile, tmp_path: Path, described: dict[str, str], kind: Any, topic: str, words: str
) -> None:
    there = robot_with(tmp_path, robot, ["front"], **described)
    rig = Rig(bench, robot, robot_file=str(there.path), silent=["front"])
    statuses = problems(rig)
    context = rclpy.Context()  # a process has one type for a topic
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    driver = rclpy.create_node("usb_cam", context=context)
    if kind is not None:
        driver.create_publisher(kind, topic, 5)
    bench.until(lambda: bench.says(NAME, WARN, words), words)
    bench.until(lambda: statuses and words in statuses[-1].problem)
    assert statuses[-1].problem.startswith("no image of camera 'front' has arrived yet")
    driver.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ("shift_s", "words"),
    [
        (None, "front: stamp is zero, expected a time: the driver does not stamp its images"),
        ("boot", "s behind this machine's clock (of 1970): of another clock, or the time since boot"),
        (-3600, "s behind this machine's clock: of another clock"),
        (3600, "s ahead of this machine's clock: of another clock"),
        (0.5, "s ahead of this machine's clock, expected at most 0.05 s ahead: do the clocks agree?"),
        (-0.8, "s old, expected at most 0.25 s: does it come late, or do the clocks differ?"),
    ],
)
def test_stamps_of_no_clock_or_of_another_one_are_named(
    bench: Any, robot: RobotFile, shift_s: Any, words: str
) -> None:
    rig = Rig(bench, robot)
    statuses = problems(rig)
    start_ns = rig.now_ns()

    def header(stamp_ns: int) -> Any:
        message = convert.image_message(np.zeros((96, 96, 3), np.uint8), robot.cameras[0], 0)
        if shift_s is not None:
            shift_ns = 1000 * S - start_ns if shift_s == "boot" else round(shift_s * S)
            message.header.stamp = convert.to_time(stamp_ns + shift_ns)
        return message.header

    def told() -> bool:
        return bench.says(NAME, ERROR, words) and bool(statuses) and words in statuses[-1].problem

    def tried() -> bool:
        if not told():
            rig.observe(front={"header": header(rig.now_ns())})
        return told()

    bench.until(tried, words)
    assert "camera 'front'" in statuses[-1].problem or statuses[-1].problem.startswith("front: ")
    assert "image_stamps:=receipt" in statuses[-1].problem


def test_a_camera_of_a_clock_that_is_a_little_ahead_is_told_of_and_held(bench: Any, robot: RobotFile) -> None:
    """Else its images would be paired with those that the others take so much later."""
    rig = Rig(bench, robot)
    statuses = problems(rig)
    rig.say(WORDS)
    rig.chunk(1)
    words = "s ahead of this machine's clock, expected at most 0.05 s ahead: do the clocks agree?"

    def told() -> bool:
        return bool(bench.says(NAME, ERROR, words)) and words in statuses[-1].problem

    def tried() -> bool:
        if not told():
            rig.observe(front={"header": rig.image("front", rig.now_ns() + S // 10).header})
        return told()

    bench.until(tried, words)
    before = len(rig.policy.seen)
    for _ in range(5):
        rig.observe(front={"header": rig.image("front", rig.now_ns() + S // 10).header})
    assert len(rig.policy.seen) == before
    rig.chunk(len(rig.chunks) + 1)
    bench.until(lambda: statuses[-1].problem == "")


def test_what_is_wrong_with_joint_states_is_in_the_policys_status(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot)
    statuses = problems(rig)
    joints = bench.publisher(JointState, robot.topics.joint_states)
    words = "joint_states: stamp is zero, expected the time of the measurement"

    def tried() -> bool:
        names = [*robot.arm_joints, robot.gripper.joint]
        joints.publish(JointState(name=names, position=[*robot.home.tolist(), 0.03]))
        for camera in robot.cameras:
            rig.cameras[camera.name].publish(rig.image(camera.name, rig.now_ns()))
        return bool(bench.says(NAME, ERROR, words)) and statuses and words in statuses[-1].problem

    bench.until(tried, words)


def test_the_same_stamp_again_is_called_so(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot)
    header = rig.image("front", rig.now_ns()).header
    for _ in range(2):
        rig.observe(front={"header": header})
    bench.until(lambda: bench.says(NAME, ERROR, "front: stamp is the same as that of the last one, expected"))


@pytest.mark.parametrize("by", ["parameter", "robot file"])
@pytest.mark.parametrize("stamp", ["zero", "boot"])
def test_by_receipt_images_need_no_stamp(
    bench: Any, robot: RobotFile, tmp_path: Path, by: str, stamp: str
) -> None:
    described = robot_with(tmp_path, robot, stamps="receipt") if by == "robot file" else robot
    more = {"image_stamps": "receipt"} if by == "parameter" else {}
    rig = Rig(bench, robot, robot_file=str(described.path), **more)
    rig.say(WORDS)
    start_ns = rig.now_ns()

    def tried() -> Any:
        boot = rig.now_ns() - start_ns + 1000 * S
        header = rig.image("front", 0 if stamp == "zero" else boot).header
        if not rig.chunks and not rig.node._worker.busy:
            rig.observe(front={"header": header}, wrist={"header": header})
        return rig.chunks

    chunk = rig.bench.until(tried, "no chunk")[0]
    seen_ns = convert.from_time(chunk.observation_stamp)
    assert start_ns <= seen_ns <= rig.now_ns()
    expected = image_digest(np.full((96, 96, 3), 7, np.uint8))
    assert list(chunk.image_digests) == ([expected, expected] if stamp == "zero" else [])
    named = [convert.from_time(image) for image in chunk.image_stamps]
    assert min(named) == seen_ns if stamp == "zero" else max(named) < 2000 * S


def test_stamps_that_go_back_are_told_of(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot)
    rig.observe(front={"header": rig.image("front", rig.now_ns() + 3 * S).header})
    rig.observe()
    words = "camera 'front': its stamps went back by"
    key = "problem/stamps/front"
    bench.until(lambda: words in bench.value(NAME, key), words)


def test_two_cameras_on_one_topic_are_told_of_and_held(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot)
    statuses = problems(rig)
    rig.say(WORDS)
    rig.chunk(1)
    second = bench.publisher(Image, robot.cameras[0].topic)
    words = "camera 'front': found 2 publishers that send on camera/front/image_raw (nodes 'bench, bench')"

    def tried() -> bool:
        second.publish(rig.image("front", rig.now_ns()))
        rig.joints.publish(rig.joint_state(rig.now_ns()))
        for name, publisher in rig.cameras.items():
            publisher.publish(rig.image(name, rig.now_ns()))
        return bench.says(NAME, ERROR, words) and any(words in status.problem for status in statuses[-20:])

    bench.until(tried, words)
    bench.node.destroy_publisher(second)
    bench.until(lambda: not bench.says(NAME, ERROR, words), "it is still told of")
    rig.bench.until(lambda: statuses[-1].problem.startswith("the image of camera"))  # nobody sends


def test_a_parameter_that_is_none_is_refused_by_name(bench: Any, robot: RobotFile) -> None:
    with pytest.raises(AssertionError):
        Rig(bench, robot, image_stamps="mine")
    words = "image_stamps is 'mine', expected one of header, receipt"
    bench.until(lambda: bench.says(NAME, ERROR, words), words)
