"""A bag in live topics: what was recorded, in its order and time, and nothing that moves an arm."""

from __future__ import annotations

import itertools
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_fixtures import INSTRUCTION, MS, START_NS, MadeBag, make_bag, swing
from policy_rig import Rig, understood
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.playback import Playback, begins_with_header, played_topics, restamped
from twinbrain_ros.nodes.raw_topics import message_class
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

NS_PER_S = 1_000_000_000
DEADLINE_S = 60.0
EVERYTHING = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
HEADED = (
    "/arm/camera/front/image_raw",
    "/arm/camera/wrist/image_raw",
    "/arm/joint_states",
)
WITHHELD = (
    "/arm/action_chunk",
    "/arm/arm_controller/joint_trajectory",
    "/arm/chunk_status",
    "/arm/control_mode",
    "/arm/gripper_controller/joint_trajectory",
    "/arm/policy_status",
)


@pytest.fixture
def made(tmp_path: Path, robot: RobotFile) -> MadeBag:
    return make_bag(tmp_path / "bag", robot, seconds=0.6, namespace="arm")


class Heard:
    """What the bench hears of the topics of a bag: serialized messages, and when the first and last came."""

    def __init__(self, bench: Any, made: MadeBag) -> None:
        self.data: dict[str, list[bytes]] = {}
        self._bench = bench
        for topic, kind in {message.topic: message.type for message in made.messages}.items():
            self.data[topic] = []
            latched = topic.endswith(("/instruction", "/robot_description"))
            bench.node.create_subscription(
                message_class(kind),
                topic,
                self.data[topic].append,
                qos.LATCHED if latched else EVERYTHING,
                raw=True,
            )

    def play(self, playback: Playback) -> float:
        """Plays to the bench; returns how long that took [s]."""
        with playback:
            playback.wait_for_listeners()
            start = time.monotonic()
            playback.play(lambda: self._bench.executor.spin_once(timeout_sec=0.0))
            taken_s = time.monotonic() - start
            self._bench.until(lambda: self.count() >= playback.total, lambda: f"{self.count()} messages")
        return taken_s

    def count(self) -> int:
        return sum(map(len, self.data.values()))


def stamp_of(data: bytes) -> int:
    seconds, nanoseconds = struct.unpack("<iI", data[4:12])
    return seconds * NS_PER_S + nanoseconds


def without_stamps(messages: Sequence[bytes]) -> list[bytes]:
    return [data[:4] + data[12:] for data in messages]


def test_what_arrives_is_what_was_recorded_apart_from_stamps_all_moved_alike(
    bench: Any, robot: RobotFile, made: MadeBag
) -> None:
    heard = Heard(bench, made)
    before_ns = time.time_ns()
    taken_s = heard.play(Playback(open_bag(made.path), robot, "arm"))
    after_ns = time.time_ns()
    moved = set()
    for topic in HEADED:
        recorded, found = made.of(topic), heard.data[topic]
        assert len(found) == len(recorded) > 10, topic
        assert without_stamps(found) == without_stamps(recorded), topic
        moved |= {stamp_of(new) - stamp_of(old) for new, old in zip(found, recorded, strict=True)}
    assert len(moved) == 1
    # What was recorded first is stamped as played: neither old nor in the future.
    assert before_ns < START_NS + moved.pop() < after_ns
    assert heard.data["/arm/instruction"] == made.of("/arm/instruction")
    last_ns = max(message.log_ns for message in made.messages if message.topic in HEADED)
    assert taken_s >= (last_ns - START_NS) / NS_PER_S - 0.005


def test_what_moves_an_arm_or_speaks_for_a_node_is_withheld_and_named(
    bench: Any, robot: RobotFile, made: MadeBag
) -> None:
    heard, playback = Heard(bench, made), Playback(open_bag(made.path), robot, "arm")
    assert playback.withheld() == [f"withheld: {', '.join(WITHHELD)} (--all-topics plays them)"]
    heard.play(playback)
    assert {topic for topic, data in heard.data.items() if not data} == set(WITHHELD)
    assert set(playback.played) == set(heard.data) - set(WITHHELD)


