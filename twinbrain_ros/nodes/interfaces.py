"""Messages of others, imported only where a robot file asks for them."""

from __future__ import annotations

import importlib
from typing import Any

from twinbrain_ros.robot.robot_file import RobotFile


def import_interfaces(module: str, robot: RobotFile, key: str, value: str, instead: str) -> Any:
    """A module of messages, services or actions.

    Args:
        module: such as `control_msgs.action`.
        key, value: what in the robot file asks for it.
        instead: what else could stand there.
    Raises:
        ValueError: it cannot be imported; names the package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ValueError(
            f"{robot.path}: '{key}' is '{value}', but {package} cannot be imported ({error}): install it, or "
            f"use {instead}"
        ) from error
