"""What a person may drive with: the robot file's section, and what becomes of each kind of message."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from control_fixtures import AXES, CLOSE, DEADMAN, ESTOP, OPEN, T0
from sim_fixtures import shared_robot

from twinbrain_ros.control.teleop import Inputs, TeleopError, Wish
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.robot.actions import euler_to_matrix
from twinbrain_ros.robot.robot_file import RobotFileError, load_robot
from twinbrain_ros.robot.teleop_inputs import JogInput, JoyInput, LeaderInput, TeleopInput, TwistInput

JOY, TWIST, LEADER = 0, 1, 2  # their places in the shipped robot file
STICKS = [0.0] * 8  # at rest
LED = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]  # joints of the leader

# The robot file's section ---------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Callable[[list[Any]], object]], tuple[TeleopInput, ...]]:
    """Returns a function that changes the section of a copy of the shipped file, and reads that."""
    source = shared_robot()
    document = yaml.safe_load(source.path.read_text())
    shutil.copy(source.urdf_path, tmp_path)

    def load_changed(change: Callable[[list[Any]], object]) -> tuple[TeleopInput, ...]:
        changed = copy.deepcopy(document)
        change(changed["teleop"])
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(changed))
        return load_robot(path).teleop

    return load_changed


def put(index: int, *keys: str, value: object) -> Callable[[list[Any]], None]:
    def change(section: list[Any]) -> None:
        entry = section[index]
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = value

    return change


def test_the_shipped_robot_can_be_driven_in_all_three_ways() -> None:
    joy, twist, leader = shared_robot().teleop
    assert isinstance(joy, JoyInput) and joy.takes_over and joy.estop_button == ESTOP
    assert joy.axes == ((1, 1), (0, 1), (4, 1), None, (7, 1), (3, 1))
    assert isinstance(twist, TwistInput) and not twist.takes_over
    assert isinstance(leader, LeaderInput)
    assert [joint and joint.name for joint in leader.map.joints] == list(shared_robot().arm_joints)
    assert joy.priority > twist.priority > leader.priority


def test_a_robot_that_nobody_drives_has_an_empty_list(load: Any) -> None:
    assert load(list.clear) == ()


def test_a_joystick_needs_no_second_page(load: Any) -> None:
    page = load(lambda s: None)[JOY].jog
    assert page is not None and (page.button, page.axes[:3], page.speed) == (5, ((0, 1), (1, 1), (4, 1)), 0.5)
    assert load(lambda s: s[JOY].pop("jog"))[JOY].jog is None


def test_joints_may_be_jogged(load: Any) -> None:
    entry = {"kind": "jog", "name": "j", "topic": "jog", "priority": 1, "timeout_s": 1, "takes_over": False}
    (jog,) = load(lambda s: s.__setitem__(slice(None), [{**entry, "joint_speed": 0.4}]))
    assert isinstance(jog, JogInput) and jog.joint_speed == 0.4


def test_a_joystick_needs_no_emergency_stop_button(load: Any) -> None:
    assert load(put(JOY, "estop_button", value=None))[JOY].estop_button is None


def refused(load: Any, change: Callable[[list[Any]], object], said: list[str]) -> None:
    """Fails unless a changed file is refused, with its name and all that is to be said."""
    with pytest.raises(RobotFileError) as error:
        load(change)
    for part in ["edited.yaml", *said]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(JOY, "kind", value="wheel"), ["teleop[0].kind", "'wheel'", "joy, twist, leader"]),
        (lambda s: s.append("joystick"), ["teleop[3].kind", "None", "joy, twist, leader"]),
        (lambda s: s[TWIST].pop("linear_speed"), ["missing key 'teleop[1].linear_speed'", "expected"]),
        (lambda s: s[JOY]["axes"].pop("yaw"), ["missing key 'teleop[0].axes.yaw'", "roll, pitch, yaw"]),
        (put(TWIST, "deadzone", value=0.1), ["unknown key 'teleop[1].deadzone'", "expected the keys"]),
        (put(LEADER, "name", value="twist"), ["'teleop'", "['joystick', 'twist', 'twist']", "different"]),
        (put(JOY, "axes", "x", value=[1, 2]), ["'teleop[0].axes.x'", "[1, 2]", "null, or [index"]),
        (put(JOY, "axes", "x", value=[True, 1]), ["'teleop[0].axes.x'", "[True, 1]", "null, or [index"]),
        (put(JOY, "axes", "x", value=[64, 1]), ["'teleop[0].axes.x'", "[64, 1]", "null, or [index"]),
        (put(JOY, "axes", "x", value=1), ["'teleop[0].axes.x' is 1", "null, or [index"]),
        (put(JOY, "priority", value=256), ["'teleop[0].priority' is 256", "an integer within [0, 255]"]),
        (put(JOY, "priority", value=1.5), ["'teleop[0].priority' is 1.5", "an integer within [0, 255]"]),
        (put(JOY, "takes_over", value="yes"), ["'teleop[0].takes_over' is 'yes'", "true or false"]),
        (put(JOY, "deadzone", value=1.0), ["'teleop[0].deadzone' is 1.0", "within [0, 0.9]"]),
        (put(JOY, "estop_button", value=-1), ["'teleop[0].estop_button' is -1", "within [0, 63]"]),
        (put(TWIST, "timeout_s", value=0), ["'teleop[1].timeout_s' is 0", "within [0.01, 10]"]),
        (put(TWIST, "topic", value="/twist"), ["'teleop[1].topic'", "'/twist'", "a relative topic name"]),
        (lambda s: s[JOY]["jog"].pop("button"), ["missing key 'teleop[0].jog.button'", "joint_speed"]),
        (lambda s: s[JOY]["jog"]["axes"].pop("waist"), ["missing key 'teleop[0].jog.axes.waist'"]),
        (put(JOY, "jog", "joint_speed", value=0), ["'teleop[0].jog.joint_speed' is 0", "within [0.001, 6]"]),
        (put(LEADER, "joints", value=["waist"]), ["'teleop[2].joints'", "['waist']", "6 different"]),
        (
            put(LEADER, "gripper_open", value=0.015),
            ["'teleop[2].gripper_open' is 0.015", "other than gripper_closed, 0.015"],
        ),
    ],
)
def test_what_is_wrong_is_refused_by_file_key_found_and_expected(
    load: Any, change: Callable[[list[Any]], object], said: list[str]
) -> None:
    refused(load, change, said)


def test_a_section_that_is_no_list_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(shared_robot().path.read_text())
    document["teleop"] = {"joystick": document["teleop"][0]}
    (tmp_path / "edited.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(RobotFileError, match=r"edited\.yaml: 'teleop' is .*expected a list of inputs"):
        load_robot(tmp_path / "edited.yaml")


# Messages -------------------------------------------------------------------------------------------


@pytest.fixture
def inputs() -> Inputs:
    """Inputs that were all seen at rest."""
    return at_rest(Inputs(shared_robot()))


def at_rest(inputs: Inputs) -> Inputs:
    before = T0 - to_ns(0.01)
    inputs.on_joy("joystick", STICKS, buttons(), before)
    for now_ns in (before - to_ns(0.2), before):
        if any(entry.name == "leader" for entry in inputs._inputs.values()):
            inputs.on_twist("twist", (0.0,) * 3, (0.0,) * 3, None, now_ns)
            leader(inputs, now_ns)
    return inputs


def buttons(*down: int) -> list[int]:
    return [int(index in down) for index in range(11)]


def axes(**deflections: float) -> list[float]:
    """Axes of the shipped joystick, by the direction that each of them is for."""
    values = list(STICKS)
    for name, value in deflections.items():
        values[AXES[name]] = value
    return values


def joy(inputs: Inputs, values: list[float], *down: int) -> Wish:
    assert not inputs.on_joy("joystick", values, buttons(*down), T0)
    wish = inputs.wish("joystick", T0)
    assert wish is not None and wish.twist is not None
    return wish


def test_a_joystick_without_its_dead_man_button_asks_for_nothing(inputs: Inputs) -> None:
    wish = joy(inputs, axes(x=1.0), OPEN)
    assert not wish.active and wish.finger_m is None
    assert inputs.strongest(T0, unasked=True) is None


def test_a_held_joystick_is_active_even_if_no_stick_is_moved(inputs: Inputs) -> None:
    wish = joy(inputs, STICKS, DEADMAN)
    assert wish.active and not np.any(wish.twist)


@pytest.mark.parametrize(
    ("deflection", "share"),
    [(0.0, 0.0), (0.08, 0.0), (-0.08, 0.0), (0.0801, 0.0001 / 0.92), (0.54, 0.5), (-0.54, -0.5), (1.0, 1.0)],
)
def test_speed_begins_at_the_edge_of_the_dead_zone_without_a_step(
    inputs: Inputs, deflection: float, share: float
) -> None:
    wish = joy(inputs, axes(x=deflection, yaw=deflection), DEADMAN)
    np.testing.assert_allclose(wish.twist, [0.15 * share, 0, 0, 0, 0, 0.8 * share], atol=1e-9)


def test_a_deflection_beyond_full_is_full(inputs: Inputs) -> None:
    np.testing.assert_allclose(joy(inputs, axes(z=-1.7), DEADMAN).twist, [0, 0, -0.15, 0, 0, 0])


def test_the_sign_of_an_axis_is_the_robot_files() -> None:
    entry = shared_robot().teleop[JOY]
    assert isinstance(entry, JoyInput)
    turned = dataclasses.replace(entry, axes=((1, -1), *entry.axes[1:]))
    inputs = at_rest(Inputs(dataclasses.replace(shared_robot(), teleop=(turned,))))
    assert joy(inputs, axes(x=1.0, y=1.0), DEADMAN).twist[:2] == pytest.approx([-0.15, 0.15])


@pytest.mark.parametrize(
    ("down", "opening"),
    [
        ((DEADMAN,), None),
        ((DEADMAN, OPEN), 0.037),
        ((DEADMAN, CLOSE), 0.015),
        ((DEADMAN, OPEN, CLOSE), 0.015),
    ],
)
def test_gripper_buttons_open_and_close(inputs: Inputs, down: tuple[int, ...], opening: float | None) -> None:
    assert joy(inputs, STICKS, DEADMAN, *down).finger_m == opening


@pytest.mark.parametrize(
    ("values", "pressed", "said"),
    [
        ([0.0] * 7, buttons(DEADMAN), "joystick: found 7 axes, expected a finite axes[7]"),
        ([0.0, math.nan, *STICKS[2:]], buttons(DEADMAN), "joystick: found axes[1] nan, expected a finite"),
        (STICKS, buttons()[:4], "joystick: found 4 buttons, expected more than 4"),
    ],
)
def test_a_joystick_with_too_little_is_refused_by_name(
    values: list[float], pressed: list[int], said: str
) -> None:
    inputs = Inputs(shared_robot())
    with pytest.raises(TeleopError) as refused:
        inputs.on_joy("joystick", values, pressed, T0)
    assert said in str(refused.value)
    assert inputs.wish("joystick", T0) is None


def test_the_emergency_stop_fires_once_for_each_press(inputs: Inputs) -> None:
    presses = [(), (ESTOP,), (ESTOP,), (ESTOP,), (), (ESTOP,)]
    fired = [inputs.on_joy("joystick", STICKS, buttons(*down), T0) for down in presses]
    assert fired == [False, True, False, False, False, True]


def test_the_emergency_stop_works_on_a_joystick_that_is_broken_otherwise(inputs: Inputs) -> None:
    assert inputs.on_joy("joystick", [], [0, 1], T0)
    with pytest.raises(TeleopError):  # still down: no second stop, and still broken
        inputs.on_joy("joystick", [], [0, 1], T0)


def test_a_twist_is_taken_as_it_is_within_its_speeds(inputs: Inputs) -> None:
    inputs.on_twist("twist", (0.1, -0.1, 0.2), (0.5, 0.0, -1.0), None, T0)
    wish = inputs.wish("twist", T0)
    assert wish is not None and wish.active
    np.testing.assert_allclose(wish.twist, [0.1, -0.1, 0.2, 0.5, 0.0, -1.0])


def test_a_twist_that_is_too_fast_keeps_its_direction(inputs: Inputs) -> None:
    inputs.on_twist("twist", (3.0, 0.0, -4.0), (0.0, 2.0, 0.0), None, T0)
    wish = inputs.wish("twist", T0)
    assert wish is not None
    np.testing.assert_allclose(wish.twist, [0.15, 0.0, -0.2, 0.0, 1.5, 0.0])


def test_a_twist_in_another_frame_is_turned_into_the_base(inputs: Inputs) -> None:
    turned = euler_to_matrix(np.array([0.0, 0.0, math.pi / 2]))
    inputs.on_twist("twist", (0.1, 0.0, 0.0), (0.0, 0.2, 0.3), turned, T0)
    wish = inputs.wish("twist", T0)
    assert wish is not None
    np.testing.assert_allclose(wish.twist, [0.0, 0.1, 0.0, -0.2, 0.0, 0.3], atol=1e-12)


def test_a_twist_of_zero_asks_for_nothing() -> None:
    inputs = Inputs(shared_robot())
    inputs.on_twist("twist", (0.0,) * 3, (0.0,) * 3, None, T0)
    assert inputs.strongest(T0, unasked=False) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_twist_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    inputs = Inputs(shared_robot())
    with pytest.raises(TeleopError, match=r"twist: found the twist .*, expected six finite numbers"):
        inputs.on_twist("twist", (0.1, bad, 0.0), (0.0,) * 3, None, T0)
    assert inputs.wish("twist", T0) is None


def leader(inputs: Inputs, now_ns: int = T0, **changes: float) -> None:
    joints = dict(zip(shared_robot().arm_joints, LED, strict=True)) | {"left_finger": 0.026}
    inputs.on_leader("leader", {name: value for name, value in (joints | changes).items()}, now_ns)


def test_a_leader_is_taken_by_joint_names_with_its_gripper_scaled(inputs: Inputs) -> None:
    leader(inputs, extra_joint=9.0)
    wish = inputs.wish("leader", T0)
    assert wish is not None and wish.joints is not None
    assert wish.joints.tolist() == LED and wish.finger_m == pytest.approx(0.026)
    leader(inputs, left_finger=0.1)
    wish = inputs.wish("leader", T0)
    assert wish is not None and wish.finger_m == pytest.approx(0.037)


def test_a_leaders_missing_joint_is_named(inputs: Inputs) -> None:
    with pytest.raises(TeleopError, match=r"leader: found the joints \['waist'\], .*position of 'shoulder'"):
        inputs.on_leader("leader", {"waist": 0.0}, T0)
    with pytest.raises(TeleopError, match=r"leader: found 'elbow' at nan, expected a finite .* 'elbow'"):
        leader(inputs, elbow=math.nan)


def test_an_input_is_silent_after_its_timeout_and_not_before(inputs: Inputs) -> None:
    joy(inputs, STICKS, DEADMAN)
    assert inputs.wish("joystick", T0 + to_ns(0.3)) is not None
    assert inputs.wish("joystick", T0 + to_ns(0.3) + 1) is None
    assert inputs.wish("joystick", T0 - to_ns(0.3) - 1) is None, "a clock that went back makes nothing new"


def test_of_active_inputs_the_highest_priority_drives(inputs: Inputs) -> None:
    def strongest() -> str | None:
        entry = inputs.strongest(T0, unasked=False)
        return entry.name if entry is not None else None

    leader(inputs)
    assert strongest() == "leader"
    inputs.on_twist("twist", (0.1, 0.0, 0.0), (0.0,) * 3, None, T0)
    assert strongest() == "twist"
    joy(inputs, STICKS)  # not held
    assert strongest() == "twist"
    joy(inputs, STICKS, DEADMAN)
    assert strongest() == "joystick"


def test_only_inputs_that_may_take_over_do_so_unasked(inputs: Inputs) -> None:
    leader(inputs)
    inputs.on_twist("twist", (0.1, 0.0, 0.0), (0.0,) * 3, None, T0)
    assert inputs.strongest(T0, unasked=True) is None
    joy(inputs, STICKS, DEADMAN)
    entry = inputs.strongest(T0, unasked=True)
    assert entry is not None and entry.name == "joystick"


# At rest first ----------------------------------------------------------------------------------------


class Beside:
    """Inputs from their first message on, with the arm at home."""

    def __init__(self) -> None:
        self.inputs = Inputs(shared_robot(), lambda: shared_robot().home)
        self.now = T0

    def joy(self, values: list[float], *down: int, after_s: float = 0.05) -> bool:
        """Whether the joystick asks for anything."""
        self.now += to_ns(after_s)
        self.inputs.on_joy("joystick", values, buttons(*down), self.now)
        return self.active("joystick")

    def twist(self, x: float, after_s: float = 0.05) -> bool:
        self.now += to_ns(after_s)
        self.inputs.on_twist("twist", (x, 0.0, 0.0), (0.0,) * 3, None, self.now)
        return self.active("twist")

    def leader(self, q: np.ndarray, after_s: float = 0.05) -> bool:
        self.now += to_ns(after_s)
        said = dict(zip([*shared_robot().arm_joints, "left_finger"], [*q, 0.03], strict=True))
        self.inputs.on_leader("leader", said, self.now)
        return self.active("leader")

    def active(self, name: str) -> bool:
        wish = self.inputs.wish(name, self.now)
        return wish is not None and wish.active

    @property
    def problem(self) -> str:
        return self.inputs.problem(self.now)


@pytest.mark.parametrize("first", [-1.0, 1.0, 0.2])
@pytest.mark.parametrize("held", [(), (DEADMAN,), tuple(range(11))])
def test_a_joystick_before_its_first_event_moves_nothing(first: float, held: tuple[int, ...]) -> None:
    """Drivers report -1 or 1 on every axis until it has moved, and some every button."""
    hand = Beside()
    held = tuple(button for button in held if button != ESTOP)
    assert not any(hand.joy([first] * 8, *held) for _ in range(10))
    assert not hand.joy([first] * 8, DEADMAN)
    assert "joystick does not count before it was seen at rest: axes[" in hand.problem
    assert f"is {first:.2f}, expected within 0.08 of 0" in hand.problem
    assert not hand.joy(STICKS, DEADMAN)
    assert hand.problem.endswith("its dead-man button 4 is held")
    assert not hand.joy(STICKS) and hand.problem == ""
    assert hand.joy(axes(x=1.0), DEADMAN)


def test_a_joystick_that_was_silent_has_to_be_at_rest_again() -> None:
    hand = Beside()
    hand.joy(STICKS)
    assert hand.joy(axes(x=1.0), DEADMAN) and hand.joy(axes(x=1.0), DEADMAN, after_s=0.29)
    assert not hand.joy(axes(x=1.0), DEADMAN, after_s=0.31), "it may have been unplugged, or fallen"
    assert not hand.joy(STICKS) and hand.joy(axes(x=1.0), DEADMAN)


def test_what_does_not_count_is_forgotten_when_it_falls_silent() -> None:
    hand = Beside()
    hand.joy(axes(x=1.0), DEADMAN)
    assert hand.problem
    hand.now += to_ns(0.4)
    assert hand.problem == ""


def test_a_twist_counts_after_it_was_zero() -> None:
    hand = Beside()
    assert not hand.twist(0.1) and not hand.twist(0.1)
    assert hand.problem == (
        "twist does not count before it was seen at rest: it is [0.1, 0.0, 0.0, 0.0, 0.0, 0.0], expected six "
        "zeros once"
    )
    assert not hand.twist(0.0) and hand.twist(0.1) and hand.twist(-0.2)
    assert not hand.twist(0.1, after_s=0.21)


def test_a_twist_of_a_device_that_nobody_touches_counts_as_zero() -> None:
    hand = Beside()
    hand.twist(0.004)
    assert hand.twist(0.1)


def test_a_leader_at_the_arms_pose_leads_at_once_and_another_when_it_has_stood_still() -> None:
    home = shared_robot().home
    assert Beside().leader(home + 0.08)
    hand = Beside()
    assert not any(hand.leader(home + 0.3) for _ in range(4)) and hand.problem == ""
    assert hand.leader(home + 0.3) and hand.leader(home + 0.4)


def test_a_leader_that_moves_since_it_appeared_does_not_lead() -> None:
    hand, home = Beside(), shared_robot().home
    assert not any(hand.leader(home + 0.3 + 0.03 * tick) for tick in range(10))
    assert "leader does not count before it was seen at rest: 'waist' moves" in hand.problem
    hand.leader(home + 0.5)
    assert not any(hand.leader(home + 0.5) for _ in range(3)) and hand.leader(home + 0.5)
    assert not hand.leader(home + 0.7, after_s=0.3), "it was silent"


# Leaders of another kind ------------------------------------------------------------------------------

OTHER = {
    "kind": "leader", "name": "leader", "topic": "leader/joint_states", "priority": 60, "timeout_s": 0.2,
    "takes_over": False, "align_speed": 0.3, "unit": "deg",
    "drives": {"arm": [
        "pan",
        {"joint": "lift", "sign": -1, "offset": 0.1},
        {"joint": "elbow_flex", "scale": 2.0, "unit": "rad"},
        None,
        "wrist_flex",
        None,
    ]},
    "opening": {"group": "gripper", "joint": "jaw", "closed": 0, "open": 100},
}  # fmt: skip


def other(**changes: Any) -> Callable[[list[Any]], None]:
    """A leader of another kind in place of the shipped one; None takes a key out."""

    def change(section: list[Any]) -> None:
        entry = copy.deepcopy(OTHER) | changes
        section[LEADER] = {key: value for key, value in entry.items() if value is not None}

    return change


def test_a_leader_of_other_signs_offsets_scales_units_and_fewer_joints_is_understood(load: Any) -> None:
    leader = load(other())[LEADER]
    assert isinstance(leader, LeaderInput)
    inputs = Inputs(dataclasses.replace(shared_robot(), teleop=(leader,)))
    said = {"pan": 90.0, "lift": 45.0, "elbow_flex": 0.2, "wrist_flex": -30.0, "jaw": 50.0, "wheel": 1e308}
    inputs.on_leader("leader", said, T0)
    wish = inputs.wish("leader", T0)
    assert wish is not None and wish.joints is not None
    expected = [math.pi / 2, 0.1 - math.pi / 4, 0.4, math.nan, -math.pi / 6, math.nan]
    np.testing.assert_allclose(wish.joints, expected)
    assert wish.finger_m == pytest.approx(0.026)
    back = leader.map.positions(np.nan_to_num(wish.joints).tolist(), 0.5)
    assert back == pytest.approx({name: said[name] for name in leader.map.names})


def test_a_leader_without_a_gripper_leaves_it_as_it_is(load: Any) -> None:
    leader = load(other(opening=None))[LEADER]
    inputs = Inputs(dataclasses.replace(shared_robot(), teleop=(leader,)))
    inputs.on_leader("leader", {"pan": 0.0, "lift": 0.0, "elbow_flex": 0.0, "wrist_flex": 0.0}, T0)
    wish = inputs.wish("leader", T0)
    assert wish is not None and wish.finger_m is None


def entry(index: int, value: Any) -> Callable[[list[Any]], None]:
    arm = list(OTHER["drives"]["arm"])  # type: ignore[index]
    arm[index] = value
    return other(drives={"arm": arm})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            other(drives={"arm": ["pan"]}),
            ["'teleop[2].drives.arm'", "a list of 6 entries, for waist, shoulder"],
        ),
        (other(drives={"arm": [None] * 6}), ["'teleop[2].drives.arm'", "at least one joint"]),
        (
            other(drives={"left_arm": []}),
            ["unknown key 'teleop[2].drives.left_arm'", "expected the keys arm"],
        ),
        (other(drives=["pan"]), ["'teleop[2].drives' is ['pan']", "a mapping with the keys arm"]),
        (entry(0, "lift"), ["'teleop[2].drives.arm'", "different joints"]),
        (entry(0, "jaw"), ["'teleop[2].drives.arm'", "different joints, the gripper's among them"]),
        (entry(0, 3), ["'teleop[2].drives.arm[0]' is 3", "a joint's name, null, or a mapping"]),
        (entry(0, {"joint": "pan", "sign": 2}), ["'teleop[2].drives.arm[0].sign' is 2", "within [-1, 1]"]),
        (entry(0, {"joint": "pan", "sign": 0}), ["'teleop[2].drives.arm[0].sign' is 0", "1 or -1"]),
        (entry(0, {"joint": "pan", "scale": 0}), ["'teleop[2].drives.arm[0].scale' is 0", "within [0.001"]),
        (entry(0, {"joint": "pan", "unit": "degrees"}), ["drives.arm[0].unit' is 'degrees'", "rad, deg"]),
        (
            entry(0, {"joint": "pan", "offset": 90}),
            ["'teleop[2].drives.arm[0].offset' is 90", "within [-6.28"],
        ),
        (
            entry(0, {"name": "pan"}),
            ["unknown key 'teleop[2].drives.arm[0].name'", "the keys joint; optional"],
        ),
        (other(unit="percent"), ["'teleop[2].unit' is 'percent'", "one of rad, deg"]),
        (
            other(opening={"joint": "jaw", "closed": 1, "open": 1}),
            ["'teleop[2].opening.open' is 1", "other than"],
        ),
        (
            other(opening={"joint": "jaw", "closed": 0, "open": 1, "group": "hand"}),
            ["'teleop[2].opening.group' is 'hand'", "one of gripper"],
        ),
        (other(joints=["a"] * 6), ["unknown key 'teleop[2].joints'", "optional: opening, unit"]),
        (other(drives=None), ["unknown key 'teleop[2].opening'", "gripper_joint"]),
    ],
)
def test_a_leader_that_is_described_wrongly_is_refused_by_key_found_and_expected(
    load: Any, change: Callable[[list[Any]], object], said: list[str]
) -> None:
    refused(load, change, said)


@pytest.mark.parametrize("value", [1e308, -1e308, 88.4])
def test_a_leader_where_the_arm_could_never_be_is_refused_by_name(inputs: Inputs, value: float) -> None:
    with pytest.raises(TeleopError, match=r"leader: found 'elbow' at .* rad of 'elbow', expected within \["):
        leader(inputs, elbow=value)
