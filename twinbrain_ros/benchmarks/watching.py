"""What the first camera saw: videos, strips of moments, a contact sheet per task, a dataset of what was
done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.benchmarks.trial import TrialKey, TrialResult, Watch
from twinbrain_ros.data.dataset_video import VideoWriter

MOMENTS = 6
MOST_STRIPS = 24  # per task, the first placements
COLUMNS = 2
THUMB_WIDTH, THUMB_GAP, LINE = 130, 3, 22  # pixels
PAPER, INK, GOOD, BAD = "#ffffff", "#1f2328", "#1a7f37", "#cf222e"


class Film:
    """Pictures of one trial as it is played."""

    def __init__(self, video: Path | None, rate_hz: float) -> None:
        self._video, self._rate = video, max(1, round(rate_hz))
        self._writer: VideoWriter | None = None
        self._thumbs: list[NDArray[np.uint8]] = []

    def watch(self, observation: Mapping[str, Any], action: Mapping[str, Any] | None) -> None:
        """Takes in an observation (`trial.play`)."""
        image = np.asarray(next(iter(observation["images"].values())))
        height, width = image.shape[:2]
        size = THUMB_WIDTH, round(THUMB_WIDTH * height / width)
        self._thumbs.append(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8))
        if self._video is not None:
            if self._writer is None:
                self._writer = VideoWriter(self._video, width - width % 2, height - height % 2, self._rate)
            self._writer.add(image[: height - height % 2, : width - width % 2])

    def strip(self) -> NDArray[np.uint8]:
        """Evenly spaced moments, first and last among them, side by side [H, W, 3]."""
        chosen = np.linspace(0, len(self._thumbs) - 1, MOMENTS).round().astype(int)
        gap = np.full((self._thumbs[0].shape[0], THUMB_GAP, 3), 255, np.uint8)
        parts = [part for i in chosen for part in (self._thumbs[i], gap)]
        return np.concatenate(parts[:-1], axis=1)

    def close(self) -> None:
        """Ends the video."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Album:
    """Films of an evaluation: where they go.

    Args:
        strips: folder of the strips, gone on with; None: no sheets.
        videos: folder of the videos; None: none.
    """

    def __init__(self, strips: Path | None, videos: Path | None, rate_hz: float) -> None:
        self._strips, self._videos, self._rate = strips, videos, rate_hz
        self._films: dict[TrialKey, Film] = {}

    @contextlib.contextmanager
    def film(self, key: TrialKey) -> Iterator[Watch]:
        """For the time of a trial; gives what is to be told of observations."""
        video = None if self._videos is None else self._videos / f".{_name(key)}.mp4"
        self._films[key] = film = Film(video, self._rate)
        try:
            yield film.watch
        finally:
            film.close()

    def keep(self, result: TrialResult, success: bool) -> None:
        """A trial is over: names its video by what came of it, keeps its strip."""
        film = self._films.pop(result.key, None)
        if film is None:
            return
        if self._videos is not None:
            word = "success" if success else "failure"
            folder = self._videos / result.task.replace("/", "_")
            folder.mkdir(parents=True, exist_ok=True)
            (self._videos / f".{_name(result.key)}.mp4").replace(folder / f"{_name(result.key)}_{word}.mp4")
        if self._strips is not None and result.repeat == 0 and result.placement < MOST_STRIPS:
            path = self._strip(result.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            good, data = cv2.imencode(".jpg", film.strip()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            assert good
            path.write_bytes(data.tobytes())

    def _strip(self, key: TrialKey) -> Path:
        assert self._strips is not None
        return self._strips / f"{_name(key)}.jpg"

    def sheet(
        self, path: Path, trials: Sequence[TrialResult], title: str, wins: Mapping[TrialKey, bool]
    ) -> bool:
        """Draws the strips that there are of some trials; false if there are none."""
        shown = [t for t in trials if self._strips is not None and self._strip(t.key).is_file()][:MOST_STRIPS]
        if not shown:
            return False
        images = [_read(self._strip(trial.key)) for trial in shown]
        lines = [(_caption(t, wins[t.key]), GOOD if wins[t.key] else BAD) for t in shown]
        write_sheet(path, images, lines, title)
        return True


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    assert image is not None, path
    return np.asarray(image[..., ::-1], dtype=np.uint8)


def _name(key: TrialKey) -> str:
    return f"{key.task.replace('/', '_')}_{key.placement:03d}_{key.repeat:02d}"


def _caption(trial: TrialResult, win: bool) -> str:
    told = f"success after {trial.steps_to_success} steps" if win else "failure"
    if not win and trial.success_any:
        told += f", though it was one after {trial.steps_to_success} steps"
    return f"{trial.placement}  {told}"


def write_sheet(
    path: Path, strips: Sequence[NDArray[np.uint8]], lines: Sequence[tuple[str, str]], title: str
) -> None:
    """A PNG of strips in two columns, each under a line of text of its colour."""
    from matplotlib.figure import Figure

    height, width = max(s.shape[0] for s in strips), max(s.shape[1] for s in strips)
    columns = min(COLUMNS, len(strips))
    rows = -(-len(strips) // columns)
    margin, top, dpi = 20, 48, 100
    size = (margin + columns * (width + margin), top + rows * (LINE + height + 8) + margin)
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi, facecolor=PAPER)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / size[0], 1 - y / size[1], text, va="center", parse_math=False, **style)

    write(margin, top / 2, title, fontsize=12, fontweight="bold", color=INK)
    for i, (strip, (text, colour)) in enumerate(zip(strips, lines, strict=True)):
        x = margin + i // rows * (width + margin)
        y = top + i % rows * (LINE + height + 8)
        canvas[y + LINE : y + LINE + strip.shape[0], x : x + strip.shape[1]] = strip
        write(x, y + LINE / 2, text, fontsize=9, color=colour)
    figure.figimage(canvas, origin="upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=dpi, facecolor=PAPER)
