"""Robot files like a shipped one but for some keys."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from twinbrain_ros.robot.robot_file import RobotFile, load_robot


def changed_robot(directory: Path, like: str, change: Callable[[dict[str, Any]], Any]) -> RobotFile:
    """A robot file of its own in a directory, with its URDF beside it.

    Args:
        like: name of the shipped robot.
        change: is given the file's keys and changes them.
    """
    shipped = load_robot(like)
    document = yaml.safe_load(shipped.path.read_text(encoding="utf-8"))
    change(document)
    shutil.copy(shipped.urdf_path, directory / shipped.urdf_path.name)
    path = directory / "changed.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_robot(path)


def commanded_gripper(directory: Path, home_m: float = 0.03) -> RobotFile:
    """The WidowX with a gripper that no driver measures; home_m: of its pose home [m]."""
    keys = {"state": "commanded", "home": [home_m]}
    return changed_robot(directory, "wx250s", lambda file: file["gripper"].update(keys))
