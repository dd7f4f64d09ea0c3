"""Named poses: what a robot file may say of them, where the arm is, and the way between them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sim_fixtures import shared_robot

from twinbrain_ros.robot.poses import IN_POSE_RAD, Pose, pose_of, way_between
from twinbrain_ros.robot.robot_file import RobotFile, RobotFileError, load_robot

GOOD = [0.0, -1.8, 1.55, 0.0, 0.8, 0.0]


@pytest.fixture
def with_poses(tmp_path: Path) -> Callable[[Any], RobotFile]:
    """Loads a copy of the shipped robot file with this section, None: without it."""
    source = shared_robot()

    def load(poses: Any) -> RobotFile:
        document = yaml.safe_load(source.path.read_text())
        document.pop("poses")
        if poses is not None:
            document["poses"] = poses
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(document))
        shutil.copy(source.urdf_path, tmp_path / source.urdf_path.name)
        return load_robot(path)

    return load


@pytest.mark.parametrize("name", ["wx250s", "wx250s_xs", "wx250s_bridge", "franka"])
def test_home_is_a_pose_of_every_shipped_robot_and_the_widowx_has_where_it_lies(name: str) -> None:
    robot = load_robot(name)
    assert robot.poses["home"].arm is robot.home and not robot.poses["home"].rest
    if name.startswith("wx"):
        assert robot.poses["sleep"].rest and robot.poses["sleep"].arm.tolist() == GOOD


def test_a_file_without_poses_has_home(with_poses: Callable[[Any], RobotFile]) -> None:
    assert list(with_poses(None).poses) == ["home"]


def test_a_pose_is_read_whole(with_poses: Callable[[Any], RobotFile]) -> None:
    entry = {"arm": GOOD, "gripper": [0.02], "through": ["over", "home"], "rest": True}
    pose = with_poses({"over": {"arm": GOOD}, "there": entry}).poses["there"]
    assert (pose.name, pose.arm.tolist(), pose.finger_m) == ("there", GOOD, 0.02)
    assert (pose.through, pose.rest) == (("over", "home"), True)


BAD = [
    ([], ["'poses' is []", "poses by their names"]),
    ({"home": {"arm": GOOD}}, ["'poses' is ['home']", "names other than 'home', which is arm.home"]),
    ({"a": {}}, ["missing key 'poses.a.arm'"]),
    ({"a": {"arm": GOOD, "rst": True}}, ["unknown key 'poses.a.rst'", "did you mean 'rest'?"]),
    ({"a": {"arm": GOOD[:5]}}, ["'poses.a.arm' is [0.0, -1.8", "a list of 6 finite numbers"]),
    ({"a": {"arm": [0, -1.87, 0, 0, 0, 0]}}, ["'shoulder', -1.87, within its limits less", "[-1.86496,"]),
    ({"a": {"arm": GOOD, "gripper": [0.05]}}, ["'poses.a.gripper' is [0.05]", "within [0.015, 0.037]"]),
    ({"a": {"arm": GOOD, "through": ["b"]}}, ["'poses.a.through' is ['b']", "names of other poses: home"]),
    ({"a": {"arm": GOOD, "through": ["a"]}}, ["'poses.a.through' is ['a']", "names of other poses: home"]),
    ({"a": {"arm": GOOD, "rest": 1}}, ["'poses.a.rest' is 1", "true or false"]),
]


@pytest.mark.parametrize(("poses", "said"), BAD, ids=[said[0] for _, said in BAD])
def test_a_wrong_pose_is_refused_by_its_place(
    with_poses: Callable[[Any], RobotFile], poses: Any, said: list[str]
) -> None:
    with pytest.raises(RobotFileError) as refused:
        with_poses(poses)
    for words in said:
        assert words in str(refused.value)


def test_an_arm_is_in_the_nearest_pose_if_no_joint_is_far_from_it() -> None:
    poses = shared_robot().poses
    sags = np.add(GOOD, [0, -0.9 * IN_POSE_RAD, 0, 0, 0, 0])
    assert pose_of(poses, sags) is poses["sleep"]
    assert pose_of(poses, sags - [0, 0.2 * IN_POSE_RAD, 0, 0, 0, 0]) is None


def _names(start: str | None, goal: str, **through: tuple[str, ...]) -> list[str]:
    poses = {name: Pose(name, np.zeros(6), through=through.get(name, ())) for name in "abcdef"}
    start_pose = poses[start] if start is not None else None
    return [pose.name for pose in way_between(poses, start_pose, poses[goal])]


@pytest.mark.parametrize(
    ("start", "goal", "through", "expected"),
    [
        (None, "a", {}, "a"),
        ("b", "a", {}, "a"),
        ("a", "a", {}, "a"),
        (None, "a", {"a": ("c", "d")}, "cda"),
        ("a", "b", {"a": ("c", "d")}, "dcb"),
        ("a", "c", {"a": ("c", "d")}, "dc"),
        ("c", "a", {"a": ("c", "d")}, "da"),
        ("a", "b", {"a": ("c",), "b": ("c",)}, "cb"),
        ("a", "b", {"a": ("c", "d"), "b": ("c", "e")}, "dceb"),
        ("a", "b", {"b": ("a",)}, "b"),
    ],
)
def test_the_way_leads_out_as_it_led_in(
    start: str | None, goal: str, through: dict[str, tuple[str, ...]], expected: str
) -> None:
    assert _names(start, goal, **through) == list(expected)
