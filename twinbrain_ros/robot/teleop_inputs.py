"""What a person may drive the arm with: the robot file's `teleop` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twinbrain_ros.robot.leader import LeaderMap, read_drives, read_plain
from twinbrain_ros.robot.strict import StrictMapping

TWIST_AXES = ("x", "y", "z", "roll", "pitch", "yaw")
# A leader of the same kind is described by its names; one of another kind by what its joints drive.
_PLAIN_LEADER = ("joints", "gripper_joint", "gripper_closed", "gripper_open", "align_speed")
_DRIVES, _DRIVES_OPTIONAL = ("drives", "align_speed"), ("opening", "unit")
_COMMON = ("kind", "name", "topic", "priority", "timeout_s", "takes_over")


@dataclass(frozen=True)
class TeleopInput:
    """One source of motion that is not the policy, as twist_mux has them.

    Attributes:
        name: what modes and interventions call it.
        topic: relative.
        priority: 0 to 255; of several that are active the highest drives.
        timeout_s: silent for longer, it does not drive any more.
        takes_over: whether it may interrupt autonomy (and leave hold) by itself; else it drives only after
            mode TELEOP was asked for.
    """

    name: str
    topic: str
    priority: int
    timeout_s: float
    takes_over: bool


@dataclass(frozen=True)
class JogPage:
    """What a joystick does while `button` is held beside the dead-man button: its sticks move single joints.

    Attributes:
        axes: by arm joint, robot-file order: index and sign of the stick's axis, or None.
        speed: at full deflection [rad/s].
    """

    button: int
    axes: tuple[tuple[int, int] | None, ...]
    speed: float


@dataclass(frozen=True)
class JoyInput(TeleopInput):
    """sensor_msgs/Joy: end-effector velocity while a dead-man button is held.

    Attributes:
        deadman_button, open_button, close_button: indices; estop_button: index or None.
        axes: for x, y, z, roll, pitch, yaw (base axes): index and sign of the stick's axis, or None.
        linear_speed, angular_speed: at full deflection [m/s], [rad/s].
        deadzone: deflections up to this count as none, 0 to 1.
        jog: a second page, for single joints; None: it has none.
    """

    deadman_button: int
    estop_button: int | None
    open_button: int
    close_button: int
    axes: tuple[tuple[int, int] | None, ...]
    linear_speed: float
    angular_speed: float
    deadzone: float
    jog: JogPage | None = None


@dataclass(frozen=True)
class JogInput(TeleopInput):
    """control_msgs/JointJog: velocities of joints by name, never faster than joint_speed [rad/s]."""

    joint_speed: float


@dataclass(frozen=True)
class TwistInput(TeleopInput):
    """geometry_msgs/TwistStamped in base or tool frame, as a SpaceMouse or MoveIt Servo's clients send it;
    never faster than linear_speed [m/s] and angular_speed [rad/s]."""

    linear_speed: float
    angular_speed: float


@dataclass(frozen=True)
class LeaderInput(TeleopInput):
    """sensor_msgs/JointState of a leader arm.

    Attributes:
        map: how its joints stand for this arm's.
        align_speed: how fast each joint loses its offset to the leader after a takeover [rad/s]; 0: never.
    """

    map: LeaderMap
    align_speed: float


def read_teleop(top: StrictMapping, arm_joints: tuple[str, ...]) -> tuple[TeleopInput, ...]:
    """The section `teleop`: a list, maybe empty, of inputs with different names."""
    entries = top.raw("teleop")
    if not isinstance(entries, list):
        raise top.fail("teleop", entries, "a list of inputs, which may be empty")
    inputs = tuple(_input(entry, top, f"teleop[{i}]", arm_joints) for i, entry in enumerate(entries))
    names = [entry.name for entry in inputs]
    if len(set(names)) != len(names):
        raise top.fail("teleop", names, "inputs of different names")
    return inputs


def _input(entry: Any, top: StrictMapping, path: str, arm_joints: tuple[str, ...]) -> TeleopInput:
    kinds: dict[Any, Any] = {"joy": JoyInput, "twist": TwistInput, "leader": LeaderInput, "jog": JogInput}
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if kind not in kinds:
        raise top.error(f"{top.source}: '{path}.kind' is {kind!r}, expected one of {', '.join(kinds)}")
    own = tuple(f for f in kinds[kind].__dataclass_fields__ if f not in (*_COMMON, "jog"))
    optional: tuple[str, ...] = ("jog",) if kind == "joy" else ()
    if kind == "leader":
        own, optional = (_DRIVES, _DRIVES_OPTIONAL) if "drives" in entry else (_PLAIN_LEADER, ())
    source = StrictMapping(entry, top.source, (*_COMMON, *own), path, top.error, optional)
    takes_over = source.raw("takes_over")
    if not isinstance(takes_over, bool):
        raise source.fail("takes_over", takes_over, "true or false")
    common: dict[str, Any] = {
        "name": source.text("name"),
        "topic": source.topic("topic"),
        "priority": source.integer("priority", 0, 255),
        "timeout_s": source.number("timeout_s", 0.01, 10.0),
        "takes_over": takes_over,
    }
    if kind == "joy":
        return _joy(source, common, arm_joints)
    if kind == "jog":
        return JogInput(**common, joint_speed=source.number("joint_speed", 0.001, 6.0))
    if kind == "twist":
        return TwistInput(**common, **_speeds(source))
    other = "drives" in entry
    leader = read_drives(source, arm_joints) if other else read_plain(source, len(arm_joints))
    return LeaderInput(**common, map=leader, align_speed=source.number("align_speed", 0.0, 10.0))


def _speeds(source: StrictMapping) -> dict[str, Any]:
    return {
        "linear_speed": source.number("linear_speed", 0.001, 2.0),
        "angular_speed": source.number("angular_speed", 0.001, 6.0),
    }


def _joy(source: StrictMapping, common: dict[str, Any], arm_joints: tuple[str, ...]) -> JoyInput:
    axes = source.mapping("axes", TWIST_AXES)
    estop = source.raw("estop_button")
    return JoyInput(
        **common,
        **_speeds(source),
        deadman_button=source.integer("deadman_button", 0, 63),
        estop_button=None if estop is None else source.integer("estop_button", 0, 63),
        open_button=source.integer("open_button", 0, 63),
        close_button=source.integer("close_button", 0, 63),
        axes=tuple(_axis(axes, name) for name in TWIST_AXES),
        deadzone=source.number("deadzone", 0.0, 0.9),
        jog=_jog_page(source, arm_joints) if source.has("jog") else None,
    )


def _jog_page(joy: StrictMapping, arm_joints: tuple[str, ...]) -> JogPage:
    source = joy.mapping("jog", ("button", "axes", "joint_speed"))
    axes = source.mapping("axes", arm_joints)
    return JogPage(
        source.integer("button", 0, 63),
        tuple(_axis(axes, joint) for joint in arm_joints),
        source.number("joint_speed", 0.001, 6.0),
    )


def _axis(axes: StrictMapping, name: str) -> tuple[int, int] | None:
    value = axes.raw(name)
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 2 and all(type(entry) is int for entry in value)
    if not good or not 0 <= value[0] <= 63 or value[1] not in (-1, 1):
        raise axes.fail(name, value, "null, or [index of an axis, 1 or -1]")
    return value[0], value[1]
