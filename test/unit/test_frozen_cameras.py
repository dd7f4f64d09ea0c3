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


class Stream:
    """Cameras beside an arm; times in seconds."""

    def __init__(self) -> None:
        self.cameras = FrozenCameras()

    def arm(self, at_s: float, moved_rad: float) -> None:
        position = np.array([0.0, 0.5, moved_rad, 0.0, 0.0, 0.0])
        self.cameras.add_arm(T0 + to_ns(at_s), position)

    def image(self, at_s: float, picture: np.ndarray = PICTURE, camera: str = "front") -> None:
        self.cameras.add_image(camera, T0 + to_ns(at_s), picture.copy())

    @property
    def problem(self) -> str:
        return self.cameras.problem()


@pytest.fixture
def stream() -> Stream:
    """Has seen two pictures of each of two cameras, 0.05 s apart, with the arm at 0."""
    stream = Stream()
    for at_s in (0.0, 0.05):
        stream.arm(at_s, 0.0)
        for camera in ("front", "wrist"):
            stream.image(at_s, camera=camera)
    return stream


def test_the_same_picture_of_an_arm_at_rest_is_fine(stream: Stream) -> None:
    for k in range(2, 100):
        stream.arm(0.05 * k, 0.001 * (k % 2))
        stream.image(0.05 * k)
        assert stream.problem == ""


def test_the_same_picture_of_an_arm_that_moved_names_the_camera_and_the_figures(stream: Stream) -> None:
    stream.arm(0.4, -0.11)
    stream.image(0.4, camera="wrist")
    stream.image(0.4, one_pixel_changed(PICTURE))
    problem = stream.problem
    assert "camera 'wrist' is frozen" in problem and "for 0.40 s" in problem and "0.11 rad" in problem


@pytest.mark.parametrize(("for_s", "moved_rad"), [(0.39, 0.11), (0.4, 0.09)])
def test_too_short_or_too_little_motion_is_fine(stream: Stream, for_s: float, moved_rad: float) -> None:
    stream.arm(for_s, moved_rad)
    stream.image(for_s)
    assert stream.problem == ""


def test_one_changed_pixel_clears_it(stream: Stream) -> None:
    stream.arm(0.5, 0.2)
    stream.image(0.5)
    assert stream.problem != ""
    stream.image(0.55, one_pixel_changed(PICTURE))
    assert stream.problem == ""


def test_a_camera_that_sends_nothing_is_not_called_frozen(stream: Stream) -> None:
    stream.arm(2.0, 0.5)
    assert stream.problem == ""


def test_an_arm_that_starts_after_a_long_rest_does_not_accuse_the_picture_before_it(stream: Stream) -> None:
    """The next frame is still on its way when the arm has moved."""
    for k in range(2, 40):
        stream.arm(0.05 * k, 0.0)
        stream.image(0.05 * k)
    stream.arm(2.0, 0.15)
    assert stream.problem == ""
    stream.image(2.0, one_pixel_changed(PICTURE))
    assert stream.problem == ""


def test_joint_states_that_come_after_their_picture_accuse_nobody() -> None:
    """A simulation is reset: the arm is elsewhere at once, and rests there."""
    stream = Stream()
    stream.arm(0.0, 0.6)
    stream.image(0.01)
    stream.arm(0.01, 0.0)
    for k in range(1, 40):
        stream.arm(0.01 + 0.05 * k, 0.0)
        stream.image(0.01 + 0.05 * k)
        assert stream.problem == ""


def test_a_clock_that_goes_back_starts_the_comparison_again(stream: Stream) -> None:
    stream.arm(0.5, 0.2)
    stream.image(0.5)
    assert stream.problem != ""
    stream.image(-5.0)
    stream.image(-4.5)
    assert stream.problem == ""


def test_pictures_that_came_before_any_joints_accuse_nobody() -> None:
    stream = Stream()
    stream.image(0.0)
    stream.image(0.5)
    stream.arm(0.5, 0.5)
    stream.image(1.0)
    assert stream.problem == ""
