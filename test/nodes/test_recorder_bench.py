"""The recorder's bench: what it says was sent, recorded and lost adds up."""

from __future__ import annotations

import json
from pathlib import Path

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.evaluation.recorder_bench import BAG, measure_cameras, with_cameras
from twinbrain_ros.robot.robot_file import RobotFile, load_robot


def test_a_robot_with_other_cameras_is_the_same_robot(tmp_path: Path, robot: RobotFile) -> None:
    names = [{"name": name, "topic": f"camera/{name}/image_raw", "width": 64} for name in "abc"]
    changed = with_cameras(robot, tmp_path / "robot", names)
    assert [camera.name for camera in changed.cameras] == ["a", "b", "c"]
    assert {camera.width for camera in changed.cameras} == {64}
    assert changed.cameras[2].height == robot.cameras[1].height
    assert changed.arm_joints == robot.arm_joints and changed.urdf() == robot.urdf()
    assert load_robot("wx250s").cameras == robot.cameras


def test_every_picture_is_accounted_for(tmp_path: Path, robot: RobotFile) -> None:
    small = with_cameras(robot, tmp_path / "robot", [{"rate_hz": 30.0}, {"rate_hz": 30.0}])
    found = measure_cameras(small, tmp_path, 1.0, "jpeg")
    assert found.sent == {"front": 30, "wrist": 30}
    lost = {camera: found.sent[camera] - found.in_bag[camera] for camera in found.sent}
    counted = {camera: found.lost.get(f"/camera/{camera}/image_raw", 0) for camera in found.sent}
    assert all(0 <= counted[camera] <= lost[camera] for camera in lost)
    bag = open_bag(tmp_path / BAG)
    topics = [name for name in bag.topics if "image_raw" in name]
    assert topics and all(name.endswith("/compressed") for name in topics)
    assert found.messages == bag.message_count >= sum(found.in_bag.values()) > 0
    assert 0 < found.cores < 2 and found.seconds > 0.5
    assert json.loads(json.dumps(found.to_json()))["pictures_lost"] == sum(lost.values())
    assert any("pictures sent" in value for _, value in found.rows())
