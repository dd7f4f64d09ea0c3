"""The robot file: one YAML per arm, read strictly into frozen dataclasses.

Every node, the recorder and the trainer read the same file, so that what a topic is called, which joint is
the third and what an action means is written down once. SI units and radians; the unit is in the name where
the type does not carry it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from twinbrain_ros.resources import robot_file_path
from twinbrain_ros.robot.camera import Camera as Camera
from twinbrain_ros.robot.camera import read_cameras
from twinbrain_ros.robot.command_interfaces import ArmCommand, GripperCommand, read_commands
from twinbrain_ros.robot.poses import HOME, Pose, read_finger, read_poses
from twinbrain_ros.robot.strict import StrictMapping
from twinbrain_ros.robot.teleop_inputs import TeleopInput, read_teleop
from twinbrain_ros.text import NAME_EXPECTED, is_name, one_line

ACTION_SPACES = ("ee_delta", "joint_position")
COMPOSITIONS = ("observation", "previous_target")
EE_DELTA_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
GRIPPER_KEYS = ("joint", "mimic", "closed_m", "open_m", "force_n")
STATES = (MEASURED, COMMANDED) = ("measured", "commanded")  # what tells where a gripper is
COMMANDED_JOINT_STATES = "commanded_joint_states"
SMALLEST = 1e-3  # of a velocity, acceleration or jerk limit: with 0 a joint could never move, or never stop
STATE_NAMES: tuple[str, ...] = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


class RobotFileError(ValueError):
    """A robot file that cannot be used; the message names file, key, value found and value expected."""


@dataclass(frozen=True)
class JointLimit:
    """Limits of one joint: position [rad], velocity, acceleration, jerk [rad/s, /s2, /s3], effort [N m]."""

    lower: float
    upper: float
    velocity: float
    acceleration: float
    jerk: float
    effort: float


@dataclass(frozen=True)
class Gripper:
    """A gripper moved by one finger joint that a second one mirrors; ``force_n`` bounds its servo [N].

    Positions are in m, or in rad where the fingers turn; they may grow as it opens, or as it closes.
    ``commanded``: no driver measures it, so that it is taken to be where it was told to be.
    """

    joint: str
    mimic: str
    closed_m: float
    open_m: float
    force_n: float
    commanded: bool = False

    def clipped(self, finger_m: float) -> float:
        """Return the nearest finger position that is between closed and open."""
        ends = self.closed_m, self.open_m
        return min(max(finger_m, min(ends)), max(ends))

    def opening(self, finger_m: float) -> float:
        """Return the opening, 0 closed to 1 open, of a finger position [m]; a measurement: not clipped."""
        return (float(finger_m) - self.closed_m) / (self.open_m - self.closed_m)

    def finger(self, opening: float) -> float:
        """Return the finger position [m] of an opening; a command: clipped to 0..1."""
        return self.closed_m + min(max(float(opening), 0.0), 1.0) * (self.open_m - self.closed_m)


@dataclass(frozen=True)
class Topics:
    """Relative topic names; `joint_states` may be the first of several, merged by joint name.

    `arm_trajectory`: the arm's commands. `gripper_trajectory`: what the gripper is told, which is its
    command too unless that is an action. `commanded_joint_states`: where the controller says what it told a
    gripper that no driver measures; empty if the gripper is measured.
    """

    joint_states: str
    instruction: str
    action_chunk: str
    chunk_status: str
    policy_status: str
    arm_trajectory: str
    gripper_trajectory: str
    robot_description: str
    control_mode: str
    intervention: str
    instruction_in_force: str = "instruction_in_force"  # robot files of earlier versions do not name it
    commanded_joint_states: str = ""
    more_joint_states: tuple[str, ...] = ()

    @property
    def measured_joint_states(self) -> tuple[str, ...]:
        """Every topic of a driver's that has joint states of this arm, whole or in parts."""
        return (self.joint_states, *self.more_joint_states)

    @property
    def all_joint_states(self) -> tuple[str, ...]:
        """The same, and that of the commanded ones if there are any."""
        commanded = (self.commanded_joint_states,) if self.commanded_joint_states else ()
        return (*self.measured_joint_states, *commanded)


