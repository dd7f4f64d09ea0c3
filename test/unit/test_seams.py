"""The figures of a record of commanded velocities, and its picture. The record is made by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from twinbrain_ros.evaluation.seams import SeamRecord, plot_seams


def record() -> SeamRecord:
    """Two joints, ticks of 0.02 s; a chunk takes over at the third command, the largest step comes after."""
    velocities = np.array([[0.0, 0.0], [0.0, 0.1], [0.0, -0.1], [0.5, -0.1]])
    seams = np.array([False, False, True, False])
    return SeamRecord("by hand", ("waist", "elbow"), 0.02 * np.arange(4), velocities, seams)


def test_a_seam_is_held_to_its_own_step_and_the_run_to_its_largest() -> None:
    assert record().largest_step() == pytest.approx(0.2)
    assert record().largest_step_anywhere() == pytest.approx(0.5)
    assert record().to_json() == {
        "strategy": "by hand",
        "seams": 1,
        "largest_step_rad_s": pytest.approx(0.2),
        "largest_step_anywhere_rad_s": pytest.approx(0.5),
        "largest_acceleration_rad_s2": pytest.approx(25.0),
    }


def test_every_record_has_a_panel_in_the_picture(tmp_path: Path) -> None:
    heights = []
    for count in (1, 3):
        plot_seams([record()] * count, 0.24, tmp_path / "new" / f"{count}.png")
        image = cv2.imread(str(tmp_path / "new" / f"{count}.png"))
        assert image is not None
        heights.append(image.shape[0])
    assert heights[1] == pytest.approx(3 * heights[0], abs=2)
