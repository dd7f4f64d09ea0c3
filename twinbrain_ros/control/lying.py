"""Whether an arm lies, so that its motors may let go of it. No ROS in here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.robot.poses import IN_POSE_RAD, Pose, pose_of


def falls(
    controller: ArmController,
    poses: dict[str, Pose],
    now_ns: int,
    steady_ns: int,
    sleep: NDArray[np.float64] | None = None,
) -> str:
    """Why an arm would fall, or might, if it were let go now; empty if it demonstrably lies.

    It lies if its joints are believed, new and at rest in a pose with `rest`, or where its driver says that
    it sleeps.

    Args:
        poses: of the robot file, by name.
        sleep: the driver's sleep pose [J]; None: not known.
    """
    problem = controller.joints_problem(now_ns) or controller.joints.unsettled(steady_ns)
    newest = controller.joints.newest
    if problem or newest is None or not np.isfinite(newest.arm).all():
        return f"where the arm is cannot be told: {problem or 'its joints are not known'}"
    asleep = sleep is not None and bool(np.abs(newest.arm - sleep).max() <= IN_POSE_RAD)
    pose = pose_of(poses, newest.arm)
    if not asleep and not (pose is not None and pose.rest):
        rests = [repr(pose.name) for pose in poses.values() if pose.rest]
        rests += ["the driver's sleep pose"] if sleep is not None and not rests else []
        where = f"in {pose.name!r}" if pose is not None else "in no pose of the robot file"
        expected = f"{' or '.join(rests)}: go there first" if rests else "a pose with rest: true"
        return f"the arm is {where} and would fall, expected {expected}"
    if controller.settling(now_ns) is not None or controller.joints.restless(steady_ns):
        return "the arm is not at rest yet"
    return ""
