"""The dataset file: what the features of a LeRobot dataset are in the terms of a robot file.

One YAML per dataset, every key required and no other accepted, as in robot files. Datasets written by
`twinbrain convert` need none: what theirs would say follows from their meta/twinbrain.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.data.lerobot_reader import read_info
from twinbrain_ros.resources import find_config, shipped_configs
from twinbrain_ros.robot.robot_file import EE_DELTA_NAMES, STATE_NAMES, RobotFile
from twinbrain_ros.robot.strict import StrictMapping

# What `twinbrain convert` writes: its features, and a file beside LeRobot's own.
STATE, JOINTS, ACTION = "observation.state", "observation.joint_positions", "action"
INTERVENTION, SUCCESS, IMAGES = "intervention", "success", "observation.images."
TWINBRAIN_FILE = "meta/twinbrain.json"
KINDS = ("tool_target", "tool_delta", "joint_target")
KINDS_OF_SPACE = {"ee_delta": ("tool_target", "tool_delta"), "joint_position": ("joint_target",)}
FRAMES = ("tool_down", "base")
TURNS = ("euler", "euler_difference", "axis_angle")
RATES = ("robot", "native")
_POSITION = ("x", "y", "z")
_ROTATIONS = (("roll", "pitch", "yaw"), ("qx", "qy", "qz", "qw"), ("rx", "ry", "rz"))
THING_DIMS = ("u", "v", "x", "y", "z", "yaw")
_SCALES = ("translation_scale", "rotation_scale")
_PAD = "pad"  # dimensions whose name starts so are not used


@dataclass(frozen=True)
class GripperMap:
    """How the gripper's number becomes an opening, 0 closed to 1 open.

    ends: the number when it is closed, and when it is open; invert: then 1 means closed; threshold: what is
    above is open, all else closed; None: as it is.
    """

    invert: bool = False
    threshold: float | None = None
    ends: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class PoseMap:
    """A pose and a gripper among the numbers of a feature.

    dims: what each number is: x, y, z [m], the rotation as roll, pitch, yaw [rad, fixed axes] or qx, qy, qz,
    qw or rx, ry, rz (a rotation vector), gripper; names that start with pad are left out.
    relative_to: "tool_down", the rotation R Rd^T as the robot's state has it; "base", R itself.
    tool_turn: our tool frame (x out of the gripper) as seen from the dataset's, roll, pitch, yaw; with "base"
    only.
    """

    dims: tuple[str, ...]
    relative_to: str = "tool_down"
    tool_turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gripper: GripperMap = GripperMap()

    def rotation(self) -> tuple[str, ...]:
        """The dimensions that the rotation is given in."""
        return next(names for names in _ROTATIONS if set(names) <= set(self.dims))

    def columns(self, names: tuple[str, ...]) -> list[int]:
        return [self.dims.index(name) for name in names]


@dataclass(frozen=True)
class ActionMap:
    """What the numbers of the action are.

    kind: "tool_target", the pose (`pose`) where the tool is to be at the end of the frame's period;
    "tool_delta", a step in base axes from the target before, dims as of the action space ee_delta;
    "joint_target", the joints at the end of the frame's period, dims as of joint_position.
    translation_scale, rotation_scale (tool_delta): metres and radians per unit of its numbers.
    turn (tool_delta): its rotation as "euler", a turn about fixed axes applied from the left; "axis_angle",
    the same turn as a rotation vector; "euler_difference", what has to be added to the state's roll, pitch,
    yaw.
    """

    key: str
    kind: str
    dims: tuple[str, ...]
    turn: str = "euler"
    pose: PoseMap | None = None
    gripper: GripperMap = GripperMap()
    translation_scale: float = 1.0
    rotation_scale: float = 1.0


@dataclass(frozen=True)
class JointMap:
    """Arm joints [rad] among the numbers of a feature; dims: the robot file's names, others are left out."""

    key: str
    dims: tuple[str, ...]


@dataclass(frozen=True)
class DatasetFile:
    """A dataset file.

    robot: name of the robot that it was recorded with; fps: what info.json is expected to say, None:
    anything.
    rate: "robot" holds the steps of a chunk to the robot file's period; "native" takes each frame for one
    step.
    cameras: image feature per camera of the robot file; joints, intervention, success: features, None: it
    has none.
    things: features of what an instruction names, each u, v, x, y, z, yaw: where its middle is in the first
    camera's image (0 to 1 across and down) and in the base frame [m], and how it is turned about z [rad], the
    same after half a turn. Only a simulator tells; brains learn to see by it (`grounding_weight`).
    """

    name: str
    source: str
    robot: str
    fps: float | None
    rate: str
    cameras: Mapping[str, str]
    state_key: str
    state: PoseMap
    action: ActionMap
    intervention: str | None
    success: str | None
    things: tuple[str, ...] = ()
    joints: JointMap | None = None

    def feature_keys(self) -> tuple[str, ...]:
        """Of the numbers, without images."""
        joints = None if self.joints is None else self.joints.key
        keys = (self.state_key, self.action.key, joints, self.intervention, self.success, *self.things)
        return tuple(dict.fromkeys(k for k in keys if k is not None))


