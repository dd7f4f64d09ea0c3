"""Robot files whose cameras are described otherwise."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from twinbrain_ros.robot.robot_file import RobotFile, load_robot


def robot_with(directory: Path, robot: RobotFile, cameras: Collection[str] = (), **keys: Any) -> RobotFile:
    """A copy of a robot file in which these cameras, or all, have these keys."""
    document = yaml.safe_load(robot.path.read_text(encoding="utf-8"))
    for camera in document["cameras"]:
        if not cameras or camera["name"] in cameras:
            camera.update(keys)
    document["urdf"] = "arm.urdf"
    (directory / "arm.urdf").write_text(robot.urdf(), encoding="utf-8")
    path = directory / "arm.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_robot(str(path))
