"""Chunks in time: which one drives, where from, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import numpy as np
import pytest
from control_fixtures import FORWARD, STILL, T0, TICK, Drive, make_chunk, with_action
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.control.governor import BOX_TOLERANCE_M
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.control.verdict import Judged, Outcome, Verdict
from twinbrain_ros.control.waypoints import MAX_POSITION_ERROR_M
from twinbrain_ros.robot.actions import compose_ee_deltas
from twinbrain_ros.robot.robot_file import RobotFile

PERIOD = to_ns(0.2)


def driving(robot: RobotFile | None = None, steps: int | None = 2, q: Any = None, **chunks: Any) -> Drive:
    """In autonomy, one tick after the switch."""
    drive = Drive(ControlSettings(ChunkSettings(execution_steps=steps, **chunks)), robot, q)
    drive.set_mode(Mode.AUTONOMY)
    drive.tick()
    return drive


def verdict(drive: Drive, *arguments: Any, **changes: Any) -> Verdict:
    return drive.give(*arguments, **changes).verdict


def moved(drive: Drive) -> Any:
    """How far the tool is from home [3], m."""
    return drive.tool - drive.kinematics.forward(drive.robot.home)[0]


# Where and when ---------------------------------------------------------------------------------------


def test_each_waypoint_is_reached_at_its_time() -> None:
    drive = driving(steps=4)
    delta = (0.015, 0.01, -0.01, 0.0, 0.05, 0.1, 1)
    found = verdict(drive, delta)
    assert found.accepted
    start, rotation = drive.kinematics.forward(drive.robot.home)
    positions, rotations = compose_ee_deltas(start, rotation, np.tile(delta, (4, 1)))
    drive.run(0.64)
    for step in range(3):
        due = drive.controller.governor.at(found.due_ns + (step + 1) * PERIOD)
        reached, turned = drive.kinematics.forward(due.q)
        np.testing.assert_allclose(reached, positions[step], atol=1e-3)
        np.testing.assert_allclose(turned, rotations[step], atol=1e-2)


@pytest.mark.parametrize(("strategy", "most"), [(Strategy.OPEN_LOOP, 2), (Strategy.RECEDING_HORIZON, 4)])
def test_without_a_newer_chunk_it_comes_to_rest_after_its_steps(strategy: Strategy, most: int) -> None:
    """One that will be replaced goes on a little, so as not to slow down before its successor comes."""
    drive = driving(strategy=strategy)
    drive.give(FORWARD)
    drive.run(2.5)
    assert drive.controller.running is None and not drive.controller.governor.moving(drive.now)
    steps = moved(drive)[0] / 0.02
    assert steps == pytest.approx(round(steps), abs=0.02) and 2 <= round(steps) <= most
    assert drive.tick() is None


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_open_loop_executes_exactly_as_many_steps_as_asked(steps: int) -> None:
    drive = driving(steps=steps, strategy=Strategy.OPEN_LOOP)
    drive.give((0.01, 0, 0, 0, 0, 0, 1))
    drive.run(2.5)
    assert moved(drive)[0] == pytest.approx(0.01 * steps, abs=2e-4)


def test_steps_that_were_not_executed_are_not_left_out() -> None:
    """The arm stood still while the policy worked: the chunk starts at its beginning, only later."""
    drive = driving(steps=1, strategy=Strategy.OPEN_LOOP)
    found = verdict(drive, FORWARD, observation_ns=drive.now - to_ns(0.3) + 1, due_ns=drive.now - to_ns(0.3))
    assert found.outcome is Outcome.DISCARDED  # from before the switch
    drive.run(0.4)
    due = drive.now - to_ns(0.3)
    found = verdict(drive, FORWARD, observation_ns=due)
    assert found.accepted and found.due_ns == pytest.approx(drive.now, abs=to_ns(0.041))
    drive.run(1.0)
    assert moved(drive)[0] == pytest.approx(0.02, abs=2e-4)


def test_steps_that_were_executed_meanwhile_are_skipped_by_time() -> None:
    drive = driving(steps=4)
    drive.give(FORWARD)
    drive.run(0.4)
    seen_ns, seen_at = drive.now, drive.q
    drive.run(0.3)
    found = verdict(drive, FORWARD, observation_ns=seen_ns, observation_positions=seen_at)
    assert found.accepted and found.due_ns == seen_ns
    before = len(drive.path)
    drive.run(0.3)
    speeds = np.diff([drive.kinematics.forward(q)[0][0] for q in drive.path[before - 5 :]]) / 0.02
    # The same motion, planned anew on the way: no pause and no rush.
    np.testing.assert_allclose(speeds, 0.1, atol=0.012)


def test_a_new_chunk_takes_over_without_a_jump() -> None:
    drive = driving(steps=4)
    drive.give(FORWARD)
    drive.run(0.3)
    drive.give((-0.02, 0.02, 0, 0, 0, 0, 1), sequence=2)
    before, command = drive.q, drive.tick()
    assert command is not None and command.first_of is not None and command.first_of.chunk.sequence == 2
    limits = drive.controller.governor.limits
    assert np.all(np.abs(drive.q - before) <= limits.velocity * 0.02)
    drive.run(0.6)
    steps = np.diff(drive.path, n=2, axis=0)[10:] / 0.02**2
    assert np.all(np.abs(steps) <= limits.acceleration * 1.05)


def test_only_the_first_command_of_a_chunk_is_marked() -> None:
    drive = driving()
    drive.give(FORWARD)
    assert [command.first_of is not None for command in drive.run(0.08)] == [True, False, False, False]


def test_open_loop_lets_the_newest_wait_and_start_at_the_end() -> None:
    drive = driving(steps=2, strategy=Strategy.OPEN_LOOP)
    drive.give(FORWARD)
    drive.run(0.2)
    assert verdict(drive, FORWARD, sequence=2).outcome is Outcome.WAITING
    drive.run(0.06)
    third = drive.give((0, 0.02, 0, 0, 0, 0, 1), sequence=3)
    assert third.verdict.outcome is Outcome.WAITING
    overtaken = [h for h in drive.happened(Judged) if h.chunk.sequence == 2]
    assert overtaken[-1].verdict == Verdict(Outcome.DISCARDED, "a newer chunk came before its first command")
    firsts = [c.first_of.chunk.sequence for c in drive.run(1.0) if c.first_of is not None]
    assert firsts == [3]
    # The first was executed to its end, 2 steps, before the waiting one drove, from where it was observed.
    furthest = max(drive.kinematics.forward(q)[0][0] for q in drive.path)
    assert furthest - drive.kinematics.forward(drive.robot.home)[0][0] == pytest.approx(0.04, abs=1e-3)
    assert moved(drive)[1] > 0.02


def test_a_chunk_that_waited_for_too_long_is_stale() -> None:
    drive = driving(steps=8, strategy=Strategy.OPEN_LOOP)
    drive.give((0.005, 0, 0, 0, 0, 0, 1))
    drive.run(0.2)
    drive.give(FORWARD, sequence=2)
    drive.run(2.0)
    assert [h.verdict.outcome for h in drive.happened(Judged) if h.chunk.sequence == 2] == [
        Outcome.WAITING,
        Outcome.STALE,
    ]


def test_an_ensemble_goes_between_what_its_chunks_say() -> None:
    drive = driving(steps=4, strategy=Strategy.TEMPORAL_ENSEMBLE)
    drive.give((0.0, 0.02, 0, 0, 0, 0, 1))
    drive.run(0.2)
    drive.give((0.0, 0.0, 0, 0, 0, 0, 1), sequence=2)
    drive.run(0.6)
    # The first says 0.08 m by now, the second stays at 0.02 m.
    assert moved(drive)[1] == pytest.approx(0.05, abs=0.005)
    drive.run(1.0)
    assert moved(drive)[1] == pytest.approx(0.02, abs=0.003)  # where only the second goes as far


def test_the_same_calls_give_the_same_commands() -> None:
    def run() -> list[np.ndarray]:
        drive = driving()
        drive.give(FORWARD)
        drive.run(0.2)
        drive.give((0, 0.02, 0, 0, 0, 0.1, 0), sequence=2)
        return [command.motion.positions for command in drive.run(0.6)]

    for first, second in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(first, second)


# What actions mean ------------------------------------------------------------------------------------


def test_observation_composition_starts_at_the_observed_joints() -> None:
    drive = driving(steps=1, strategy=Strategy.OPEN_LOOP)
    observed = drive.robot.home + np.array([0.05, 0, 0, 0, 0, 0])
    drive.give(FORWARD, observation_positions=observed)
    drive.run(1.0)
    expected = drive.kinematics.forward(observed)[0] + [0.02, 0, 0]
    np.testing.assert_allclose(drive.tool, expected, atol=1e-4)


def test_previous_target_composition_starts_at_the_pose_commanded_at_due() -> None:
    """BridgeData: deltas go onto the previous target, whatever was measured."""
    drive = driving(with_action(shared_robot(), composition="previous_target"), steps=4)
    elsewhere = np.zeros(6)
    drive.give(FORWARD, observation_positions=elsewhere)
    drive.run(0.5)
    seen_ns = drive.now
    target = drive.kinematics.forward(drive.controller.governor.at(seen_ns).q)[0]
    drive.run(0.06)
    found = verdict(drive, FORWARD, sequence=2, observation_ns=seen_ns, observation_positions=elsewhere)
    assert found.accepted
    drive.run(0.6)
    due = drive.controller.governor.at(seen_ns + 2 * PERIOD).q
    np.testing.assert_allclose(drive.kinematics.forward(due)[0], target + np.array([0.04, 0, 0]), atol=1e-3)


def test_rotations_are_in_base_axes_about_the_tool_point() -> None:
    drive = driving(steps=2, strategy=Strategy.OPEN_LOOP)
    position, rotation = drive.kinematics.forward(drive.robot.home)
    delta = (0, 0, 0, 0.1, 0, 0.2, 1)
    drive.give(delta)
    drive.run(1.2)
    reached, turned = drive.kinematics.forward(drive.q)
    np.testing.assert_allclose(reached, position, atol=5e-4)
    expected = compose_ee_deltas(position, rotation, np.tile(delta, (2, 1)))[1][-1]
    np.testing.assert_allclose(turned, expected, atol=2e-3)


def test_the_gripper_is_a_switch_on_the_way_to_each_waypoint() -> None:
    drive = driving(steps=3)
    data = np.zeros((8, 7))
    data[:, 6] = [0.51, 0.49, 1, 1, 1, 1, 1, 1]
    drive.give(data=data)
    fingers = [round(command.finger_m, 6) for command in drive.run(0.6)]
    changes = [fingers[0], *(b for a, b in itertools.pairwise(fingers) if a != b)]
    gripper = drive.robot.gripper
    assert changes == [gripper.open_m, gripper.closed_m, gripper.open_m]


def test_joint_positions_are_absolute_and_the_opening_is_not_switched() -> None:
    robot = with_action(shared_robot(), space="joint_position")
    drive = driving(robot, steps=1)
    target = robot.home + 0.1
    drive.give([*target, 0.25])
    commands = drive.run(1.0)
    np.testing.assert_allclose(drive.q, target, atol=1e-6)
    assert commands[-1].finger_m == pytest.approx(robot.gripper.finger(0.25))


# Limits -----------------------------------------------------------------------------------------------


def test_joint_positions_outside_the_workspace_move_to_its_border() -> None:
    robot = with_action(shared_robot(), space="joint_position")
    kinematics = shared_kinematics()
    drive = driving(robot, steps=8)
    below = kinematics.inverse(np.array([0.24, 0, 0.002]), kinematics.forward(robot.home)[1], robot.home).q
    assert verdict(drive, [*below, 1]).accepted
    drive.run(2.0)
    assert drive.tool[2] == pytest.approx(robot.workspace.lower[2], abs=1e-4)


def test_waypoints_stay_inside_the_workspace_box() -> None:
    drive = driving()
    assert verdict(drive, (0.02, 0, -0.13, 0, 0, 0, 1)).accepted
    drive.run(1.5)
    lowest = min(drive.kinematics.forward(q)[0][2] for q in drive.path)
    assert drive.robot.workspace.lower[2] - BOX_TOLERANCE_M <= lowest < drive.robot.workspace.lower[2] + 0.01


def everywhere(robot: RobotFile) -> RobotFile:
    wide = dataclasses.replace(robot.workspace, lower=np.full(3, -9.0), upper=np.full(3, 9.0))
    return dataclasses.replace(robot, workspace=wide)


def test_a_pose_out_of_reach_is_refused_and_the_arm_holds() -> None:
    drive = driving(everywhere(shared_robot()))
    found = verdict(drive, (0.5, 0, 0, 0, 0, 0, 1))
    assert found.outcome is Outcome.REFUSED and "step 0: no arm position reaches (0.740" in found.reason
    assert drive.tick() is None


def test_steps_before_one_that_is_out_of_reach_are_executed() -> None:
    drive = driving(everywhere(shared_robot()), steps=4)
    data = np.tile(FORWARD, (8, 1)).astype(float)
    data[2, 0] = 0.5
    found = verdict(drive, data=data)
    assert found.accepted and "step 2: no arm position reaches" in found.reason
    drive.run(1.5)
    np.testing.assert_allclose(moved(drive), [0.04, 0, 0], atol=1e-3)


def test_a_pose_just_out_of_reach_becomes_the_nearest_one_in_reach() -> None:
    kinematics, home = shared_kinematics(), shared_robot().home
    start, rotation = kinematics.forward(home)
    corner = np.array([0.44, -0.24, start[2]])
    near = kinematics.inverse(np.array([0.40, -0.20, start[2]]), rotation, home).q
    assert kinematics.inverse(corner, rotation, near).position_error_m > 0.02
    drive = driving(q=near)
    assert verdict(drive, (0.02, -0.02, 0, 0, 0, 0, 1)).accepted
    drive.run(1.5)
    assert np.linalg.norm(drive.tool - corner) < MAX_POSITION_ERROR_M


def test_a_joint_that_would_jump_to_another_branch_is_refused() -> None:
    found = verdict(driving(), (0, 0, 0, 0, 0, 3.0, 1))
    assert found.outcome is Outcome.REFUSED
    assert "would have to jump" in found.reason and "expected at most 1.26 rad" in found.reason


# What is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": np.full((8, 7), np.nan)}, r"data\[0, 0\] is nan, expected a finite number"),
        ({"names": ("dx", "dy", "dz", "roll", "pitch", "yaw", "gripper")}, "names is .*expected .*'droll'"),
        ({"data": np.zeros((7, 7))}, r"data shape is \(7, 7\), expected \(8, 7\)"),
        ({"action_space": "joint_position"}, "action_space is 'joint_position', expected 'ee_delta'"),
        ({"observation_positions": np.full(6, np.inf)}, "observation_positions.* is inf"),
        ({"period_s": 0.1}, "period_s is 0.1, expected 0.2"),
    ],
)
def test_a_wrong_chunk_is_refused_whole_and_disturbs_nothing(changes: dict[str, Any], words: str) -> None:
    drive = driving()
    drive.give(FORWARD)
    drive.tick()
    found = verdict(drive, STILL, sequence=2, **changes)
    assert found.outcome is Outcome.REFUSED and re.search(words, found.reason), found.reason
    assert drive.controller.running is not None and drive.controller.running.sequence == 1


def test_old_future_repeated_and_overtaken_chunks_are_not_executed() -> None:
    drive = driving()
    drive.run(1.0)
    old = verdict(drive, FORWARD, observation_ns=drive.now - to_ns(0.6))
    assert (old.outcome, old.reason) == (
        Outcome.STALE,
        "its observation is 0.600 s old, expected at most 0.5 s",
    )
    future = verdict(drive, FORWARD, observation_ns=drive.now + to_ns(1.0))
    assert future.outcome is Outcome.REFUSED and "lies 1.000 s in the future" in future.reason
    assert drive.tick() is None
    chunk = make_chunk(drive.robot, FORWARD, sequence=5, observation_ns=drive.now)
    assert verdict(drive, data=chunk.data, sequence=5).accepted
    again = verdict(drive, data=chunk.data, sequence=5)
    earlier = verdict(drive, FORWARD, sequence=4, observation_ns=drive.now - TICK)
    assert again.outcome is earlier.outcome is Outcome.DISCARDED
    assert "not newer than the last chunk's" in again.reason and "20.0 ms behind" in earlier.reason


def test_a_chunk_wholly_in_the_past_is_stale() -> None:
    drive = driving(with_action(shared_robot(), max_chunk_age_s=10.0))
    drive.give(FORWARD)
    drive.run(0.6)
    drive.give(FORWARD, sequence=2)
    drive.run(0.6)
    drive.give(FORWARD, sequence=3)
    first_ns = T0 + TICK
    late = verdict(drive, FORWARD, sequence=4, observation_ns=drive.now + 1, due_ns=first_ns + 2)
    assert late.outcome is Outcome.REFUSED  # a chunk is not due before it was observed


def test_a_restarted_policy_may_count_from_one_again() -> None:
    drive = driving()
    drive.give(FORWARD, sequence=70)
    drive.tick()
    assert verdict(drive, FORWARD, sequence=1).accepted


@pytest.mark.parametrize("steps", [0, 9, -1])
def test_an_impossible_number_of_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"execution_steps is {steps}, expected 1 to the horizon 8"):
        Drive(ControlSettings(ChunkSettings(execution_steps=steps)))
