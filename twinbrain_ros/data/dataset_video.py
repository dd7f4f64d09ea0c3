"""Videos of a LeRobot dataset: H.264 at a constant rate, a key frame every other frame for quick access."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

CODEC, PIXELS = "libx264", "yuv420p"
KEY_FRAME_EVERY = 2  # what LeRobot writes: any frame is found after decoding at most two
CRF = "20"
STATISTICS_STRIDE = 4  # pixels


class VideoError(ValueError):
    """Images that cannot become a video; the message says why."""


class VideoWriter:
    """One mp4, frame after frame. width, height: even numbers of pixels, or it raises VideoError."""

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        if width % 2 or height % 2:
            raise VideoError(
                f"images of {width}x{height} pixels: found an odd size, expected even ones for H.264"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self.frames = 0
        self._container = av.open(str(path), "w")
        stream: Any = self._container.add_stream(CODEC, rate=fps)
        self._stream = stream
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = KEY_FRAME_EVERY, 0, 1
        context.options = {"crf": CRF, "preset": "veryfast", "sc_threshold": "0"}

    def add(self, image: NDArray[np.uint8]) -> None:
        """A frame [H, W, 3] RGB."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


def feature(width: int, height: int, fps: int) -> dict[str, Any]:
    """What info.json says of such a video."""
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": PIXELS,
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }


class Channels:
    """Statistics of a camera's images per channel, 0 to 1: exact ones of every fourth pixel both ways."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self.frames = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        some = image[::STATISTICS_STRIDE, ::STATISTICS_STRIDE].reshape(-1, 3)
        for channel in range(3):
            self._counts[channel] += np.bincount(some[:, channel], minlength=256)
        self.frames += 1

    def merge(self, other: Channels) -> None:
        self._counts += other._counts
        self.frames += other.frames

    def statistics(self, quantiles: dict[str, float]) -> dict[str, Any]:
        """As LeRobot keeps them: values of shape [3, 1, 1], and the count of frames."""
        levels = np.arange(256) / 255.0
        total = self._counts.sum(axis=1)
        mean = self._counts @ levels / total
        std = np.sqrt(np.maximum(self._counts @ levels**2 / total - mean**2, 0.0))
        reached = self._counts.cumsum(axis=1) / total[:, None]
        found = {
            "min": levels[(self._counts > 0).argmax(axis=1)],
            "max": levels[255 - (self._counts[:, ::-1] > 0).argmax(axis=1)],
            "mean": mean,
            "std": std,
            **{name: levels[(reached >= share).argmax(axis=1)] for name, share in quantiles.items()},
        }
        shaped = {name: values.reshape(3, 1, 1).tolist() for name, values in found.items()}
        return {**shaped, "count": [self.frames]}
