"""The WidowX under the Interbotix driver: the same robot, commanded over other topics."""

from __future__ import annotations

from typing import Any

import yaml
from sim_fixtures import shared_robot

from twinbrain_ros.robot.robot_file import load_robot

COMMANDED = {
    "topics.arm_trajectory": "commands/joint_group",
    "topics.gripper_trajectory": "commands/joint_single",
    "command.interface": "xs_joint_group",
}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The document's leaves by their paths, list items by their index."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in items for k, v in flat(inner, f"{path}.{key}".lstrip(".")).items()}
    return {path: value}


def test_it_differs_from_the_ros2_control_one_in_its_commands_only() -> None:
    here, there = (
        flat(yaml.safe_load(robot.path.read_text())) for robot in (load_robot("wx250s_xs"), shared_robot())
    )
    assert set(here) == set(there)
    assert {key: value for key, value in here.items() if value != there[key]} == COMMANDED


def test_a_checkpoint_of_one_fits_the_other() -> None:
    robot = load_robot("wx250s_xs")
    assert robot.name == shared_robot().name and robot.command_interface == "xs_joint_group"
