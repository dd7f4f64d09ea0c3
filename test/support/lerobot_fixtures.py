"""Small real LeRobot datasets: parquet files, and mp4 files whose frames tell which one they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BITS = 12  # of a frame's number: 4 x 3 blocks, black or white
STATE, ACTION = "observation.state", "action"


def coded_image(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """[H, W, 3] uint8: a number below 4096 as black and white blocks; its red tells true colour order."""
    bits = np.array([number >> i & 1 for i in range(BITS)], dtype=np.uint8).reshape(3, 4)
    grey = cv2.resize(bits * 180 + 30, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.stack([grey, grey, np.minimum(grey, 60)], axis=-1)


def decoded_number(image: np.ndarray) -> int:
    """Inverts `coded_image`, at any size of at least 4 x 3."""
    height, width = image.shape[:2]
    rows = (np.arange(3) * 2 + 1) * height // 6
    columns = (np.arange(4) * 2 + 1) * width // 8
    bits = image[np.ix_(rows, columns)][..., 0].ravel() > 120
    return int((bits * (1 << np.arange(BITS))).sum())


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    fps: float = 5,
    gop: int = 2,
    codec: str = "libx264",
    b_frames: int = 0,
    options: dict[str, str] | None = None,
) -> None:
    """An mp4 as LeRobot writes it: constant rate, a key frame every `gop` frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = gop, b_frames, 1
        own = (
            {"crf": "18", "preset": "veryfast", "sc_threshold": "0"} if codec == "libx264" else {"crf": "30"}
        )
        context.options = {**own, **(options or {})}
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@dataclass
class Episode:
    """An episode to write. state, action [n, dims]; its images show the numbers from `base` on."""

    state: np.ndarray
    action: np.ndarray
    task: str = "pick up the red block"
    base: int = 0
    intervention: np.ndarray | None = None
    success: float | None = None

    @property
    def length(self) -> int:
        return len(self.state)

    def images(self, camera: int, height: int, width: int) -> list[np.ndarray]:
        return [coded_image(self.base + 2000 * camera + i, height, width) for i in range(self.length)]


@dataclass
class Layout:
    """What a dataset is written like. stored: "png" or "jpg" in the parquet files in place of video."""

    version: str = "v2.1"
    fps: float = 5
    cameras: tuple[str, ...] = ("observation.images.front", "observation.images.wrist")
    height: int = 48
    width: int = 64
    gop: int = 2
    stored: str = ""
    episodes_per_file: int = 2
    codec: str = "libx264"
    options: dict[str, str] | None = None
    twinbrain: dict[str, Any] | None = field(
        default_factory=lambda: {
            "action_kind": "tool_target",
            "robot": "wx250s",
            "robot_file": "",
            "urdf": "",
        }
    )


