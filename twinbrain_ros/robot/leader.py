"""How the joints of a leader arm stand for those of the arm that follows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.strict import StrictMapping

UNITS = {"rad": 1.0, "deg": math.pi / 180.0}
ARM, GRIPPER = "arm", "gripper"


@dataclass(frozen=True)
class LeaderJoint:
    """A joint of a leader: the follower's is at ``factor`` x its position + ``offset`` [rad]."""

    name: str
    factor: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class LeaderOpening:
    """The leader's gripper joint, and its positions in its own unit when closed and when open."""

    joint: str
    closed: float
    opened: float


@dataclass(frozen=True)
class LeaderMap:
    """From a leader's joints to the arm's.

    Attributes:
        joints: for each joint of the arm, base to wrist; None: the leader has none for it.
        opening: None: the leader has no gripper.
    """

    joints: tuple[LeaderJoint | None, ...]
    opening: LeaderOpening | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all joints that a message of the leader must have."""
        arm = tuple(joint.name for joint in self.joints if joint is not None)
        return arm if self.opening is None else (*arm, self.opening.joint)

    def arm(self, positions: Mapping[str, float]) -> NDArray[np.float64]:
        """Where the arm is to be [J], rad; NaN for joints that the leader does not have."""
        return np.array(
            [
                np.nan if joint is None else joint.factor * positions[joint.name] + joint.offset
                for joint in self.joints
            ]
        )

    def opened(self, positions: Mapping[str, float]) -> float | None:
        """How far the gripper is to be open, 0 closed to 1 open, not clipped; None: as it is."""
        if self.opening is None:
            return None
        span = self.opening.opened - self.opening.closed
        return (positions[self.opening.joint] - self.opening.closed) / span

    def positions(self, arm: Sequence[float], opening: float) -> dict[str, float]:
        """What the leader says when it stands for this arm [J] and opening: the way back."""
        said = {
            joint.name: (float(q) - joint.offset) / joint.factor
            for joint, q in zip(self.joints, arm, strict=True)
            if joint is not None
        }
        if self.opening is not None:
            span = self.opening.opened - self.opening.closed
            said[self.opening.joint] = self.opening.closed + opening * span
        return said


def read_plain(source: StrictMapping, count: int) -> LeaderMap:
    """The keys `joints`, `gripper_joint`, `gripper_closed`, `gripper_open`: a leader of the same kind."""
    joints = tuple(LeaderJoint(name) for name in source.texts("joints", count))
    closed, opened = source.number("gripper_closed"), source.number("gripper_open")
    if closed == opened:
        raise source.fail("gripper_open", opened, f"other than gripper_closed, {closed:g}")
    return LeaderMap(joints, LeaderOpening(source.text("gripper_joint"), closed, opened))


def read_drives(source: StrictMapping, arm_joints: tuple[str, ...]) -> LeaderMap:
    """The keys `drives` and, as may be, `opening` and `unit`: a leader of another kind."""
    unit = source.text("unit", tuple(UNITS)) if source.has("unit") else "rad"
    drives = source.mapping("drives", (ARM,))
    entries = drives.raw(ARM)
    if not isinstance(entries, list) or len(entries) != len(arm_joints):
        raise drives.fail(ARM, entries, f"a list of {len(arm_joints)} entries, for {', '.join(arm_joints)}")
    joints = tuple(_joint(drives, index, entry, unit) for index, entry in enumerate(entries))
    opening = _opening(source) if source.has("opening") and source.raw("opening") is not None else None
    found = LeaderMap(joints, opening)
    if not any(joints):
        raise drives.fail(ARM, entries, "at least one joint")
    if len(set(found.names)) != len(found.names):
        raise drives.fail(ARM, list(found.names), "different joints, the gripper's among them")
    return found


def _joint(drives: StrictMapping, index: int, entry: Any, unit: str) -> LeaderJoint | None:
    if entry is None:
        return None
    if isinstance(entry, str) and entry:
        return LeaderJoint(entry, UNITS[unit])
    path, optional = f"{drives.path}.{ARM}[{index}]", ("sign", "scale", "offset", "unit")
    if not isinstance(entry, dict):
        raise drives.fail(f"{ARM}[{index}]", entry, "a joint's name, null, or a mapping with the key joint")
    source = StrictMapping(entry, drives.source, ("joint",), path, drives.error, optional)
    sign = source.integer("sign", -1, 1) if source.has("sign") else 1
    if sign == 0:
        raise source.fail("sign", sign, "1 or -1")
    scale = source.number("scale", 1e-3, 1e3) if source.has("scale") else 1.0
    unit = source.text("unit", tuple(UNITS)) if source.has("unit") else unit
    offset = source.number("offset", -2 * math.pi, 2 * math.pi) if source.has("offset") else 0.0
    return LeaderJoint(source.text("joint"), sign * scale * UNITS[unit], offset)


def _opening(source: StrictMapping) -> LeaderOpening:
    entry = source.mapping("opening", ("joint", "closed", "open"), ("group",))
    if entry.has("group"):
        entry.text("group", (GRIPPER,))
    closed, opened = entry.number("closed"), entry.number("open")
    if closed == opened:
        raise entry.fail("open", opened, f"other than closed, {closed:g}")
    return LeaderOpening(entry.text("joint"), closed, opened)
