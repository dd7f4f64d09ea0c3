"""Cameras that send the same picture again and again, under ever new stamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1_000_000_000

# An arm that has moved this far, for this long, has changed some pixel of every camera that works: it is in
# view, or the camera is on it. A picture of a scene at rest may well stay the same.
MOVED_RAD = 0.1
FROZEN_S = 0.4


@dataclass
class _Seen:
    image: NDArray[np.uint8]
    since_ns: int
    newest_ns: int
    arm: NDArray[np.float64] | None


class FrozenCameras:
    """Compares each picture with the one before it, and how far the arm has moved meanwhile."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._arm: NDArray[np.float64] | None = None

    def add_arm(self, positions: NDArray[np.float64]) -> None:
        """Takes in measured arm joints [J], rad."""
        self._arm = positions
        for seen in self._seen.values():
            if seen.arm is None:
                seen.arm = positions

    def add_image(self, camera: str, stamp_ns: int, image: NDArray[np.uint8]) -> None:
        """Takes in a picture [H, W, 3]."""
        seen = self._seen.get(camera)
        if seen is None or stamp_ns < seen.newest_ns or not np.array_equal(seen.image, image):
            self._seen[camera] = _Seen(image, stamp_ns, stamp_ns, self._arm)
        else:
            seen.newest_ns = stamp_ns

    def problem(self) -> str:
        """Which camera is frozen, and how that shows; empty if none is."""
        for camera, seen in self._seen.items():
            frozen_s = (seen.newest_ns - seen.since_ns) / NS_PER_S
            if frozen_s < FROZEN_S or seen.arm is None or self._arm is None:
                continue
            moved = float(np.max(np.abs(self._arm - seen.arm)))
            if moved > MOVED_RAD:
                return (
                    f"camera {camera!r} is frozen: the same picture for {frozen_s:.2f} s, while the arm "
                    f"moved by {moved:.2f} rad"
                )
        return ""
