"""Writes the tables of a LeRobot v3.0 dataset around its videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from twinbrain_ros.data.dataset_video import Channels

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
FILES_PER_CHUNK = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


@dataclass
class EpisodeTable:
    """An episode's numbers.

    Attributes:
        columns: by feature, [n, dims] or [n].
        tasks: [n], the words in force.
        videos: by camera feature: number of the video file, and number of its first frame there.
        images: by camera feature, statistics.
        notes: further columns of the table of episodes.
    """

    columns: dict[str, NDArray[Any]]
    tasks: list[str]
    videos: dict[str, tuple[int, int]]
    images: dict[str, Channels]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return len(self.tasks)


def place(number: int) -> dict[str, int]:
    """Chunk and file of a file by its number."""
    return {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}


def video_file(root: Path, key: str, number: int) -> Path:
    """Where a video belongs."""
    return root / VIDEO_PATH.format(video_key=key, **place(number))


def write_tables(
    root: Path, episodes: Sequence[EpisodeTable], features: Mapping[str, Any], fps: int, robot: str
) -> None:
    """Everything but videos: data, episodes, tasks, statistics, and last of all meta/info.json."""
    tasks = list(dict.fromkeys(task for episode in episodes for task in episode.tasks))
    rows, first = [], 0
    groups = _files(episodes)
    for number, group in enumerate(groups):
        tables = []
        for index in group:
            episode = episodes[index]
            tables.append(_data(episode, index, first, tasks, fps))
            rows.append(_episode_row(episode, index, first, number, fps))
            first += episode.length
        path = root / DATA_PATH.format(**place(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for table in tables:  # a row group for each, so that one episode can be read alone
                writer.write_table(table)
    _write_parquet(root / EPISODES_PATH, pa.Table.from_pylist(rows))
    _write_parquet(root / "meta" / "tasks.parquet", _task_table(tasks))
    _write_json(root / "meta" / "stats.json", _all_statistics(episodes))
    own = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in _OWN.items()}
    info = {
        "codebase_version": VERSION,
        "robot_type": robot,
        "total_episodes": len(episodes),
        "total_frames": first,
        "total_tasks": len(tasks),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {**features, **own},
    }
    _write_json(root / "meta" / "info.json", info)


_OWN = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def _files(episodes: Sequence[EpisodeTable]) -> list[list[int]]:
    """Which episodes share a file, each below DATA_FILE_MB (before compression) or with one episode."""
    groups: list[list[int]] = []
    size = 0.0
    for index, episode in enumerate(episodes):
        own = sum(column.nbytes for column in episode.columns.values()) + 40 * episode.length
        if not groups or size + own > DATA_FILE_MB * 1e6:
            groups.append([])
            size = 0.0
        groups[-1].append(index)
        size += own
    return groups


def _data(episode: EpisodeTable, index: int, first: int, tasks: list[str], fps: int) -> pa.Table:
    n = episode.length
    columns = {key: _array(values) for key, values in episode.columns.items()}
    own = {
        "timestamp": np.arange(n, dtype=np.float32) / np.float32(fps),
        "frame_index": np.arange(n),
        "episode_index": np.full(n, index),
        "index": np.arange(first, first + n),
        "task_index": np.array([tasks.index(task) for task in episode.tasks]),
    }
    columns |= {key: pa.array(values, pa.type_for_alias(_OWN[key])) for key, values in own.items()}
    return pa.table(columns)


def _array(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _episode_row(episode: EpisodeTable, index: int, first: int, number: int, fps: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": list(dict.fromkeys(episode.tasks)),
        "length": episode.length,
        "dataset_from_index": first,
        "dataset_to_index": first + episode.length,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
        **{f"data/{key}": value for key, value in place(number).items()},
        **episode.notes,
    }
    for key, (video, start) in episode.videos.items():
        row |= {f"videos/{key}/{name}": value for name, value in place(video).items()}
        row[f"videos/{key}/from_timestamp"] = start / fps
        row[f"videos/{key}/to_timestamp"] = (start + episode.length) / fps
    statistics = {key: _statistics(values) for key, values in episode.columns.items()}
    statistics |= {key: channels.statistics(QUANTILES) for key, channels in episode.images.items()}
    for key, found in statistics.items():
        row |= {f"stats/{key}/{name}": value for name, value in found.items()}
    return row


def _statistics(values: NDArray[Any]) -> dict[str, Any]:
    """As LeRobot keeps them: a list per figure, an entry per dimension."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
    return {**{name: value.tolist() for name, value in found.items()}, "count": [len(rows)]}


def _all_statistics(episodes: Sequence[EpisodeTable]) -> dict[str, Any]:
    found = {
        key: _statistics(np.concatenate([episode.columns[key] for episode in episodes]))
        for key in episodes[0].columns
    }
    for key in episodes[0].images:
        total = Channels()
        for episode in episodes:
            total.merge(episode.images[key])
        found[key] = total.statistics(QUANTILES)
    return found


def _task_table(tasks: list[str]) -> pa.Table:
    """As pandas writes a table whose index is the task: LeRobot reads it with pandas."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks)})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": kind_of, "metadata": None}
        for name, kind, kind_of in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    note = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(note)})


def _write_parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
