"""What one message says of an arm's joints: all of them, or a part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.robot_file import RobotFile


@dataclass(frozen=True, eq=False)
class JointPart:
    """Positions of some joints at one moment.

    Attributes:
        stamp_ns: when they were measured [ns].
        indices: which joints: the arm's in robot-file order, then the gripper joint; ascending.
        positions: [n], rad, of the gripper joint m; all finite.
    """

    stamp_ns: int
    indices: tuple[int, ...]
    positions: NDArray[np.float64]

    @classmethod
    def whole(cls, stamp_ns: int, arm: NDArray[np.float64], finger_m: float) -> JointPart:
        """All joints of an arm [J] and its gripper."""
        positions = np.append(np.asarray(arm, dtype=np.float64), finger_m)
        return cls(stamp_ns, tuple(range(len(positions))), positions)


def joint_names(robot: RobotFile) -> tuple[str, ...]:
    """Names by the indices of a part."""
    return (*robot.arm_joints, robot.gripper.joint)


def never_told(robot: RobotFile) -> str:
    """Why it is not known where a gripper is that no driver measures."""
    return (
        f"nothing is known of the gripper joint {robot.gripper.joint!r}, which is not measured and has been "
        "told nothing since the controller started: go_to home first"
    )


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Names as a sentence has them: 'a', 'b' and 'c'."""
    shown = [repr(name) for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
