"""What a checkpoint keeps of its cameras' views, and which changes of a picture are told of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from twinbrain_ros.brain.fingerprint import checkpoint_name
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.data.views import (
    FILE,
    TrainedView,
    ViewError,
    ViewWatch,
    load_views,
    make_views,
    save_views,
)
from twinbrain_ros.resources import demo_checkpoint
from twinbrain_ros.robot.actions import tool_state
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.tasks import TASKS

TOOL_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
Images = Mapping[str, np.ndarray]
Scene = tuple[Images, np.ndarray]


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


@pytest.fixture(scope="module")
def scenes(robot: RobotFile) -> list[Scene]:
    """Of the simulator: the arm at home, and above the table from left to right; pictures and state."""
    sim, kinematics = TabletopSim(robot), Kinematics(robot)
    found = []
    for index, y in enumerate([0.0, *np.linspace(-0.17, 0.17, 12)]):
        sim.reset(4000 + index, TASKS[index % len(TASKS)])
        if index:
            place = np.array([0.27, y, 0.1])
            sim.teleport(kinematics.inverse(place, TOOL_DOWN, robot.home).q, robot.gripper.open_m)
        position, rotation = kinematics.forward(sim.arm_positions)
        images = {camera.name: sim.render(camera.name) for camera in robot.cameras}
        found.append((images, tool_state(position, rotation, 1.0)))
    return found


@pytest.fixture(scope="module")
def views() -> dict[str, TrainedView]:
    return load_views(Path(demo_checkpoint()))


def found(
    views: Mapping[str, TrainedView], scenes: list[Scene], change: Callable[[Images], Images]
) -> dict[str, str]:
    watch = ViewWatch(views)
    for images, state in scenes:
        watch.look({name: np.ascontiguousarray(image) for name, image in change(images).items()}, state)
    return watch.findings()


def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Images], Images]:
    return lambda images: {name: change(image) for name, image in images.items()}


def zoomed(share: float) -> Callable[[np.ndarray], np.ndarray]:
    def zoom(image: np.ndarray) -> np.ndarray:
        margin = round(96 * (1 - share) / 2)
        return np.asarray(cv2.resize(image[margin : 96 - margin, margin : 96 - margin], (96, 96)))

    return zoom


def lit(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: np.clip(image * factor, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "change",
    [each(lambda image: image), each(lit(0.7)), each(lit(1.2)), each(lambda i: np.roll(i, 1, axis=0))],
)
def test_the_demos_own_world_raises_no_warning(
    views: dict[str, TrainedView], scenes: list[Scene], change: Callable[[Images], Images]
) -> None:
    assert found(views, scenes, change) == {}
    for scene in scenes:
        assert found(views, [scene], change) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (each(lambda image: image * 0), "is black: brightness 0 of 255, expected about 1"),
        (each(lit(0.35)), "is much darker than in the checkpoint's training"),
        (each(lambda image: 255 - image // 20), "is much brighter than in the checkpoint's training"),
        (each(lambda image: image[12:84]), "has another shape than in the checkpoint's training"),
        (each(lambda image: image[::-1, ::-1]), "looks "),
        (lambda images: {"front": images["wrist"], "wrist": images["front"]}, "looks like that of camera"),
        (each(zoomed(0.65)), "looks "),
    ],
)
def test_a_changed_view_is_told_of_at_once(
    views: dict[str, TrainedView], scenes: list[Scene], change: Callable[[Images], Images], words: str
) -> None:
    told = found(views, scenes[:1], change)
    assert set(told) == {"front", "wrist"}
    for name, sentence in told.items():
        assert sentence.startswith(f"camera '{name}': its picture ") and words in sentence


def test_a_mirrored_view_is_told_of_once_the_arm_has_moved(
    views: dict[str, TrainedView], scenes: list[Scene]
) -> None:
    told = found(views, scenes, each(lambda image: image[:, ::-1]))
    assert "looks mirrored left to right" in told["front"]


def test_looks_at_the_same_place_count_as_one(views: dict[str, TrainedView], scenes: list[Scene]) -> None:
    watch = ViewWatch(views)
    for _ in range(50):
        watch.look(scenes[0][0], scenes[0][1])
    assert len(watch._ratios["front"]) == 1


def test_what_is_not_known_is_not_compared(scenes: list[Scene]) -> None:
    assert found({}, scenes[:1], each(lambda image: image * 0)) == {}


def test_views_are_kept_with_a_checkpoint_and_are_no_part_of_its_name(
    tmp_path: Path, scenes: list[Scene], views: dict[str, TrainedView]
) -> None:
    policy = TwinBrainPolicy.from_pretrained(demo_checkpoint())
    assert set(policy.views) == {"front", "wrist"}
    policy.save_pretrained(tmp_path / "demo")
    again = load_views(tmp_path / "demo")
    assert found(again, scenes[:1], each(lambda image: image[::-1, ::-1])).keys() == {"front", "wrist"}
    name = checkpoint_name(tmp_path / "demo")
    (tmp_path / "demo" / FILE).unlink()
    assert checkpoint_name(tmp_path / "demo") == name and load_views(tmp_path / "demo") == {}
    policy.views = {}
    policy.save_pretrained(tmp_path / "demo")
    assert not (tmp_path / "demo" / FILE).exists()


def test_a_view_survives_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frames = {name: list(rng.integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)) for name in ("a", "b")}
    made = make_views(frames, np.linspace(-0.1, 0.1, 6))
    save_views(made, tmp_path)
    read = load_views(tmp_path)
    for name, view in made.items():
        assert (read[name].width, read[name].height) == (64, 48)
        for field in dataclasses.fields(TrainedView):
            if field.name not in ("width", "height", "nearer"):
                np.testing.assert_allclose(
                    getattr(read[name], field.name), getattr(view, field.name), rtol=1e-3, atol=0.01
                )
        assert read[name].nearer.keys() == view.nearer.keys()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"front": {}}', '{"front": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ViewError, match=r"views.json: not readable as views of cameras"):
        load_views(tmp_path)
