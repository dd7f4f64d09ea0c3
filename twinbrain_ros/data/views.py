"""What a checkpoint was trained to see of each camera, small enough to keep, and how live pictures differ.

Of every camera a thumbnail is kept: for each cell its mean over the training frames, how it changes as the
tool goes sideways, and what spread is left. A picture's distance from that says how unlike the training it
is. It is called mirrored, swapped or cropped only where the picture, so changed back, is nearer by more than
training frames ever are. Of a scene that is its own mirror image only the moving arm tells.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Cells = NDArray[np.float32]

FILE = "views.json"  # in a checkpoint
SMALL = 96  # pixels along each side, from which all thumbnails of a picture are made
EDGE = 16  # cells along each side of a thumbnail
LEAST_SPREAD = 4.0  # of 255: no camera is steadier than this from day to day
FARTHEST = 5.0  # deviations: what stands in the view may differ in some cells by any amount
# Changed back, a picture must be nearer than any training frame was, and by so much more; of many pictures
# the mean must be nearer by so much.
NEARER, LEAST_NEARER = 0.1, 0.05
# Looks with the arm elsewhere each time count as different ones: from so many on less each is enough.
LOOKS, ENOUGH_LOOKS, MOVED_M = 20, 10, 0.02
BLACK = 8.0  # mean of 255
DARKER = 0.5  # of the darkest training frame
BRIGHTER = 0.5  # of the way from the brightest training frame to white
MOST_TINT = 1.15  # of red, green and blue against each other
ASPECT = 1.05  # so many times wider or narrower
CROPS = (0.8, 0.65, 0.5)  # of the edges
SIDEWAYS = 1  # of a state (x, y, z, ..): what the tool's way to the side is


class ViewError(ValueError):
    """A file of views that cannot be read; names it, what was found and what was expected."""


@dataclass(frozen=True, eq=False)
class TrainedView:
    """Of one camera in the training.

    Attributes:
        width, height: of its pictures [pixels].
        mean, slope, spread: of the cells [EDGE, EDGE, 3], 0 to 255 RGB; slope: per metre that the tool is to
            the side.
        dark, bright: mean values of the darkest and of the brightest frame.
        nearer: by change how much nearer training frames were when changed back: their mean, and the most.
    """

    width: int
    height: int
    mean: Cells
    slope: Cells
    spread: Cells
    dark: float
    bright: float
    nearer: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def distance(self, cells: Cells, sideways_m: float) -> float:
        """How unlike it a thumbnail is: minus the logarithm of its likelihood, per cell; what stands in the
        view may make some cells anything. Neither brightness nor a tint of the light count."""
        expected = self.mean + self.slope * np.float32(sideways_m)
        gain = float(expected.mean()) / max(float(cells.mean()), 1.0)
        tint = expected.mean(axis=(0, 1)) / np.maximum(cells.mean(axis=(0, 1)), 1.0) / gain
        gains = gain * np.clip(tint, 1 / MOST_TINT, MOST_TINT)
        spread = self.spread + np.float32(LEAST_SPREAD)
        off = np.minimum(((cells * gains - expected) / spread) ** 2, FARTHEST**2)
        return float(np.mean(0.5 * off + np.log(spread)))

    @cached_property
    def parts(self) -> dict[float, TrainedView]:
        """The views of cameras that see only such a share of the edges."""
        return {share: self._part(share) for share in CROPS}

    def _part(self, share: float) -> TrainedView:
        mean, slope, spread = (
            np.asarray(cv2.resize(_inner(cells, share), (EDGE, EDGE)), np.float32)
            for cells in (self.mean, self.slope, self.spread)
        )
        return TrainedView(0, 0, mean, slope, spread, 0.0, 0.0)

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "width": self.width,
            "height": self.height,
            "dark": round(self.dark, 2),
            "bright": round(self.bright, 2),
            "nearer": {change: [round(value, 4) for value in pair] for change, pair in self.nearer.items()},
            **{name: _packed(getattr(self, name)) for name in _CELLS},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainedView:
        """Raises KeyError, TypeError or ValueError for what is none."""
        pairs = values["nearer"].items()
        nearer = {str(change): (float(mean), float(most)) for change, (mean, most) in pairs}
        dark, bright = float(values["dark"]), float(values["bright"])
        if not np.isfinite([dark, bright, *(value for pair in nearer.values() for value in pair)]).all():
            raise ValueError("found numbers that are not finite")
        mean, slope, spread = (_unpacked(values[name]) for name in _CELLS)
        size = int(values["width"]), int(values["height"])
        if min(size) < 1:
            raise ValueError(f"found a size of {size}, expected at least 1 x 1")
        return cls(*size, mean, slope, spread, dark, bright, nearer)


_CELLS = ("mean", "slope", "spread")


def _packed(cells: Cells) -> str:
    return base64.b64encode(cells.astype("<f2").tobytes()).decode("ascii")


def _unpacked(text: str) -> Cells:
    cells = np.frombuffer(base64.b64decode(text, validate=True), "<f2").reshape(EDGE, EDGE, 3)
    if not np.isfinite(cells).all():
        raise ValueError("found cells that are not finite")
    return cells.astype(np.float32)


def _inner(image: NDArray[Any], share: float) -> NDArray[Any]:
    top, left = (round(edge * (1 - share) / 2) for edge in image.shape[:2])
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def thumbnail(image: Image) -> Cells:
    """Means of a picture's [H, W, 3] cells [EDGE, EDGE, 3]."""
    return np.asarray(cv2.resize(image, (EDGE, EDGE), interpolation=cv2.INTER_AREA), np.float32)


