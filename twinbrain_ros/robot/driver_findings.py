"""Whether the arm's driver is in the state that commands need, from what it says of itself. No ROS in here.

What a driver does not say is `unknown`, never taken to be right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.robot_file import RobotFile

# A driver's joint limit may be so much inside the robot file's [rad or m] before that is told.
LIMIT_TOLERANCE = 5e-3
VELOCITY_UNIT = 0.229 * 2 * math.pi / 60  # of a Dynamixel servo's Profile_Velocity [rad/s]
GRIPPER_MS = 300  # moving time of a gripper, half a second at the most


class State(Enum):
    """How a finding stands to what is needed."""

    OK = "ok"
    WARN = "warn"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that was asked.

    Attributes:
        about: what, in a word or two; the same each time it is asked.
        found: what it is, and where it is not right what was expected.
        mend: a command ready to paste, or what to do; "" if nothing is known.
    """

    about: str
    state: State
    found: str
    mend: str = ""

    @property
    def sentence(self) -> str:
        """The whole of it in one line."""
        return f"{self.about}: {self.found}" + (f"; {self.mend}" if self.mend else "")


@dataclass(frozen=True)
class ModeCall:
    """A call of Interbotix' set_operating_modes; its words are those of the request's fields."""

    cmd_type: str
    name: str
    mode: str
    profile_type: str
    profile_velocity: int
    profile_acceleration: int

    def paste(self, service: str) -> str:
        """As a command for a shell."""
        fields = ", ".join(f"{key}: {value}" for key, value in vars(self).items())
        return f'ros2 service call {service} interbotix_xs_msgs/srv/OperatingModes "{{{fields}}}"'


