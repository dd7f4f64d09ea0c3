"""Cameras that send the same picture again and again, under ever new stamps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data.frames import NS_PER_S

# An arm that has moved this far, for this long, has changed some pixel of every camera that works: it is in
# view, or the camera is on it. A picture of a scene at rest may well stay the same.
MOVED_RAD = 0.1
FROZEN_S = 0.4


# Of the joints' readings enough to find the one that belongs to a picture, however late it comes.
READINGS_KEPT = 100


@dataclass
class _Seen:
    image: NDArray[np.uint8]
    since_ns: int
    newest_ns: int
    # Where the arm was at the first and at the last repetition. Not at the picture itself: its joint states
    # may still be on their way, and after a reset of a simulation those before them are of another place.
    first: NDArray[np.float64] | None = None
    last: NDArray[np.float64] | None = None


class FrozenCameras:
    """Compares each picture with the one before it, and how far the arm has moved meanwhile."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._arms: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=READINGS_KEPT)

    def add_arm(self, stamp_ns: int, positions: NDArray[np.float64]) -> None:
        """Takes in measured arm joints [J], rad."""
        self._arms.append((stamp_ns, positions))

    def add_image(self, camera: str, stamp_ns: int, image: NDArray[np.uint8]) -> None:
        """Takes in a picture [H, W, 3]."""
        seen = self._seen.get(camera)
        if seen is None or stamp_ns < seen.newest_ns or not np.array_equal(seen.image, image):
            self._seen[camera] = _Seen(image, stamp_ns, stamp_ns)
            return
        seen.newest_ns = stamp_ns
        seen.last = next((arm for ns, arm in reversed(self._arms) if ns <= stamp_ns), None)
        if seen.first is None:
            seen.first = seen.last

    def problem(self) -> str:
        """Which camera is frozen, and how that shows; empty if none is."""
        for camera, seen in self._seen.items():
            frozen_s = (seen.newest_ns - seen.since_ns) / NS_PER_S
            if frozen_s < FROZEN_S or seen.first is None or seen.last is None:
                continue
            moved = float(np.max(np.abs(seen.last - seen.first)))
            if moved > MOVED_RAD:
                return (
                    f"camera {camera!r} is frozen: the same picture for {frozen_s:.2f} s, while the arm "
                    f"moved by {moved:.2f} rad"
                )
        return ""