# Making ---------------------------------------------------------------------------------------------


def make_views(
    images: Mapping[str, Sequence[Image]], sideways_m: NDArray[np.float64]
) -> dict[str, TrainedView]:
    """The views of cameras from training frames.

    Args:
        images: by camera, frames [H, W, 3], at least two and of each as many; their size is the first one's.
        sideways_m: the tool's y at each frame [m].
    """
    views = {name: _make(frames, sideways_m) for name, frames in images.items()}
    made = {}
    for name, frames in images.items():
        each = [
            nearer_by(name, image, float(side_m), views)
            for image, side_m in zip(frames, sideways_m, strict=True)
        ]
        nearer = {
            change: (float(np.mean([one[change] for one in each])), max(one[change] for one in each))
            for change in each[0]
        }
        made[name] = dataclasses.replace(views[name], nearer=nearer)
    return made


def _make(frames: Sequence[Image], sideways_m: NDArray[np.float64]) -> TrainedView:
    cells = np.stack([thumbnail(image) for image in frames])
    side = np.asarray(sideways_m, np.float64)
    levels, flat = cells.mean(axis=(1, 2, 3)), cells.reshape(len(cells), -1)
    off = side - side.mean()
    # Where the tool does not go to the side, nothing is known of what that changes.
    slope = off @ (flat - flat.mean(axis=0)) / max(float(off @ off), 1e-6)
    mean = flat.mean(axis=0) - slope * side.mean()
    spread = (flat - mean - np.outer(side, slope)).std(axis=0)
    shape = (EDGE, EDGE, 3)
    height, width = frames[0].shape[:2]
    means, slopes, spreads = (np.asarray(part.reshape(shape), np.float32) for part in (mean, slope, spread))
    return TrainedView(width, height, means, slopes, spreads, float(levels.min()), float(levels.max()))


def save_views(views: Mapping[str, TrainedView], directory: Path) -> None:
    """Writes the file of a checkpoint; without views there is none."""
    if views:
        content = {name: view.to_json() for name, view in views.items()}
        (directory / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_views(directory: Path) -> dict[str, TrainedView]:
    """The views of a checkpoint by camera; empty for one that has none, as older ones.

    Raises:
        ViewError: the file is damaged.
    """
    path = directory / FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): TrainedView.from_json(values) for name, values in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ViewError(f"{path}: not readable as views of cameras: {error!r}") from error


# Comparing ------------------------------------------------------------------------------------------

_TURNED: dict[str, Any] = {
    "mirrored left to right": np.s_[:, ::-1],
    "upside down": np.s_[::-1, ::-1],
    "mirrored top to bottom": np.s_[::-1],
    "of red and blue exchanged": np.s_[:, :, ::-1],
}
_WIDER, _PART, _SWAPPED = "of a wider view", "cropped", "like that of camera"


