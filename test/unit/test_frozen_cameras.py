"""A camera that sends one picture again and again is found out once the arm has moved."""

from __future__ import annotations

import numpy as np
import pytest

from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.data.frozen import FrozenCameras

T0 = to_ns(100.0)
PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def one_pixel_changed(picture: np.ndarray) -> np.ndarray:
    changed = picture.copy()
    changed[3, 4, 1] ^= 1
    return changed


def arm(moved_rad: float) -> np.ndarray:
    return np.array([0.0, 0.5, moved_rad, 0.0, 0.0, 0.0])


@pytest.fixture
def cameras() -> FrozenCameras:
    """Has seen one picture of each of two cameras."""
    cameras = FrozenCameras()
    cameras.add_arm(arm(0.0))
    cameras.add_image("front", T0, PICTURE)
    cameras.add_image("wrist", T0, PICTURE)
    return cameras


def test_the_same_picture_of_an_arm_at_rest_is_fine(cameras: FrozenCameras) -> None:
    for k in range(100):
        cameras.add_arm(arm(0.001 * (k % 2)))
        cameras.add_image("front", T0 + to_ns(0.05 * k), PICTURE.copy())
        assert cameras.problem() == ""


def test_the_same_picture_of_an_arm_that_moved_names_the_camera_and_the_figures(
    cameras: FrozenCameras,
) -> None:
    cameras.add_arm(arm(-0.11))
    cameras.add_image("wrist", T0 + to_ns(0.4), PICTURE.copy())
    cameras.add_image("front", T0 + to_ns(0.4), one_pixel_changed(PICTURE))
    problem = cameras.problem()
    assert "camera 'wrist' is frozen" in problem and "for 0.40 s" in problem and "0.11 rad" in problem


@pytest.mark.parametrize(("for_s", "moved_rad"), [(0.39, 0.11), (0.4, 0.09)])
def test_too_short_or_too_little_motion_is_fine(
    cameras: FrozenCameras, for_s: float, moved_rad: float
) -> None:
    cameras.add_arm(arm(moved_rad))
    cameras.add_image("front", T0 + to_ns(for_s), PICTURE.copy())
    assert cameras.problem() == ""


def test_one_changed_pixel_clears_it(cameras: FrozenCameras) -> None:
    cameras.add_arm(arm(0.2))
    cameras.add_image("front", T0 + to_ns(0.5), PICTURE.copy())
    assert cameras.problem() != ""
    cameras.add_image("front", T0 + to_ns(0.55), one_pixel_changed(PICTURE))
    assert cameras.problem() == ""


def test_a_camera_that_sends_nothing_is_not_called_frozen(cameras: FrozenCameras) -> None:
    cameras.add_arm(arm(0.5))
    assert cameras.problem() == ""


def test_a_clock_that_goes_back_starts_the_comparison_again(cameras: FrozenCameras) -> None:
    cameras.add_arm(arm(0.2))
    cameras.add_image("front", T0 - to_ns(5.0), PICTURE.copy())
    cameras.add_image("front", T0 - to_ns(4.5), PICTURE.copy())
    assert cameras.problem() == "", "it has not moved since"
    cameras.add_arm(arm(0.4))
    assert "for 0.50 s, while the arm moved by 0.20 rad" in cameras.problem()


def test_pictures_that_came_before_any_joints_accuse_nobody() -> None:
    cameras = FrozenCameras()
    cameras.add_image("front", T0, PICTURE)
    cameras.add_arm(arm(0.5))
    cameras.add_image("front", T0 + to_ns(0.5), PICTURE.copy())
    assert cameras.problem() == ""