def test_all_topics_are_played_when_they_are_asked_for(bench: Any, robot: RobotFile, made: MadeBag) -> None:
    heard, playback = Heard(bench, made), Playback(open_bag(made.path), robot, "arm", all_topics=True)
    assert playback.withheld() == [] and playback.total == len(made.messages)
    heard.play(playback)
    assert without_stamps(heard.data["/arm/action_chunk"]) == without_stamps(made.of("/arm/action_chunk"))
    # A trajectory's stamp of zero means "now" and stays.
    commands = "/arm/arm_controller/joint_trajectory"
    assert heard.data[commands] == made.of(commands)


def test_stamps_stay_when_that_is_asked_for(bench: Any, robot: RobotFile, made: MadeBag) -> None:
    heard = Heard(bench, made)
    heard.play(Playback(open_bag(made.path), robot, "arm", keep_stamps=True))
    for topic in HEADED:
        assert heard.data[topic] == made.of(topic), topic


def test_half_as_fast_takes_twice_as_long_and_stamps_are_spread(
    bench: Any, robot: RobotFile, made: MadeBag
) -> None:
    heard = Heard(bench, made)
    taken_s = heard.play(Playback(open_bag(made.path), robot, "arm", rate=0.5))
    last_ns = max(message.log_ns for message in made.messages if message.topic in HEADED)
    assert taken_s >= 2 * (last_ns - START_NS) / NS_PER_S - 0.005
    stamps = [stamp_of(data) for data in heard.data["/arm/joint_states"]]
    assert {new - old for old, new in itertools.pairwise(stamps)} == {20 * MS}


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_live_policy_node_answers_what_is_played(
    bench: Any, robot: RobotFile, tmp_path: Path, rate: float
) -> None:
    made = make_bag(tmp_path / "bag", robot, seconds=0.6)
    rig = Rig(bench, robot)
    spin = bench.executor.spin_once
    with Playback(open_bag(made.path), robot, "", rate) as playback:
        playback.wait_for_listeners()
        playback.play(lambda: spin(timeout_sec=0.0))
    bench.until(lambda: rig.chunks, "no chunk came")
    assert rig.chunks[0].instruction == INSTRUCTION
    np.testing.assert_allclose(rig.chunks[0].observation_joint_positions, swing(robot)(0.0), atol=0.2)


def test_a_live_policy_node_refuses_stamps_that_were_kept(
    bench: Any, robot: RobotFile, tmp_path: Path
) -> None:
    made = make_bag(tmp_path / "bag", robot, seconds=0.6)
    rig = Rig(bench, robot)
    spin = bench.executor.spin_once
    with Playback(open_bag(made.path), robot, "", keep_stamps=True) as playback:
        playback.wait_for_listeners()
        playback.play(lambda: spin(timeout_sec=0.0))
    counters = rig.node.health.summary("").values
    assert int(counters["frames_received/front"]) > 0
    bench.until(lambda: understood(rig, INSTRUCTION), "the instruction never came")
    assert not rig.policy.seen


def test_who_comes_late_still_gets_what_is_latched(bench: Any, robot: RobotFile, made: MadeBag) -> None:
    with Playback(open_bag(made.path), robot, "arm", rate=10.0) as playback:
        said = playback.wait_for_listeners(timeout_s=0.2)
        assert said == ["nobody listens yet"]
        playback.play()
        words = bench.record(String, "/arm/instruction", qos.LATCHED)
        bench.until(lambda: words, "no instruction came")
    assert [message.data for message in words] == [INSTRUCTION]


def test_another_publisher_of_a_played_topic_is_named(bench: Any, robot: RobotFile, made: MadeBag) -> None:
    bench.node.create_publisher(String, "/arm/instruction", qos.LATCHED)
    heard = Heard(bench, made)
    with Playback(open_bag(made.path), robot, "arm") as playback:
        said: list[str] = []
        bench.until(lambda: said.extend(playback.wait_for_listeners()) or said, "nothing was said")
    assert said == ["/arm/instruction: somebody else publishes it too"]
    assert heard.count() == 0


