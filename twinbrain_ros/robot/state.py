"""The state that a policy is given: some of what is known of an arm, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.robot_file import STATE_NAMES


def pick_state(
    names: Sequence[str],
    tool: NDArray[np.float64],
    joints: NDArray[np.float64],
    arm_joints: Sequence[str],
) -> NDArray[np.float64]:
    """What is named, [.., S].

    Args:
        names: of `STATE_NAMES` and of the arm's joints, in any order.
        tool: [.., 7] as of `robot.actions.tool_state`.
        joints: [.., J] arm joints [rad].
        arm_joints: their names.
    """
    if tuple(names) == STATE_NAMES:
        return tool
    known = (*STATE_NAMES, *arm_joints)
    return np.concatenate([tool, joints], axis=-1)[..., [known.index(name) for name in names]]
