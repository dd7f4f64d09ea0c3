"""A robot and a simulator for tests: built once, as compiling the model takes longer than most tests."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from twinbrain_ros.robot.actions import TOOL_DOWN, euler_to_matrix
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.sim.tabletop import TabletopSim


@lru_cache(maxsize=1)
def shared_robot() -> RobotFile:
    """The robot file that ships with the package."""
    return load_robot("wx250s")


@lru_cache(maxsize=1)
def shared_kinematics() -> Kinematics:
    """Kinematics of it."""
    return Kinematics(shared_robot())


@lru_cache(maxsize=1)
def shared_sim() -> TabletopSim:
    """A simulator; every test resets it first."""
    return TabletopSim(shared_robot())


def tool_down_joints(x: float, y: float, z: float, yaw: float = 0.0) -> np.ndarray:
    """Joints [6] that bring the tool, pointing down, to a place [m] and yaw [rad]."""
    robot = shared_robot()
    rotation = euler_to_matrix(np.array([0.0, 0.0, yaw])) @ TOOL_DOWN
    result = shared_kinematics().inverse(np.array([x, y, z]), rotation, robot.home)
    assert result.reached()
    return result.q
