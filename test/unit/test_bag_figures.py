"""An episode's figures from its bag: known motions give known numbers, and what is missing is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_fixtures import IMAGE_NS, INFERENCE_NS, MS, NS_PER_S, ON_THE_WAY_NS, START_NS, make_bag
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState
from twinbrain_ros.msg import ChunkStatus, ControlMode, Intervention

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.bag import BagError, open_bag
from twinbrain_ros.data.bag_writer import BagWriter
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.episode_info import EpisodeInfo, TopicCounts, Verdict
from twinbrain_ros.evaluation.bag_figures import figures_of
from twinbrain_ros.evaluation.command_figures import Commands, velocities_of
from twinbrain_ros.nodes.convert import to_time
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


def known(robot: RobotFile, **more: Any) -> EpisodeInfo:
    return EpisodeInfo(
        robot=robot.name, robot_file=robot.path.read_text(encoding="utf-8"), urdf=robot.urdf(), **more
    )


def changed(path: Path, to: Path, change: Any) -> Path:
    """The same bag with the messages that `change(message)` gives in place of each: topic, time, data."""
    bag = open_bag(path)
    writer = BagWriter(to, bag.info)
    types = {"/intervention": "twinbrain_ros/msg/Intervention"}
    types |= {name: topic.type for name, topic in bag.topics.items()}
    for message in bag.messages():
        for topic, log_ns, data in change(message):
            writer.write(Topic(topic, types[topic]), log_ns, data)
    writer.close(bag.info)
    return to


# Figures ------------------------------------------------------------------------------------------------


def test_an_episode_that_went_well(tmp_path: Path, robot: RobotFile) -> None:
    modes = [(0.0, Mode.HOLD), (0.5, Mode.AUTONOMY), (2.0, Mode.TELEOP), (2.25, Mode.AUTONOMY)]
    label = Verdict("success", 0.9, "well done", "ann", START_NS + 2_800 * MS)
    judged = Verdict("failure", source="judge: x")
    info = known(robot, policy="p@1", task="pick", seed=4, verdicts=(label, judged))
    made = make_bag(tmp_path / "b", robot, 3.0, modes=modes, info=info)
    found = figures_of(made.path)
    assert (found.robot, found.task, found.seed) == ("wx250s", "pick", 4)
    assert found.policy == "stand-in@000000000000", "what the policy itself says"
    assert found.instruction == "pick up the red block" and found.success is True
    assert found.label == label and found.judged == judged
    assert found.duration_s == pytest.approx(3.0, abs=0.05)
    assert found.autonomy_s == pytest.approx(1.5 + 0.75, abs=0.05)
    assert found.teleop_s == pytest.approx(0.25, abs=0.01)
    assert found.time_to_success_s == pytest.approx(2.3, abs=0.01)
    count = len(made.chunks)
    assert found.chunks["published"] == found.chunks["executed"] == count
    latency_ms = (INFERENCE_NS + ON_THE_WAY_NS) / 1e6
    assert found.observation_to_command_ms == pytest.approx([latency_ms] * count)
    assert found.inference_ms == pytest.approx([INFERENCE_NS / 1e6] * count)
    assert found.left_out == () and not found.truncated and found.lost == {}
    kinds = [event.kind for event in found.events]
    assert kinds.count("mode") == 4 and "instruction" in kinds and kinds[-1] == "label"
    assert [event.time_s for event in found.events] == sorted(event.time_s for event in found.events)


def test_the_film_and_the_executed_trajectory(tmp_path: Path, robot: RobotFile) -> None:
    modes = [(0.0, Mode.HOLD), (1.0, Mode.AUTONOMY)]
    info = known(robot, started_ns=START_NS + NS_PER_S)
    made = make_bag(tmp_path / "b", robot, 3.0, modes=modes, info=info, opening=lambda at_s: at_s / 3)
    found = figures_of(made.path)
    assert found.film is not None and found.motion is not None
    assert found.film.times_s[0] == pytest.approx(1.0, abs=0.01), "not of what was before the episode"
    for number, camera in enumerate(robot.cameras):
        for time_s, packed in zip(found.film.times_s, found.film.images[camera.name], strict=True):
            assert packed is not None
            picture = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR)
            # Pictures count from 0, 100 for the second camera, every 50 ms.
            shown = round(float(picture.mean())) - 100 * number
            assert abs(shown - time_s * NS_PER_S / IMAGE_NS) <= 1.5
    motion = found.motion
    assert motion.joints.shape == (len(motion.times_s), 6) and motion.tool.shape == (len(motion.times_s), 3)
    np.testing.assert_allclose(motion.tool[10], Kinematics(robot).forward(motion.joints[10])[0])
    np.testing.assert_allclose(motion.opening, motion.times_s / 3, atol=0.01)
    assert set(motion.driver[motion.times_s < 0.9]) == {0} and set(motion.driver[motion.times_s > 1.1]) == {2}
    assert figures_of(made.path, details=False) == dataclasses.replace(found, film=None, motion=None)


def test_tracking_error_is_how_far_the_arm_is_from_its_command(tmp_path: Path, robot: RobotFile) -> None:
    """Commands lead 20 ms ahead along the same path that the arm then takes 0.01 rad beside."""
    speed = 0.3

    def path(at_s: float) -> np.ndarray:
        return np.asarray(robot.home + speed * at_s)

    made = make_bag(tmp_path / "b", robot, 1.0, joints=path)

    def beside(message: Any) -> list[tuple[str, int, bytes]]:
        if message.topic != "/joint_states":
            return [(message.topic, message.log_ns, message.data)]
        state = deserialize_message(message.data, JointState)
        state.position[2] -= 0.01
        return [(message.topic, message.log_ns, serialize_message(state))]

    found = figures_of(changed(made.path, tmp_path / "c", beside), details=False)
    # The command of t is the path at t, due at t + 20 ms; the arm is then a command's worth further.
    drift = speed * 0.02
    assert np.median(found.tracking_error) == pytest.approx(max(drift, abs(drift - 0.01)), abs=1e-3)


def test_a_fault_and_an_intervention_are_events(tmp_path: Path, robot: RobotFile) -> None:
    made = make_bag(tmp_path / "b", robot, 2.0)

    def with_events(message: Any) -> list[tuple[str, int, bytes]]:
        rows = [(message.topic, message.log_ns, message.data)]
        if message.topic != "/robot_description":
            return rows
        at = START_NS + NS_PER_S
        for end in (0, at + 300 * MS):
            taken = Intervention(
                number=1, source="joystick", interrupted=2, start=to_time(at), end=to_time(end)
            )
            taken.header.stamp = to_time(max(at, end))
            rows.append(("/intervention", max(at, end), serialize_message(taken)))
        for latched in (True, True, False):
            mode = ControlMode(mode=0, reason="the joint states are frozen", latched=latched)
            mode.header.stamp = to_time(at + 500 * MS)
            rows.append(("/control_mode", at + 500 * MS, serialize_message(mode)))
        return rows

    bag = open_bag(made.path)
    writer = BagWriter(tmp_path / "c", bag.info)
    types = {
        **{name: topic.type for name, topic in bag.topics.items()},
        "/intervention": "twinbrain_ros/msg/Intervention",
    }
    for message in bag.messages():
        for topic, log_ns, data in with_events(message):
            writer.write(Topic(topic, types[topic]), log_ns, data)
    writer.close(bag.info)
    found = figures_of(tmp_path / "c", details=False)
    assert found.interventions == 1
    (taken,) = [event for event in found.events if event.kind == "intervention"]
    assert taken.until_s is not None and taken.until_s - taken.time_s == pytest.approx(0.3)
    stops = [event for event in found.events if event.kind == "watchdog"]
    assert len(stops) == 1 and "frozen" in stops[0].text


def test_messages_that_the_recorder_knows_to_be_lost(tmp_path: Path, robot: RobotFile) -> None:
    counts = {"/a": TopicCounts(10, 10, 0), "/b": TopicCounts(10, 8, 3)}
    made = make_bag(tmp_path / "b", robot, 0.5, info=known(robot, counts=counts))
    assert figures_of(made.path, details=False).lost == {"/b": 5}


# Commands -----------------------------------------------------------------------------------------------


def commands(times_s: list[float], velocities: list[list[float]], first: list[int]) -> Commands:
    times, v = np.array(times_s), np.array(velocities)
    mask = np.zeros(len(times), dtype=bool)
    mask[first] = True
    return Commands(times, np.full(len(times), 0.02), np.zeros_like(v), v, mask)


def test_jitter_leaves_out_pauses_and_what_came_between() -> None:
    times = [0.0, 0.02, 0.043, 0.05, 0.063, 1.0, 1.02]
    #                          ^ a chunk's first command between two ticks; then rest, and a new motion
    moving = [[1.0], [1.0], [1.0], [1.0], [0.0], [1.0], [1.0]]
    found = commands(times, moving, [3]).jitter_ms(0.02)
    np.testing.assert_allclose(found, [0.0, 3.0, 0.0, 0.0], atol=1e-9)


def test_a_skipped_tick_in_motion_is_jitter() -> None:
    found = commands([0.0, 0.02, 0.06], [[1.0]] * 3, []).jitter_ms(0.02)
    np.testing.assert_allclose(found, [0.0, 20.0], atol=1e-9)


def test_seam_steps_are_from_the_command_before_or_from_rest() -> None:
    velocities = [[0.1, 0.0], [0.1, 0.1], [0.3, 0.0], [0.2, -0.5]]
    found = commands([0.0, 0.02, 0.04, 2.0], velocities, [2, 3]).seam_steps(0.02)
    np.testing.assert_allclose(found, [0.2, 0.5])


def test_jerk_of_a_known_motion() -> None:
    t = np.arange(0, 1, 0.02)
    cubic = commands(t.tolist(), (3 * t**2)[:, None].tolist(), [])  # position t^3: jerk 6
    assert cubic.jerk_rms(0.02) == pytest.approx(6.0)
    assert commands([0.0, 0.02], [[0.0], [1.0]], []).jerk_rms(0.02) is None
    assert commands([], np.zeros((0, 6)).tolist(), []).jerk_rms(0.02) is None


def test_nothing_commanded_gives_no_figures() -> None:
    none = Commands(np.zeros(0), np.zeros(0), np.zeros((0, 6)), np.zeros((0, 6)), np.zeros(0, dtype=bool))
    assert len(none.jitter_ms(0.02)) == len(none.seam_steps(0.02)) == 0
    assert len(none.tracking_error(np.zeros(0), np.zeros((0, 6)))) == 0


def test_velocities_of_positions() -> None:
    positions = np.array([[0.0], [0.1], [0.4]])
    np.testing.assert_allclose(velocities_of(np.array([0.0, 0.1, 0.2]), positions), [[0], [1], [3]])


# What cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("camera/front/image_raw", "no images in the bag"),
        ("joint_states", "no executed trajectory, no tracking error"),
        ("action_chunk", "no inference times"),
        ("chunk_status", "no latency"),
        ("control_mode", "not known who drove"),
        ("arm_controller/joint_trajectory", "no figures of commands"),
    ],
)
def test_a_missing_topic_is_named_and_the_rest_is_used(
    tmp_path: Path, robot: RobotFile, topic: str, words: str
) -> None:
    made = make_bag(tmp_path / "b", robot, 1.0, leave_out=[topic])
    found = figures_of(made.path)
    assert len(found.left_out) == 1 and f"/{topic}" in found.left_out[0] and words in found.left_out[0]
    assert found.instruction and found.duration_s > 0.9


def test_a_bag_without_messages(tmp_path: Path, robot: RobotFile) -> None:
    writer = BagWriter(tmp_path / "b", known(robot).to_json())
    writer.close(known(robot, task="pick").to_json())
    found = figures_of(tmp_path / "b")
    assert found.left_out == ("the bag holds no messages",) and found.duration_s == 0.0
    assert found.task == "pick" and found.film is None and found.motion is None


def test_two_clocks_are_named_and_their_latencies_left_out(tmp_path: Path, robot: RobotFile) -> None:
    made = make_bag(tmp_path / "b", robot, 1.0)

    def other_clock(message: Any) -> list[tuple[str, int, bytes]]:
        data = message.data
        if message.topic == "/chunk_status":
            status = deserialize_message(data, ChunkStatus)
            status.observation_stamp = to_time(5 * NS_PER_S)
            data = serialize_message(status)
        elif message.topic == "/joint_states":
            state = deserialize_message(data, JointState)
            state.header.stamp.sec -= 100
            data = serialize_message(state)
        return [(message.topic, message.log_ns, data)]

    found = figures_of(changed(made.path, tmp_path / "c", other_clock), details=False)
    assert found.observation_to_command_ms == () and found.chunks["executed"] == len(made.chunks)
    clocks = [sentence for sentence in found.left_out if "two clocks" in sentence]
    assert any("/joint_states: stamped 100.0 s before" in sentence for sentence in clocks)
    assert any("a latency of" in sentence and "(2 times)" in sentence for sentence in clocks)


def test_stamps_that_go_back_are_named(tmp_path: Path, robot: RobotFile) -> None:
    made = make_bag(tmp_path / "b", robot, 1.0)

    def jump(message: Any) -> list[tuple[str, int, bytes]]:
        data = message.data
        if message.topic == "/joint_states" and message.log_ns > START_NS + 500 * MS:
            state = deserialize_message(data, JointState)
            state.header.stamp.sec -= 2
            data = serialize_message(state)
        return [(message.topic, message.log_ns, data)]

    found = figures_of(changed(made.path, tmp_path / "c", jump), details=False)
    assert any("/joint_states: its stamps go back by 2.0 s" in sentence for sentence in found.left_out)


def test_chunks_of_another_robot_are_named_and_not_counted(tmp_path: Path, robot: RobotFile) -> None:
    made = make_bag(tmp_path / "b", robot, 1.0, chunk_more={1: {"robot": "franka"}})
    found = figures_of(made.path, details=False)
    assert found.chunks["published"] == len(made.chunks) - 1
    assert any("for robot 'franka', expected 'wx250s'" in sentence for sentence in found.left_out)


def test_a_bag_that_does_not_say_whose_it_is(tmp_path: Path, robot: RobotFile) -> None:
    """Its chunks may say; else somebody has to."""
    named = make_bag(tmp_path / "b", robot, 0.5, info=EpisodeInfo())
    assert figures_of(named.path, details=False).robot == "wx250s"
    silent = make_bag(tmp_path / "c", robot, 0.5, info=EpisodeInfo(), chunk_every_s=None)
    with pytest.raises(BagError, match="name its robot file with --robot"):
        figures_of(silent.path)
    assert figures_of(silent.path, robot="wx250s").duration_s > 0.4
    foreign = make_bag(
        tmp_path / "d",
        robot,
        0.5,
        info=EpisodeInfo(),
        chunk_more={1: {"robot": "r2d2"}, 2: {"robot": "r2d2"}},
    )
    with pytest.raises(BagError, match="'r2d2'"):
        figures_of(foreign.path)


def test_a_recorded_robot_file_that_is_not_valid_is_refused(tmp_path: Path, robot: RobotFile) -> None:
    info = dataclasses.replace(known(robot), robot_file="name: x\nurdf: x.urdf\n")
    made = make_bag(tmp_path / "b", robot, 0.2, info=info)
    with pytest.raises(ValueError, match="frames"):
        figures_of(made.path)


def test_another_namespace_is_found(tmp_path: Path, robot: RobotFile) -> None:
    made = make_bag(tmp_path / "b", robot, 0.5, namespace="left", info=EpisodeInfo())
    assert figures_of(made.path).chunks["executed"] == len(made.chunks)


def test_a_message_type_that_nobody_knows_and_data_that_do_not_fit(tmp_path: Path, robot: RobotFile) -> None:
    made = make_bag(tmp_path / "b", robot, 1.0)

    def damage(message: Any) -> list[tuple[str, int, bytes]]:
        short = message.topic == "/chunk_status"
        return [(message.topic, message.log_ns, message.data[:24] if short else message.data)]

    found = figures_of(changed(made.path, tmp_path / "c", damage), details=False)
    (sentence,) = found.left_out
    assert "/chunk_status: 24 bytes cannot be read as twinbrain_ros/msg/ChunkStatus" in sentence
    assert found.chunks["published"] == len(made.chunks) and found.chunks["executed"] == 0


def test_a_bag_that_was_cut_off_is_used_up_to_there(tmp_path: Path, robot: RobotFile) -> None:
    made = make_bag(tmp_path / "b", robot, 3.0)
    file = made.path / "b.mcap"
    (made.path / "metadata.yaml").unlink()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found = figures_of(made.path, robot="wx250s")
    assert found.truncated and 0.5 < found.duration_s < 2.5 and found.film is not None
