"""Batches from LeRobot datasets: what is drawn, how it is weighted, and what a broken frame costs."""

from __future__ import annotations

import dataclasses
import errno
import functools
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from bag_fixtures import INSTRUCTION, make_bag
from lerobot_fixtures import Layout, arm_episode, coded_image, decoded_number, write_dataset, write_video

from twinbrain_ros.brain.config import PAD_STATE, CameraInput
from twinbrain_ros.brain.preprocess import PatchLayout, resize
from twinbrain_ros.data.bag_frames import ConversionOptions
from twinbrain_ros.data.conversion import convert
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.data.robot_dataset import RobotDataset
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.training import mixture
from twinbrain_ros.training.batch import PolicyBatch, Share
from twinbrain_ros.training.loader import batches_from
from twinbrain_ros.training.mixture import MixtureEntry, MixtureOptions, MixtureSource
from twinbrain_ros.training.mixture_units import MIXTURE

T = 4
CAMERAS = (CameraInput("front", 0, 0), CameraInput("wrist", 0, 0))


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """3 episodes of v2.1 that show 0.., 100.., 200..; 2 episodes of v3.0 that show 1000.., 1100.."""
    folder = tmp_path_factory.mktemp("sets")
    taken = np.arange(10) >= 6
    first = [arm_episode(10, i, 100 * i, intervention=taken, success=float(i != 1)) for i in range(3)]
    second = [arm_episode(8, 9 + i, 1000 + 100 * i, task="put it away") for i in range(2)]
    write_dataset(folder / "one", first)
    write_dataset(folder / "two", second, Layout("v3.0"))
    return folder / "one", folder / "two"


def source(robot: RobotFile, *entries: tuple[Path, float], **options: Any) -> MixtureSource:
    given = [MixtureEntry(str(path), weight) for path, weight in entries]
    return MixtureSource(given, robot, CAMERAS, T, MixtureOptions(**options))


def numbers(batch: PolicyBatch, camera: str = "front") -> list[int]:
    return [decoded_number(image.numpy()) for image in batch.images[camera]]


def same(a: PolicyBatch, b: PolicyBatch) -> bool:
    parts = ("state", "actions", "known", "weights")
    return (
        all(torch.equal(getattr(a, p), getattr(b, p)) for p in parts)
        and all(torch.equal(a.images[k], b.images[k]) for k in a.images)
        and a.instructions == b.instructions
        and np.array_equal(a.keys, b.keys)
    )


def test_a_batch_holds_what_belongs_together(robot: RobotFile, roots: tuple[Path, Path]) -> None:
    found = source(robot, (roots[0], 1.0), (roots[1], 1.0)).batch(1, 2, 40)
    assert found.images["front"].shape == (40, 48, 64, 3) and found.images["front"].dtype == torch.uint8
    assert found.state.shape == (40, 7) and found.state.dtype == torch.float32
    assert found.actions.shape == (40, T, 7) and found.actions.dtype == torch.float32
    assert found.known.dtype == torch.bool and found.keys.dtype == np.int64
    assert numbers(found, "wrist") == [n + 2000 for n in numbers(found)]
    for i, number in enumerate(numbers(found)):
        base, frame = number // 100 * 100, number % 100
        second = base >= 1000
        seed = 9 + (base - 1000) // 100 if second else base // 100
        episode = arm_episode(8 if second else 10, seed)
        assert np.array_equal(found.state[i].numpy(), episode.state[frame])
        assert found.known[i].sum() == min(T, episode.length - frame)
        first = episode.action[frame, :3] - episode.state[frame, :3]
        np.testing.assert_allclose(found.actions[i, 0, :3].numpy(), first, atol=1e-6)
        assert found.instructions[i] == ("put it away" if second else "pick up the red block")


def test_batches_follow_from_seed_and_step_and_shares_cut_them(
    robot: RobotFile, roots: tuple[Path, Path]
) -> None:
    first, second = (source(robot, (roots[0], 1.0), (roots[1], 2.0)) for _ in range(2))
    for step in (5, 0, 3):
        first.batch(7, step, 6)
    assert same(first.batch(7, 4, 6), second.batch(7, 4, 6))
    assert not same(first.batch(7, 4, 6), first.batch(7, 5, 6))
    assert not same(first.batch(7, 4, 6), first.batch(8, 4, 6))
    whole, shares = first.batch(7, 4, 6), [second.batch(7, 4, 3, Share(i, 2)) for i in (0, 1)]
    assert numbers(whole) == [*numbers(shares[0]), *numbers(shares[1])]
    assert torch.equal(whole.actions, torch.cat([share.actions for share in shares]))


