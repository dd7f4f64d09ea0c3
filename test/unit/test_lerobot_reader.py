"""LeRobot datasets as they are: every version, every way images are kept, what is refused by name."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import pickle
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_fixtures import (
    Episode,
    Layout,
    arm_episode,
    coded_image,
    decoded_number,
    write_dataset,
    write_video,
)

from twinbrain_ros.data.dataset_file import recorded
from twinbrain_ros.data.dataset_findings import DatasetError, Findings
from twinbrain_ros.data.lerobot_frames import BadFrame, FrameReader, video_span
from twinbrain_ros.data.lerobot_reader import open_dataset, read_info
from twinbrain_ros.data.robot_dataset import DatasetChoice, RobotDataset
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

LAYOUTS = {
    "v2.0": Layout("v2.0"),
    "v2.1": Layout("v2.1"),
    "v3.0": Layout("v3.0"),
    "v2.1 png": Layout("v2.1", stored="png"),
    "v3.0 jpg": Layout("v3.0", stored="jpg"),
}
BOTH = ("front", "wrist")


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


def episodes() -> list[Episode]:
    return [arm_episode(9, 1, 100), arm_episode(12, 2, 200, task="put it away"), arm_episode(7, 3, 300)]


def opened(root: Path, robot: RobotFile, cameras: tuple[str, ...] = BOTH, **more: object) -> RobotDataset:
    choice = DatasetChoice(root, recorded(root, robot))
    return RobotDataset(dataclasses.replace(choice, **more), robot, cameras)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_frame_of_every_camera_is_the_one_that_was_written(
    tmp_path: Path, robot: RobotFile, name: str
) -> None:
    written = episodes()
    dataset = opened(write_dataset(tmp_path / "set", written, LAYOUTS[name]), robot)
    assert dataset.tables.info.version == name.split()[0]
    wanted = [e.base + i for e in written for i in range(e.length)]
    rng = np.random.default_rng(0)
    for camera, offset in (("front", 0), ("wrist", 2000)):
        for row in [*range(len(wanted)), *rng.permutation(len(wanted))]:
            image = dataset.image(camera, int(row))
            assert image.shape == (48, 64, 3) and image.dtype == np.uint8
            assert decoded_number(image) == wanted[row] + offset
            assert image[..., 2].mean() < image[..., 0].mean() - 20  # red, green, blue in this order


@pytest.mark.parametrize("name", ["v2.1", "v3.0"])
def test_numbers_tasks_and_places_are_those_of_the_episodes(
    tmp_path: Path, robot: RobotFile, name: str
) -> None:
    written = episodes()
    dataset = opened(write_dataset(tmp_path / "set", written, LAYOUTS[name]), robot)
    assert np.array_equal(dataset.states, np.concatenate([e.state for e in written]))
    assert np.array_equal(dataset.labels.values, np.concatenate([e.action for e in written]))
    assert [dataset.place(row) for row in (0, 8, 9, 27)] == [(0, 0), (0, 8), (1, 0), (2, 6)]
    assert dataset.instruction(9) == "put it away" and dataset.instruction(21) == "pick up the red block"


@pytest.mark.parametrize(("gop", "b_frames"), [(1, 0), (2, 0), (30, 0), (30, 2)])
def test_frames_are_found_whatever_lies_between_key_frames(tmp_path: Path, gop: int, b_frames: int) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, [coded_image(i) for i in range(70)], fps=30, gop=gop, b_frames=b_frames)
    reader = FrameReader()
    for index in [0, 69, 1, 2, 3, 40, 39, 41, 60, 69, *np.random.default_rng(1).permutation(70)]:
        assert decoded_number(reader.from_video(path, index / 30, 0.5 / 30)) == index


def test_a_time_between_frames_gives_the_nearest_and_one_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, [coded_image(i) for i in range(10)], fps=10)
    reader = FrameReader()
    assert decoded_number(reader.from_video(path, 0.44, 0.05)) == 4
    assert decoded_number(reader.from_video(path, 0.46, 0.05)) == 5
    with pytest.raises(BadFrame, match=r"video\.mp4: at 1\.2000 s: the video ends before"):
        reader.from_video(path, 1.2, 0.05)
    assert decoded_number(reader.from_video(path, 0.2, 0.05)) == 2


def test_video_is_read_with_few_files_open_and_the_header_says_what_is_in_it(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.mp4" for i in range(5)]
    for number, path in enumerate(paths):
        write_video(path, [coded_image(10 * number + i) for i in range(4)])
    reader = FrameReader(open_files=2)
    for index in (0, 3, 1):
        for number, path in enumerate(paths):
            assert decoded_number(reader.from_video(path, index / 5, 0.1)) == 10 * number + index
    assert dataclasses.astuple(video_span(paths[0])) == (4, 5.0, 64, 48)


def _number_in_child(reader: FrameReader, path: Path, queue: object) -> None:
    queue.put(decoded_number(reader.from_video(path, 0.6, 0.1)))  # type: ignore[attr-defined]


def test_a_reader_that_was_used_can_be_forked_and_pickled(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, [coded_image(i) for i in range(6)])
    reader = FrameReader()
    reader.from_video(path, 0.2, 0.1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_number_in_child, args=(reader, path, queue))
    child.start()
    assert queue.get(timeout=10) == 3
    child.join(10)
    again = pickle.loads(pickle.dumps(reader))
    assert decoded_number(again.from_video(path, 0.4, 0.1)) == 2
    assert decoded_number(reader.from_video(path, 0.4, 0.1)) == 2


@pytest.mark.parametrize("version", ["v1.6", "v3.1", None])
def test_other_versions_are_refused_by_name(tmp_path: Path, version: str | None) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(4)])
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "codebase_version": version}))
    with pytest.raises(
        DatasetError, match=rf"info\.json: codebase_version is {version!r}, expected one of v2\.0"
    ):
        read_info(root)


def test_a_directory_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"meta/info\.json: no such file"):
        read_info(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"info\.json: not valid JSON"):
        read_info(tmp_path)


def test_features_that_are_missing_are_named_with_those_there_are(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(4)])
    with pytest.raises(DatasetError, match=r"no feature 'observation\.pose', expected some of \['action'"):
        open_dataset(root, ["observation.pose"], [], Findings(root))
    with pytest.raises(DatasetError, match=r"feature 'action' is 'float32', expected video or image"):
        open_dataset(root, ["action"], ["action"], Findings(root))


@pytest.mark.parametrize("name", ["v2.1", "v3.0"])
def test_missing_files_are_named_or_their_episodes_left_out(
    tmp_path: Path, robot: RobotFile, name: str
) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(5, i) for i in range(5)], LAYOUTS[name])
    table = next(p for p in sorted((root / "data").rglob("*.parquet")) if p.stem.endswith("1"))
    video = sorted((root / "videos").rglob("*.mp4"))[0]
    table.unlink()
    video.unlink()
    with pytest.raises(DatasetError) as caught:
        opened(root, robot)
    assert str(table) in str(caught.value) and str(video) in str(caught.value)
    dataset = opened(root, robot, skip_broken=True)
    lost = {0, 1} if name == "v2.1" else {0, 1, 2, 3}
    assert dataset.findings.episodes() == lost
    assert set(dataset.tables.episodes[dataset.train_episodes]) == set(range(5)) - lost
    assert any("parquet file missing" in line for line in dataset.report())


def test_a_video_shorter_than_its_episode_is_named_with_its_length(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(8), arm_episode(8)])
    path = root / "videos/chunk-000/observation.images.wrist/episode_000001.mp4"
    write_video(path, [coded_image(i) for i in range(6)])
    expected = r"episode_000001\.mp4: 6 frames at 5 Hz, expected one at 1\.400 s, the last of episode 1"
    with pytest.raises(DatasetError, match=expected):
        opened(root, robot)
    assert opened(root, robot, skip_broken=True).findings.episodes() == {1}


def test_a_file_that_is_no_video_is_named(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(8)])
    (root / "videos/chunk-000/observation.images.front/episode_000000.mp4").write_bytes(b"not a video" * 50)
    with pytest.raises(DatasetError, match=r"episode_000000\.mp4: not readable as video"):
        opened(root, robot)


def test_a_parquet_file_of_another_length_or_content_is_named(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(8), arm_episode(6)])
    path = root / "meta" / "episodes.jsonl"
    path.write_text(path.read_text().replace('"length": 6', '"length": 7'))
    with pytest.raises(DatasetError, match=r"episode 1: 6 frames in a row, expected its length 7"):
        opened(root, robot)
    (root / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DatasetError, match=r"episode_000000\.parquet: not readable as parquet"):
        opened(root, robot)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["state", "action"])
def test_episodes_with_numbers_that_are_not_finite_are_left_out_and_named(
    tmp_path: Path, robot: RobotFile, field: str, value: float
) -> None:
    written = [arm_episode(5, i) for i in range(3)]
    getattr(written[1], field)[3, 2] = value
    dataset = opened(write_dataset(tmp_path / "set", written), robot)
    assert dataset.findings.episodes() == {1}
    assert set(dataset.episode_of[dataset.train_rows]) == {0, 2}
    line = dataset.report()[1]
    assert "1 episodes left out, numbers not finite: 1" in line and "frame 3" in line
    assert ("observation.state" if field == "state" else "action") in line


def test_episodes_of_one_frame_and_without_words_are_left_out_and_counted(
    tmp_path: Path, robot: RobotFile
) -> None:
    written = [arm_episode(1), arm_episode(4, task="  "), arm_episode(4), arm_episode(1)]
    dataset = opened(write_dataset(tmp_path / "set", written), robot)
    assert len(dataset.train_episodes) == 1
    report = "\n".join(dataset.report())
    assert "2 episodes left out, too short: 0, 3" in report
    assert "1 episodes left out, no instruction: 1" in report
    for episode in written:
        episode.task = ""
    with pytest.raises(DatasetError, match=r"no episode is left: .*no instruction"):
        opened(write_dataset(tmp_path / "none", written), robot)


def test_a_dataset_at_another_rate_is_strided_or_refused(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "fast", [arm_episode(12)], Layout(fps=10))
    dataset = opened(root, robot)
    assert dataset.stride == 2 and "2 frames per step" in dataset.report()[0]
    assert len(dataset.train_rows) == 11  # from the last frame on no step is whole
    for fps in (3, 7):
        root = write_dataset(tmp_path / f"at{fps}", [arm_episode(6)], Layout(fps=fps))
        with pytest.raises(DatasetError, match=rf"fps is {fps}, expected a multiple of 5 Hz.* is 0\.2 s"):
            opened(root, robot)


def test_an_episode_whose_frames_lie_apart_is_named(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(4, i) for i in range(2)], Layout("v3.0"))
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(2), table.slice(0, 2)]), path)
    with pytest.raises(DatasetError, match=r"episode 0: 0 frames in a row, expected its length 4"):
        opened(root, robot)


def test_a_task_that_is_not_listed_is_refused(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(4)])
    (root / "meta" / "tasks.jsonl").write_text('{"task_index": 4, "task": "x"}\n')
    with pytest.raises(DatasetError, match=r"task_index \[0\] in the data"):
        opened(root, robot)


def test_an_image_that_is_stored_as_a_path_is_read_and_a_bad_one_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), coded_image(77)[..., ::-1])
    rows = [
        {"bytes": None, "path": "a.png"},
        {"bytes": b"rubbish", "path": None},
        {"bytes": None, "path": "b.png"},
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"view": pa.array(rows, kind)}), tmp_path / "t.parquet")
    reader = FrameReader()
    assert decoded_number(reader.from_table(tmp_path / "t.parquet", "view", 0, tmp_path)) == 77
    with pytest.raises(BadFrame, match=r"t\.parquet: view, row 1: 7 bytes that are no image"):
        reader.from_table(tmp_path / "t.parquet", "view", 1, tmp_path)
    with pytest.raises(BadFrame, match=r"row 2: .*b\.png: no image stored"):
        reader.from_table(tmp_path / "t.parquet", "view", 2, tmp_path)


def test_av1_as_lerobot_encodes_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    images = [coded_image(i, 96, 128) for i in range(8)]
    write_video(path, images, fps=5, gop=2, codec="libsvtav1", options={"preset": "12"})
    reader = FrameReader()
    for index in (0, 5, 2, 7):
        assert decoded_number(reader.from_video(path, index / 5, 0.1)) == index
