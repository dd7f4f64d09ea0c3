"""What a driver says of itself, held against what commands need."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

from twinbrain_ros.control.rivals import full_name, rivals, rivals_sentence
from twinbrain_ros.control.stamps import StampWatch
from twinbrain_ros.robot import driver_findings
from twinbrain_ros.robot.driver_findings import State
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

SERVICE = "/wx250s/set_operating_modes"
MS = 1_000_000
NS_PER_S = 1_000_000_000


@pytest.fixture(scope="module")
def xs() -> RobotFile:
    return load_robot("wx250s_xs")


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


def info(xs: RobotFile, **changes: Any) -> Any:
    """As the driver answers when everything is as it must be."""
    limits = [xs.limits[joint] for joint in xs.arm_joints]
    fields: dict[str, Any] = {
        "mode": "position",
        "profile_type": "time",
        "joint_names": list(xs.arm_joints),
        "joint_lower_limits": np.array([limit.lower for limit in limits], np.float32),
        "joint_upper_limits": np.array([limit.upper for limit in limits], np.float32),
        "joint_velocity_limits": np.array([limit.velocity for limit in limits], np.float32),
        "joint_sleep_positions": [0.0, -1.8, 1.55, 0.0, 0.8, 0.0],
    }
    return types.SimpleNamespace(**{**fields, **changes})


def wrong(findings: list[driver_findings.Finding], state: State = State.WRONG) -> list[str]:
    return [finding.sentence for finding in findings if finding.state is state]


def test_a_driver_in_the_modes_that_commands_need_has_nothing_wrong(xs: RobotFile) -> None:
    findings = driver_findings.judge_xs_arm(xs, info(xs), [100] * 8, SERVICE)
    assert {finding.state for finding in findings} == {State.OK}


def test_a_moving_time_of_two_seconds_is_named_with_the_call_that_mends_it(xs: RobotFile) -> None:
    (sentence,) = wrong(driver_findings.judge_xs_arm(xs, info(xs), [2000] * 8, SERVICE))
    assert "each position begins a motion of 2000 ms, expected at most 200 ms" in sentence
    assert (
        f"ros2 service call {SERVICE} interbotix_xs_msgs/srv/OperatingModes "
        '"{cmd_type: group, name: arm, mode: position, profile_type: time, profile_velocity: 100, '
        'profile_acceleration: 50}"'
    ) in sentence


@pytest.mark.parametrize(
    ("changes", "registers", "state", "words"),
    [
        ({"mode": "pwm"}, [100], State.WRONG, "'pwm', expected 'position'"),
        ({"mode": "velocity"}, [100], State.WRONG, "'velocity', expected 'position'"),
        ({}, None, State.UNKNOWN, "does not tell Profile_Velocity"),
        ({}, [], State.UNKNOWN, "does not tell Profile_Velocity"),
        ({"profile_type": "velocity"}, [50] * 8, State.WRONG, "move at most at 1.20 rad/s, commands at 3.14"),
        ({"profile_type": ""}, [50] * 8, State.UNKNOWN, "profile type ''"),
        ({"joint_names": ["waist", "elbow"]}, [100], State.WRONG, "['waist', 'elbow'], expected ['waist', "),
        ({"joint_lower_limits": []}, [100], State.UNKNOWN, "it has no robot_description"),
        ({"joint_lower_limits": [-1.0] * 6}, [100], State.WARN, "waist [-1.000, 3.142] rad inside [-3.142"),
        ({"joint_velocity_limits": [1.0] * 6}, [100], State.WARN, "waist 1.00 rad/s below 3.14"),
    ],
)
def test_what_is_wrong_or_not_known_of_the_arm_is_said(
    xs: RobotFile, changes: dict[str, Any], registers: Any, state: State, words: str
) -> None:
    findings = driver_findings.judge_xs_arm(xs, info(xs, **changes), registers, SERVICE)
    assert any(words in sentence for sentence in wrong(findings, state)), findings


def test_a_velocity_profile_without_a_limit_can_be_streamed_to(xs: RobotFile) -> None:
    findings = driver_findings.judge_xs_arm(xs, info(xs, profile_type="velocity"), [0] * 8, SERVICE)
    assert not wrong(findings)


def test_a_gripper_in_pwm_is_named_with_its_call(xs: RobotFile) -> None:
    said = types.SimpleNamespace(mode="pwm", joint_names=["left_finger"])
    (sentence,) = wrong(driver_findings.judge_xs_gripper(xs, said, SERVICE))
    assert "'pwm', which does not take metres, expected 'linear_position'" in sentence
    assert "{cmd_type: single, name: gripper, mode: linear_position, profile_type: time" in sentence
    other = types.SimpleNamespace(mode="linear_position", joint_names=["finger"])
    assert (
        "['finger'], expected ['left_finger']"
        in wrong(driver_findings.judge_xs_gripper(xs, other, SERVICE))[0]
    )


def test_a_sleep_pose_that_the_driver_does_not_know_is_none(xs: RobotFile) -> None:
    q = driver_findings.sleep_pose(xs, info(xs))
    assert q is not None and q.tolist() == [0.0, -1.8, 1.55, 0.0, 0.8, 0.0]
    for unknown in ([], [0.0] * 6, [0.0, float("nan"), 1.55, 0.0, 0.8, 0.0]):
        assert driver_findings.sleep_pose(xs, info(xs, joint_sleep_positions=unknown)) is None


# ros2_control ---------------------------------------------------------------------------------------


def controller(name: str, joints: Any = (), **changes: Any) -> Any:
    kind = "joint_trajectory_controller/JointTrajectoryController"
    claimed = [f"{joint}/position" for joint in joints]
    fields = {
        "name": name,
        "type": kind,
        "state": "active",
        "update_rate": 100,
        "claimed_interfaces": claimed,
    }
    return types.SimpleNamespace(**{**fields, **changes})


def all_well(robot: RobotFile) -> dict[str, Any]:
    broadcaster = "joint_state_broadcaster/JointStateBroadcaster"
    return {
        "arm_controller": controller("arm_controller", robot.arm_joints),
        "gripper_controller": controller("gripper_controller", [robot.gripper.joint]),
        "joint_state_broadcaster": controller("joint_state_broadcaster", type=broadcaster),
    }


def test_active_controllers_of_the_right_joints_are_well(robot: RobotFile) -> None:
    findings = driver_findings.judge_controllers(robot, list(all_well(robot).values()))
    assert {finding.state for finding in findings} == {State.OK}
    assert any("is active, at 100 Hz" in finding.found for finding in findings)


def test_a_rate_that_is_not_told_is_unknown(robot: RobotFile) -> None:
    """Humble's list_controllers has no update_rate."""
    controllers = all_well(robot)
    del controllers["arm_controller"].update_rate
    findings = driver_findings.judge_controllers(robot, list(controllers.values()))
    assert any("'arm_controller' (" in f.found and "update rate unknown" in f.found for f in findings)


