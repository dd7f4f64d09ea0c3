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
    assert isinstance(leader, LeaderInput) and leader.joints == shared_robot().arm_joints
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
    with pytest.raises(RobotFileError) as refused:
        load(change)
    for part in ["edited.yaml", *said]:
        assert part in str(refused.value)


def test_a_section_that_is_no_list_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(shared_robot().path.read_text())
    document["teleop"] = {"joystick": document["teleop"][0]}
    (tmp_path / "edited.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(RobotFileError, match=r"edited\.yaml: 'teleop' is .*expected a list of inputs"):
        load_robot(tmp_path / "edited.yaml")


# Messages -------------------------------------------------------------------------------------------


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(shared_robot())


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
    inputs = Inputs(dataclasses.replace(shared_robot(), teleop=(turned,)))
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
    inputs: Inputs, values: list[float], pressed: list[int], said: str
) -> None:
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


def test_a_twist_of_zero_asks_for_nothing(inputs: Inputs) -> None:
    inputs.on_twist("twist", (0.0,) * 3, (0.0,) * 3, None, T0)
    assert inputs.strongest(T0, unasked=False) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_twist_that_is_not_finite_is_refused_by_name(inputs: Inputs, bad: float) -> None:
    with pytest.raises(TeleopError, match=r"twist: found the twist .*, expected six finite numbers"):
        inputs.on_twist("twist", (0.1, bad, 0.0), (0.0,) * 3, None, T0)
    assert inputs.wish("twist", T0) is None


def leader(inputs: Inputs, now_ns: int = T0, **changes: float) -> None:
    joints = dict(zip(shared_robot().arm_joints, range(6), strict=True)) | {"left_finger": 0.026}
    inputs.on_leader("leader", {name: value for name, value in (joints | changes).items()}, now_ns)


def test_a_leader_is_taken_by_joint_names_with_its_gripper_scaled(inputs: Inputs) -> None:
    leader(inputs, extra_joint=9.0)
    wish = inputs.wish("leader", T0)
    assert wish is not None and wish.joints is not None
    assert wish.joints.tolist() == [0, 1, 2, 3, 4, 5] and wish.finger_m == pytest.approx(0.026)
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

    assert strongest() is None
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