def dataset_file_path(name_or_path: str) -> Path:
    """Path of a dataset file, from the name of a shipped one (`bridge`) or from a path.

    Raises DatasetError naming what was tried and which are shipped.
    """
    found = find_config("datasets", name_or_path)
    if found is None:
        given = Path(name_or_path).expanduser().absolute()
        raise DatasetError(
            f"dataset file {name_or_path!r}: neither a file ({given}) nor a shipped one; "
            f"shipped: {shipped_configs('datasets')}"
        )
    return found


def load_dataset_file(name_or_path: str) -> DatasetFile:
    """Reads a dataset file. Raises DatasetError naming file, key, what was found and what was expected."""
    path = dataset_file_path(name_or_path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not readable as YAML: {error}") from error
    keys = ("name", "robot", "fps", "rate", "cameras", "state", "action", "intervention", "success", "things")
    top = StrictMapping(document, str(path), keys, error=DatasetError, optional=("joints",))
    state = top.mapping("state", ("key", "dims", "relative_to", "tool_turn", "gripper"))
    return DatasetFile(
        name=top.text("name"),
        source=str(path),
        robot=top.text("robot"),
        fps=None if top.raw("fps") is None else top.number("fps", 0.01, 1000),
        rate=top.text("rate", RATES),
        cameras=_cameras(top),
        state_key=state.text("key"),
        state=_pose(state),
        action=_action(top),
        intervention=_optional(top, "intervention"),
        success=_optional(top, "success"),
        things=top.texts("things") if top.raw("things") else (),
        joints=_joints(top),
    )


def _joints(top: StrictMapping) -> JointMap | None:
    if not top.has("joints"):
        return None
    source = top.mapping("joints", ("key", "dims"))
    return JointMap(source.text("key"), source.texts("dims"))


def _cameras(top: StrictMapping) -> Mapping[str, str]:
    found = top.raw("cameras")
    if not isinstance(found, Mapping) or not found:
        raise top.fail(
            "cameras", found, "a mapping from cameras of the robot file to features of the dataset"
        )
    source = top.mapping("cameras", tuple(found))
    return {str(name): source.text(name) for name in found}


def _optional(top: StrictMapping, key: str) -> str | None:
    return None if top.raw(key) is None else top.text(key)


def _gripper(source: StrictMapping) -> GripperMap:
    values = source.mapping("gripper", ("invert", "threshold"), optional=("ends",))
    invert = values.raw("invert")
    if not isinstance(invert, bool):
        raise values.fail("invert", invert, "true or false")
    ends = values.numbers("ends", 2) if values.has("ends") else (0.0, 1.0)
    if ends[0] == ends[1]:
        raise values.fail("ends", list(ends), "two different numbers: closed, open")
    threshold = None if values.raw("threshold") is None else values.number("threshold")
    return GripperMap(invert, threshold, (ends[0], ends[1]))


def _pose(source: StrictMapping) -> PoseMap:
    dims = source.texts("dims")
    used = {name for name in dims if not name.startswith(_PAD)}
    if not any(used == {*_POSITION, *names, "gripper"} for names in _ROTATIONS):
        choices = " or ".join(", ".join(names) for names in _ROTATIONS)
        raise source.fail("dims", list(dims), f"x, y, z, gripper and one of: {choices}; others named pad..")
    relative_to = source.text("relative_to", FRAMES)
    turn = source.numbers("tool_turn", 3)
    if relative_to == "tool_down" and any(turn):
        raise source.fail("tool_turn", list(turn), "[0, 0, 0] where relative_to is tool_down")
    return PoseMap(dims, relative_to, (turn[0], turn[1], turn[2]), _gripper(source))


def _action(top: StrictMapping) -> ActionMap:
    found = top.raw("action")
    kind = found.get("kind") if isinstance(found, Mapping) else None
    own = {"tool_target": ("relative_to", "tool_turn"), "tool_delta": ("turn",), "joint_target": ()}
    scales = _SCALES if kind == "tool_delta" else ()
    # The keys of an action depend on its kind; for one that is not known the message is about the kind.
    source = (
        top.mapping("action", ("key", "kind", "dims", "gripper", *own.get(str(kind), ())), scales)
        if kind in KINDS
        else None
    )
    if source is None:
        raise top.fail("action", found, f"a mapping with kind, one of {', '.join(KINDS)}")
    key, dims, gripper = source.text("key"), source.texts("dims"), _gripper(source)
    if kind == "tool_target":
        return ActionMap(key, kind, dims, pose=_pose(source), gripper=gripper)
    if kind == "tool_delta" and set(dims) - {d for d in dims if d.startswith(_PAD)} != set(EE_DELTA_NAMES):
        raise source.fail("dims", list(dims), f"{', '.join(EE_DELTA_NAMES)}; others named pad..")
    turn = source.text("turn", TURNS) if kind == "tool_delta" else "euler"
    units = [
        source.number(name, 1e-6, 1e6) if name in scales and source.has(name) else 1.0 for name in _SCALES
    ]
    if turn == "euler_difference" and units[1] != 1.0:
        raise source.fail("rotation_scale", units[1], "none with turn euler_difference")
    return ActionMap(key, str(kind), dims, turn, None, gripper, *units)


def recorded(root: Path, robot: RobotFile) -> DatasetFile:
    """What a dataset file would say of a dataset that `twinbrain convert` has written.

    Raises DatasetError where meta/twinbrain.json is missing or not one of ours.
    """
    path = root / TWINBRAIN_FILE
    if not path.is_file():
        raise DatasetError(
            f"{root}: no {TWINBRAIN_FILE}, so it was not written by `twinbrain convert`: expected a dataset "
            "file that says what its features are (mapping: bridge, or a path)"
        )
    try:
        values: Any = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: not valid JSON: {error}") from error
    for key in ("action_kind", "robot"):
        if not isinstance(values, dict) or not isinstance(values.get(key), str):
            raise DatasetError(f"{path}: key {key!r} is missing, expected a string")
    kind = values["action_kind"]
    if kind not in ("tool_target", "joint_target"):
        raise DatasetError(f"{path}: action_kind is {kind!r}, expected tool_target or joint_target")
    features = read_info(root).features
    pose = PoseMap(STATE_NAMES)
    dims = STATE_NAMES if kind == "tool_target" else (*robot.arm_joints, "gripper")
    return DatasetFile(
        name=root.name,
        source=str(path),
        robot=values["robot"],
        fps=None,
        rate="robot",
        cameras={camera.name: IMAGES + camera.name for camera in robot.cameras},
        state_key=STATE,
        state=pose,
        action=ActionMap(ACTION, kind, dims, pose=pose if kind == "tool_target" else None),
        intervention=INTERVENTION,
        success=SUCCESS,
        joints=JointMap(JOINTS, (*robot.arm_joints, "gripper")) if JOINTS in features else None,
    )


def written_kind(robot: RobotFile) -> str:
    """The kind of actions that `twinbrain convert` writes for a robot's action space: absolute targets."""
    return KINDS_OF_SPACE[robot.action.space][0]


def check_fits(file: DatasetFile, robot: RobotFile, other_robot: bool = False) -> None:
    """Holds a dataset file against a robot file.

    other_robot: allow data of another robot. Raises DatasetError naming both values.
    """
    where = f"{file.source}, dataset {file.name}"
    if file.robot != robot.name and not other_robot:
        raise DatasetError(
            f"{where}: robot is {file.robot!r}, expected {robot.name!r} as in {robot.path} "
            "(other_robot: true mixes in data of another)"
        )
    kinds = KINDS_OF_SPACE[robot.action.space]
    if file.action.kind not in kinds:
        raise DatasetError(
            f"{where}: actions are of kind {file.action.kind}, expected {' or '.join(kinds)} "
            f"for the action space {robot.action.space} of {robot.path}"
        )
    known = [camera.name for camera in robot.cameras]
    unknown = [name for name in file.cameras if name not in known]
    if unknown:
        raise DatasetError(f"{where}: cameras {unknown}, expected some of {known} as in {robot.path}")
    if file.action.kind == "joint_target" and set(file.action.dims) != set(robot.action.names):
        raise DatasetError(
            f"{where}: action dims are {list(file.action.dims)}, expected {list(robot.action.names)} as in "
            f"{robot.path}"
        )
    if file.action.turn == "euler_difference" and file.state.rotation() != _ROTATIONS[0]:
        raise DatasetError(f"{where}: turn is euler_difference, expected a state with roll, pitch, yaw")
