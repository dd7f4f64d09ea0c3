"""Single frames of LeRobot datasets: out of mp4 files by time, or out of parquet by row.

Video is decoded by one thread and from the nearest key frame on, or onwards from the frame before where that
is nearer; a few files stay open in each process.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Image = NDArray[np.uint8]

OPEN_FILES = 16  # per process
KEPT_GROUPS = 4  # row groups of stored images; each can be some MB
# Without an index of key frames: frames further away than this are reached by seeking.
_NEAR_FRAMES = 8


_INHERITED: list[Any] = []
# Opening a file decodes a frame of some codecs, to learn what decoding tells anyway; that costs most of it.
_NO_PROBE: Any = [{"skip_frame": "all"}]


class BadFrame(ValueError):
    """A frame that cannot be had: of which file, where in it and why."""


@dataclass(frozen=True)
class VideoSpan:
    """What the header of a video says: number of frames, their rate [Hz] and size [pixels]."""

    frames: int
    rate_hz: float
    width: int
    height: int


def video_span(path: Path) -> VideoSpan:
    """Reads the header of a video. Raises BadFrame for a file that is not one."""
    try:
        with av.open(str(path), stream_options=_NO_PROBE) as container:
            if not container.streams.video:
                raise BadFrame(f"{path}: no video stream")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            seconds = (
                float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            )
            frames = stream.frames or round(seconds * rate)
            return VideoSpan(frames, rate, stream.codec_context.width, stream.codec_context.height)
    except (av.error.FFmpegError, OSError) as error:
        raise BadFrame(f"{path}: not readable as video: {error}") from error


class _Video:
    """An open video and where in it decoding has got to."""

    def __init__(self, path: Path, probe: bool) -> None:
        self._path = path
        self._container = av.open(str(path), stream_options=None if probe else _NO_PROBE)
        self._stream = self._container.streams.video[0]
        # As many processes as cores decode at once: threads of the codec would only get into their way.
        self._stream.codec_context.thread_count = 1
        self._base = self._stream.time_base or Fraction(1, 1000)
        entries = self._stream.index_entries
        self._keys = np.array([e.timestamp for e in entries if e.is_keyframe], dtype=np.int64)
        self._frames: Iterator[Any] | None = None
        self._last: Any = None
        # One for all frames, or every frame would set up its own conversion, on threads of its own.
        self._reformatter = VideoReformatter()

    def close(self) -> None:
        self._container.close()

    def at(self, seconds: float, tolerance_s: float) -> Image:
        """The frame [H, W, 3] RGB that is shown at a time."""
        low = int(np.ceil((seconds - tolerance_s) / self._base))
        high = int(np.floor((seconds + tolerance_s) / self._base))
        if self._last is None or not low <= self._last.pts <= high:
            if not self._reaches(low, high):
                self._seek(low, high)
            self._advance(low, seconds)
        if not low <= self._last.pts <= high:
            found = float(self._last.pts * self._base)
            raise BadFrame(f"{self._path}: at {seconds:.4f} s: the next frame is at {found:.4f} s")
        frame = self._reformatter.reformat(self._last, format="rgb24", threads=1)
        return np.asarray(frame.to_ndarray(), dtype=np.uint8)

    def _reaches(self, low: int, high: int) -> bool:
        """Whether decoding on gets there sooner than starting from a key frame."""
        if self._frames is None or self._last is None or self._last.pts >= low:
            return False
        if len(self._keys):
            key = self._keys[max(0, int(np.searchsorted(self._keys, high, side="right")) - 1)]
            return bool(key <= self._last.pts)
        return low - self._last.pts <= _NEAR_FRAMES * (high - low)

    def _seek(self, low: int, high: int) -> None:
        """To a key frame at or before `high`; further back where reordered frames hide it."""
        for back in (0, 1, 2):
            aim = max(0, high - back * int(1 / self._base)) if back < 2 else 0
            self._container.seek(aim, stream=self._stream)
            self._frames = self._container.decode(self._stream)
            self._last = next(self._frames, None)
            if self._last is not None and self._last.pts is not None and self._last.pts <= high:
                return
        if self._last is None or self._last.pts is None:
            self._last = None
            raise BadFrame(f"{self._path}: no frame at or before {float(high * self._base):.4f} s")

    def _advance(self, low: int, seconds: float) -> None:
        assert self._frames is not None
        while self._last is None or self._last.pts is None or self._last.pts < low:
            frame = next(self._frames, None)
            if frame is None:
                self._frames = None
                raise BadFrame(f"{self._path}: at {seconds:.4f} s: the video ends before")
            self._last = frame


class FrameReader:
    """Gives frames from files that it keeps open. Every process opens its own; pickled, it is as new."""

    def __init__(self, open_files: int = OPEN_FILES) -> None:
        self._limit = open_files
        self._clear()

    def _clear(self) -> None:
        self._process = os.getpid()
        self._videos: OrderedDict[Path, _Video] = OrderedDict()
        self._tables: OrderedDict[Path, tuple[pq.ParquetFile, np.ndarray]] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, str, int], pa.Array] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._limit = state["_limit"]
        self._clear()

    def _own(self) -> None:
        # After a fork two processes would share a position in the parent's files. They are not closed either:
        # a decoder could wait for threads that only the parent has.
        if self._process != os.getpid():
            _INHERITED.append((self._videos, self._tables, self._groups))
            self._clear()

    def from_video(self, path: Path, seconds: float, tolerance_s: float) -> Image:
        """The frame [H, W, 3] uint8 RGB shown at a time [s]. Raises BadFrame."""
        self._own()
        try:
            return self._try(path, seconds, tolerance_s, probe=False)
        except BadFrame:
            # The decoder starts afresh, and knows what it can about the order of frames.
            return self._try(path, seconds, tolerance_s, probe=True)

    def _try(self, path: Path, seconds: float, tolerance_s: float, probe: bool) -> Image:
        try:
            if path not in self._videos:
                self._videos[path] = _Video(path, probe)
                if len(self._videos) > self._limit:
                    self._videos.popitem(last=False)[1].close()
            self._videos.move_to_end(path)
            return self._videos[path].at(seconds, tolerance_s)
        except (BadFrame, av.error.FFmpegError, OSError, IndexError) as error:
            # Whatever state the decoder is in, the next frame starts from a clean one.
            video = self._videos.pop(path, None)
            if video is not None:
                video.close()
            if isinstance(error, BadFrame):
                raise
            raise BadFrame(f"{path}: at {seconds:.4f} s: {error}") from error

    def from_table(self, path: Path, key: str, row: int, root: Path) -> Image:
        """The image [H, W, 3] uint8 RGB that a parquet file holds (or names) in a row. Raises BadFrame."""
        self._own()
        try:
            if path not in self._tables:
                file = pq.ParquetFile(path)
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                self._tables[path] = file, np.cumsum(sizes)
                if len(self._tables) > self._limit:
                    self._tables.popitem(last=False)[1][0].close()
            self._tables.move_to_end(path)
            file, ends = self._tables[path]
            group = int(np.searchsorted(ends, row, side="right"))
            stored = self._group(path, key, group, file)[row - (int(ends[group - 1]) if group else 0)].as_py()
        except (pa.ArrowException, OSError, IndexError, KeyError) as error:
            raise BadFrame(f"{path}: {key}, row {row}: {error}") from error
        return _decoded(stored, f"{path}: {key}, row {row}", root)

    def _group(self, path: Path, key: str, group: int, file: pq.ParquetFile) -> pa.Array:
        place = (path, key, group)
        if place not in self._groups:
            column = file.read_row_group(group, columns=[key], use_threads=False)[key]
            self._groups[place] = column.combine_chunks()
            if len(self._groups) > KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(place)
        return self._groups[place]


def _decoded(stored: Any, where: str, root: Path) -> Image:
    """PNG or JPEG from a row {bytes, path}: the bytes, or the file of that path under the dataset."""
    data = stored.get("bytes") if isinstance(stored, dict) else stored
    if data is None and isinstance(stored, dict) and stored.get("path"):
        path = root / str(stored["path"])
        where = f"{where}: {path}"
        data = path.read_bytes() if path.is_file() else None
    if not data:
        raise BadFrame(f"{where}: no image stored, expected PNG or JPEG bytes")
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise BadFrame(f"{where}: {len(data)} bytes that are no image, expected PNG or JPEG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
