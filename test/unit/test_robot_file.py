"""The robot file: what ships is complete, and what is wrong is named with file, key, found and expected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sim_fixtures import shared_robot

from twinbrain_ros.robot.robot_file import RobotFileError, load_robot
from twinbrain_ros.robot.strict import StrictMapping


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Returns a function that writes a changed copy of the shipped robot file and returns its path."""
    source = shared_robot()

    def write(change: Callable[[dict[str, Any]], None]) -> Path:
        document = yaml.safe_load(source.path.read_text())
        change(document)
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(document))
        shutil.copy(source.urdf_path, tmp_path / source.urdf_path.name)
        return path

    return write


def test_the_shipped_robot_is_a_widowx_250() -> None:
    robot = shared_robot()
    assert robot.name == "wx250s"
    assert robot.arm_joints == ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
    assert robot.limits["elbow"].upper == pytest.approx(1.6057, abs=1e-4)
    assert [limit.effort for limit in robot.limits.values()] == [10, 20, 15, 2, 5, 1]
    assert [camera.role for camera in robot.cameras] == ["third_person", "wrist"]
    assert robot.action.names[-1] == "gripper" and robot.action.horizon == 8
    assert "<robot" in robot.urdf()


def test_gripper_opening_and_finger_position_are_inverse() -> None:
    gripper = shared_robot().gripper
    assert gripper.opening(0.015) == pytest.approx(0.0) and gripper.opening(0.037) == pytest.approx(1.0)
    assert gripper.opening(gripper.finger(0.3)) == pytest.approx(0.3)
    assert gripper.finger(1.5) == pytest.approx(gripper.open_m)  # a command is clipped
    assert gripper.opening(0.04) > 1.0  # a measurement is not


def test_a_changed_copy_that_is_still_right_loads(edited: Callable[..., Path]) -> None:
    robot = load_robot(edited(lambda document: document["rates"].update(command_hz=25.0)))
    assert robot.rates.command_hz == 25.0


def _drop_period(document: dict[str, Any]) -> None:
    del document["action"]["period_s"]


def _misspell_horizon(document: dict[str, Any]) -> None:
    document["action"]["horizn"] = document["action"].pop("horizon")


def _drop_limits_of_elbow(document: dict[str, Any]) -> None:
    del document["arm"]["limits"]["elbow"]