def _steps(given: MixtureSource) -> Callable[[int], PolicyBatch]:
    return functools.partial(_step, given)


def _step(given: MixtureSource, step: int) -> PolicyBatch:
    return given.batch(0, step, 4)


def test_worker_processes_give_the_same_batches(robot: RobotFile, roots: tuple[Path, Path]) -> None:
    given = source(robot, (roots[0], 1.0), (roots[1], 1.0))
    own = [given.batch(0, step, 4) for step in range(4)]  # files are open before the workers are forked
    found = list(batches_from(_steps(given), 0, 4, 2))
    assert all(same(a, b) for a, b in zip(own, found, strict=True))
    again = pickle.loads(pickle.dumps(given))
    assert same(again.batch(0, 2, 4), own[2])


def test_kept_frames_are_as_those_decoded_and_none_is_decoded_twice(
    robot: RobotFile, roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(roots[0], tmp_path / "one")
    camera = CameraInput("front", 32, 16, (0.0, 0.25, 0.5, 1.0))

    def made(**options: Any) -> MixtureSource:
        entries = [MixtureEntry(str(root))]
        return MixtureSource(
            entries, robot, [camera], T, MixtureOptions(**options), layout=PatchLayout(8, 2, 1)
        )

    wanted = made().batch(0, 0, 60)
    assert not list(root.glob("meta/*seen*"))
    keeping = made(keep_seen=True)
    assert same(keeping.batch(0, 0, 60), wanted)
    # In another process, which may decode nothing: all of the thirty frames have been drawn by now.
    keeping.batch(0, 1, 200)
    monkeypatch.setattr(RobotDataset, "image", None)
    other = pickle.loads(pickle.dumps(keeping))
    assert same(next(batches_from(functools.partial(other.batch, 0, size=60), 0, 1, 1)), wanted)
    assert same(made(keep_seen=True).batch(0, 0, 60), wanted)


def test_a_kept_frame_that_is_damaged_is_decoded_again(
    robot: RobotFile, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    root = shutil.copytree(roots[0], tmp_path / "one")
    first = source(robot, (root, 1.0), keep_seen=True)
    wanted = first.batch(0, 0, 60)
    for path in root.glob("meta/*seen*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        path.write_bytes(data)
    assert same(source(robot, (root, 1.0), keep_seen=True).batch(0, 0, 60), wanted)


def test_frames_are_kept_for_the_files_and_the_view_that_they_are_of(
    robot: RobotFile, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    root = shutil.copytree(roots[0], tmp_path / "one")
    for size in ((32, 16), (16, 16)):
        for _ in range(2):
            camera = CameraInput("front", *size)
            entries, options = [MixtureEntry(str(root))], MixtureOptions(keep_seen=True)
            MixtureSource(entries, robot, [camera], T, options).batch(0, 0, 4)
    assert len(list(root.glob("meta/*seen*"))) == 2
    video = next(root.rglob("*front*/*.mp4"))
    os.utime(video, ns=(1, 1))
    MixtureSource(entries, robot, [camera], T, options).batch(0, 0, 4)
    assert len(list(root.glob("meta/*seen*"))) == 3


def test_no_room_for_kept_frames_is_told_before_training(
    robot: RobotFile, roots: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    root = shutil.copytree(roots[0], tmp_path / "one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DatasetError, match=r"keep_seen: found no place for 30 frames of one: .*No space"):
        source(robot, (root, 1.0), keep_seen=True)
    assert not list(tmp_path.rglob("*seen*"))


def test_datasets_are_drawn_by_their_weights_and_frames_evenly(
    robot: RobotFile, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = source(robot, (roots[0], 1.0), (roots[1], 3.0))
    image = coded_image(0)
    monkeypatch.setattr(type(given.datasets[0]), "image", lambda *_: image)
    words = [w for step in range(40) for w in given.batch(0, step, 100).instructions]
    share = words.count("put it away") / len(words)
    assert abs(share - 0.75) < 0.03
    keys = np.concatenate([given.batch(0, step, 100).keys for step in range(40)])
    assert len(set(keys.tolist())) == 30 + 16
    counts = np.unique(keys, return_counts=True)[1]
    assert counts.min() > 4000 / 4 / 30 * 0.5 and counts.max() < 4000 * 0.75 / 16 * 1.4


def test_keys_are_of_frame_and_words_alone(robot: RobotFile, roots: tuple[Path, Path]) -> None:
    alone, mixed = source(robot, (roots[0], 1.0)), source(robot, (roots[1], 1.0), (roots[0], 1.0))

    def pairs(given: MixtureSource) -> dict[int, int]:
        found = [given.batch(3, step, 30) for step in range(3)]
        return {n: int(k) for batch in found for n, k in zip(numbers(batch), batch.keys, strict=True)}

    first, second = pairs(alone), pairs(mixed)
    assert len(set(first.values())) == len(first) > 20
    assert all(second[n] == key for n, key in first.items() if n in second)
    assert len(set(first) & set(second)) > 5


def test_frames_with_a_person_in_control_are_weighted(robot: RobotFile, roots: tuple[Path, Path]) -> None:
    found = source(robot, (roots[0], 1.0), intervention_weight=2.5).batch(0, 0, 30)
    expected = [2.5 if number % 100 >= 6 else 1.0 for number in numbers(found)]
    assert found.weights.tolist() == expected and len(set(expected)) == 2
    assert source(robot, (roots[0], 1.0)).batch(0, 0, 30).weights.tolist() == [1.0] * 30


def test_failures_are_left_out_where_asked_for(robot: RobotFile, roots: tuple[Path, Path]) -> None:
    shown = {n // 100 for n in numbers(source(robot, (roots[0], 1.0)).batch(0, 0, 60))}
    given = source(robot, (roots[0], 1.0), only_successes=True)
    kept = {n // 100 for n in numbers(given.batch(0, 0, 60))}
    assert (shown, kept) == ({0, 1, 2}, {0, 2})
    assert "1 episodes left out, labelled as failures: 1" in "\n".join(given.report())


def test_held_out_episodes_are_drawn_only_by_the_held_out_source(
    robot: RobotFile, roots: tuple[Path, Path]
) -> None:
    given = source(robot, (roots[0], 1.0), (roots[1], 1.0), held_out_episodes=1)
    other = given.held_out()
    assert other is not None
    trained = {n // 100 for n in numbers(given.batch(0, 0, 80))}
    held_out = {n // 100 for n in numbers(other.batch(0, 0, 80))}
    assert (trained, held_out) == ({0, 1, 10}, {2, 11})
    assert other.statistics() == given.statistics()
    assert source(robot, (roots[0], 1.0)).held_out() is None
    with pytest.raises(DatasetError, match=r"held_out_episodes is 3, expected fewer than the 3 episodes"):
        source(robot, (roots[0], 1.0), held_out_episodes=3)


def test_statistics_are_those_of_what_is_drawn(robot: RobotFile, roots: tuple[Path, Path]) -> None:
    given = source(robot, (roots[0], 1.0), (roots[1], 3.0), normalization="mean_std")
    actions, states = given.statistics()
    means = [d.states[d.train_rows].mean(0) for d in given.datasets]
    np.testing.assert_allclose(states.mean, 0.25 * means[0] + 0.75 * means[1], rtol=1e-5)
    assert len(actions.mean) == 7 and actions.binary == ()
    scaled, _ = source(robot, (roots[0], 1.0), normalization="q99").statistics()
    assert scaled.clip and scaled.binary == (6,)
    values = given.units.to_json()
    assert set(values) == {MIXTURE, "one", "two"}
    assert set(values["one"]) >= {"action", "state"}


def test_a_padded_state_has_zeros_where_the_policy_expects_them(
    robot: RobotFile, roots: tuple[Path, Path]
) -> None:
    names = ("x", "y", "z", "roll", "pitch", "yaw", PAD_STATE, "gripper")
    entries = [MixtureEntry(str(roots[0]))]
    given = MixtureSource(entries, robot, CAMERAS, T, state_names=names)
    plain = MixtureSource(entries, robot, CAMERAS, T)
    found, own = given.batch(0, 0, 8).state, plain.batch(0, 0, 8).state
    assert torch.equal(found[:, [0, 1, 2, 3, 4, 5, 7]], own) and not found[:, 6].any()
    _, states = given.statistics()
    assert len(states.mean) == 8 and (states.mean[6], states.std[6]) == (0.0, 1.0) and states.binary == (7,)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (0, 0), (96, 64)])
def test_images_are_resized_as_the_live_policy_does_it(
    robot: RobotFile, roots: tuple[Path, Path], width: int, height: int
) -> None:
    entries = [MixtureEntry(str(roots[0]))]
    plain = MixtureSource(entries, robot, CAMERAS, T).batch(0, 0, 5).images["front"]
    given = MixtureSource(entries, robot, (CameraInput("front", width, height),), T)
    found = given.batch(0, 0, 5).images
    assert list(found) == ["front"]
    assert torch.equal(found["front"], resize(plain, height or 48, width or 64))


def test_sizes_are_brought_to_what_the_vision_tower_takes(robot: RobotFile, roots: tuple[Path, Path]) -> None:
    entries = [MixtureEntry(str(roots[0]))]
    layout = PatchLayout(14, 2, 2)
    limits = (28 * 28 * 4, 28 * 28 * 100)
    given = MixtureSource(entries, robot, CAMERAS, T, layout=layout, pixel_limits=limits)
    assert given.batch(0, 0, 2).images["front"].shape[1:3] == (56, 56)
    with pytest.raises(
        DatasetError, match=r"camera front: image of 64x48 pixels: both sides must be multiples"
    ):
        MixtureSource(entries, robot, CAMERAS, T, layout=layout)


def test_images_of_different_sizes_need_a_size_to_be_named(tmp_path: Path, robot: RobotFile) -> None:
    write_dataset(tmp_path / "small", [arm_episode(5)])
    write_dataset(tmp_path / "large", [arm_episode(5, 1, 500)], Layout(height=96, width=96))
    entries = [MixtureEntry(str(tmp_path / name)) for name in ("small", "large")]
    with pytest.raises(
        DatasetError, match=r"camera front: .*: small 64x48, large 96x96 pixels, expected one"
    ):
        MixtureSource(entries, robot, CAMERAS, T)
    given = MixtureSource(entries, robot, (CameraInput("front", 48, 48),), T)
    shown = numbers(given.batch(0, 0, 20))
    assert {n // 500 for n in shown} == {0, 1}


def test_a_frame_that_cannot_be_decoded_is_replaced_always_by_the_same(
    tmp_path: Path, robot: RobotFile, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(30, i, 100 * i) for i in range(3)], Layout(gop=1))
    cut_into(root / "videos/chunk-000/observation.images.front/episode_000001.mp4")
    with caplog.at_level(logging.WARNING):
        given = source(robot, (root, 1.0))
        batches = [given.batch(0, step, 10) for step in range(6)]
    assert given.draws.bad >= 1 and given.draws.drawn == 60
    assert any("episode 1, frame" in m and "cannot be decoded" in m for m in caplog.messages)
    other = source(robot, (root, 1.0))
    for step in (4, 1, 5):
        assert same(other.batch(0, step, 10), batches[step])
    for batch in batches:  # what was put in is whole: both views, and the state that belongs to them
        assert [n + 2000 for n in numbers(batch)] == numbers(batch, "wrist")
        for number, state in zip(numbers(batch), batch.state, strict=True):
            assert np.array_equal(state.numpy(), arm_episode(30, number // 100).state[number % 100])


def cut_into(path: Path) -> None:
    """Overwrites a few frames of a video whose header stays whole."""
    import av

    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for place, size in packets[10:13]:
        data[place : place + size] = bytes(size)
    path.write_bytes(bytes(data))


def test_too_many_frames_that_cannot_be_decoded_end_the_training(
    robot: RobotFile, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = source(robot, (roots[0], 1.0))
    good = type(given.datasets[0]).image

    def often_bad(self: Any, camera: str, row: int) -> Any:
        if row % 3 == 0:
            raise mixture.BadFrame(f"row {row} of a test")
        return good(self, camera, row)

    monkeypatch.setattr(type(given.datasets[0]), "image", often_bad)
    message = r"9 of \d+ frames could not be decoded, expected at most 1%; the last: "
    with pytest.raises(DatasetError, match=message):
        for step in range(20):
            given.batch(0, step, 6)


@pytest.mark.parametrize("weights", [(), (0.0,), (-1.0, 2.0), (float("nan"),)])
def test_weights_that_make_no_mixture_are_refused(
    robot: RobotFile, roots: tuple[Path, Path], weights: tuple[float, ...]
) -> None:
    with pytest.raises(DatasetError, match=r"datasets: weights are \[.*\], expected numbers of 0 or more"):
        source(robot, *((roots[0], weight) for weight in weights))


def test_a_mixture_that_cannot_be_is_refused_before_the_first_step(
    tmp_path: Path, robot: RobotFile, roots: tuple[Path, Path]
) -> None:
    with pytest.raises(DatasetError, match=r"directories are called \['one', 'one'\], expected different"):
        source(robot, (roots[0], 1.0), (roots[0], 1.0))
    with pytest.raises(DatasetError, match=r"nowhere: no such directory"):
        source(robot, (tmp_path / "nowhere", 1.0))
    with pytest.raises(DatasetError, match=r"normalization: found 'sigma'"):
        MixtureOptions(normalization="sigma")
    names = (*robot.arm_joints, "gripper")
    action = dataclasses.replace(robot.action, space="joint_position", names=names)
    joints = Layout(twinbrain={"action_kind": "joint_target", "robot": "wx250s"})
    write_dataset(tmp_path / "joints", [arm_episode(5)], joints)
    for arm in (robot, dataclasses.replace(robot, action=action)):
        with pytest.raises(DatasetError, match=r"actions are of kind .*, expected .* for the action space"):
            source(arm, (roots[0], 1.0), (tmp_path / "joints", 1.0))


def test_the_report_says_what_was_opened_and_how_often_it_is_drawn(
    robot: RobotFile, roots: tuple[Path, Path]
) -> None:
    lines = source(robot, (roots[0], 1.0), (roots[1], 3.0)).report()
    assert lines[0] == "one: LeRobot v2.1, 3 episodes with 30 frames at 5 Hz; drawn with probability 0.25"
    assert lines[1].startswith("two: LeRobot v3.0, 2 episodes with 16 frames")


def test_the_wrong_video_in_place_is_found_by_its_length(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(9, i) for i in range(2)], Layout("v3.0"))
    write_video(
        root / "videos/observation.images.front/chunk-000/file-000.mp4", [coded_image(i) for i in range(17)]
    )
    with pytest.raises(DatasetError, match=r"file-000\.mp4: 17 frames at 5 Hz.*the last of episode 1"):
        source(robot, (root, 1.0))


def test_what_convert_writes_of_a_bag_is_trained_on_without_a_dataset_file(
    tmp_path: Path, robot: RobotFile
) -> None:
    bag = make_bag(tmp_path / "bag", robot, 3.0)
    options = ConversionOptions(idle_threshold=None)
    convert([bag.path], tmp_path / "out", options)
    given = source(robot, (tmp_path / "out", 1.0))
    found = given.batch(0, 0, 6)
    rows = pq.read_table(tmp_path / "out" / "data" / "chunk-000" / "file-000.parquet").to_pydict()
    states = np.array(rows["observation.state"], dtype=np.float32)
    assert len(given.datasets[0].train_rows) == len(states)
    for state, actions in zip(found.state.numpy(), found.actions.numpy(), strict=True):
        (row,) = np.flatnonzero((states == state).all(axis=1))[:1]
        step = np.array(rows["action"][row])[:3] - states[row, :3]
        np.testing.assert_allclose(actions[0, :3], step, atol=1e-6)
    assert set(found.instructions) == {INSTRUCTION}
    assert found.images["front"].shape == (6, 96, 96, 3)


def test_frames_just_before_a_takeover_are_left_out_and_counted(
    robot: RobotFile, roots: tuple[Path, Path]
) -> None:
    # 5 frames per second; a person takes over at the seventh of ten.
    given = source(robot, (roots[0], 1.0), before_takeover_s=0.4)
    assert {n % 100 for n in numbers(given.batch(0, 0, 120))} == {0, 1, 2, 3, 6, 7, 8, 9}
    assert "one: 6 frames left out, shortly before a person took over" in given.report()
    longer = source(robot, (roots[0], 1.0), before_takeover_s=60.0)
    assert {n % 100 for n in numbers(longer.batch(0, 0, 60))} == {6, 7, 8, 9}
    assert not any("took over" in line for line in source(robot, (roots[1], 1.0)).report())
    with pytest.raises(DatasetError, match=r"before_takeover_s: found -1.0, expected 0 or more"):
        source(robot, (roots[0], 1.0), before_takeover_s=-1.0)


def test_where_things_are_is_asked_only_of_datasets_that_tell(
    robot: RobotFile, roots: tuple[Path, Path]
) -> None:
    given = source(robot, (roots[0], 1.0))
    assert not given.knows_things and given.batch(0, 0, 2).grounding is None
