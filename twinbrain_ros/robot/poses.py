"""Named poses of a robot file, and the way between them: the section `poses`.

`home` is a pose of every robot file, as `arm.home` and maybe `gripper.home` say it; the section adds others,
such as the one in which the arm lies while its motors are off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.strict import StrictMapping

HOME = "home"
# An arm is in a pose if no joint is further from it than this: with its motors off it sags a little.
IN_POSE_RAD = 0.15


@dataclass(frozen=True, eq=False)
class Pose:
    """A pose with a name.

    Attributes:
        arm: [J], rad, robot-file order.
        finger_m: of the gripper joint [m]; None: it stays as it is.
        through: names of poses that the arm goes through on its way here, in this order, and back on its way
            from here.
        rest: whether the arm lies here, so that its motors may be switched off.
    """

    name: str
    arm: NDArray[np.float64]
    finger_m: float | None = None
    through: tuple[str, ...] = ()
    rest: bool = False


def read_poses(
    top: StrictMapping,
    home: Pose,
    ranges: Mapping[str, tuple[float, float]],
    fingers_m: tuple[float, float],
) -> Mapping[str, Pose]:
    """All poses by name, `home` first.

    Args:
        top: the robot file; `poses` may be left out.
        ranges: what commands keep each joint within [rad], robot-file order.
        fingers_m: closed and open position of the gripper joint [m].

    Raises:
        ValueError: of the robot file's kind; names the pose, the joint, what was found and what was expected.
    """
    poses = {HOME: home}
    if not top.has("poses"):
        return MappingProxyType(poses)
    names = top.raw("poses")
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names):
        raise top.fail("poses", names, "poses by their names")
    if HOME in names:
        raise top.fail("poses", list(names), f"names other than '{HOME}', which is arm.home")
    section = top.mapping("poses", tuple(names))
    for name in names:
        entry = section.mapping(name, ("arm",), ("gripper", "through", "rest"))
        arm = np.array(entry.numbers("arm", len(ranges)))
        for value, (joint, (low, high)) in zip(arm, ranges.items(), strict=True):
            if not low <= value <= high:
                limits = f"its limits less limit_margin_rad, [{low:g}, {high:g}]"
                raise entry.fail("arm", arm.tolist(), f"'{joint}', {value:g}, within {limits}")
        arm.setflags(write=False)
        finger_m = read_finger(entry, "gripper", fingers_m)
        poses[name] = Pose(name, arm, finger_m, _through(entry, name, names), _rest(entry))
    return MappingProxyType(poses)


def read_finger(entry: StrictMapping, key: str, fingers_m: tuple[float, float]) -> float | None:
    """A position of the gripper joint [m], between closed and open; None: the file has none there."""
    if not entry.has(key):
        return None
    (finger_m,) = entry.numbers(key, 1)
    if not min(fingers_m) <= finger_m <= max(fingers_m):
        raise entry.fail(key, [finger_m], f"within [{min(fingers_m):g}, {max(fingers_m):g}]")
    return finger_m


def _through(entry: StrictMapping, name: str, names: Mapping[str, object]) -> tuple[str, ...]:
    if not entry.has("through"):
        return ()
    through, others = entry.texts("through"), [HOME, *(other for other in names if other != name)]
    if any(other not in others for other in through):
        raise entry.fail("through", list(through), f"names of other poses: {', '.join(others)}")
    return through


def _rest(entry: StrictMapping) -> bool:
    value = entry.raw("rest") if entry.has("rest") else False
    if not isinstance(value, bool):
        raise entry.fail("rest", value, "true or false")
    return value


def pose_of(poses: Mapping[str, Pose], q: NDArray[np.float64]) -> Pose | None:
    """The pose that the arm is in with joints [J], the nearest of several; None if it is in none."""
    away = {name: float(np.max(np.abs(pose.arm - q))) for name, pose in poses.items()}
    nearest = min(away, key=lambda name: away[name])
    return poses[nearest] if away[nearest] <= IN_POSE_RAD else None


def way_between(poses: Mapping[str, Pose], start: Pose | None, goal: Pose) -> list[Pose]:
    """The poses that lead from one (None: from none) to another, which comes last; without the first."""
    names = [*reversed(start.through if start is not None else ())]
    for name in (*goal.through, goal.name):
        if name in names:  # back on the way out no further than needed
            del names[names.index(name) + 1 :]
        else:
            names.append(name)
    if start is not None and start.name in names and start.name != goal.name:
        del names[: names.index(start.name) + 1]
    return [poses[name] for name in names]
