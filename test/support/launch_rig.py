"""What a launch file would start, worked out by the real `launch` where it is installed: it is no wheel."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from twinbrain_ros.resources import share_dir

REASON = "the launch packages are not installed: they come with a ROS installation, not with wheels"
FILES = (
    "policy.launch.py",
    "sim.launch.py",
    "teleop.launch.py",
    "two_arms.launch.py",
    "widowx.launch.py",
)


@dataclass
class Started:
    """A process that a launch would start."""

    executable: str
    namespace: str = ""
    name: str = ""
    parameters: dict[str, Any] | None = None
    remappings: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] | None = None


def launch_file(name: str) -> Path:
    return share_dir() / "launch" / name


def load(name: str) -> Any:
    pytest.importorskip("launch", reason=REASON)
    pytest.importorskip("launch_ros", reason=REASON)
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    return get_launch_description_from_python_launch_file(str(launch_file(name)))


def arguments_of(name: str) -> dict[str, Any]:
    """Its arguments by name, the outermost first."""
    found: dict[str, Any] = {}
    for argument in load(name).get_launch_arguments():
        found.setdefault(argument.name, argument)
    return found


def started(name: str, found: list[Started] | None = None, /, **given: str) -> list[Started]:
    """What a launch file would start with arguments: all of it is worked out, and nothing is run.

    Args:
        found: is added to as it goes, for what ends in an error.
    """
    description = load(name)
    from launch import LaunchContext

    context = LaunchContext(argv=sys.argv[1:])
    context.launch_configurations.update(given)
    found = [] if found is None else found
    walk(description, context, found)
    return found


def walk(entity: Any, context: Any, found: list[Started]) -> None:
    from launch.actions import ExecuteProcess
    from launch_ros.actions import Node

    if not isinstance(entity, ExecuteProcess):
        for inner in entity.visit(context) or ():
            walk(inner, context, found)
    elif entity.condition is None or entity.condition.evaluate(context):
        found.append(node_of(entity, context) if isinstance(entity, Node) else process_of(entity, context))


def text(context: Any, parts: Any) -> str:
    return "".join(part.perform(context) for part in parts)


def process_of(process: Any, context: Any) -> Started:
    command = tuple(text(context, part) for part in process.cmd)
    return Started(command[0], command=command, environment=dict(context.environment))


def node_of(node: Any, context: Any) -> Started:
    node._perform_substitutions(context)
    parameters: dict[str, Any] = {}
    for source, is_file in node._Node__expanded_parameter_arguments:
        assert is_file
        for block in yaml.safe_load(Path(source).read_text(encoding="utf-8")).values():
            parameters.update(block["ros__parameters"])
    executable = node.node_executable
    return Started(
        executable if isinstance(executable, str) else text(context, executable),
        node.expanded_node_namespace,
        node.node_name.rpartition("/")[2],
        parameters,
        tuple(node.expanded_remapping_rules or ()),
        environment=dict(context.environment),
    )


def by_executable(processes: list[Started]) -> dict[str, Started]:
    assert len({process.executable for process in processes}) == len(processes)
    return {process.executable: process for process in processes}


def walk_nodes(description: Any, **given: str) -> list[Any]:
    """The nodes of a launch, as launch has them."""
    from launch_ros.actions import Node

    from launch import LaunchContext

    context = LaunchContext(argv=[])
    context.launch_configurations.update(given)
    found: list[Any] = []

    def visit(entity: Any) -> None:
        if isinstance(entity, Node):
            found.append(entity)
            return
        for inner in entity.visit(context) or ():
            visit(inner)

    visit(description)
    return found