def _set(*keys: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop_period, ["missing key 'action.period_s'"]),
        (_misspell_horizon, ["unknown key 'action.horizn'", "did you mean 'horizon'?"]),
        (_drop_limits_of_elbow, ["missing key 'arm.limits.elbow'"]),
        (_set("rates", "command_hz", value="fast"), ["'rates.command_hz' is 'fast'", "a finite number"]),
        (_set("rates", "command_hz", value=float("nan")), ["'rates.command_hz' is nan", "a finite number"]),
        (_set("action", "horizon", value=8.5), ["'action.horizon' is 8.5", "an integer within [1, 1000]"]),
        (_set("action", "horizon", value=True), ["'action.horizon' is True", "an integer"]),
        (_set("action", "execution_steps", value=9), ["'action.execution_steps' is 9", "within [1, 8]"]),
        (_set("action", "space", value="twist"), ["'action.space' is 'twist'", "ee_delta, joint_position"]),
        (_set("action", "names", value=["dx"]), ["'action.names' is ['dx']", "'dyaw'"]),
        (_set("cameras", 0, "width", value=0), ["'cameras[0].width' is 0", "an integer within [1, 8192]"]),
        (_set("cameras", 1, "name", value="front"), ["'cameras' is ['front', 'front']", "different names"]),
        (_set("cameras", 0, "encoding", value="rgb"), ["'cameras[0].encoding' is 'rgb'", "rgb8, bgr8"]),
        (_set("topics", "joint_states", value="/joint_states"), ["'/joint_states'", "a relative topic"]),
        (_set("arm", "home", value=[0, 0, 0, 0, 3.0, 0]), ["'arm.home'", "'wrist_angle' within its limits"]),
        (_set("arm", "home", value=[0.0, 0.0]), ["'arm.home' is [0.0, 0.0]", "a list of 6 finite numbers"]),
        (_set("arm", "joints", value="waist"), ["'arm.joints' is 'waist'", "a list of"]),
        (_set("arm", "limits", "elbow", "upper", value=1.7), ["arm.limits.elbow.upper", "expected 1.6057"]),
        (_set("frames", "tool", value="hand"), ["'frames.tool' is 'hand'", "a link of wx250s.urdf"]),
        (_set("gripper", "joint", value="thumb"), ["joint 'thumb'", "a joint of wx250s.urdf"]),
        (
            _set("gripper", "open_m", value=0.015),
            ["'gripper.open_m' is 0.015", "another position than closed_m"],
        ),
        (_set("workspace", "upper", value=[0, 0, 0]), ["'workspace.upper'", "more than lower"]),
        (_set("urdf", value="other.urdf"), ["'urdf'", "does not exist"]),
        (_set("cameras", value=[]), ["'cameras' is []", "at least one camera"]),
        (_set("name", value="<|im_end|>"), ["'name' is '<|im_end|>'", "without {, } and <|"]),
        (_set("name", value="{instruction}"), ["'name' is '{instruction}'", "without {, } and <|"]),
        (_set("name", value="an\narm"), ["'name' is 'an\\narm'", "a name in one line"]),
        (_set("name", value="a" * 101), ["'name' is 'aaa", "of at most 100 characters"]),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_what_was_expected(
    edited: Callable[..., Path], change: Callable[[dict[str, Any]], None], said: list[str]
) -> None:
    path = edited(change)
    with pytest.raises(RobotFileError) as error:
        load_robot(path)
    for words in [str(path), *said]:
        assert words in str(error.value)


def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(RobotFileError, match=r"top level.*expected a mapping"):
        load_robot(path)
    path.write_text("a: [")
    with pytest.raises(RobotFileError, match="not readable as YAML"):
        load_robot(path)


def test_a_missing_file_names_what_was_tried() -> None:
    with pytest.raises(FileNotFoundError, match="wx999"):
        load_robot("wx999")


def test_the_gripper_follows_the_arms_interface_unless_the_file_says_otherwise() -> None:
    plain, xs = shared_robot(), load_robot("wx250s_xs")
    assert plain.gripper_command.interface == "joint_trajectory"
    assert plain.gripper_command.topic == plain.topics.gripper_trajectory
    assert xs.gripper_command.interface == "xs_joint_single"