def nearer_by(
    name: str, image: Image, sideways_m: float, views: Mapping[str, TrainedView]
) -> dict[str, float]:
    """By change, how much nearer the picture of a camera is when it is changed back (logarithm)."""
    small = np.asarray(cv2.resize(image, (SMALL, SMALL), interpolation=cv2.INTER_AREA), np.uint8)
    view, cells = views[name], thumbnail(small)
    found = {change: view.distance(cells[turn], sideways_m) for change, turn in _TURNED.items()}
    for share in CROPS:
        wider = thumbnail(np.ascontiguousarray(_inner(small, share)))
        found[f"{_WIDER}, {1 / share:.2g} times"] = view.distance(wider, sideways_m)
        found[f"{_PART} to {share:.0%} of its edges"] = view.parts[share].distance(cells, sideways_m)
    for other, its_view in views.items():
        if other != name:
            found[f"{_SWAPPED} {other!r} (swapped?)"] = its_view.distance(cells, sideways_m)
    own = view.distance(cells, sideways_m)
    return {change: own - distance for change, distance in found.items()}


class ViewWatch:
    """Compares what cameras show with what a checkpoint was trained on. Meant for a look a second."""

    def __init__(self, views: Mapping[str, TrainedView]) -> None:
        self._views = dict(views)
        self._ratios: dict[str, deque[dict[str, float]]] = {n: deque(maxlen=LOOKS) for n in views}
        self._images: dict[str, Image] = {}
        self._tool: NDArray[np.float64] | None = None

    def look(self, images: Mapping[str, Image], state: NDArray[np.float64]) -> None:
        """Takes in one picture [H, W, 3] of each camera, and the state at it.

        Only the newest of the looks at which the tool was in the same place counts.
        """
        known = {name: image for name, image in images.items() if name in self._views and image.size}
        self._images = known
        tool = np.asarray(state[:3], np.float64)
        again = self._tool is not None and float(np.linalg.norm(tool - self._tool)) < MOVED_M
        if not again:
            self._tool = tool
        for name, image in known.items():
            if again and self._ratios[name]:
                self._ratios[name].pop()
            self._ratios[name].append(nearer_by(name, image, float(state[SIDEWAYS]), self._views))

    def findings(self) -> dict[str, str]:
        """What is wrong with the pictures, one sentence for each camera of which something is."""
        found = {name: self._finding(name, image) for name, image in self._images.items()}
        return {name: sentence for name, sentence in found.items() if sentence}

    def _finding(self, name: str, image: Image) -> str:
        view, level = self._views[name], float(np.mean(cv2.mean(image)[:3]))
        begin, trained = f"camera {name!r}: its picture", "than in the checkpoint's training"
        levels = f"brightness {level:.0f} of 255, expected about {view.dark:.0f} to {view.bright:.0f}"
        if level < DARKER * view.dark:
            what = "is black" if level < BLACK else f"is much darker {trained}"
            return f"{begin} {what}: {levels}"
        if level > view.bright + BRIGHTER * (255.0 - view.bright):
            return f"{begin} is much brighter {trained}: {levels}"
        height, width = image.shape[:2]
        if not 1 / ASPECT <= (width / height) / (view.width / view.height) <= ASPECT:
            return (
                f"{begin} has another shape {trained}, so it is seen squeezed or cropped: {width}x{height}, "
                f"expected one like {view.width}x{view.height}"
            )
        change = self._change(name)
        compared = "compared with the pictures of the checkpoint's training"
        return f"{begin} looks {change}, {compared}" if change else ""

    def _change(self, name: str) -> str:
        """What has been done to a camera's pictures, going by all looks; "" if nothing has."""
        looks = self._ratios[name]
        steadier = math.sqrt(len(looks)) if len(looks) >= ENOUGH_LOOKS else 1.0
        best, most_over = "", 0.0
        for change in looks[-1]:
            mean, most = self._views[name].nearer.get(change, (0.0, 0.0))
            least = max(mean + (max(most, 0.0) + NEARER - mean) / steadier, LEAST_NEARER)
            over = sum(nearer[change] for nearer in looks) / len(looks) - least
            if over > most_over:
                best, most_over = change, over
        return best
