"""Statistics: exact where they say so, bounded where not, and kept for the next time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from lerobot_fixtures import arm_episode, write_dataset

from twinbrain_ros.brain.published import normalizer as published_normalizer
from twinbrain_ros.data import statistics
from twinbrain_ros.data.dataset_file import recorded
from twinbrain_ros.data.robot_dataset import DatasetChoice, RobotDataset
from twinbrain_ros.data.statistics import (
    Accumulator,
    Statistics,
    combined,
    dataset_statistics,
    normalizer,
    to_json,
)
from twinbrain_ros.robot.robot_file import load_robot

NAMES = ("x", "y", "gripper")


def of(rows: np.ndarray, sketch_rows: int = 1 << 18, block: int = 1000) -> Statistics:
    accumulator = Accumulator(rows.shape[1], sketch_rows)
    for start in range(0, len(rows), block):
        accumulator.add(rows[start : start + block])
    return accumulator.result(NAMES[: rows.shape[1]])


def samples(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = [rng.normal(5, 2, count), rng.gamma(2, 0.01, count), rng.integers(0, 2, count)]
    return np.stack(columns, axis=1).astype(np.float32)


def dataset(root: Path, held_out: int = 0) -> RobotDataset:
    robot = load_robot("wx250s")
    return RobotDataset(DatasetChoice(root, recorded(root, robot), held_out), robot, ("front",))


def test_few_rows_give_exact_figures_however_they_come() -> None:
    rows = samples(5000)
    for block in (13, 5000):
        found = of(rows, block=block)
        exact = rows.astype(np.float64)
        assert np.array_equal(found.low, exact.min(0)) and np.array_equal(found.high, exact.max(0))
        np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.std, exact.std(0), rtol=1e-9)
        for at in (0.01, 0.5, 0.99):
            np.testing.assert_allclose(found.quantile(at), np.quantile(rows, at, axis=0), rtol=1e-6)


def test_many_rows_give_quantiles_within_the_promised_places() -> None:
    size, count = 500, 100_000
    rows = samples(count)
    rows = rows[np.argsort(rows[:, 0])]  # in order: what a sketch likes least
    found = of(rows, sketch_rows=size)
    levels = np.ceil(np.log2(count / size))
    allowed = count * levels / (2 * size) + count / 4000
    for column in range(2):
        ordered = np.sort(rows[:, column])
        for at in (0.01, 0.25, 0.5, 0.99):
            place = np.searchsorted(ordered, found.quantile(at)[column])
            assert abs(place - at * count) <= allowed
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.std, rows.astype(np.float64).std(0), rtol=1e-9)


def test_a_mixture_has_the_figures_of_what_is_drawn() -> None:
    first, second = samples(4000), samples(1000, 1) * [1, 3, 1] + [2, 0, 0]
    second = second.astype(np.float32)
    found = combined([of(first), of(second)], [1.0, 3.0])
    drawn = np.concatenate([first, np.tile(second, (12, 1))]).astype(np.float64)
    np.testing.assert_allclose(found.mean, drawn.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.std, drawn.std(0), rtol=1e-9)
    np.testing.assert_allclose(found.low, drawn.min(0))
    for at in (0.01, 0.5, 0.99):
        below = [(drawn[:, i] <= found.quantile(at)[i]).mean() for i in range(2)]
        np.testing.assert_allclose(below, at, atol=1e-3)
    alone = combined([of(first), of(second)], [0.0, 2.0])
    assert np.array_equal(alone.high, of(second).high)


def test_normalizers_are_those_that_published_statistics_give() -> None:
    rows = samples(3000)
    rows[:, 1] = 0.25  # constant
    found = of(rows)
    for method in ("q99", "min_max"):
        binary = (2,) if method == "q99" else ()
        ours = normalizer(found, method, binary)
        theirs = published_normalizer({"action": found.to_dict()}, "action", NAMES, method, "here")
        assert theirs is not None
        np.testing.assert_allclose(ours.mean[:2], theirs.mean[:2])
        np.testing.assert_allclose(ours.std[:2], theirs.std[:2])
        assert (ours.std[1], ours.mean[1], ours.clip) == (0.0, 0.25, True)
        assert (ours.binary, ours.zero_constants) == (theirs.binary, theirs.zero_constants)
    plain = normalizer(found, "mean_std")
    assert plain.std[1] == statistics.LEAST_STD and not plain.clip
    np.testing.assert_allclose(plain.mean, found.mean)
    with pytest.raises(ValueError, match="expected one of mean_std, q99, min_max"):
        normalizer(found, "sigma")


def test_statistics_are_those_of_known_steps_and_of_states_of_training_frames(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(9, i) for i in range(4)])
    data = dataset(root, held_out=1)
    actions, states = dataset_statistics(data, 5)
    chunks, known = data.labels.chunks(np.arange(27), 5)
    np.testing.assert_allclose(actions.mean, chunks[known].mean(0), atol=1e-6)
    np.testing.assert_allclose(actions.high, chunks[known].max(0), atol=1e-7)
    np.testing.assert_allclose(states.std, data.states[:27].std(0), rtol=1e-4)
    assert actions.count == 3 * (5 * 9 - 10) and states.count == 27


def test_they_are_kept_beside_the_dataset_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(9, i) for i in range(3)])
    first = dataset_statistics(dataset(root), 5)
    (kept,) = (root / "meta").glob("twinbrain-statistics-*.npz")
    monkeypatch.setattr(statistics, "_computed", lambda *_: pytest.fail("computed again"))
    again = dataset_statistics(dataset(root), 5)
    assert np.array_equal(first[0].quantiles, again[0].quantiles) and first[1].to_dict() == again[1].to_dict()
    assert kept.is_file()


@pytest.mark.parametrize("change", ["horizon", "frames", "held out", "info"])
def test_they_are_computed_again_when_anything_changes(tmp_path: Path, change: str) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(9, i) for i in range(3)])
    dataset_statistics(dataset(root), 5)
    if change == "frames":
        os.utime(root / "data/chunk-000/episode_000001.parquet", ns=(1, 1))
    if change == "info":
        path = root / "meta" / "info.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "robot_type": "other"}))
    dataset_statistics(dataset(root, int(change == "held out")), 6 if change == "horizon" else 5)
    assert len(list((root / "meta").glob("twinbrain-statistics-*.npz"))) == 2


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_cache_that_cannot_be_read_is_computed_again_and_mended(tmp_path: Path, content: bytes) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(9)])
    first = dataset_statistics(dataset(root), 5)
    (kept,) = (root / "meta").glob("twinbrain-statistics-*.npz")
    kept.write_bytes(content)
    again = dataset_statistics(dataset(root), 5)
    assert first[0].to_dict() == again[0].to_dict()
    with np.load(kept) as file:
        assert "action_mean" in file.files


def test_a_dataset_that_cannot_be_written_to_has_its_statistics_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_dataset(tmp_path / "set", [arm_episode(9)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    opened = Path.open

    def refuse(path: Path, mode: str = "r", **rest: object) -> object:
        if root in path.parents and "w" in mode:
            raise PermissionError(f"read-only: {path}")
        return opened(path, mode, **rest)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    dataset_statistics(dataset(root), 5)
    assert not list((root / "meta").glob("*.npz"))
    assert len(list((tmp_path / "cache" / "twinbrain").glob("statistics-*.npz"))) == 1
    monkeypatch.setattr(statistics, "_computed", lambda *_: pytest.fail("computed again"))
    dataset_statistics(dataset(root), 5)


def test_the_json_has_the_published_layout() -> None:
    found = of(samples(200))
    values = json.loads(json.dumps(to_json({"bridge": (found, found)})))
    assert set(values["bridge"]["action"]) == {"min", "max", "mean", "std", "q01", "q99", "mask"}
    assert values["bridge"]["action"]["mask"] == [True, True, False]
    assert len(values["bridge"]["state"]["q99"]) == 3