@dataclass(frozen=True)
class Rates:
    """Publishing rates [Hz]."""

    joint_states_hz: float
    command_hz: float


@dataclass(frozen=True)
class ActionSpec:
    """A chunk: ``horizon`` steps of ``names``, ``period_s`` apart; ``execution_steps`` are executed."""

    space: str
    composition: str
    names: tuple[str, ...]
    horizon: int
    period_s: float
    execution_steps: int
    max_chunk_age_s: float


@dataclass(frozen=True)
class ObservationSpec:
    """What a policy may be given as a state, of STATE_NAMES and the arm's joints; how old [s] and how far
    apart [s] the parts of an observation may be."""

    state_names: tuple[str, ...]
    max_age_s: float
    max_skew_s: float


@dataclass(frozen=True, eq=False)
class Workspace:
    """The box the tool may be commanded to, base frame [m]; both corners have shape [3]."""

    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True, eq=False)
class RobotFile:
    """One robot.

    ``home`` [rad] has shape [len(arm_joints)] and their order, and is one of ``poses``; commands keep
    ``limit_margin_rad`` from the position limits; ``command_interface`` is that of the arm, one of
    COMMAND_INTERFACES of `command_interfaces`; ``teleop``: what people drive with.
    """

    name: str
    path: Path
    urdf_path: Path
    base_frame: str
    tool_frame: str
    arm_joints: tuple[str, ...]
    limits: Mapping[str, JointLimit]
    limit_margin_rad: float
    home: np.ndarray
    poses: Mapping[str, Pose]
    gripper: Gripper
    cameras: tuple[Camera, ...]
    topics: Topics
    rates: Rates
    action: ActionSpec
    observation: ObservationSpec
    workspace: Workspace
    command_interface: str
    gripper_command: GripperCommand
    teleop: tuple[TeleopInput, ...]

    def urdf(self) -> str:
        """Return the text of the URDF."""
        return self.urdf_path.read_text(encoding="utf-8")

    def camera(self, name: str) -> Camera:
        """Return the camera called ``name``; KeyError names those there are."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise KeyError(f"no camera '{name}': {self.name} has {', '.join(c.name for c in self.cameras)}")

    @property
    def lower(self) -> np.ndarray:
        """Lower joint limits [rad], shape [len(arm_joints)]."""
        return np.array([self.limits[joint].lower for joint in self.arm_joints])

    @property
    def upper(self) -> np.ndarray:
        """Upper joint limits [rad], shape [len(arm_joints)]."""
        return np.array([self.limits[joint].upper for joint in self.arm_joints])


def load_robot(name_or_path: str | Path) -> RobotFile:
    """Read a robot file.

    Args:
        name_or_path: the name of a robot that ships with the package (``wx250s``), or a path.

    Raises:
        FileNotFoundError: no such file; the message names what was tried.
        RobotFileError: the file is not a valid robot file.
    """
    path = robot_file_path(str(name_or_path))
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RobotFileError(f"{path}: not readable as YAML: {one_line(error)}") from error
    robot = _robot(document, path)
    _check_urdf(robot)
    return robot


def _robot(document: Any, path: Path) -> RobotFile:
    keys = ("name", "urdf", "frames", "arm", "gripper", "cameras", "topics", "rates", "action", "observation")
    more = ("workspace", "teleop")
    optional = ("poses", "command")
    top = StrictMapping(document, str(path), (*keys, *more), error=RobotFileError, optional=optional)
    frames = top.mapping("frames", ("base", "tool"))
    arm = top.mapping("arm", ("joints", "limits", "limit_margin_rad", "home"), optional=("command",))
    joints = arm.texts("joints")
    limits = _limits(arm.mapping("limits", joints), joints)
    fingers = top.mapping("gripper", GRIPPER_KEYS, ("command", "home", "state"))
    commands = ("arm_trajectory", "gripper_trajectory")
    known = tuple(key for key in Topics.__dataclass_fields__ if key != "more_joint_states")
    may = (*commands, "instruction_in_force", COMMANDED_JOINT_STATES)
    topics = top.mapping("topics", tuple(key for key in known if key not in may), optional=may)
    arm_command, gripper_command = read_commands(top, arm, fingers, topics)
    rates = top.mapping("rates", ("joint_states_hz", "command_hz"))
    margin = arm.number("limit_margin_rad", 0.0, 0.5)
    home, gripper = _home(arm, joints, limits), _gripper(fingers)
    finger_home_m = read_finger(fingers, "home", (gripper.closed_m, gripper.open_m))
    ranges = {name: (limit.lower + margin, limit.upper - margin) for name, limit in limits.items()}
    observation = top.mapping("observation", ("state_names", "max_age_s", "max_skew_s"))
    state_names = observation.texts("state_names") if observation.raw("state_names") != [] else ()
    known_states = (*STATE_NAMES, *joints)
    if not set(state_names) <= set(known_states):
        raise observation.fail(
            "state_names", list(state_names), f"some of {list(known_states)}, or [] for none"
        )
    if not is_name(top.text("name")):
        raise top.fail("name", top.text("name"), NAME_EXPECTED)
    return RobotFile(
        name=top.text("name"),
        path=path,
        urdf_path=path.parent / top.text("urdf"),
        base_frame=frames.text("base"),
        tool_frame=frames.text("tool"),
        arm_joints=joints,
        limits=limits,
        limit_margin_rad=margin,
        home=home,
        poses=read_poses(top, Pose(HOME, home, finger_home_m), ranges, (gripper.closed_m, gripper.open_m)),
        gripper=gripper,
        cameras=read_cameras(top),
        topics=_topics(topics, arm_command, gripper_command, gripper.commanded),
        rates=Rates(rates.number("joint_states_hz", 1, 1000), rates.number("command_hz", 1, 1000)),
        action=_action(top, joints),
        observation=ObservationSpec(
            state_names,
            observation.number("max_age_s", 0.001, 10),
            observation.number("max_skew_s", 0.001, 10),
        ),
        workspace=_workspace(top),
        command_interface=arm_command.interface,
        gripper_command=gripper_command,
        teleop=read_teleop(top, joints),
    )


def _topics(source: StrictMapping, arm: ArmCommand, gripper: GripperCommand, commanded: bool) -> Topics:
    joint_states, elsewhere = source.topics("joint_states"), ("joint_states", "more_joint_states")
    named = {
        key: source.topic(key)
        for key in Topics.__dataclass_fields__
        if key not in elsewhere and source.has(key)
    }
    named.update(arm_trajectory=arm.topic, gripper_trajectory=gripper.told_topic)
    if commanded:
        topic = named.setdefault(COMMANDED_JOINT_STATES, COMMANDED_JOINT_STATES)
        if topic in joint_states:
            raise source.fail(COMMANDED_JOINT_STATES, topic, "a topic other than those of joint_states")
    elif COMMANDED_JOINT_STATES in named:
        found = named[COMMANDED_JOINT_STATES]
        raise source.fail(COMMANDED_JOINT_STATES, found, f"no such key unless gripper.state is {COMMANDED}")
    return Topics(**named, joint_states=joint_states[0], more_joint_states=joint_states[1:])


def _limits(source: StrictMapping, joints: tuple[str, ...]) -> Mapping[str, JointLimit]:
    limits = {}
    for joint in joints:
        entry = source.mapping(joint, tuple(JointLimit.__dataclass_fields__))
        limit = JointLimit(
            lower=entry.number("lower"),
            upper=entry.number("upper"),
            velocity=entry.number("velocity", SMALLEST),
            acceleration=entry.number("acceleration", SMALLEST),
            jerk=entry.number("jerk", SMALLEST),
            effort=entry.number("effort", 0.0),
        )
        if limit.lower >= limit.upper:
            raise entry.fail("upper", limit.upper, f"more than lower, {limit.lower:g}")
        limits[joint] = limit
    return MappingProxyType(limits)


def _home(arm: StrictMapping, joints: tuple[str, ...], limits: Mapping[str, JointLimit]) -> np.ndarray:
    home = arm.numbers("home", len(joints))
    margin = arm.number("limit_margin_rad", 0.0, 0.5)
    for joint, value in zip(joints, home, strict=True):
        lower, upper = limits[joint].lower + margin, limits[joint].upper - margin
        if lower >= upper:
            raise arm.fail("limit_margin_rad", margin, f"less than half the range of '{joint}'")
        if not lower <= value <= upper:
            raise arm.fail("home", list(home), f"'{joint}' within its limits [{lower:g}, {upper:g}]")
    return _frozen(home)


def _gripper(source: StrictMapping) -> Gripper:
    closed_m = source.number("closed_m")
    open_m = source.number("open_m")
    if open_m == closed_m:
        raise source.fail("open_m", open_m, f"another position than closed_m, {closed_m:g}")
    force_n = source.number("force_n", 0.0)
    commanded = source.has("state") and source.text("state", STATES) == COMMANDED
    if commanded and not source.has("home"):
        why = f"as with state {COMMANDED} go_to home has to tell the gripper where to be"
        raise source.error(f"{source.source}: missing key 'gripper.home': expected a position [m], {why}")
    return Gripper(source.text("joint"), source.text("mimic"), closed_m, open_m, force_n, commanded)


def _action(top: StrictMapping, joints: tuple[str, ...]) -> ActionSpec:
    source = top.mapping("action", tuple(ActionSpec.__dataclass_fields__))
    space = source.text("space", ACTION_SPACES)
    names = source.texts("names")
    expected = EE_DELTA_NAMES if space == "ee_delta" else (*joints, "gripper")
    if names != expected:
        raise source.fail("names", list(names), f"{list(expected)}, the names of the action space {space}")
    horizon = source.integer("horizon", 1, 1000)
    return ActionSpec(
        space=space,
        composition=source.text("composition", COMPOSITIONS),
        names=names,
        horizon=horizon,
        period_s=source.number("period_s", 0.001, 10),
        execution_steps=source.integer("execution_steps", 1, horizon),
        max_chunk_age_s=source.number("max_chunk_age_s", 0.001, 60),
    )


def _workspace(top: StrictMapping) -> Workspace:
    source = top.mapping("workspace", ("lower", "upper"))
    lower, upper = source.numbers("lower", 3), source.numbers("upper", 3)
    if any(low >= high for low, high in zip(lower, upper, strict=True)):
        raise source.fail("upper", list(upper), f"more than lower, {list(lower)}, on every axis")
    return Workspace(_frozen(lower), _frozen(upper))


def _frozen(values: tuple[float, ...]) -> np.ndarray:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def _check_urdf(robot: RobotFile) -> None:
    """Hold the robot file against its URDF: frames and joints must be there, position limits must agree."""
    urdf = robot.urdf_path
    try:
        root = ElementTree.fromstring(robot.urdf())
    except FileNotFoundError as error:
        raise RobotFileError(f"{robot.path}: 'urdf' is {urdf}, which does not exist") from error
    except ElementTree.ParseError as error:
        raise RobotFileError(f"{robot.path}: 'urdf' is {urdf}, not readable as XML: {error}") from error
    links = {link.get("name") for link in root.iter("link")}
    joints = {joint.get("name"): joint for joint in root.iter("joint") if joint.get("type")}
    for key, frame in (("frames.base", robot.base_frame), ("frames.tool", robot.tool_frame)):
        if frame not in links:
            raise RobotFileError(f"{robot.path}: '{key}' is '{frame}', expected a link of {urdf.name}")
    for joint in (*robot.arm_joints, robot.gripper.joint, robot.gripper.mimic):
        if joint not in joints:
            raise RobotFileError(f"{robot.path}: joint '{joint}' found, expected a joint of {urdf.name}")
    for name in robot.arm_joints:
        element = joints[name].find("limit")
        limit = robot.limits[name]
        for key, value in (("lower", limit.lower), ("upper", limit.upper)):
            found = float(element.get(key, "nan")) if element is not None else float("nan")
            if not abs(found - value) < 1e-6:
                field = f"arm.limits.{name}.{key}"
                raise RobotFileError(
                    f"{robot.path}: '{field}' is {value:g}, expected {found:g} as in {urdf.name}"
                )
