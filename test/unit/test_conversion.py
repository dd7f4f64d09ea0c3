"""From bags to a dataset: what was seen, what was commanded, who drove, and where every tick has gone."""

from __future__ import annotations

import dataclasses
import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from bag_fixtures import INSTRUCTION, START_NS, commanded_states, make_bag, swing
from robot_files import changed_robot, commanded_gripper

from twinbrain_ros.brain.config import CameraInput
from twinbrain_ros.cli import main
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data import conversion
from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.data.bag_frames import ConversionError, ConversionOptions, convert_bag
from twinbrain_ros.data.conversion import convert, total
from twinbrain_ros.data.dataset_video import VideoError
from twinbrain_ros.data.episode_info import EpisodeInfo, Verdict
from twinbrain_ros.data.frames import NotReady
from twinbrain_ros.data.recorded import RecordedFrames
from twinbrain_ros.robot.actions import tool_state
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.training.mixture import MixtureEntry, MixtureSource

CAMERAS = (CameraInput("front", 96, 96), CameraInput("wrist", 96, 96))
ALL = ConversionOptions(idle_threshold=None)
NS = 1_000_000_000


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


def table(out: Path) -> dict[str, np.ndarray]:
    found = pq.read_table(out / "data" / "chunk-000" / "file-000.parquet").to_pydict()
    return {key: np.array(values) for key, values in found.items()}


def labelled(robot: RobotFile, outcome: str) -> EpisodeInfo:
    return EpisodeInfo(
        robot=robot.name,
        robot_file=robot.path.read_text(),
        urdf=robot.urdf(),
        verdicts=(Verdict(outcome, source="person"),) if outcome else (),
    )


def test_frames_are_what_the_live_policy_saw_and_actions_what_the_arm_was_told(
    tmp_path: Path, robot: RobotFile
) -> None:
    bag = make_bag(tmp_path / "bag", robot, 4.0)
    parts = convert([bag.path], tmp_path / "out", ALL)
    rows = table(tmp_path / "out")
    kinematics = Kinematics(robot)
    ticks = [m for _, m in RecordedFrames(open_bag(bag.path), robot, kinematics).ticks(0.2)]
    seen = [m.observation for m in ticks if not isinstance(m, NotReady)]
    assert len(rows["index"]) == len(seen) == parts[0].counts.ticks == total(parts).frames
    np.testing.assert_array_equal(rows["observation.state"], np.array([o.state for o in seen], np.float32))
    path = swing(robot)
    for action, observation in zip(rows["action"], seen, strict=True):
        # Commands come every 0.02 s and are meant as they are for the time until the next one.
        at_s = min((observation.stamp_ns - START_NS) / NS + 0.2, 3.98)
        position, rotation = kinematics.forward(path(at_s))
        np.testing.assert_allclose(action, tool_state(position, rotation, 1.0), atol=0.01)
    assert rows["frame_index"].tolist() == list(range(len(seen)))
    assert not rows["intervention"].any() and (rows["success"] == -1).all()


@pytest.mark.parametrize(
    ("like", "interface"),
    [("wx250s", "gripper_action"), ("wx250s", "position"), ("wx250s_xs", None)],
)
def test_actions_tell_what_the_gripper_was_told_whatever_drives_it(
    tmp_path: Path, like: str, interface: str | None
) -> None:
    def change(keys: dict[str, Any]) -> None:
        if interface is not None:
            keys["gripper"]["command"] = {"interface": interface, "topic": "hand/drive"}

    robot = changed_robot(tmp_path, like, change)
    told = lambda at_s: float(at_s < 1.0)  # noqa: E731
    bag = make_bag(tmp_path / "bag", robot, 2.0, opening=lambda at_s: 0.5, told=told)
    convert([bag.path], tmp_path / "out", ALL)
    openings = table(tmp_path / "out")["action"][:, -1]
    assert set(openings.tolist()) == {0.0, 1.0} and openings[0] == 1.0 and openings[-1] == 0.0