def arm_episode(length: int, seed: int = 0, base: int = 0, **more: Any) -> Episode:
    """A smooth motion: states as of the robot file, actions the targets of the frames' ends."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, [0.01, 0.01, 0.01, 0.03, 0.03, 0.1, 0.0], (length + 1, 7))
    poses = np.array([0.25, 0.0, 0.15, 0.0, 0.1, 0.2, 1.0]) + np.cumsum(steps, axis=0)
    poses[:, 6] = (np.arange(length + 1) // 3) % 2
    lag = rng.normal(0, 0.002, (length, 7)) * [1, 1, 1, 1, 1, 1, 0]
    return Episode((poses[:-1] + lag).astype(np.float32), poses[1:].astype(np.float32), base=base, **more)


def write_dataset(root: Path, episodes: Sequence[Episode], layout: Layout | None = None) -> Path:
    """Writes a dataset; returns its directory."""
    layout = layout or Layout()
    tasks = list(dict.fromkeys(e.task for e in episodes))
    tables = [_table(i, e, tasks.index(e.task), layout) for i, e in enumerate(episodes)]
    (root / "meta").mkdir(parents=True, exist_ok=True)
    write = _write_v3 if layout.version == "v3.0" else _write_v2
    paths = write(root, episodes, tables, tasks, layout)
    info = {
        "codebase_version": layout.version,
        "robot_type": "wx250s",
        "total_episodes": len(episodes),
        "total_frames": sum(e.length for e in episodes),
        "chunks_size": 1000,
        "fps": layout.fps,
        "features": _features(episodes[0], layout),
        **paths,
    }
    if layout.stored:
        info["video_path"] = None
    (root / "meta" / "info.json").write_text(json.dumps(info))
    if layout.twinbrain is not None:
        (root / "meta" / "twinbrain.json").write_text(json.dumps(layout.twinbrain))
    return root


def _features(episode: Episode, layout: Layout) -> dict[str, Any]:
    names = {STATE: episode.state.shape[1], ACTION: episode.action.shape[1]}
    out: dict[str, Any] = {k: {"dtype": "float32", "shape": [n], "names": None} for k, n in names.items()}
    for key in layout.cameras:
        shape = [layout.height, layout.width, 3]
        out[key] = {"dtype": "image" if layout.stored else "video", "shape": shape, "names": None}
    for key, dtype in (("intervention", "bool"), ("success", "float32")):
        if layout.twinbrain is not None:
            out[key] = {"dtype": dtype, "shape": [1], "names": None}
    for key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        out[key] = {"dtype": "float32" if key == "timestamp" else "int64", "shape": [1], "names": None}
    return out


def _table(index: int, episode: Episode, task: int, layout: Layout) -> pa.Table:
    n = episode.length
    vectors = {STATE: episode.state, ACTION: episode.action}
    columns: dict[str, Any] = {
        key: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel(), pa.float32()), v.shape[1])
        for key, v in vectors.items()
    }
    if layout.twinbrain is not None:
        taken = np.zeros(n, bool) if episode.intervention is None else episode.intervention
        columns["intervention"] = pa.array(taken, pa.bool_())
        columns["success"] = pa.array(
            np.full(n, -1 if episode.success is None else episode.success), pa.float32()
        )
    if layout.stored:
        for camera, key in enumerate(layout.cameras):
            images = [image[..., ::-1] for image in episode.images(camera, layout.height, layout.width)]
            data = [cv2.imencode(f".{layout.stored}", image)[1].tobytes() for image in images]
            rows = [{"bytes": d, "path": f"frame-{i:06d}.{layout.stored}"} for i, d in enumerate(data)]
            columns[key] = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns["timestamp"] = pa.array(np.arange(n) / layout.fps, pa.float32())
    columns["frame_index"] = pa.array(np.arange(n), pa.int64())
    columns["episode_index"] = pa.array(np.full(n, index), pa.int64())
    columns["index"] = pa.array(np.arange(n), pa.int64())
    columns["task_index"] = pa.array(np.full(n, task), pa.int64())
    return pa.table(columns)


def _write_v2(
    root: Path, episodes: Sequence[Episode], tables: list[pa.Table], tasks: list[str], layout: Layout
) -> dict[str, str]:
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    for index, (episode, table) in enumerate(zip(episodes, tables, strict=True)):
        place = {"episode_chunk": 0, "episode_index": index}
        path = root / paths["data_path"].format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        for camera, key in enumerate(layout.cameras if not layout.stored else ()):
            images = episode.images(camera, layout.height, layout.width)
            path = root / paths["video_path"].format(**place, video_key=key)
            write_video(path, images, layout.fps, layout.gop, layout.codec, options=layout.options)
    meta = root / "meta"
    lines = [{"task_index": i, "task": task} for i, task in enumerate(tasks)]
    (meta / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [{"episode_index": i, "tasks": [e.task], "length": e.length} for i, e in enumerate(episodes)]
    (meta / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def _write_v3(
    root: Path, episodes: Sequence[Episode], tables: list[pa.Table], tasks: list[str], layout: Layout
) -> dict[str, str]:
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    rows: list[dict[str, Any]] = []
    for first in range(0, len(episodes), layout.episodes_per_file):
        group = range(first, min(first + layout.episodes_per_file, len(episodes)))
        place = {"chunk_index": 0, "file_index": first // layout.episodes_per_file}
        path = root / paths["data_path"].format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([tables[i] for i in group]), path, row_group_size=7)
        begin = 0
        for i in group:
            row: dict[str, Any] = {
                "episode_index": i,
                "tasks": [episodes[i].task],
                "length": episodes[i].length,
            }
            row |= {f"data/{k}": v for k, v in place.items()}
            for key in layout.cameras if not layout.stored else ():
                row |= {f"videos/{key}/{k}": v for k, v in place.items()}
                row[f"videos/{key}/from_timestamp"] = begin / layout.fps
                row[f"videos/{key}/to_timestamp"] = (begin + episodes[i].length) / layout.fps
            begin += episodes[i].length
            rows.append(row)
        for camera, key in enumerate(layout.cameras if not layout.stored else ()):
            images = [x for i in group for x in episodes[i].images(camera, layout.height, layout.width)]
            path = root / paths["video_path"].format(**place, video_key=key)
            write_video(path, images, layout.fps, layout.gop, layout.codec, options=layout.options)
    path = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    # As pandas writes a table whose index has no name.
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "__index_level_0__": tasks})
    pq.write_table(table, root / "meta" / "tasks.parquet")
    return paths
