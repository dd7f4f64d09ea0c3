"""The launch files, loaded by the real `launch` where it is installed (it is not on PyPI)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twinbrain_ros.resources import share_dir

REASON = "the launch packages are not installed: they come with a ROS installation, not with wheels"
FILES = ("sim.launch.py", "policy.launch.py")


def launch_file(name: str) -> Path:
    return share_dir() / "launch" / name


@pytest.mark.parametrize("name", FILES)
def test_a_launch_file_is_valid_python(name: str) -> None:
    path = launch_file(name)
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    assert "generate_launch_description" in code.co_names


def described(name: str) -> tuple[Any, dict[str, Any]]:
    """The launch description and its arguments by name, the outermost first."""
    pytest.importorskip("launch", reason=REASON)
    pytest.importorskip("launch_ros", reason=REASON)
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(launch_file(name)))
    arguments: dict[str, Any] = {}
    for argument in description.get_launch_arguments():
        arguments.setdefault(argument.name, argument)
    return description, arguments


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_described(name: str) -> None:
    _, arguments = described(name)
    expected = {"robot", "checkpoint", "device", "dtype", "left_period_s", "namespace", "autostart"}
    expected |= {"execution_steps", "log_level"}
    assert expected <= set(arguments)
    assert all(len(argument.description) > 10 for argument in arguments.values())
    assert arguments["autostart"].choices == ["true", "false"]
    assert "info" in arguments["log_level"].choices


def test_a_real_arm_does_not_start_by_itself() -> None:
    _, arguments = described("policy.launch.py")
    assert arguments["autostart"].default_value[0].text == "false"


def test_the_nodes_take_their_arguments_as_parameters() -> None:
    pytest.importorskip("launch", reason=REASON)
    pytest.importorskip("launch_ros", reason=REASON)
    from launch import LaunchContext

    description, _ = described("policy.launch.py")
    context = LaunchContext()
    nodes = []
    for entity in description.entities:
        if type(entity).__name__ == "Node":
            nodes.append(entity)
        else:
            entity.visit(context)
    names = set()
    for node in nodes:
        node._perform_substitutions(context)
        names.add(node.node_name)
    assert names == {"/controller_node", "/policy_node"}
