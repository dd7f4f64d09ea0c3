"""Statistics of states and of action chunks: one pass, bounded memory, kept for the next time.

Least, largest, mean and deviation are exact. Quantiles are exact up to `SKETCH_ROWS` rows. Beyond, pairs of
full sorted buffers are merged into one that has every other value, which then counts twice; with N rows and L
merges one above the other, no quantile is off by more than N L / (2 SKETCH_ROWS) places: 1e-5 of the rows for
15 million.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twinbrain_ros.brain.config import Normalizer
from twinbrain_ros.data.kept import file_stamps, kept_at
from twinbrain_ros.data.robot_dataset import RobotDataset
from twinbrain_ros.robot.robot_file import STATE_NAMES

_log = logging.getLogger(__name__)

SKETCH_ROWS = 1 << 18
TABLE = np.linspace(0.0, 1.0, 4001)  # where quantiles are kept, so that those of mixtures can be had
METHODS = ("mean_std", "q99", "min_max")
# A dimension that hardly varies would have its noise blown up to unit size; this is the least deviation
# [m, rad] that an action or state dimension is divided by.
LEAST_STD = 0.01
_BLOCK = 4096  # frames whose chunks are made at the same time
_FORMAT = 1  # of the cache; older ones are computed anew


@dataclass(frozen=True)
class Statistics:
    """Per dimension [D]: least, largest, mean, deviation, quantiles [4001, D] at `TABLE`, of `count` rows.

    names: of the dimensions; mask: whether published methods scale it, which they do not for grippers.
    """

    names: tuple[str, ...]
    count: int
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    quantiles: np.ndarray

    @property
    def mask(self) -> tuple[bool, ...]:
        return tuple("gripper" not in name for name in self.names)

    def quantile(self, at: float) -> np.ndarray:
        """[D]"""
        return np.array([np.interp(at, TABLE, column) for column in self.quantiles.T])

    def to_dict(self) -> dict[str, list[Any]]:
        """As published statistics files have it."""
        rows = {"min": self.low, "max": self.high, "mean": self.mean, "std": self.std}
        rows |= {"q01": self.quantile(0.01), "q99": self.quantile(0.99)}
        return {**{k: [float(x) for x in v] for k, v in rows.items()}, "mask": list(self.mask)}


class Accumulator:
    """Takes rows [n, D] of float32, gives their `Statistics`."""

    def __init__(self, dims: int, sketch_rows: int = SKETCH_ROWS) -> None:
        self._size = sketch_rows
        self._count = 0
        self._low, self._high = np.full(dims, np.inf), np.full(dims, -np.inf)
        self._mean, self._m2 = np.zeros(dims), np.zeros(dims)
        self._fresh: list[np.ndarray] = []
        self._levels: list[np.ndarray | None] = []
        self._odd = False

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        exact = rows.astype(np.float64)
        self._low = np.minimum(self._low, exact.min(axis=0))
        self._high = np.maximum(self._high, exact.max(axis=0))
        # Chan's update: mean and squares of a block are added without losing digits to large sums.
        mean, count = exact.mean(axis=0), len(rows)
        shift, total = mean - self._mean, self._count + count
        self._m2 += np.square(exact - mean).sum(axis=0) + np.square(shift) * self._count * count / total
        self._mean += shift * count / total
        self._count = total
        self._fresh.append(np.asarray(rows, dtype=np.float32))
        if sum(len(r) for r in self._fresh) >= 2 * self._size:
            fresh = np.concatenate(self._fresh)
            full = len(fresh) // self._size * self._size
            for start in range(0, full, self._size):
                self._merge(np.sort(fresh[start : start + self._size], axis=0))
            self._fresh = [fresh[full:]]

    def _merge(self, buffer: np.ndarray) -> None:
        level = 0
        while level < len(self._levels) and self._levels[level] is not None:
            both = np.sort(np.concatenate([self._levels[level], buffer]), axis=0)
            self._levels[level] = None
            # First or second of each pair in turn: else every merge would be off to the same side.
            buffer = both[int(self._odd) :: 2]
            self._odd = not self._odd
            level += 1
        if level == len(self._levels):
            self._levels.append(None)
        self._levels[level] = buffer

    def result(self, names: Sequence[str]) -> Statistics:
        """Raises ValueError if nothing was added."""
        if not self._count:
            raise ValueError("statistics of no rows")
        std = np.sqrt(self._m2 / self._count)
        return Statistics(
            tuple(names), self._count, self._low, self._high, self._mean, std, self._quantiles()
        )

    def _quantiles(self) -> np.ndarray:
        fresh = np.concatenate(self._fresh) if self._fresh else np.zeros((0, len(self._mean)), np.float32)
        if not any(level is not None for level in self._levels):
            return np.quantile(fresh, TABLE, axis=0)
        parts = [(fresh, 1.0), *((b, 2.0**i) for i, b in enumerate(self._levels) if b is not None)]
        values = np.concatenate([part for part, _ in parts])
        weights = np.concatenate([np.full(len(part), weight) for part, weight in parts])
        return np.stack([_weighted_quantiles(column, weights) for column in values.T], axis=1)


def _weighted_quantiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """At `TABLE`; a value stands in the middle of its weight."""
    order = np.argsort(values)
    values, weights = values[order].astype(np.float64), weights[order]
    middle = np.cumsum(weights) - weights / 2
    return np.interp(TABLE * weights.sum(), middle, values)


def combined(parts: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """Of a mixture in which a row of part i is drawn with weight i (of their sum), whatever its size.

    Mean, deviation and quantiles are those of the mixture; least and largest are those over all parts with
    weight.
    """
    share = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    used = [i for i, s in enumerate(share) if s > 0]
    if len(used) == 1:
        return parts[used[0]]
    mean = sum(share[i] * parts[i].mean for i in used)
    square = sum(share[i] * (np.square(parts[i].std) + np.square(parts[i].mean - mean)) for i in used)
    points = np.concatenate([parts[i].quantiles for i in used])
    shares = np.concatenate([np.full(len(TABLE), share[i]) for i in used])
    return Statistics(
        names=parts[used[0]].names,
        count=sum(parts[i].count for i in used),
        low=np.min([parts[i].low for i in used], axis=0),
        high=np.max([parts[i].high for i in used], axis=0),
        mean=np.asarray(mean),
        std=np.sqrt(square),
        quantiles=np.stack([_weighted_quantiles(column, shares) for column in points.T], axis=1)
        if points.shape[1]
        else points[: len(TABLE)],
    )


def normalizer(statistics: Statistics, method: str, binary: Sequence[int] = ()) -> Normalizer:
    """What a checkpoint stores.

    method: "mean_std", with deviations of at least 0.01; "q99", [q01, q99] to [-1, 1] and clipped; "min_max",
    [min, max] likewise. With the latter two a dimension that is not in the mask (a gripper) stays as it is,
    and one that is constant has std 0; binary: dimensions that are decided to 0 or 1. Raises ValueError for
    another method.
    """
    if method == "mean_std":
        std = np.maximum(statistics.std, LEAST_STD)
        return Normalizer(_floats(statistics.mean), _floats(std), binary=tuple(binary))
    if method == "q99":
        low, high = statistics.quantile(0.01), statistics.quantile(0.99)
    elif method == "min_max":
        low, high = statistics.low, statistics.high
    else:
        raise ValueError(f"normalization {method!r}: expected one of {', '.join(METHODS)}")
    mask = np.array(statistics.mask)
    mean, std = np.where(mask, (high + low) / 2, 0.0), np.where(mask, (high - low) / 2, 1.0)
    return Normalizer(_floats(mean), _floats(std), True, tuple(binary), zero_constants=method == "min_max")


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def to_json(statistics: dict[str, tuple[Statistics, Statistics]]) -> dict[str, Any]:
    """The content of a dataset_statistics.json, from action and state statistics per key."""
    return {
        key: {"action": action.to_dict(), "state": state.to_dict(), "num_transitions": state.count}
        for key, (action, state) in statistics.items()
    }


def dataset_statistics(
    dataset: RobotDataset, horizon: int, cache: bool = True
) -> tuple[Statistics, Statistics]:
    """Of the known steps of all chunks that can be drawn for training, and of the states of their frames.

    They are kept beside the dataset (meta/) or, where that cannot be written, in XDG_CACHE_HOME/twinbrain.
    The name holds a hash of the dataset's files, its mapping and the horizon; what cannot be read is computed
    again.
    """
    names = (dataset.action.names, dataset.state_names)
    paths = _cache_paths(dataset, horizon) if cache else []
    for path in paths:
        found = _load(path, names)
        if found is not None:
            return found
    result = _computed(dataset, horizon, names)
    for path in paths:
        if _save(path, result):
            break
    else:
        if cache:
            _log.warning("%s: statistics are not kept: none of %s can be written", dataset.name, paths)
    return result


def _computed(
    dataset: RobotDataset, horizon: int, names: tuple[tuple[str, ...], tuple[str, ...]]
) -> tuple[Statistics, Statistics]:
    actions, states = Accumulator(len(names[0])), Accumulator(len(names[1]))
    rows = dataset.rows(held_out=False)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        chunks, known = dataset.labels.chunks(part, horizon)
        actions.add(chunks[known])
        states.add(dataset.states[part])
    return actions.result(names[0]), states.result(names[1])


def _cache_paths(dataset: RobotDataset, horizon: int) -> list[Path]:
    """Beside the dataset, and elsewhere."""
    action = dataset.action
    digest = hashlib.sha256(file_stamps(dataset.root, dataset.tables.all_files()))
    digest.update((dataset.root / "meta" / "info.json").read_bytes())
    # The source is only where the mapping was read from.
    mapping = {k: v for k, v in vars(dataset.file).items() if k != "source"}
    if dataset.state_names == STATE_NAMES:
        del mapping["joints"]  # which is none of the older caches' concern
    chosen = (_FORMAT, mapping, action.space, action.composition, horizon, dataset.stride)
    digest.update(repr(chosen).encode())
    digest.update(np.asarray(dataset.train_rows).tobytes())
    return kept_at(dataset.root, f"statistics-{digest.hexdigest()[:24]}.npz")


_ARRAYS = ("count", "low", "high", "mean", "std", "quantiles")


def _load(path: Path, names: tuple[tuple[str, ...], tuple[str, ...]]) -> tuple[Statistics, Statistics] | None:
    """None where there is nothing that can be used."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {key: file[key] for key in file.files}
        found = []
        for kind, own in zip(("action", "state"), names, strict=True):
            parts = {key: values[f"{kind}_{key}"] for key in _ARRAYS}
            if parts["quantiles"].shape != (len(TABLE), len(own)) or parts["mean"].shape != (len(own),):
                raise ValueError(f"shapes {parts['quantiles'].shape}, {parts['mean'].shape}")
            count = int(parts.pop("count"))
            found.append(Statistics(own, count, **parts))
        return found[0], found[1]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s: not readable (%s), the statistics are computed again", path, error)
        return None


def _save(path: Path, result: tuple[Statistics, Statistics]) -> bool:
    """Whole or not at all: several processes may do this at the same time."""
    arrays = {
        f"{kind}_{key}": np.asarray(getattr(part, key))
        for kind, part in zip(("action", "state"), result, strict=True)
        for key in _ARRAYS
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        return False
    return True
