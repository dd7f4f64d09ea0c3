"""Joint states as drivers send them: whole or in parts, from one node or several, with strangers in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data.decode import FrameError
from twinbrain_ros.data.messages import from_time
from twinbrain_ros.robot.joint_part import JointPart, joint_names
from twinbrain_ros.robot.robot_file import RobotFile

STREAM = "joint_states"
# A clock that says less than this may be that of a simulation that has just begun [ns].
UNSTAMPED_FROM_NS = 5_000_000_000


def part_of_message(
    message: Any, robot: RobotFile, commanded: bool = False, now_ns: int | None = None
) -> JointPart | None:
    """As `part_from_names`, of a message that was decoded.

    Args:
        now_ns: the clock of its stamp when it arrived [ns]; None: from a bag.
    Raises:
        FrameError: as there, or a live one has no stamp; a simulation begins at time zero.
    """
    stamp_ns = from_time(message.header.stamp)
    part = part_from_names(stamp_ns, message.name, message.position, robot, commanded)
    if part is not None and stamp_ns == 0 and now_ns is not None and now_ns > UNSTAMPED_FROM_NS:
        raise FrameError(
            STREAM, "stamp", "zero", "the time of the measurement: the driver does not stamp them"
        )
    return part


def part_from_names(
    stamp_ns: int, names: Sequence[str], positions: Sequence[float], robot: RobotFile, commanded: bool = False
) -> JointPart | None:
    """What a sensor_msgs/JointState says of this arm, found by name and never by index.

    A gripper joint whose position is no number is left out of the part, as drivers that do not measure it
    send it: the arm's joints are as good as without it. Where the robot file says that the gripper is not
    measured, whatever a driver sends of it is left out.

    Args:
        names, positions: of the message; other joints may be among them, velocities are not needed.
        commanded: of the topic `commanded_joint_states`, which has the gripper joint only.
    Returns:
        None if the message has nothing of this arm.
    Raises:
        FrameError: lengths differ, a joint is named twice, or a joint of the arm is not finite.
    """
    wanted = joint_names(robot)
    index = {name: i for i, name in enumerate(names)}
    found = [i for i, name in enumerate(wanted) if name in index]
    if commanded or robot.gripper.commanded:
        found = [i for i in found if (i == len(wanted) - 1) == commanded]
    if not found:
        return None
    if len(positions) != len(names):
        raise FrameError(
            STREAM, "number of positions", str(len(positions)), f"{len(names)}, one for each name"
        )
    if len(index) != len(names):
        repeated = [wanted[i] for i in found if list(names).count(wanted[i]) > 1]
        if repeated:
            raise FrameError(STREAM, "name", f"{list(names)} with {repeated} repeated", "each joint once")
    values = np.array([positions[index[wanted[i]]] for i in found], dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        if found[bad] < len(wanted) - 1:
            name = wanted[found[bad]]
            raise FrameError(STREAM, f"position of {name!r}", str(values[bad]), "a finite number")
        found, values = found[:-1], values[:-1]
        if not found:
            return None
    return JointPart(stamp_ns, tuple(found), values)


class JointMerger:
    """Whole readings from parts, each of the newest of every joint.

    restart_ns: stamps that go back by more are a new time line; None: what is older never counts.
    """

    def __init__(self, robot: RobotFile, restart_ns: int | None = None) -> None:
        count = len(joint_names(robot))
        self._positions = np.zeros(count)
        self._stamps_ns = np.full(count, -1, dtype=np.int64)
        self._given_ns, self._restart_ns = -1, restart_ns

    def add(self, part: JointPart | None) -> tuple[int, NDArray[np.float64]] | None:
        """Takes in a part; gives a reading if the whole arm is newer by it.

        Returns:
            The stamp of its oldest arm joint [ns], and [J+1]: the arm's joints [rad], then the gripper's [m].
        """
        if part is None:
            return None
        indices = np.array(part.indices)
        if self._restart_ns is not None and self._given_ns - part.stamp_ns > self._restart_ns:
            self._stamps_ns[:], self._given_ns = -1, -1
        fresh = self._stamps_ns[indices] < part.stamp_ns
        self._positions[indices[fresh]] = part.positions[fresh]
        self._stamps_ns[indices[fresh]] = part.stamp_ns
        stamp_ns = int(self._stamps_ns[:-1].min())
        if self._stamps_ns.min() < 0 or stamp_ns <= self._given_ns:
            return None
        self._given_ns = stamp_ns
        return stamp_ns, self._positions.copy()