@pytest.mark.parametrize(
    ("name", "change", "state", "words"),
    [
        ("arm_controller", None, State.WRONG, "'arm_controller' is not loaded, only: gripper_controller"),
        ("arm_controller", None, State.WRONG, "spawner arm_controller -c /left/controller_manager"),
        ("gripper_controller", {"state": "inactive"}, State.WRONG, "is inactive, expected active"),
        ("arm_controller", {"claimed_interfaces": ["waist/position"]}, State.WRONG, "none of ['shoulder'"),
        ("joint_state_broadcaster", None, State.WARN, "no joint_state_broadcaster is active"),
        (
            "gripper_controller",
            {"claimed_interfaces": ["left_finger/position", "right_finger/position"]},
            State.WARN,
            "claims ['right_finger'] besides ['left_finger']",
        ),
        (
            "gripper_controller",
            {"claimed_interfaces": ["left_finger/effort"]},
            State.WARN,
            "no position: the arm follows as well as its gains let it",
        ),
        (
            "other",
            {"claimed_interfaces": ["waist/velocity"]},
            State.WRONG,
            "'other' is active too and claims waist",
        ),
    ],
)
def test_what_stands_against_the_controllers_is_said(
    robot: RobotFile, name: str, change: dict[str, Any] | None, state: State, words: str
) -> None:
    controllers = all_well(robot)
    if change is None:
        del controllers[name]
    else:
        controllers.setdefault(name, controller(name))
        vars(controllers[name]).update(change)
    findings = driver_findings.judge_controllers(
        robot, list(controllers.values()), "/left/controller_manager"
    )
    assert any(words in sentence for sentence in wrong(findings, state)), findings


def test_a_pasted_mend_names_the_manager(robot: RobotFile) -> None:
    controllers = [*all_well(robot).values(), controller("other", robot.arm_joints)]
    found = wrong(driver_findings.judge_controllers(robot, controllers, "/cell/manager"))
    assert found[0].endswith("ros2 control switch_controllers --deactivate other -c /cell/manager")
    missing = wrong(driver_findings.judge_controllers(robot, [], "/cell/manager"))
    assert all(sentence.endswith("-c /cell/manager") for sentence in missing) and len(missing) == 2


def chained(robot: RobotFile, through: str) -> list[str]:
    return [f"{through}/{joint}/position" for joint in robot.arm_joints]