def test_the_state_of_a_commanded_gripper_is_what_it_was_told(tmp_path: Path) -> None:
    robot = commanded_gripper(tmp_path)
    told = lambda at_s: float(at_s < 1.0)  # noqa: E731
    more = commanded_states(robot, 2.0, told)
    bag = make_bag(tmp_path / "bag", robot, 2.0, opening=lambda at_s: 0.5, told=told, more=more)
    (part,) = convert([bag.path], tmp_path / "out", ALL)
    rows = table(tmp_path / "out")
    openings = rows["observation.state"][:, -1]
    assert set(openings.tolist()) == {0.0, 1.0} == set(rows["action"][:, -1].tolist())
    assert openings[0] == 1.0 and openings[-1] == 0.0 and part.counts.ticks == len(openings)


def test_pictures_of_the_video_are_those_of_the_bag(tmp_path: Path, robot: RobotFile) -> None:
    bag = make_bag(tmp_path / "bag", robot, 2.0)
    convert([bag.path], tmp_path / "out", ALL)
    frames = RecordedFrames(open_bag(bag.path), robot, Kinematics(robot)).ticks(0.2)
    seen = [m.observation for _, m in frames if not isinstance(m, NotReady)]
    for camera in robot.cameras:
        path = tmp_path / "out" / "videos" / f"observation.images.{camera.name}" / "chunk-000"
        with av.open(str(path / "file-000.mp4")) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(decoded) == len(seen)
        for picture, observation in zip(decoded, seen, strict=True):
            difference = picture.astype(int) - observation.images[camera.name].astype(int)
            assert np.abs(difference).mean() < 4


def test_every_tick_is_a_frame_or_counted_under_its_reason(tmp_path: Path, robot: RobotFile) -> None:
    bag = make_bag(
        tmp_path / "bag",
        robot,
        8.0,
        modes=((0.0, Mode.HOLD), (1.0, Mode.AUTONOMY), (5.0, Mode.HOLD), (6.0, Mode.TELEOP)),
        silent={robot.cameras[0].topic: (2.5, 3.5)},
    )
    parts = convert([bag.path], tmp_path / "out", ALL)
    counts, info = total(parts), json.loads((tmp_path / "out" / "meta" / "info.json").read_text())
    ticks = sum(1 for _ in RecordedFrames(open_bag(bag.path), robot, Kinematics(robot)).ticks(0.2))
    assert counts.ticks == ticks and counts.frames == info["total_frames"]
    assert counts.held >= 9 and 3 <= counts.gap <= 5
    assert info["total_episodes"] == 3  # before the gap, after it, and after nobody drove
    note = json.loads((tmp_path / "out" / "meta" / "twinbrain.json").read_text())["bags"][0]
    assert note["ticks"] == dataclasses.asdict(counts)


def test_a_person_who_interrupts_the_policy_is_an_intervention_one_who_drives_alone_is_not(
    tmp_path: Path, robot: RobotFile
) -> None:
    modes = ((0.0, Mode.TELEOP), (2.0, Mode.AUTONOMY), (4.0, Mode.TELEOP), (5.0, Mode.AUTONOMY))
    bag = make_bag(tmp_path / "bag", robot, 6.0, modes=modes)
    convert([bag.path], tmp_path / "out", ALL)
    rows = table(tmp_path / "out")
    at = rows["timestamp"][rows["intervention"]]
    assert 4 <= len(at) <= 6 and at.min() > 3.7 and at.max() < 5.1
    assert rows["episode_index"].max() == 0  # a change of who drives is no break