def needed_calls(robot: RobotFile) -> tuple[ModeCall, ModeCall]:
    """What brings the Interbotix driver into the modes that are streamed to: of the arm, of the gripper.

    The arm's moving time is half the time between a chunk's steps, half of it for accelerating.
    """
    moving_ms = max(20, round(robot.action.period_s * 500))
    arm = ModeCall("group", "arm", "position", "time", moving_ms, moving_ms // 2)
    gripper = ModeCall("single", "gripper", "linear_position", "time", GRIPPER_MS, GRIPPER_MS // 3)
    return arm, gripper


# Interbotix -----------------------------------------------------------------------------------------


def judge_xs_arm(
    robot: RobotFile, info: Any, profile_velocity: Sequence[int] | None, service: str
) -> list[Finding]:
    """Of the driver's group `arm`.

    Args:
        info: the answer of get_robot_info.
        profile_velocity: each motor's register; None or empty: not known.
        service: full name of set_operating_modes.
    """
    mend = needed_calls(robot)[0].paste(service)
    findings = [_joints(robot, list(info.joint_names)), *_limits(robot, info)]
    mode = str(info.mode)
    if mode == "position":
        findings.append(Finding("arm's operating mode", State.OK, mode))
    else:
        found = f"'{mode}', expected 'position'"
        findings.append(Finding("arm's operating mode", State.WRONG, found, mend))
    return [*findings, _profile(robot, str(info.profile_type), profile_velocity, mend)]


def _joints(robot: RobotFile, joints: list[str]) -> Finding:
    """Group commands have no names in them: order counts."""
    wanted = list(robot.arm_joints)
    if joints == wanted:
        return Finding("arm's joints", State.OK, ", ".join(joints))
    mend = "the robot file and the driver's motor configuration must list the same joints in one order"
    return Finding("arm's joints", State.WRONG, f"{joints}, expected {wanted}", mend)


def _limits(robot: RobotFile, info: Any) -> list[Finding]:
    names, lower, upper = list(info.joint_names), list(info.joint_lower_limits), list(info.joint_upper_limits)
    speeds = list(info.joint_velocity_limits)
    if not names or len(lower) != len(names) or len(upper) != len(names):
        return [Finding("driver's joint limits", State.UNKNOWN, "it has no robot_description")]
    narrower = []
    for k, name in enumerate(names):
        limit = robot.limits.get(name)
        if limit is None:
            continue
        if lower[k] > limit.lower + LIMIT_TOLERANCE or upper[k] < limit.upper - LIMIT_TOLERANCE:
            ours = f"[{limit.lower:.3f}, {limit.upper:.3f}]"
            narrower.append(f"{name} [{lower[k]:.3f}, {upper[k]:.3f}] rad inside {ours} of the robot file")
        if len(speeds) == len(names) and speeds[k] < limit.velocity * (1 - 1e-3):
            narrower.append(f"{name} {speeds[k]:.2f} rad/s below {limit.velocity:.2f} of the robot file")
    if narrower:
        mend = "narrow the robot file's limits: the driver leaves out what is beyond its own"
        return [Finding("driver's joint limits", State.WARN, "; ".join(narrower), mend)]
    return [Finding("driver's joint limits", State.OK, "as wide as the robot file's")]


def _profile(robot: RobotFile, kind: str, registers: Sequence[int] | None, mend: str) -> Finding:
    about = "arm's motion profile"
    if not registers:
        return Finding(
            about, State.UNKNOWN, f"type '{kind}', but the driver does not tell Profile_Velocity", mend
        )
    period_ms = robot.action.period_s * 1e3
    if kind == "time":
        slowest = max(registers)
        if slowest <= period_ms:
            return Finding(about, State.OK, f"moving time of {slowest} ms")
        found = f"each position begins a motion of {slowest} ms, expected at most {period_ms:g} ms"
        return Finding(about, State.WRONG, found, mend)
    if kind == "velocity":
        fastest = max(limit.velocity for limit in robot.limits.values())
        limited = [value for value in registers if value > 0]  # 0: without a limit
        slowest_rad_s = min(limited) * VELOCITY_UNIT if limited else math.inf
        if slowest_rad_s >= fastest * (1 - 0.01):
            return Finding(about, State.OK, "a velocity limit that commands stay within")
        found = f"the servos move at most at {slowest_rad_s:.2f} rad/s, commands at {fastest:.2f}"
        return Finding(about, State.WRONG, found, mend)
    return Finding(about, State.UNKNOWN, f"profile type '{kind}', expected 'time' or 'velocity'", mend)


def judge_xs_gripper(robot: RobotFile, info: Any, service: str) -> list[Finding]:
    """Of the driver's joint `gripper`; arguments as of `judge_xs_arm`."""
    mend = needed_calls(robot)[1].paste(service)
    mode, joints = str(info.mode), list(info.joint_names)
    findings = []
    if mode == "linear_position":
        findings.append(Finding("gripper's operating mode", State.OK, mode))
    else:
        found = f"'{mode}', which does not take metres, expected 'linear_position'"
        findings.append(Finding("gripper's operating mode", State.WRONG, found, mend))
    if joints != [robot.gripper.joint]:
        found = f"{joints}, expected {[robot.gripper.joint]}"
        findings.append(Finding("gripper's joint", State.WRONG, found, "name it as gripper.joint"))
    return findings


def sleep_pose(robot: RobotFile, info: Any) -> NDArray[np.float64] | None:
    """Where the driver says that its arm sleeps [J], robot-file order; None: it does not, or cannot be meant.

    Args:
        info: of the driver's group `arm`.
    """
    sleep = dict(zip(info.joint_names, info.joint_sleep_positions, strict=False))
    q = np.array([sleep.get(joint, math.nan) for joint in robot.arm_joints], dtype=np.float64)
    # A driver that was told of no sleep pose says 0 for every joint.
    return q if np.isfinite(q).all() and q.any() else None


# ros2_control ---------------------------------------------------------------------------------------


def controller_of(topic: str) -> str:
    """The controller that listens on a topic: `arm_controller` of `arm_controller/joint_trajectory`."""
    return topic.rstrip("/").rpartition("/")[0]


def judge_controllers(
    robot: RobotFile, controllers: Sequence[Any], manager: str = "/controller_manager"
) -> list[Finding]:
    """Of ros2_control, from the answer of list_controllers.

    Args:
        manager: full name of the controller manager, for what is to be pasted.
    """
    groups = [("arm", robot.command_interface, robot.topics.arm_trajectory, robot.arm_joints)]
    gripper = robot.gripper_command
    groups.append(("gripper", gripper.interface, gripper.topic, (robot.gripper.joint,)))
    findings, known = [], {controller.name: controller for controller in controllers}
    for group, interface, topic, joints in groups:
        if not interface.startswith("xs_"):
            findings += _controller(group, controller_of(topic), joints, known, manager)
    findings += _others(robot, controllers, {controller_of(entry[2]) for entry in groups}, manager)
    active = [entry.name for entry in controllers if "JointStateBroadcaster" in entry.type and _active(entry)]
    if active:
        findings.append(Finding("joint state broadcaster", State.OK, f"from {', '.join(active)}"))
    else:
        found = "no joint_state_broadcaster is active: they come from elsewhere, or not at all"
        findings.append(Finding("joint state broadcaster", State.WARN, found))
    return findings


def _active(controller: Any) -> bool:
    return bool(controller.state == "active")


def _controller(
    group: str, name: str, joints: Sequence[str], known: dict[str, Any], manager: str
) -> list[Finding]:
    about = f"{group}'s controller"
    if not name:
        found = "the robot file's topic does not name it: expected <controller>/<topic>"
        return [Finding(about, State.UNKNOWN, found)]
    controller = known.get(name)
    if controller is None:
        loaded = ", ".join(sorted(known)) or "none"
        mend = f"ros2 run controller_manager spawner {name} -c {manager}"
        return [Finding(about, State.WRONG, f"'{name}' is not loaded, only: {loaded}", mend)]
    if not _active(controller):
        mend = f"ros2 control switch_controllers --activate {name} -c {manager}"
        return [Finding(about, State.WRONG, f"'{name}' is {controller.state}, expected active", mend)]
    # Humble's does not tell its rate.
    rate = getattr(controller, "update_rate", 0)
    rated = f"at {rate} Hz" if rate else "update rate unknown"
    findings = [Finding(about, State.OK, f"'{name}' ({controller.type}) is active, {rated}")]
    return [*findings, _interfaces(group, controller, joints)]


def _interfaces(group: str, controller: Any, joints: Sequence[str]) -> Finding:
    """What an active controller drives."""
    about, name = f"{group}'s interfaces", controller.name
    claimed = list(controller.claimed_interfaces)
    driven = {_driven(entry, joints) for entry in claimed}
    chained = sorted({entry.partition("/")[0] for entry in claimed if _is_chained(entry, joints)})
    if chained:
        found = f"'{name}' is chained to {', '.join(chained)}: what becomes of its positions is not known"
        return Finding(about, State.UNKNOWN, found)
    missing, more = [joint for joint in joints if joint not in driven], sorted(driven - set(joints))
    if missing:
        return Finding(about, State.WRONG, f"'{name}' claims {claimed}, none of {missing}")
    if more:
        found = f"'{name}' claims {more} besides {list(joints)}"
        mend = "it refuses commands without them, unless allow_partial_joints_goal is set"
        return Finding(about, State.WARN, found, mend)
    if all(f"{joint}/position" in claimed for joint in joints):
        return Finding(about, State.OK, "position of each joint")
    found = f"'{name}' claims {claimed}, no position: the arm follows as well as its gains let it"
    return Finding(about, State.WARN, found)


def _driven(entry: str, joints: Iterable[str]) -> str:
    """The joint of an interface: `waist` of `waist/position`, and of `admittance/waist/position`."""
    base = entry.rpartition("/")[0]
    return next((joint for joint in joints if f"/{base}".endswith(f"/{joint}")), base)


def _is_chained(entry: str, joints: Iterable[str]) -> bool:
    """Whether an interface is another controller's, and not the hardware's."""
    base = entry.rpartition("/")[0]
    return "/" in base and base not in joints


def _fed(ours: set[str], controllers: Sequence[Any], joints: set[str]) -> set[str]:
    """The controllers that ours are chained to, and those that these are chained to, and so on."""
    claimed = {entry.name: entry.claimed_interfaces for entry in controllers}
    fed, new = set[str](), ours
    while new:
        entries = [entry for name in new for entry in claimed.get(name, ()) if _is_chained(entry, joints)]
        new = {entry.partition("/")[0] for entry in entries} - fed - ours
        fed |= new
    return fed


def _others(robot: RobotFile, controllers: Sequence[Any], ours: set[str], manager: str) -> list[Finding]:
    """Others that drive the same joints by another interface."""
    joints = {*robot.arm_joints, robot.gripper.joint}
    findings, left_out = [], ours | _fed(ours, controllers, joints)
    for controller in controllers:
        if controller.name in left_out or not _active(controller):
            continue
        claimed = controller.claimed_interfaces
        shared = {joint: entry for entry in claimed if (joint := _driven(entry, joints)) in joints}
        if not shared:
            continue
        found = f"'{controller.name}' is active too and claims {', '.join(sorted(shared))}"
        if all(_is_chained(entry, joints) for entry in shared.values()):
            found += f" of {', '.join(sorted({entry.partition('/')[0] for entry in shared.values()}))}"
            findings.append(Finding("chained controllers", State.WARN, found))
            continue
        mend = f"ros2 control switch_controllers --deactivate {controller.name} -c {manager}"
        findings.append(Finding("other controllers", State.WRONG, found, mend))
    return findings