def test_a_type_that_is_not_installed_is_named_and_the_rest_played(robot: RobotFile, made: MadeBag) -> None:
    bag = open_bag(made.path)
    joints = bag.topics["/arm/joint_states"]
    foreign = type(joints)("nowhere_msgs/msg/Thing", joints.count)
    bag.topics = {**bag.topics, "/arm/joint_states": foreign}
    playback = Playback(bag, robot, "arm")
    (sentence,) = playback.problems.sentences()
    assert sentence.startswith("/arm/joint_states: not played: message type 'nowhere_msgs/msg/Thing'")
    assert playback.total == 2 * 12 + 2


# Stamps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mark", "packed"), [(b"\x00\x01\x00\x00", "<iI"), (b"\x00\x00\x00\x00", ">iI")])
def test_a_stamp_is_moved_in_the_order_of_bytes_it_was_written_in(mark: bytes, packed: str) -> None:
    data = mark + struct.pack(packed, 12, 900_000_000) + b"rest"
    moved = restamped(data, lambda stamp_ns: stamp_ns + 200_000_000)
    assert moved == mark + struct.pack(packed, 13, 100_000_000) + b"rest"


@pytest.mark.parametrize(
    ("data", "offset_ns"),
    [
        (b"\x00\x07\x00\x00" + struct.pack("<iI", 12, 0), 0),  # another encapsulation
        (b"\x00\x01\x00\x00" + b"\x01" * 7, 0),  # torn
        (b"\x00\x01\x00\x00" + struct.pack("<iI", 12, 0), -13 * NS_PER_S),  # before 1970
        (b"\x00\x01\x00\x00" + struct.pack("<iI", 12, 0), 2**31 * NS_PER_S),  # more than fits
    ],
)
def test_what_cannot_be_moved_is_not(data: bytes, offset_ns: int) -> None:
    assert restamped(data, lambda stamp_ns: stamp_ns + offset_ns) is None


@pytest.mark.parametrize(
    ("kind", "headed"),
    [
        ("sensor_msgs/msg/Image", True),
        ("sensor_msgs/msg/JointState", True),
        ("twinbrain_ros/msg/ActionChunk", True),
        ("std_msgs/msg/String", False),
        ("std_msgs/msg/Header", False),
    ],
)
def test_only_messages_that_begin_with_a_header_have_a_stamp_to_move(kind: str, headed: bool) -> None:
    try:
        found = message_class(kind)
    except ValueError:
        pytest.skip(f"{kind} is not installed")
    assert begins_with_header(found) is headed


@pytest.mark.parametrize("name", ["wx250s", "wx250s_xs", "franka"])
def test_nothing_that_any_robot_file_commands_with_is_played(name: str) -> None:
    robot = load_robot(name)
    names, played = robot.topics, played_topics(robot, "arm")
    moving = [names.arm_trajectory, names.gripper_trajectory, names.action_chunk, names.control_mode]
    moving += [names.chunk_status, names.policy_status, names.intervention]
    moving += [entry.topic for entry in robot.teleop]
    assert not played & {f"/arm/{topic}" for topic in moving}
    assert {f"/arm/{camera.topic}" for camera in robot.cameras} < played


# The end --------------------------------------------------------------------------------------------


PROGRAM = """
import sys
from twinbrain_ros import cli
from twinbrain_ros.commands import replay
cli.COMMANDS = (replay,)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_an_orderly_way(made: MadeBag, number: signal.Signals) -> None:
    words = ["replay", str(made.path), "--ros", "--rate", "0.001"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stderr=subprocess.PIPE, env=os.environ
    ) as process:
        assert process.stderr is not None
        said = b""
        end = time.monotonic() + DEADLINE_S
        while b"playing:" not in said and time.monotonic() < end:
            said += os.read(process.stderr.fileno(), 4096)
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=DEADLINE_S) == 130
    text = (said + rest).decode()
    assert "twinbrain replay: interrupted" in text and "Traceback" not in text
