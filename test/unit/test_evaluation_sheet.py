from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_fixtures import record

from twinbrain_ros.evaluation.sheet import LABELS, MARGIN, TITLE, VIEW, Filmstrip, resize_nearest, write_sheet


def solid(red: int, green: int, blue: int, height: int = 24, width: int = 24) -> np.ndarray:
    return np.full((height, width, 3), (red, green, blue), np.uint8)


def test_moments_are_evenly_spaced_from_first_to_last_image() -> None:
    film = Filmstrip()
    for step in range(21):
        film.add("front", 0.2 * step, solid(step, 0, 0))

    assert film.moments(5) == pytest.approx([0, 1, 2, 3, 4])
    nearest = film.nearest("front", 2.04)
    assert nearest is not None and nearest[0, 0, 0] == 10


def test_a_film_without_images_has_no_moments() -> None:
    assert Filmstrip().moments(6) == []
    assert Filmstrip().nearest("front", 0) is None


def test_resizing_keeps_pixels_and_aspect() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[0, 0] = 255
    square = resize_nearest(image, 8)

    assert square.shape == (8, 8, 3)
    assert (square[2:4, 0:2] == 255).all(), "each pixel becomes a block of 2 x 2, under a margin of 2"
    assert (square[4:6] == 0).all()
    assert (square[0:2] == 240).all() and (square[6:8] == 240).all()


def test_sheet_shows_the_images_unchanged_where_they_belong(tmp_path: Path) -> None:
    film = Filmstrip()
    film.add("front", 0.0, solid(200, 30, 60))
    film.add("front", 1.0, solid(10, 120, 90))
    path = tmp_path / "new" / "sheet.png"
    write_sheet(path, [(record(0), film)], ["front", "wrist"])

    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    y, x = MARGIN + TITLE, MARGIN + LABELS
    first = picture[y : y + VIEW, x : x + VIEW]
    assert (first == (200, 30, 60)).all()
    assert (picture[:, x + VIEW :] == (10, 120, 90)).all(axis=-1).sum() == VIEW * VIEW
    assert (picture[:y] != 255).any(), "the title is written above"


def test_a_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no episodes"):
        write_sheet(tmp_path / "sheet.png", [], ["front"])
