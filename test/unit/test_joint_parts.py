"""Joint states as drivers send them: whole, in parts, with strangers among them, repeated, in any order."""

from __future__ import annotations

import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bag_fixtures import START_NS, WRIST_LATER_NS, make_bag, swing
from sensor_msgs.msg import JointState
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.data.contract import recorded_topics
from twinbrain_ros.data.decode import FrameError
from twinbrain_ros.data.frames import FrameBuilder, NotReady, Observation, Problem
from twinbrain_ros.data.joint_parts import JointMerger, part_from_names
from twinbrain_ros.data.messages import NS_PER_S, from_time
from twinbrain_ros.data.recorded import RecordedFrames
from twinbrain_ros.nodes.convert import to_time
from twinbrain_ros.robot.joint_part import JointPart, joint_names
from twinbrain_ros.robot.robot_file import RobotFile, RobotFileError, load_robot

MS = 1_000_000
T0 = 50_000 * MS
ROBOT = shared_robot()
NAMES = joint_names(ROBOT)
WHOLE = np.array([*ROBOT.home, 0.03])


def part(stamp_ns: int, first: int, end: int, positions: np.ndarray = WHOLE) -> JointPart:
    return JointPart(stamp_ns, tuple(range(first, end)), positions[first:end])


# Of a message -----------------------------------------------------------------------------------------


def test_joints_are_found_by_name() -> None:
    names = ["right_finger", "gripper", *reversed(ROBOT.arm_joints), "left_finger"]
    found = part_from_names(T0, names, [-0.02, 9.9, 6, 5, 4, 3, 2, 1, 0.03], ROBOT)
    assert found is not None and (found.stamp_ns, found.indices) == (T0, tuple(range(7)))
    np.testing.assert_array_equal(found.positions, [1, 2, 3, 4, 5, 6, 0.03])


def test_a_message_of_some_joints_is_a_part() -> None:
    found = part_from_names(T0, ["elbow", "wheel", "waist"], [3, 9, 1], ROBOT)
    assert found is not None and found.indices == (0, 2)
    np.testing.assert_array_equal(found.positions, [1, 3])


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (["wheel_left", "wheel_right"], [1.0, math.nan]),
        (["left/waist", "right/waist"], [1.0, 2.0]),
        (["wheel_left"], []),
        (["wheel", "wheel"], [1.0, 2.0]),
        ([], []),
    ],
)
def test_a_message_of_others_joints_is_not_ours_whatever_is_in_it(
    names: list[str], positions: list[float]
) -> None:
    assert part_from_names(T0, names, positions, ROBOT) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_joint_that_is_not_finite_is_named(value: float) -> None:
    positions = [0.0, 0.0, value, 0.0, 0.0, 0.0, 0.03]
    with pytest.raises(FrameError, match=f"position of 'elbow' is {value}, expected a finite number"):
        part_from_names(T0, NAMES, positions, ROBOT)


def test_a_gripper_that_is_not_measured_takes_nothing_from_the_arm() -> None:
    """As the ros2_control hardware of Interbotix arms sends it."""
    found = part_from_names(T0, NAMES, [*ROBOT.home, math.nan], ROBOT)
    assert found is not None and found.indices == tuple(range(6))
    assert part_from_names(T0, ["left_finger"], [math.nan], ROBOT) is None


def test_of_a_commanded_gripper_only_its_own_topic_tells() -> None:
    robot = replace(ROBOT, gripper=replace(ROBOT.gripper, commanded=True))
    for finger_m in (math.nan, 0.03):
        driver = part_from_names(T0, NAMES, [*ROBOT.home, finger_m], robot)
        assert driver is not None and driver.indices == tuple(range(6))
    assert part_from_names(T0, ["left_finger"], [0.03], robot) is None
    told = part_from_names(T0, NAMES, WHOLE, robot, commanded=True)
    assert told is not None and (told.indices, told.positions.tolist()) == ((6,), [0.03])
    assert part_from_names(T0, NAMES[:6], ROBOT.home, robot, commanded=True) is None


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(FrameError, match="number of positions is 6, expected 7, one for each name"):
        part_from_names(T0, NAMES, [0.0] * 6, ROBOT)


def test_a_joint_named_twice_is_refused_but_not_a_strangers() -> None:
    with pytest.raises(FrameError, match=r"with \['waist'\] repeated"):
        part_from_names(T0, [*NAMES, "waist"], [0.0] * 8, ROBOT)
    assert part_from_names(T0, [*NAMES, "wheel", "wheel"], [0.0] * 9, ROBOT) is not None


# Put together -----------------------------------------------------------------------------------------


