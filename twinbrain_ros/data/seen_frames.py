"""A dataset's images at the size that the brains see them, kept on disk: each is decoded and scaled once.

Decoding a random frame of a video costs several times what a small policy's training step has for it; the
scaled frame is read back in a fraction of a millisecond, by every process and in every later run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.data.kept import file_stamps, kept_at
from twinbrain_ros.data.robot_dataset import RobotDataset

_log = logging.getLogger(__name__)
_FORMAT = 1
_SUM_BYTES = 4  # a checksum per frame; 0: not there yet

Image = NDArray[np.uint8]


class SeenFrames:
    """Frames [height, width, 3] uint8 by row, in a file of fixed size that processes share.

    A frame counts only with its checksum, so that what a crash has left half written is made again.

    Args:
        path: of the file; it is made, with room for all frames.
    Raises:
        OSError: it cannot be made, or there is no room for it.
    """

    def __init__(self, path: Path, count: int, height: int, width: int) -> None:
        self.path, self._count, self._shape = path, count, (height, width, 3)
        self.bytes = count * (_SUM_BYTES + height * width * 3)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            try:
                # Room for all of it now: a disk that is full later would end the process without a word.
                os.posix_fallocate(file.fileno(), 0, self.bytes)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        self._maps: tuple[np.memmap[Any, Any], np.memmap[Any, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_maps": None}  # mapped anew in another process

    def get(self, row: int) -> Image | None:
        """A frame, None where it is not there."""
        sums, frames = self._mapped()
        if not sums[row]:
            return None
        image = np.array(frames[row])
        return image if _sum(image) == sums[row] else None

    def put(self, row: int, image: Image) -> None:
        """Keeps a frame."""
        sums, frames = self._mapped()
        frames[row] = image
        sums[row] = _sum(image)

    def _mapped(self) -> tuple[np.memmap[Any, Any], np.memmap[Any, Any]]:
        if self._maps is None:
            start = self._count * _SUM_BYTES
            self._maps = (
                np.memmap(self.path, np.uint32, "r+", 0, (self._count,)),
                np.memmap(self.path, np.uint8, "r+", start, (self._count, *self._shape)),
            )
        return self._maps


def _sum(image: Image) -> int:
    return zlib.crc32(np.ascontiguousarray(image).data) or 1


def open_seen(
    dataset: RobotDataset, camera: str, view: Sequence[object], size: tuple[int, int]
) -> SeenFrames:
    """The frames of a dataset's camera as a view shows them.

    They are kept beside the dataset (meta/) or, where that cannot be written, in XDG_CACHE_HOME/twinbrain.
    The name holds a hash of the dataset's files and of the view.

    Args:
        view: whatever changes a pixel of what is seen.
        size: height and width of what is seen [pixels].
    Raises:
        DatasetError: neither place has room.
    """
    name = f"seen-{_digest(dataset, camera, view)}.bin"
    failed = []
    for path in kept_at(dataset.root, name):
        try:
            found = SeenFrames(path, len(dataset.states), *size)
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
            continue
        _log.info("%s: frames of %s are kept in %s, %.2f GB", dataset.name, camera, path, found.bytes / 1e9)
        return found
    raise DatasetError(
        f"keep_seen: found no place for {len(dataset.states)} frames of {dataset.name}: {'; '.join(failed)}; "
        "expected room there, or keep_seen: false"
    )


def _digest(dataset: RobotDataset, camera: str, view: Sequence[object]) -> str:
    digest = hashlib.sha256(repr((_FORMAT, dataset.file.cameras[camera], tuple(view))).encode())
    files = (*dataset.tables.all_files(), *dataset.video_files(camera))
    digest.update(file_stamps(dataset.root, files))
    return digest.hexdigest()[:24]