def test_a_controller_that_is_chained_to_another_is_unknown_and_not_wrong(robot: RobotFile) -> None:
    controllers = all_well(robot)
    controllers["arm_controller"].claimed_interfaces = chained(robot, "admittance_controller")
    controllers["admittance_controller"] = controller("admittance_controller", robot.arm_joints)
    findings = driver_findings.judge_controllers(robot, list(controllers.values()))
    assert not wrong(findings)
    (sentence,) = wrong(findings, State.UNKNOWN)
    assert "'arm_controller' is chained to admittance_controller" in sentence
    # What is not of the chain is as wrong as ever.
    controllers["third"] = controller("third", robot.arm_joints)
    (sentence,) = wrong(driver_findings.judge_controllers(robot, list(controllers.values())))
    assert "'third' is active too" in sentence


def test_a_controller_that_is_chained_to_the_arms_is_told(robot: RobotFile) -> None:
    controllers = all_well(robot)
    controllers["player"] = controller("player", claimed_interfaces=chained(robot, "arm_controller"))
    findings = driver_findings.judge_controllers(robot, list(controllers.values()))
    assert not wrong(findings)
    (sentence,) = wrong(findings, State.WARN)
    assert "'player' is active too and claims" in sentence and sentence.endswith("of arm_controller")


# Others ---------------------------------------------------------------------------------------------


def test_a_second_node_of_ones_own_name_is_a_rival_too() -> None:
    assert rivals("/a", ["/a"]) == []
    assert rivals("/a", []) == []  # before the graph knows of oneself
    assert rivals("/a", ["/a", "/b", "/b", "/a"]) == ["/b (2 times)", "another /a"]
    sentence = rivals_sentence("/arm", "/a", ["another /a"], "commands")
    assert "by /a (this one) and by another /a: end one of them (one that was killed" in sentence
    assert rivals_sentence("/arm", "/a", [], "commands") == ""
    assert "killed" not in rivals_sentence("/arm", "/a", ["/a2", "/b/a (2 times)"], "commands")
    assert full_name("/", "x") == "/x" and full_name("/left", "x") == "/left/x"
    assert full_name("/", "_NODE_NAME_UNKNOWN_") == "a node without a name"


# Clocks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset_ms", "ahead"), [(200.0, "0.196"), (50.0, ""), (-10.0, ""), (-200.0, "")])
def test_an_arm_whose_driver_is_far_ahead_of_its_commands_is_not_moved(offset_ms: float, ahead: str) -> None:
    found = watched(offset_ms).too_far_ahead()
    assert (f"the driver's clock is {ahead} s ahead" in found) if ahead else found == ""


def test_one_stamp_from_before_the_clock_was_set_back_bars_nothing() -> None:
    watch = StampWatch()
    for k in range(30):
        watch.add(k * 10 * MS + NS_PER_S + (500 * MS if k == 12 else 0), k * 10 * MS + NS_PER_S)
        assert watch.too_far_ahead() == ""


def watched(offset_ms: float, late_ms: Any = (1.0, 4.0, 30.0), every_ms: int = 40) -> StampWatch:
    """A hundred messages, stamped by a clock that is ahead by `offset_ms`, on the way for some time."""
    watch = StampWatch()
    for k in range(100):
        stamp_ns = k * every_ms * MS + NS_PER_S
        arrival_ns = stamp_ns + round(late_ms[k % len(late_ms)] * MS)
        watch.add(stamp_ns + round(offset_ms * MS), arrival_ns)
    return watch


@pytest.mark.parametrize("offset_ms", [50.0, 200.0])
def test_a_clock_that_is_ahead_is_named_with_its_offset(offset_ms: float) -> None:
    words = f"the driver's clock is {(offset_ms - 1) / 1e3:.3f} s ahead of this machine's"
    assert words in watched(offset_ms).problem()


@pytest.mark.parametrize("offset_ms", [-50.0, -200.0])
def test_a_clock_that_is_behind_cannot_be_told_from_late_messages(offset_ms: float) -> None:
    words = f"at least {(1 - offset_ms) / 1e3:.3f} s old when they arrive: the driver's clock is behind"
    assert words in watched(offset_ms).problem()


@pytest.mark.parametrize("offset_ms", [-10.0, 0.0, 10.0])
def test_small_offsets_and_late_messages_are_nothing_to_tell(offset_ms: float) -> None:
    assert watched(offset_ms).problem() == ""
    assert watched(0.0, (90.0, 60.0, 2.0), 100).problem() == ""
    assert watched(0.0, (95.0, 80.0, 50.0), 100).problem() == ""  # all late, but by different times


def test_stamps_of_another_clock_and_none_at_all() -> None:
    assert "stamped with another clock" in watched(1e6).problem()
    watch = StampWatch()
    for k in range(100):
        watch.add(0, k * 10 * MS)
    assert watch.offset_s() is None and watch.problem() == ""


def test_what_was_seen_before_this_machines_clock_was_set_back_is_forgotten() -> None:
    watch = watched(0.0)
    watch.add(100 * MS, 101 * MS)
    assert watch.offset_s() is None
