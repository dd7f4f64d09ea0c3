"""The contact sheet: what the cameras saw in the first episodes, so that a person can see what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from twinbrain_ros.evaluation.records import EpisodeRecord

MOMENTS = 6
VIEW = 200  # edge of a square view [pixels]
GAP = 6  # between views [pixels]
MARGIN = 28  # around the sheet [pixels]
TITLE = 40  # above an episode, for its title [pixels]
TIMES = 24  # under an episode, for the times [pixels]
SPACE = 20  # between episodes [pixels]
LABELS = 62  # left of the views, for the cameras' names [pixels]
DPI = 100

PAPER, INK, FAINT = "#ffffff", "#1f2328", "#6e7781"
GOOD, BAD = "#1a7f37", "#cf222e"


@dataclass
class Filmstrip:
    """What the cameras saw in one episode: per camera (time since its start [s], RGB [H, W, 3] uint8)."""

    views: dict[str, list[tuple[float, NDArray[np.uint8]]]] = field(default_factory=dict)

    def add(self, camera: str, time_s: float, image: NDArray[np.uint8]) -> None:
        self.views.setdefault(camera, []).append((time_s, image))

    def moments(self, count: int) -> list[float]:
        """`count` evenly spaced times from first to last image [s]; fewer if there are fewer images."""
        times = [time_s for strip in self.views.values() for time_s, _ in strip]
        if not times:
            return []
        longest = max(len(strip) for strip in self.views.values())
        return [float(t) for t in np.linspace(min(times), max(times), min(count, longest))]

    def nearest(self, camera: str, time_s: float) -> NDArray[np.uint8] | None:
        """The camera's image nearest to a time; None if it gave none."""
        strip = self.views.get(camera)
        return min(strip, key=lambda entry: abs(entry[0] - time_s))[1] if strip else None


def resize_nearest(image: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """An RGB image [H, W, 3] scaled to fit a square of `edge` pixels; no pixel is blended with another."""
    height, width = image.shape[:2]
    scale = edge / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    rows = (np.arange(new_height) * height) // new_height
    columns = (np.arange(new_width) * width) // new_width
    square = np.full((edge, edge, 3), 240, np.uint8)
    top, left = (edge - new_height) // 2, (edge - new_width) // 2
    square[top : top + new_height, left : left + new_width] = image[rows][:, columns]
    return square


def write_sheet(
    path: Path, episodes: Sequence[tuple[EpisodeRecord, Filmstrip]], cameras: Sequence[str]
) -> None:
    """Draw the episodes one below the other, a row per camera, and write the picture as PNG.

    Raises:
        ValueError: there is nothing to draw.
        OSError: the file cannot be written.
    """
    if not episodes:
        raise ValueError("sheet: no episodes, expected at least one")
    from matplotlib.figure import Figure

    block = TITLE + len(cameras) * (VIEW + GAP) + TIMES + SPACE
    width = 2 * MARGIN + LABELS + MOMENTS * (VIEW + GAP) - GAP
    height = 2 * MARGIN + len(episodes) * block - SPACE
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(
            x / width, 1 - y / height, text, **{"color": INK, "va": "center", "fontsize": 10, **style}
        )

    for index, (record, film) in enumerate(episodes):
        top = MARGIN + index * block
        _write_title(write, record, top, width)
        moments = film.moments(MOMENTS)
        lefts = [MARGIN + LABELS + column * (VIEW + GAP) for column in range(len(moments))]
        for row, camera in enumerate(cameras):
            y = top + TITLE + row * (VIEW + GAP)
            write(MARGIN, y + VIEW / 2, camera, color=FAINT)
            for left, moment in zip(lefts, moments, strict=True):
                image = film.nearest(camera, moment)
                if image is not None:
                    canvas[y : y + VIEW, left : left + VIEW] = resize_nearest(image, VIEW)
        times_y = top + TITLE + len(cameras) * (VIEW + GAP) + (TIMES - GAP) / 2
        for left, moment in zip(lefts, moments, strict=True):
            write(left + VIEW / 2, times_y, f"{moment:.1f} s", color=FAINT, ha="center")
    # Pixel for pixel: the figure has exactly the canvas's size.
    figure.figimage(canvas, origin="upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI, facecolor=PAPER)


def _write_title(write: Any, record: EpisodeRecord, top: int, width: int) -> None:
    y = top + TITLE / 2 - 4
    text = f"{record.index + 1}.  {record.first_instruction}"
    if record.retargeted:
        text += f"   \N{RIGHTWARDS ARROW}   {record.instruction}"
    write(MARGIN, y, text, fontsize=13, fontweight="bold")
    outcome = (
        f"success in {record.duration_s:.1f} s"
        if record.success
        else f"failed after {record.duration_s:.1f} s"
    )
    if record.wrong_object:
        outcome += ", wrong object"
    write(
        width - MARGIN,
        y,
        outcome,
        fontsize=12,
        ha="right",
        color=GOOD if record.success else BAD,
        fontweight="bold",
    )