def test_what_comes_before_the_arm_moves_is_trimmed_and_counted(tmp_path: Path, robot: RobotFile) -> None:
    def late(at_s: float) -> np.ndarray:
        return swing(robot)(max(0.0, at_s - 1.5))

    bag = make_bag(tmp_path / "bag", robot, 4.0, joints=late)
    kept = total(convert([bag.path], tmp_path / "kept", ALL))
    trimmed = total(convert([bag.path], tmp_path / "out", ConversionOptions()))
    assert trimmed.idle >= 6 and trimmed.idle + trimmed.frames == kept.frames
    rows = pq.read_table(tmp_path / "out" / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    assert rows["trimmed_frames"].to_pylist() == [trimmed.idle]


def test_labels_become_a_column_and_choose_recordings(tmp_path: Path, robot: RobotFile) -> None:
    bags = [
        make_bag(tmp_path / name, robot, 2.0, info=labelled(robot, outcome)).path
        for name, outcome in (("a", "success"), ("b", "failure"), ("c", ""))
    ]
    convert(bags, tmp_path / "all", ALL)
    rows = table(tmp_path / "all")
    assert [rows["success"][rows["episode_index"] == i][0] for i in range(3)] == [1, 0, -1]
    parts = convert(bags, tmp_path / "good", dataclasses.replace(ALL, only="success"))
    assert [part.left_out for part in parts] == ["", "label is failure", "label is missing"]
    assert set(table(tmp_path / "good")["success"]) == {1}


def test_two_workers_write_what_one_does(tmp_path: Path, robot: RobotFile) -> None:
    bags = [make_bag(tmp_path / str(i), robot, 1.0 + i, start_ns=START_NS + i * NS).path for i in range(3)]
    convert(bags, tmp_path / "one", ALL)
    convert(bags, tmp_path / "two", ALL, workers=2)
    one, two = table(tmp_path / "one"), table(tmp_path / "two")
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_instructions_are_the_ones_in_force(tmp_path: Path, robot: RobotFile) -> None:
    other = "put the red block on the blue plate"
    bag = make_bag(tmp_path / "bag", robot, 4.0, instructions=((0.0, INSTRUCTION), (2.0, other)))
    convert([bag.path], tmp_path / "out", ALL)
    tasks = pq.read_table(tmp_path / "out" / "meta" / "tasks.parquet").to_pydict()
    assert dict(zip(tasks["task"], tasks["task_index"], strict=True)) == {INSTRUCTION: 0, other: 1}
    rows = table(tmp_path / "out")
    assert (np.diff(rows["task_index"]) == 1).sum() == 1
    assert 1.7 < rows["timestamp"][rows["task_index"] == 1].min() < 2.3


def test_achieved_actions_are_the_measured_motion(tmp_path: Path, robot: RobotFile) -> None:
    bag = make_bag(tmp_path / "bag", robot, 3.0)
    convert([bag.path], tmp_path / "out", dataclasses.replace(ALL, actions="achieved"))
    rows = table(tmp_path / "out")
    np.testing.assert_allclose(rows["action"][:-1], rows["observation.state"][1:], atol=0.02)


def test_a_bag_without_commands_says_what_would_help(tmp_path: Path, robot: RobotFile) -> None:
    bag = make_bag(tmp_path / "bag", robot, 2.0, leave_out=(robot.topics.arm_trajectory,))
    with pytest.raises(ConversionError, match=r"nothing is left of 1 bags.*--actions achieved"):
        convert([bag.path], tmp_path / "out", ALL)
    assert not list(tmp_path.glob("out*"))


def test_bags_of_two_robots_are_refused_by_name(tmp_path: Path, robot: RobotFile) -> None:
    camera = dataclasses.replace(robot.cameras[0], width=64)
    path = tmp_path / "other.yaml"
    path.write_text(robot.path.read_text().replace("width: 96 ", "width: 64 ", 1))
    (tmp_path / "wx250s.urdf").write_text(robot.urdf())
    other = load_robot(path)
    assert other.cameras[0].width == camera.width
    bags = [make_bag(tmp_path / "a", robot, 1.0).path, make_bag(tmp_path / "b", other, 1.0).path]
    with pytest.raises(ConversionError, match=r"cameras: .*a has \['front 96x96'.*b has \['front 64x96'"):
        convert(bags, tmp_path / "out", ALL)


def test_odd_images_are_refused_before_anything_is_written(tmp_path: Path, robot: RobotFile) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(robot.path.read_text().replace("width: 96 ", "width: 95 ", 1))
    (tmp_path / "wx250s.urdf").write_text(robot.urdf())
    bag = make_bag(tmp_path / "bag", load_robot(path), 1.0)
    with pytest.raises(VideoError, match="camera front has 95x96 pixels, expected even numbers"):
        convert([bag.path], tmp_path / "out", ALL)


def test_a_dataset_that_is_there_is_not_written_over(tmp_path: Path, robot: RobotFile) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    bag = make_bag(tmp_path / "bag", robot, 1.0)
    with pytest.raises(ConversionError, match="is there already"):
        convert([bag.path], tmp_path / "out", ALL)
    assert (tmp_path / "out" / "mine").exists()


def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, robot: RobotFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = make_bag(tmp_path / "bag", robot, 1.0)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "write_tables", full)
    with pytest.raises(OSError, match="No space left"):
        convert([bag.path], tmp_path / "out", ALL)
    assert not list(tmp_path.glob("out*"))


