"""LeRobot datasets of versions 2.0, 2.1 and 3.0: where everything is, and their tables in memory.

Images are not touched here, see `lerobot_frames.py`. Files are found by the path templates of meta/info.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twinbrain_ros.data.dataset_findings import DatasetError, Findings

# 2.0 differs from 2.1 in its statistics only, which are not read; the public BridgeData and Fractal are 2.0.
VERSIONS = ("v2.0", "v2.1", "v3.0")
IMAGE_DTYPES = ("video", "image")


@dataclass(frozen=True)
class Info:
    """What meta/info.json says. features: per key dtype, shape, names; templates are relative to `root`."""

    root: Path
    version: str
    fps: float
    features: dict[str, dict[str, Any]]
    chunk_size: int
    data_path: str
    video_path: str | None

    def dims(self, key: str) -> int:
        """How many numbers a frame has of a feature."""
        return int(np.prod(self.features[key]["shape"], dtype=int))

    def fill(self, template: str, **values: Any) -> Path:
        """A path from a template of info.json. Raises DatasetError for one that cannot be filled."""
        try:
            return self.root / template.format(**values)
        except (KeyError, IndexError, ValueError) as error:
            raise DatasetError(
                f"{self.root}/meta/info.json: path template {template!r}: {error!r}, expected some of "
                f"{sorted(values)}"
            ) from error


@dataclass(frozen=True)
class LeRobotDataset:
    """The tables of a dataset. E episodes, those left out not among them; N frames, episode after episode.

    columns: per feature key [N, dims]; task_index, timestamp [s from the episode's start] and frame_index
    [N].
    episodes, starts, lengths, data_rows: [E] episode index, row of its first frame in the columns, its number
    of frames, row of its first frame in its parquet file. files: per episode its chunk and file index, of
    "data" and of each video key, with the time of its first frame in the file [s] (`places`).
    """

    info: Info
    tasks: dict[int, str]
    columns: dict[str, np.ndarray]
    episodes: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    data_rows: np.ndarray
    places: dict[str, np.ndarray] = field(repr=False)

    @property
    def frames(self) -> int:
        return int(self.lengths.sum())

    def data_file(self, position: int) -> Path:
        """The parquet file of the episode at a position in `episodes`."""
        return _file(
            self.info, self.info.data_path, int(self.episodes[position]), self.places["data"][position]
        )

    def video_file(self, position: int, key: str) -> tuple[Path, float]:
        """The mp4 file of an episode's camera, and when in it the episode starts [s]."""
        place = self.places[key][position]
        template = self.info.video_path or ""
        return _file(self.info, template, int(self.episodes[position]), place, key), float(place[2])

    def episode_rows(self) -> np.ndarray:
        """Per frame [N], the position of its episode in `episodes`."""
        return np.repeat(np.arange(len(self.episodes), dtype=np.int32), self.lengths)

    def all_files(self) -> Iterator[Path]:
        """The tables: meta files and parquet files."""
        yield from sorted(
            p for p in (self.info.root / "meta").rglob("*") if p.suffix in (".json", ".jsonl", ".parquet")
        )
        yield from dict.fromkeys(self.data_file(i) for i in range(len(self.episodes)))


def read_info(root: Path) -> Info:
    """Reads meta/info.json. Raises DatasetError, among others for a version that is not known."""
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise DatasetError(f"{path}: no such file, expected the directory of a LeRobot dataset")
    values = _json(path.read_text(), str(path))
    version = values.get("codebase_version")
    if version not in VERSIONS:
        raise DatasetError(f"{path}: codebase_version is {version!r}, expected one of {', '.join(VERSIONS)}")
    fps, features = values.get("fps"), values.get("features")
    if not isinstance(fps, int | float) or not fps > 0:
        raise DatasetError(f"{path}: fps is {fps!r}, expected a number above 0")
    good = isinstance(features, dict) and all(
        isinstance(f, dict) and isinstance(f.get("dtype"), str) and isinstance(f.get("shape"), list)
        for f in features.values()
    )
    if not isinstance(features, dict) or not good:
        raise DatasetError(f"{path}: features: expected dtype and shape for each key")
    data_path, video_path = values.get("data_path"), values.get("video_path")
    if not isinstance(data_path, str):
        raise DatasetError(f"{path}: data_path is {data_path!r}, expected a path template")
    return Info(
        root, version, float(fps), features, int(values.get("chunks_size", 1000)), data_path, video_path
    )


def open_dataset(
    root: Path, keys: Sequence[str], cameras: Sequence[str], findings: Findings
) -> LeRobotDataset:
    """Reads the tables of a dataset.

    Args:
        root: its directory.
        keys: features to keep in memory.
        cameras: image features whose files are to be there.
        findings: takes what is wrong with single episodes.

    Raises:
        DatasetError: version, feature or file at fault.
    """
    info = read_info(root)
    for key in (*keys, *cameras):
        if key not in info.features:
            raise DatasetError(
                f"{root}/meta/info.json: no feature {key!r}, expected some of {sorted(info.features)}"
            )
    for key in cameras:
        if info.features[key]["dtype"] not in IMAGE_DTYPES:
            raise DatasetError(
                f"{root}/meta/info.json: feature {key!r} is {info.features[key]['dtype']!r}, expected "
                f"{' or '.join(IMAGE_DTYPES)}"
            )
    videos = [key for key in cameras if info.features[key]["dtype"] == "video"]
    entries = _entries_v3(info, videos) if info.version == "v3.0" else _entries_v2(info, videos)
    if not entries:
        raise DatasetError(f"{root}: no episodes in meta/, expected at least one")
    wanted = list(dict.fromkeys([*keys, "task_index", "timestamp"]))
    tables = _Tables(info, wanted, findings)
    for path, group in _by_file(info, entries).items():
        tables.read(path, group)
    if not tables.entries:
        findings.check()
        raise DatasetError(f"{root}: no episode is left: {'; '.join(findings.lines())}")
    return tables.dataset(_tasks(info), videos)


@dataclass(frozen=True)
class _Entry:
    """An episode as meta/ has it. places: as in `LeRobotDataset`."""

    index: int
    length: int
    places: dict[str, tuple[float, float, float]]


def _entries_v2(info: Info, videos: Sequence[str]) -> list[_Entry]:
    path = info.root / "meta" / "episodes.jsonl"
    if not path.is_file():
        raise DatasetError(f"{path}: no such file, expected the episodes of a {info.version} dataset")
    out = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        values = _json(line, f"{path}:{number}")
        index, length = values.get("episode_index"), values.get("length")
        if not isinstance(index, int) or not isinstance(length, int):
            raise DatasetError(f"{path}:{number}: found {line[:80]!r}, expected episode_index and length")
        place = (float(index // info.chunk_size), 0.0, 0.0)
        out.append(_Entry(index, length, {key: place for key in ("data", *videos)}))
    return sorted(out, key=lambda e: e.index)


def _entries_v3(info: Info, videos: Sequence[str]) -> list[_Entry]:
    paths = sorted((info.root / "meta" / "episodes").rglob("*.parquet"))
    if not paths:
        raise DatasetError(
            f"{info.root}/meta/episodes: no parquet file, expected the episodes of a v3.0 dataset"
        )
    out = []
    for path in paths:
        names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in videos:
            names += [f"videos/{key}/{part}" for part in ("chunk_index", "file_index", "from_timestamp")]
        columns = read_table(path, names).to_pydict()
        for i in range(len(columns["length"])):
            places = {"data": (columns["data/chunk_index"][i], columns["data/file_index"][i], 0.0)}
            for key in videos:
                at = [
                    columns[f"videos/{key}/{part}"][i]
                    for part in ("chunk_index", "file_index", "from_timestamp")
                ]
                places[key] = (at[0], at[1], at[2])
            if any(value is None for place in places.values() for value in place):
                raise DatasetError(
                    f"{path}: episode {columns['episode_index'][i]}: an empty place in {places}"
                )
            out.append(_Entry(columns["episode_index"][i], columns["length"][i], places))
    return sorted(out, key=lambda e: e.index)


def _tasks(info: Info) -> dict[int, str]:
    """Instructions by task index."""
    if info.version != "v3.0":
        path = info.root / "meta" / "tasks.jsonl"
        if not path.is_file():
            raise DatasetError(f"{path}: no such file, expected the instructions of a {info.version} dataset")
        lines = [_json(line, str(path)) for line in path.read_text().splitlines() if line.strip()]
        return {int(v["task_index"]): str(v.get("task") or "") for v in lines if "task_index" in v}
    path = info.root / "meta" / "tasks.parquet"
    table = read_table(path, None)
    # The words are the index of a pandas table: its column is called task, or not at all.
    words = [name for name in ("task", "__index_level_0__") if name in table.column_names]
    if "task_index" not in table.column_names or not words:
        raise DatasetError(f"{path}: found the columns {table.column_names}, expected task_index and task")
    pairs = zip(table["task_index"].to_pylist(), table[words[0]].to_pylist(), strict=True)
    return {int(index): str(task or "") for index, task in pairs}


def read_table(path: Path, names: Sequence[str] | None) -> pa.Table:
    """Columns of a parquet file (None: all), in one piece. Raises DatasetError naming file and columns."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            missing = [name for name in names or () if name not in present]
            if missing:
                raise DatasetError(f"{path}: no columns {missing}, expected them among {present}")
            return file.read(columns=list(names) if names else None, use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not readable as parquet: {error}") from error


def _by_file(info: Info, entries: Sequence[_Entry]) -> dict[Path, list[_Entry]]:
    out: dict[Path, list[_Entry]] = {}
    for entry in entries:
        path = _file(info, info.data_path, entry.index, entry.places["data"])
        out.setdefault(path, []).append(entry)
    return out


def _file(info: Info, template: str, episode: int, place: Sequence[float], key: str = "") -> Path:
    chunk, file = int(place[0]), int(place[1])
    names = {"episode_chunk": chunk, "episode_index": episode, "chunk_index": chunk, "file_index": file}
    return info.fill(template, **names, video_key=key)


class _Tables:
    """Columns of the episodes that are sound, gathered file by file."""

    def __init__(self, info: Info, keys: Sequence[str], findings: Findings) -> None:
        self._info, self._keys, self._findings = info, keys, findings
        self._parts: dict[str, list[np.ndarray]] = {key: [] for key in keys}
        self._rows: list[int] = []
        self.entries: list[_Entry] = []

    def read(self, path: Path, entries: Sequence[_Entry]) -> None:
        if not path.is_file():
            for entry in entries:
                sentence = f"{path}: no such file, expected the frames of episode {entry.index}"
                self._findings.broken("parquet file missing", entry.index, sentence)
            return
        table = read_table(path, [*self._keys, "episode_index"])
        number = _numbers(table, "episode_index", 1, path)
        values = {key: _numbers(table, key, self._dims(key), path) for key in self._keys}
        firsts, lengths = _runs(number)
        for entry in entries:
            first, length = firsts.get(entry.index, 0), lengths.get(entry.index, 0)
            if length != entry.length or not length:
                found = f"{path}: episode {entry.index}: {length} frames in a row"
                sentence = f"{found}, expected its length {entry.length}"
                self._findings.broken("length differs from its file", entry.index, sentence)
                continue
            for key in self._keys:
                self._parts[key].append(values[key][first : first + length])
            self._rows.append(first)
            self.entries.append(entry)

    def _dims(self, key: str) -> int:
        return self._info.dims(key) if key in self._info.features else 1

    def dataset(self, tasks: dict[int, str], videos: Sequence[str]) -> LeRobotDataset:
        lengths = np.array([e.length for e in self.entries], dtype=np.int64)
        places = {
            k: np.array([e.places[k] for e in self.entries], dtype=np.float64) for k in ("data", *videos)
        }
        columns = {key: np.concatenate(self._parts.pop(key)) for key in self._keys}
        for key in ("task_index", "timestamp"):
            columns[key] = columns[key].reshape(-1)
        return LeRobotDataset(
            info=self._info,
            tasks=tasks,
            columns=columns,
            episodes=np.array([e.index for e in self.entries], dtype=np.int64),
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
            data_rows=np.array(self._rows, dtype=np.int64),
            places=places,
        )


def _runs(numbers: np.ndarray) -> tuple[dict[int, int], dict[int, int]]:
    """Where the rows of each episode begin and how many follow one another; 0 where they are in pieces."""
    begins = np.flatnonzero(np.diff(numbers, prepend=-1))
    lengths = np.diff(begins, append=len(numbers))
    firsts: dict[int, int] = {}
    counts: dict[int, int] = {}
    for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
        index = int(numbers[begin])
        counts[index] = 0 if index in firsts else length
        firsts[index] = begin
    return firsts, counts


def _numbers(table: pa.Table, key: str, dims: int, path: Path) -> np.ndarray:
    """A column as [rows, dims] (episode_index: [rows]): float32, int64 or bool; missing numbers are nan."""
    column = table[key]
    array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        flat = array.flatten()
    else:
        flat = array
    if not (
        pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type) or pa.types.is_boolean(flat.type)
    ):
        raise DatasetError(f"{path}: column {key!r} is of type {kind}, expected numbers or lists of numbers")
    if len(flat) != len(array) * dims:
        found = f"{len(flat)} numbers in {len(array)} frames"
        raise DatasetError(
            f"{path}: column {key!r} has {found}, expected {dims} in each as meta/info.json says"
        )
    values = flat.to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(flat.type):
        values = values.astype(bool)
    elif pa.types.is_integer(flat.type) and not flat.null_count:
        values = values.astype(np.int64)
    else:
        values = values.astype(np.float32)
    return values if key == "episode_index" else values.reshape(-1, dims)


def _json(text: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{where}: found {text[:80]!r}, expected an object")
    return values