def test_a_whole_reading_is_given_when_the_oldest_part_of_the_arm_is_newer() -> None:
    merger = JointMerger(ROBOT)
    assert merger.add(part(T0, 0, 3)) is None and merger.add(part(T0 + 2, 3, 6)) is None
    assert merger.add(part(T0, 6, 7)) is not None, "now every joint is known"
    assert merger.add(part(T0 + 10, 0, 3)) is not None, "the second part is the oldest now"
    given = merger.add(part(T0 + 12, 3, 6, WHOLE + 1))
    assert given is not None and given[0] == T0 + 10
    np.testing.assert_array_equal(given[1], [*WHOLE[:3], *(WHOLE[3:6] + 1), WHOLE[6]])
    assert merger.add(part(T0 + 12, 3, 6)) is None, "a repeat"
    assert merger.add(part(T0 + 11, 0, 6)) is not None, "older than what is known of some of it only"
    assert merger.add(part(T0 - 2 * NS_PER_S, 0, 7)) is None


def test_stamps_that_go_back_far_are_a_new_time_line_where_that_is_wanted() -> None:
    merger = JointMerger(ROBOT, NS_PER_S)
    assert merger.add(part(T0, 0, 7)) is not None and merger.add(part(T0 - NS_PER_S, 0, 7)) is None
    assert merger.add(part(T0 - 2 * NS_PER_S, 0, 7)) is not None


def test_a_gripper_that_comes_often_makes_no_readings_of_an_arm_that_does_not() -> None:
    merger = JointMerger(ROBOT)
    given = [merger.add(part(T0, 0, 6)), *(merger.add(part(T0 + i * MS, 6, 7)) for i in range(50))]
    assert sum(reading is not None for reading in given) == 1
    assert merger.add(part(T0 + MS, 0, 6)) is not None


# Observations -----------------------------------------------------------------------------------------


@pytest.fixture
def frames() -> FrameBuilder:
    return FrameBuilder(ROBOT, shared_kinematics())


def see(frames: FrameBuilder, stamp_ns: int) -> None:
    for camera in ROBOT.cameras:
        frames.add_image(camera.name, stamp_ns, np.zeros((camera.height, camera.width, 3), np.uint8))


def seen(frames: FrameBuilder, now_ns: int) -> Observation:
    found = frames.build(now_ns)
    assert isinstance(found, Observation), found
    return found


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_parts_in_any_order_make_the_same_observation(frames: FrameBuilder, order: tuple[int, ...]) -> None:
    see(frames, T0)
    parts = [part(T0 - 4 * MS, 0, 2), part(T0 + 3 * MS, 2, 6), part(T0 - 20 * MS, 6, 7)]
    for index in order:
        assert frames.add_part(parts[index])
    found = seen(frames, T0 + 10 * MS)
    np.testing.assert_array_equal(found.arm_positions, ROBOT.home)
    assert found.joint_stamp_ns == T0 - 20 * MS
    assert found.joint_stamps_ns == (*[T0 - 4 * MS] * 2, *[T0 + 3 * MS] * 4, T0 - 20 * MS)
    whole = FrameBuilder(ROBOT, shared_kinematics())
    see(whole, T0)
    whole.add_joints(T0, ROBOT.home, 0.03)
    np.testing.assert_array_equal(found.state, seen(whole, T0).state)
    assert seen(whole, T0).joint_stamps_ns == ()


def test_an_old_part_is_named_and_the_others_are_not_held_against_it(frames: FrameBuilder) -> None:
    see(frames, T0)
    frames.add_part(part(T0, 0, 6))
    frames.add_part(part(T0 - 300 * MS, 6, 7))
    found = frames.build(T0)
    assert isinstance(found, NotReady) and found.problem is Problem.SKEW
    assert found.message.startswith("joint_states of 'left_finger' is 300.0 ms from camera 'front'")


def test_a_part_that_never_came_is_named(frames: FrameBuilder) -> None:
    see(frames, T0)
    frames.add_part(part(T0, 0, 5))
    found = frames.build(T0)
    assert isinstance(found, NotReady) and (found.problem, found.stream) == (Problem.MISSING, "joint_states")
    assert found.message == "no position of 'wrist_rotate' and 'left_finger' has arrived yet in joint states"


def test_repeats_and_late_ones_are_told_from_new_ones(frames: FrameBuilder) -> None:
    assert frames.add_part(part(T0, 0, 7)) and frames.add_part(part(T0, 0, 6))
    assert not frames.add_part(part(T0, 0, 7)) and not frames.add_part(part(T0 - MS, 0, 7))
    assert frames.add_part(part(T0 + MS, 0, 7))