def test_a_full_disk_is_named_before_anything_is_converted(
    tmp_path: Path, robot: RobotFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = make_bag(tmp_path / "bag", robot, 1.0)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage(1, 1, 5_000_000))
    with pytest.raises(OSError, match="5 MB are free, expected at least 200"):
        convert([bag.path], tmp_path / "out", ALL)
    assert not list(tmp_path.glob("out*"))


def test_a_torn_bag_is_used_as_far_as_it_is_whole(tmp_path: Path, robot: RobotFile) -> None:
    bag = make_bag(tmp_path / "bag", robot, 6.0)
    file = next(bag.path.glob("*.mcap"))
    data = file.read_bytes()
    whole = convert_bag(bag.path, 0, 1, tmp_path / "whole", ALL).counts.frames
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / file.name).write_bytes(data[: len(data) // 2])
    part = convert_bag(torn, 0, 1, tmp_path / "out", ALL)
    assert 2 <= part.counts.frames < whole and part.notes["cut_off"]


def test_the_command_prints_where_every_second_has_gone(
    tmp_path: Path, robot: RobotFile, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = make_bag(tmp_path / "bag", robot, 3.0, modes=((0.0, Mode.AUTONOMY), (2.0, Mode.HOLD)))
    code = main(
        ["convert", str(bag.path), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "facts.json")]
    )
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert code == 0 and sum(facts["counts"].values()) == facts["ticks"]
    out = capsys.readouterr().out
    assert "held: nobody drove" in out and f"--data {tmp_path / 'out'}" in out


def test_an_episode_that_begins_late_in_a_long_video_gets_a_file_of_its_own(
    tmp_path: Path, robot: RobotFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinbrain_ros.data.bag_frames.LONGEST_VIDEO_S", 1.0)
    modes = ((0.0, Mode.TELEOP), (2.0, Mode.HOLD), (3.0, Mode.TELEOP))
    bags = [
        make_bag(tmp_path / name, robot, seconds, modes=modes[:count]).path
        for name, seconds, count in (("a", 5.0, 3), ("b", 2.0, 1))
    ]
    convert(bags, tmp_path / "out", ALL)
    table = pq.read_table(tmp_path / "out" / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    key = f"videos/observation.images.{robot.cameras[0].name}"
    assert table[f"{key}/file_index"].to_pylist() == [0, 2, 1]
    assert table[f"{key}/from_timestamp"].to_pylist() == [0.0, 0.0, 0.0]
    source = MixtureSource([MixtureEntry(str(tmp_path / "out"))], robot, CAMERAS, 8)
    batch = source.batch(0, 0, 64)  # every frame is found
    assert source.draws.bad == 0 and batch.images["front"].shape == (64, 96, 96, 3)