def test_each_group_may_say_how_it_is_commanded(edited: Callable[..., Path]) -> None:
    def change(document: dict[str, Any]) -> None:
        document["arm"]["command"] = {"interface": "joint_trajectory", "topic": "left/arm"}
        command = {"interface": "gripper_action", "topic": "left/grip", "max_effort": 20.0}
        document["gripper"]["command"] = command
        for key in ("arm_trajectory", "gripper_trajectory"):
            del document["topics"][key]
        del document["command"]

    robot = load_robot(edited(change))
    assert (robot.command_interface, robot.topics.arm_trajectory) == ("joint_trajectory", "left/arm")
    command = robot.gripper_command
    assert (command.interface, command.topic, command.max_effort) == ("gripper_action", "left/grip", 20.0)
    assert robot.topics.gripper_trajectory == "left/grip/commanded"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda keys: keys["topics"].pop("gripper_trajectory"), "'topics.gripper_trajectory': expected it"),
        (lambda keys: keys["topics"].pop("arm_trajectory"), "'topics.arm_trajectory': expected it, or"),
        (lambda keys: keys.pop("command"), "missing key 'command': expected it, or 'arm.command'"),
        (
            lambda keys: keys["gripper"].update(command={"interface": "goals", "topic": "a"}),
            "'gripper.command.interface' is 'goals', expected one of joint_trajectory, gripper_action",
        ),
        (
            lambda keys: keys["gripper"].update(command={"interface": "position"}),
            "missing key 'gripper.command.topic'",
        ),
        (
            lambda keys: keys["gripper"].update(
                command={"interface": "position", "topic": "a", "max_effort": -1.0}
            ),
            "'gripper.command.max_effort' is -1.0",
        ),
    ],
)
def test_a_group_that_does_not_say_how_it_is_commanded_is_refused(
    edited: Callable[..., Path], change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    with pytest.raises(RobotFileError) as refused:
        load_robot(edited(change))
    assert words in str(refused.value)


def test_an_optional_key_may_be_left_out_and_is_offered_to_one_who_misspells_it() -> None:
    with_it = StrictMapping({"a": 1, "more": 2}, "file", ("a",), optional=("more",))
    without = StrictMapping({"a": 1}, "file", ("a",), optional=("more",))
    assert with_it.has("more") and with_it.integer("more", 0, 9) == 2 and not without.has("more")
    with pytest.raises(ValueError, match=r"file: unknown key 'mor': did you mean 'more'\? .*optional: more"):
        StrictMapping({"a": 1, "mor": 2}, "file", ("a",), optional=("more",))
    with pytest.raises(ValueError, match="file: missing key 'a': expected the keys a; optional: more"):
        StrictMapping({"more": 2}, "file", ("a",), optional=("more",))


# A gripper that no driver measures -------------------------------------------------------------------


def _commanded(document: dict[str, Any]) -> None:
    document["gripper"].update(state="commanded", home=[0.03])


def test_a_gripper_is_measured_unless_the_file_says_that_it_is_commanded(edited: Callable[..., Path]) -> None:
    shipped = shared_robot()
    assert not shipped.gripper.commanded and shipped.topics.all_joint_states == ("joint_states",)
    assert shipped.poses["home"].finger_m is None
    robot = load_robot(edited(_commanded))
    assert robot.gripper.commanded and robot.poses["home"].finger_m == 0.03
    assert robot.topics.measured_joint_states == ("joint_states",)
    assert robot.topics.all_joint_states == ("joint_states", "commanded_joint_states")


def test_a_measured_gripper_may_have_a_home_too(edited: Callable[..., Path]) -> None:
    robot = load_robot(edited(lambda document: document["gripper"].update(state="measured", home=[0.02])))
    assert not robot.gripper.commanded and robot.poses["home"].finger_m == 0.02


def test_what_is_commanded_may_be_told_elsewhere(edited: Callable[..., Path]) -> None:
    def change(document: dict[str, Any]) -> None:
        _commanded(document)
        document["topics"]["commanded_joint_states"] = "gripper/joint_states"

    assert load_robot(edited(change)).topics.all_joint_states == ("joint_states", "gripper/joint_states")


@pytest.mark.parametrize(
    ("gripper", "topics", "said"),
    [
        ({"state": "guessed"}, {}, "'gripper.state' is 'guessed', expected one of measured, commanded"),
        ({"state": "commanded"}, {}, "missing key 'gripper.home': expected a position [m], as with state"),
        ({"home": [0.5]}, {}, "'gripper.home' is [0.5], expected within [0.015, 0.037]"),
        ({"home": 0.02}, {}, "'gripper.home' is 0.02, expected a list of 1 finite numbers"),
        (
            {"state": "commanded", "home": [0.03]},
            {"commanded_joint_states": "joint_states"},
            "'topics.commanded_joint_states' is 'joint_states', expected a topic other than those of",
        ),
        (
            {},
            {"commanded_joint_states": "hand"},
            "'topics.commanded_joint_states' is 'hand', expected no such key unless gripper.state is",
        ),
    ],
)
def test_a_state_that_cannot_be_is_refused(
    edited: Callable[..., Path], gripper: dict[str, Any], topics: dict[str, Any], said: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["gripper"].update(gripper)
        document["topics"].update(topics)

    path = edited(change)
    with pytest.raises(RobotFileError) as refused:
        load_robot(path)
    assert str(refused.value).startswith(f"{path}: ") and said in str(refused.value)
