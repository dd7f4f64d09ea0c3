"""The way to a named pose: it arrives from everywhere, within limits, above the floor, and can be stopped."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import numpy as np
import pytest
from control_fixtures import DEADMAN, FORWARD, Drive, joystick
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.control.go_to import LEAST_SPEED, WayEnd, WayError
from twinbrain_ros.control.modes import Mode, ModeError
from twinbrain_ros.control.motion import Array
from twinbrain_ros.robot.poses import Pose
from twinbrain_ros.robot.robot_file import RobotFile

ROBOT = shared_robot()
SLEEP = ROBOT.poses["sleep"].arm


def go(drive: Drive, pose: str = "home", speed: float = 0.5) -> None:
    drive.controller.go_to(pose, speed, drive.now, drive.steady, "test")
    drive._collect()


def run_until_over(drive: Drive, most_s: float = 20.0) -> WayEnd:
    ends = len(drive.happened(WayEnd))
    for _ in range(round(most_s / 0.02)):
        drive.tick()
        if len(drive.happened(WayEnd)) > ends:
            return drive.happened(WayEnd)[-1]
    raise AssertionError("the way never ends")


def assert_within_limits(drive: Drive, speed: float) -> None:
    limits = drive.controller.governor.limits
    assert np.all(np.abs(np.diff(drive.path, axis=0)) <= speed * limits.velocity * 0.02 * 1.01)
    assert np.all(np.abs(np.diff(drive.path, 2, axis=0)) <= limits.acceleration * 0.02**2 * 1.05)


def lowest(path: list[Array]) -> float:
    kinematics = shared_kinematics()
    return min(float(kinematics.forward(q)[0][2]) for q in path)


@pytest.mark.parametrize("speed", [0.1, 0.5, 1.0])
def test_from_where_the_arm_lies_it_comes_home_and_holds_there(speed: float) -> None:
    drive = Drive(q=SLEEP)
    assert drive.controller.advice == "the arm lies in 'sleep': go_to home first"
    go(drive, speed=speed)
    assert drive.mode is Mode.GO_TO
    end = run_until_over(drive, 30.0)
    assert end == WayEnd(1, "home", True, "the arm is in 'home'")
    assert drive.mode is Mode.HOLD and drive.controller.state.reason == "the arm is in 'home'"
    np.testing.assert_allclose(drive.q, ROBOT.home, atol=1e-3)
    assert drive.controller.pose is ROBOT.poses["home"] and drive.controller.advice == ""
    assert_within_limits(drive, speed)
    # Straight in joint space: what a person sees is one motion between two poses.
    share = (np.array(drive.path) - SLEEP) @ (ROBOT.home - SLEEP) / np.sum((ROBOT.home - SLEEP) ** 2)
    np.testing.assert_allclose(drive.path, SLEEP + np.outer(share, ROBOT.home - SLEEP), atol=5e-3)


@pytest.mark.parametrize("seed", range(20))
def test_from_any_pose_within_the_limits_it_comes_home_above_the_floor(seed: int) -> None:
    random = np.random.default_rng(seed)
    margin = ROBOT.limit_margin_rad
    q = random.uniform(ROBOT.lower + margin, ROBOT.upper - margin)
    drive = Drive(q=q)
    go(drive, speed=1.0)
    assert run_until_over(drive).success
    assert_within_limits(drive, 1.0)
    start_m = lowest([q])
    if start_m > ROBOT.workspace.lower[2]:
        assert lowest(drive.path) > ROBOT.workspace.lower[2] - 0.004


@pytest.mark.parametrize(("joint", "beyond"), [(1, -0.015), (2, 0.02)])
def test_from_just_outside_a_limit_it_comes_home(joint: int, beyond: float) -> None:
    q = SLEEP.copy()
    q[joint] = (ROBOT.lower if beyond < 0 else ROBOT.upper)[joint] + beyond
    drive = Drive(q=q)
    go(drive)
    assert run_until_over(drive).success
    np.testing.assert_allclose(drive.path[0], q)
    assert_within_limits(drive, 1.0)


def test_where_all_joints_at_once_would_lead_too_low_some_go_first() -> None:
    folded = np.array([0.0, 1.2, 1.5, 0.0, 0.7, 0.0])
    straight = [folded + share * (ROBOT.home - folded) for share in np.linspace(0, 1, 50)]
    floor_m = ROBOT.workspace.lower[2]
    assert lowest(straight) < -0.03 and lowest([folded]) > floor_m
    drive = Drive(q=folded)
    go(drive)
    assert run_until_over(drive).success
    assert lowest(drive.path) > floor_m - 0.004


def _with_poses(*poses: Pose) -> RobotFile:
    every = {"home": ROBOT.poses["home"], **{pose.name: pose for pose in poses}}
    return dataclasses.replace(ROBOT, poses=MappingProxyType(every))


def test_it_goes_through_the_poses_that_the_file_names_there_and_back() -> None:
    over = np.array([0.6, -1.0, 0.6, 0.0, 0.4, 0.0])
    robot = _with_poses(Pose("sleep", SLEEP, through=("over",), rest=True), Pose("over", over))
    drive = Drive(robot=robot, q=SLEEP)
    for goal in ("home", "sleep"):
        before = len(drive.path)
        go(drive, goal)
        assert run_until_over(drive).success
        assert np.min(np.max(np.abs(np.array(drive.path[before:]) - over), axis=1)) < 0.01


def test_the_gripper_moves_only_where_the_pose_says_so() -> None:
    robot = _with_poses(Pose("closed", ROBOT.home + 0.1, finger_m=0.02), Pose("as it is", ROBOT.home - 0.1))
    drive = Drive(robot=robot)
    go(drive, "closed")
    assert {command.finger_m for command in drive.run(0.2)} == {0.02}
    assert run_until_over(drive).success
    go(drive, "as it is")
    assert {command.finger_m for command in drive.run(0.2)} == {0.02}


def test_the_gripper_is_told_even_if_the_arm_is_there_before_the_first_tick() -> None:
    """As when go_to home is to make known where a gripper is that no driver measures."""
    robot = _with_poses(Pose("here", ROBOT.home, finger_m=0.02))
    drive = Drive(robot=robot)
    go(drive, "here")
    assert drive.controller.finger.told_m is None
    command = drive.tick(60_000_000, 60_000_000)  # a tick that comes late
    assert command is not None and command.finger_m == drive.controller.finger.told_m == 0.02
    assert run_until_over(drive, 0.1).success


def test_autonomy_waits_until_a_commanded_gripper_was_told_something() -> None:
    robot = dataclasses.replace(
        _with_poses(Pose("open", ROBOT.home, finger_m=0.03)),
        gripper=dataclasses.replace(ROBOT.gripper, commanded=True),
    )
    drive = Drive(robot=robot)
    with pytest.raises(ModeError, match=r"'left_finger', which is not measured .* go_to home first"):
        drive.set_mode(Mode.AUTONOMY)
    drive.set_mode(Mode.TELEOP)
    drive.set_mode(Mode.HOLD)
    go(drive, "open")
    assert run_until_over(drive).success
    drive.set_mode(Mode.AUTONOMY)
    assert drive.controller.finger.problem(drive.now) == ""


def test_progress_counts_down_to_nothing() -> None:
    drive = Drive(q=SLEEP)
    go(drive, speed=0.3)
    seen = []
    while drive.controller.on_the_way is not None:
        seen.append(drive.controller.on_the_way.progress(drive.now))
        drive.tick()
    assert {towards for towards, _, _ in seen} == {"home"}
    assert seen[0][1] == pytest.approx(np.max(np.abs(SLEEP - ROBOT.home)), abs=1e-6)
    left = np.array([(distance, time_s) for _, distance, time_s in seen])
    assert np.all(np.diff(left, axis=0) <= 1e-9) and np.all(left[-1] < [1e-3, 0.02])
    assert len(seen) * 0.02 == pytest.approx(left[0, 1], abs=0.15)


# Ends before its end ----------------------------------------------------------------------------------


@pytest.fixture
def moving() -> Drive:
    drive = Drive(q=SLEEP)
    go(drive)
    drive.run(0.6)
    assert np.max(np.abs(drive.path[-1] - drive.path[-2])) > 5e-3
    return drive


def assert_stopped_on_the_way(drive: Drive, message: str) -> None:
    (end,) = drive.happened(WayEnd)
    assert not end.success and message in end.message
    drive.run(0.6)
    assert np.max(np.abs(drive.path[-1] - drive.path[-2])) < 1e-9
    assert_within_limits(drive, 1.0)
    assert np.max(np.abs(drive.q - ROBOT.home)) > 0.3


def test_hold_stops_it_at_rest(moving: Drive) -> None:
    moving.set_mode(Mode.HOLD)
    assert moving.tick() is None
    assert_stopped_on_the_way(moving, "asked")
    assert moving.mode is Mode.HOLD and not moving.controller.state.latched


def test_an_emergency_stop_stops_it(moving: Drive) -> None:
    moving.controller.estop(moving.now, moving.steady, "button", "pressed")
    moving._collect()
    assert_stopped_on_the_way(moving, "pressed")
    with pytest.raises(ModeError, match="the emergency stop is latched"):
        go(moving)


def test_joint_states_that_cease_stop_it_by_a_fault(moving: Drive) -> None:
    moving.reads = lambda now_ns: None
    moving.run(0.5)
    assert moving.mode is Mode.HOLD and moving.controller.state.latched
    assert_stopped_on_the_way(moving, "the joint states are")


def test_a_joystick_takes_over_and_the_arm_holds_when_it_lets_go(moving: Drive) -> None:
    joystick(moving, DEADMAN)
    moving.tick()
    assert moving.mode is Mode.TELEOP
    joystick(moving)
    moving.tick()
    assert moving.mode is Mode.HOLD
    assert_stopped_on_the_way(moving, "joystick took over")


def test_another_pose_takes_the_place_of_the_first_without_a_jump(moving: Drive) -> None:
    go(moving, "sleep")
    first, second = moving.happened(WayEnd)[0], run_until_over(moving)
    assert not first.success and "'sleep'" in first.message
    assert second.success and second.number == first.number + 1
    np.testing.assert_allclose(moving.q, SLEEP, atol=1e-3)
    assert_within_limits(moving, 1.0)


def test_an_arm_that_does_not_arrive_is_told_by_its_joint() -> None:
    drive = Drive(q=SLEEP)
    go(drive)
    hangs = np.array([0, 0.2, 0, 0, 0, 0])
    drive.reads = lambda now_ns: drive.q + hangs
    end = run_until_over(drive)
    assert end.message == "'shoulder' stands 0.20 rad from 'home', expected at most 0.1 rad"
    assert not end.success and drive.mode is Mode.HOLD


# Refused ----------------------------------------------------------------------------------------------


def test_the_policy_is_not_interrupted_for_a_pose_nor_the_way_for_the_policy() -> None:
    drive = Drive()
    drive.autonomy(FORWARD)
    with pytest.raises(
        ModeError, match="a pose is asked for, which leads nowhere from AUTONOMY: ask for HOLD"
    ):
        go(drive)
    assert drive.mode is Mode.AUTONOMY
    drive.set_mode(Mode.HOLD)
    drive.run(0.5)
    go(drive)
    with pytest.raises(
        ModeError, match="autonomy is asked for, which leads nowhere from GO_TO: ask for HOLD"
    ):
        drive.set_mode(Mode.AUTONOMY)


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    drive = Drive(q=SLEEP)
    with pytest.raises(WayError, match="there is no pose 'hme', expected one of home, sleep, upright"):
        go(drive, "hme")
    for speed in (0.0, -0.1, 1.1, float("nan"), 1e-300, 0.0099):
        with pytest.raises(WayError, match=r"speed is .*, expected a share of the limits within \[0.01, 1\]"):
            go(drive, speed=speed)
    with pytest.raises(ModeError, match=r"mode is 4, expected one of .*; the action go_to leads to a pose"):
        drive.controller.set_mode(4, drive.now, drive.steady, "test", "")
    assert drive.mode is Mode.HOLD and drive.run(0.1) == []


def test_the_least_speed_may_come_as_a_float_of_an_action() -> None:
    drive = Drive(q=SLEEP)
    go(drive, speed=float(np.float32(LEAST_SPEED)))
    assert drive.mode is Mode.GO_TO


def test_it_needs_fresh_joint_states() -> None:
    drive = Drive(q=SLEEP)
    drive.reads = lambda now_ns: None
    drive.run(0.4)
    with pytest.raises(ModeError, match="cannot start go_to: the joint states are"):
        go(drive)


# Afterwards -------------------------------------------------------------------------------------------


def test_from_a_pose_outside_the_box_the_tool_comes_in_and_not_further_out() -> None:
    drive = Drive()
    go(drive, "upright", 1.0)
    assert run_until_over(drive).success
    box = ROBOT.workspace
    outside = drive.tool[2] - box.upper[2]
    assert outside > 0.3
    go(drive, "home", 1.0)
    drive.run(0.4)
    drive.set_mode(Mode.HOLD)
    drive.run(0.6)
    start = drive.tool
    assert start[2] > box.upper[2] + 0.05
    before = len(drive.path)
    joystick(drive, DEADMAN, z=-1.0)
    drive.run(0.6)
    way = np.array([drive.kinematics.forward(q)[0] for q in drive.path[before:]])
    assert way[-1][2] < start[2] - 0.02
    # Twice the speed that is asked for at most, while joints catch up: the box does not draw the arm in.
    assert np.max(np.linalg.norm(np.diff(way, axis=0), axis=1)) / 0.02 < 0.3
    joystick(drive, DEADMAN, z=1.0)
    drive.run(2.0)
    highest = max(drive.kinematics.forward(q)[0][2] for q in drive.path[before:])
    assert highest < start[2] + 2e-3


def test_chunks_from_outside_the_box_lead_in_at_their_own_speed() -> None:
    outside = np.array([0.0, -1.0, 0.6, 0.0, 0.4, 0.0])
    drive = Drive(q=outside)
    assert drive.tool[2] > ROBOT.workspace.upper[2] + 0.03
    drive.autonomy((0.0, 0.0, -0.02, 0.0, 0.0, 0.0, 1.0))
    start = drive.tool
    drive.run(0.8)
    assert drive.mode is Mode.AUTONOMY and drive.tool[2] == pytest.approx(start[2] - 0.08, abs=0.015)
    assert_within_limits(drive, 1.0)