# Recorded ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def robot_in_parts(tmp_path_factory: pytest.TempPathFactory) -> RobotFile:
    """Arm and gripper on topics of their own."""
    return edited(tmp_path_factory.mktemp("robot"), ["joint_states", "gripper/joint_states"])


def edited(directory: Path, topics: Any) -> RobotFile:
    document = yaml.safe_load(ROBOT.path.read_text())
    document["topics"]["joint_states"] = topics
    shutil.copy(ROBOT.urdf_path, directory)
    path = directory / "parts.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_robot(path)


@pytest.mark.parametrize(
    ("topics", "said"),
    [
        (["joint_states", "/gripper"], "'topics.joint_states' is '/gripper', expected a relative topic name"),
        ([], "'topics.joint_states' is []"),
        (["a", "a"], "different non-empty strings"),
        (3, "'topics.joint_states' is 3, expected a non-empty string"),
    ],
)
def test_topics_that_are_none_are_refused_by_name(tmp_path: Path, topics: Any, said: str) -> None:
    with pytest.raises(RobotFileError) as refused:
        edited(tmp_path, topics)
    assert said in str(refused.value)


def test_every_topic_of_joint_states_is_recorded(robot_in_parts: RobotFile) -> None:
    names = {topic.name: topic.type for topic in recorded_topics(robot_in_parts, "a")}
    assert names["/a/joint_states"] == names["/a/gripper/joint_states"] == "sensor_msgs/msg/JointState"


def parts_of_two_seconds(robot: RobotFile) -> list[tuple[str, JointPart]]:
    """The arm at 100 Hz in two messages of their own stamps, the finger at 10 Hz on a topic of its own."""
    joints, found = swing(robot), []
    arm, finger = robot.topics.all_joint_states
    for ms in range(0, 2000, 10):
        for first, end, at_ms in ((0, 2, ms), (2, 6, ms + 4)):
            positions = np.array([*joints(at_ms / 1000), 0.03])
            found.append((arm, part(START_NS + at_ms * MS, first, end, positions)))
        if ms % 100 == 0:
            found.append((finger, part(START_NS + ms * MS, 6, 7, np.full(7, 0.02 + 1e-6 * ms))))
    return found


def seen_live(robot: RobotFile, parts: list[tuple[str, JointPart]], image_ns: int) -> Observation:
    """What a policy saw that had joint states until 30 ms after the image."""
    live = FrameBuilder(robot, shared_kinematics())
    for number, camera in enumerate(robot.cameras):
        pixels = np.zeros((camera.height, camera.width, 3), np.uint8)
        live.add_image(camera.name, image_ns + number * WRIST_LATER_NS, pixels)
    for _, found in parts:
        if found.stamp_ns <= image_ns + 30 * MS:
            live.add_part(found)
    return seen(live, image_ns)


def test_observations_of_parts_are_rebuilt_bit_for_bit_from_a_bag(
    tmp_path: Path, robot_in_parts: RobotFile
) -> None:
    """What the recorder received in another order, and more than the policy had, changes nothing."""
    robot, parts = robot_in_parts, parts_of_two_seconds(robot_in_parts)
    images = [START_NS + number * 500 * MS for number in range(3)]
    live = {image_ns: seen_live(robot, parts, image_ns) for image_ns in images}
    more = []
    for number, (topic, found) in enumerate(parts):
        message = JointState(name=[NAMES[i] for i in found.indices], position=found.positions.tolist())
        message.header.stamp = to_time(found.stamp_ns)
        more.append((topic, found.stamp_ns + (1 + number % 3 * 7) * MS, message))
    stamps = {
        number: {"joint_stamp_ns": seen.joint_stamp_ns, "joint_stamps_ns": seen.joint_stamps_ns}
        for number, seen in enumerate(live.values(), start=1)
    }
    gone = parts[0][1].stamp_ns  # the first observation's own reading is not in the bag
    more = [entry for entry in more if from_time(entry[2].header.stamp) != gone]
    made = make_bag(tmp_path / "bag", robot, 1.5, chunk_more=stamps, more=more, sensed_joints=False)
    recorded = RecordedFrames(open_bag(made.path), robot, shared_kinematics())
    moments = list(recorded.chunk_moments())
    assert [moment.observation.stamp_ns for moment in moments] == images[1:]
    (problem,) = recorded.problems.sentences()
    assert problem.startswith("chunk 1: its observation is not whole: there are no joint states of stamp")
    for moment in moments:
        before = live[moment.observation.stamp_ns]
        np.testing.assert_array_equal(moment.observation.state, before.state)
        np.testing.assert_array_equal(moment.observation.arm_positions, before.arm_positions)
        assert moment.observation.joint_stamps_ns == before.joint_stamps_ns != ()
