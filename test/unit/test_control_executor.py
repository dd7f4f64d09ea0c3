"""Chunks in time: which one runs, where the arm is to be, and what is refused."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import numpy as np
import pytest

from twinbrain_ros.control.executor import ChunkExecutor, Command, Outcome
from twinbrain_ros.control.limits import BOX_TOLERANCE_M
from twinbrain_ros.control.plan import to_ns
from twinbrain_ros.control.waypoints import MAX_POSITION_ERROR_M
from twinbrain_ros.robot.actions import compose_ee_deltas
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

T0 = to_ns(100.0)
TICK = to_ns(0.02)
PERIOD = to_ns(0.2)


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


@pytest.fixture(scope="module")
def kinematics(robot: RobotFile) -> Kinematics:
    return Kinematics(robot)


@pytest.fixture
def executor(robot: RobotFile, kinematics: Kinematics) -> ChunkExecutor:
    executor = ChunkExecutor(robot, kinematics, execution_steps=2)
    executor.hold(robot.home, robot.gripper.open_m)
    return executor


def with_action(robot: RobotFile, **changes: Any) -> RobotFile:
    return dataclasses.replace(robot, action=dataclasses.replace(robot.action, **changes))


def make_chunk(robot: RobotFile, delta: Any = (0, 0, 0, 0, 0, 0, 1), /, **changes: Any) -> ActionChunk:
    """A chunk that repeats one step over its horizon."""
    action = robot.action
    observation_ns = changes.pop("observation_ns", T0)
    fields: dict[str, Any] = {
        "sequence": 1,
        "observation_ns": observation_ns,
        "due_ns": observation_ns,
        "period_s": action.period_s,
        "instruction": "pick up the red block",
        "robot": robot.name,
        "action_space": action.space,
        "composition": action.composition,
        "names": action.names,
        "data": np.tile(np.asarray(delta, dtype=np.float64), (action.horizon, 1)),
        "observation_positions": np.array(robot.home),
    }
    return ActionChunk(**(fields | changes))


def drive(executor: ChunkExecutor, start_ns: int, stop_ns: int, tick_ns: int = TICK) -> list[Command]:
    """Every command given from `start_ns` to `stop_ns`, both included."""
    commands = [executor.command(now) for now in range(start_ns, stop_ns + 1, tick_ns)]
    return [command for command in commands if command is not None]


FORWARD = (0.02, 0, 0, 0, 0, 0, 1)


def test_reaches_each_waypoint_at_its_time(
    executor: ChunkExecutor, robot: RobotFile, kinematics: Kinematics
) -> None:
    delta = (0.02, 0.01, -0.01, 0.0, 0.05, 0.1, 1)
    assert executor.accept(make_chunk(robot, delta), T0).accepted
    commands = {command.stamp_ns: command for command in drive(executor, T0, T0 + 2 * PERIOD)}
    start, rotation = kinematics.forward(robot.home)
    positions, rotations = compose_ee_deltas(start, rotation, np.tile(delta, (2, 1)))
    for step in range(2):
        reached, turned = kinematics.forward(commands[T0 + (step + 1) * PERIOD].arm_positions)
        np.testing.assert_allclose(reached, positions[step], atol=1e-4)
        np.testing.assert_allclose(turned, rotations[step], atol=1e-3)


def test_holds_the_last_set_point_when_the_window_ends(executor: ChunkExecutor, robot: RobotFile) -> None:
    executor.accept(make_chunk(robot, FORWARD), T0)
    commands = drive(executor, T0, T0 + 10 * PERIOD)
    assert commands[-1].stamp_ns == T0 + 2 * PERIOD
    assert executor.running is None and executor.setpoint is not None
    np.testing.assert_array_equal(executor.setpoint[0], commands[-1].arm_positions)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_executes_as_many_steps_as_asked(robot: RobotFile, kinematics: Kinematics, steps: int) -> None:
    executor = ChunkExecutor(robot, kinematics, execution_steps=steps)
    executor.hold(robot.home, robot.gripper.open_m)
    executor.accept(make_chunk(robot, (0.01, 0, 0, 0, 0, 0, 1)), T0)
    last = drive(executor, T0, T0 + 10 * PERIOD)[-1]
    moved = kinematics.forward(last.arm_positions)[0] - kinematics.forward(robot.home)[0]
    assert moved[0] == pytest.approx(0.01 * steps, abs=1e-4)


@pytest.mark.parametrize("steps", [0, 9])
def test_an_impossible_number_of_steps_is_refused(
    robot: RobotFile, kinematics: Kinematics, steps: int
) -> None:
    with pytest.raises(ValueError, match=f"execution_steps is {steps}, expected 1 to the horizon 8"):
        ChunkExecutor(robot, kinematics, execution_steps=steps)


def test_a_late_chunk_starts_at_its_elapsed_phase(
    executor: ChunkExecutor, robot: RobotFile, kinematics: Kinematics
) -> None:
    late = T0 + 2 * PERIOD + PERIOD // 2  # step 2 is half over
    assert executor.accept(make_chunk(robot, FORWARD), late).accepted
    commands = drive(executor, late, late + 4 * PERIOD)
    home = kinematics.forward(robot.home)[0]
    at_step_2 = next(command for command in commands if command.stamp_ns == T0 + 3 * PERIOD)
    assert (kinematics.forward(at_step_2.arm_positions)[0] - home)[0] == pytest.approx(0.06, abs=1e-4)
    # Two periods of execution from takeover end half-way through step 4.
    assert commands[-1].stamp_ns == late + 2 * PERIOD
    assert (kinematics.forward(commands[-1].arm_positions)[0] - home)[0] == pytest.approx(0.09, abs=1e-3)


def test_the_chunks_own_end_cuts_the_window(executor: ChunkExecutor, robot: RobotFile) -> None:
    robot = with_action(robot, max_chunk_age_s=10.0)
    executor = ChunkExecutor(robot, Kinematics(robot))
    executor.hold(robot.home, robot.gripper.open_m)
    late = T0 + 7 * PERIOD + PERIOD // 2
    assert executor.accept(make_chunk(robot, (0.002, 0, 0, 0, 0, 0, 1)), late).accepted
    assert drive(executor, late, late + 3 * PERIOD)[-1].stamp_ns == T0 + 8 * PERIOD


def test_a_new_chunk_takes_over_without_a_jump(executor: ChunkExecutor, robot: RobotFile) -> None:
    executor.accept(make_chunk(robot, FORWARD), T0)
    before = drive(executor, T0, T0 + PERIOD)[-1]
    other = make_chunk(robot, (-0.02, 0.02, 0, 0, 0, 0, 1), sequence=2, observation_ns=T0 + PERIOD)
    assert executor.accept(other, T0 + PERIOD + TICK // 2).accepted
    after = executor.command(T0 + PERIOD + TICK)
    assert after is not None and after.first and after.sequence == 2
    limit = 0.9 * np.pi * 0.02
    assert np.all(np.abs(after.arm_positions - before.arm_positions) <= limit + 1e-12)


def test_a_take_over_in_motion_does_not_pause(
    executor: ChunkExecutor, robot: RobotFile, kinematics: Kinematics
) -> None:
    """The same motion, replanned between two ticks, passes the same set-points."""
    executor.accept(make_chunk(robot, FORWARD), T0)
    before = drive(executor, T0, T0 + PERIOD + 2 * TICK)
    measured = before[-3].arm_positions
    again = make_chunk(robot, FORWARD, observation_ns=T0 + PERIOD, observation_positions=measured)
    assert executor.accept(again, T0 + PERIOD + 2 * TICK + TICK // 2).accepted
    after = drive(executor, T0 + PERIOD + 3 * TICK, T0 + PERIOD + 5 * TICK)
    steps = np.diff([kinematics.forward(c.arm_positions)[0][0] for c in before[-3:] + after])
    np.testing.assert_allclose(steps, 0.02 / 10, atol=5e-5)


def test_a_set_point_ahead_of_time_takes_over_where_it_is_meant_for(
    executor: ChunkExecutor, robot: RobotFile, kinematics: Kinematics
) -> None:
    lead = 2 * TICK
    assert executor.accept(make_chunk(robot, FORWARD), T0, takeover_ns=T0 + lead).accepted
    commands = {command.stamp_ns: command for command in drive(executor, T0 + lead, T0 + 2 * PERIOD + lead)}
    reached = kinematics.forward(commands[T0 + PERIOD].arm_positions)[0] - kinematics.forward(robot.home)[0]
    assert reached[0] == pytest.approx(0.02, abs=1e-4)
    assert max(commands) == T0 + 2 * PERIOD + lead


def test_only_the_first_command_of_a_chunk_is_marked(executor: ChunkExecutor, robot: RobotFile) -> None:
    executor.accept(make_chunk(robot, FORWARD), T0)
    assert [command.first for command in drive(executor, T0, T0 + 3 * TICK)] == [True, False, False, False]


def test_velocity_limits_hold_whatever_the_chunk_asks(executor: ChunkExecutor, robot: RobotFile) -> None:
    assert executor.accept(make_chunk(robot, (0, 0, 0, 0, 0, 0.9, 1)), T0).accepted
    commands = drive(executor, T0, T0 + 2 * PERIOD)
    speed = np.abs(np.diff([command.arm_positions for command in commands], axis=0)) / 0.02
    assert speed.max() == pytest.approx(0.9 * np.pi, rel=1e-6)
    # The arm lagged behind, and it stays where it was commanded last.
    assert executor.command(T0 + 3 * PERIOD) is None


def test_a_stalled_tick_is_not_paid_out_in_one_step(executor: ChunkExecutor, robot: RobotFile) -> None:
    executor.accept(make_chunk(robot, (0, 0, 0, 0, 0, 0.9, 1)), T0)
    executor.command(T0)
    stalled = executor.command(T0 + 2 * PERIOD)
    assert stalled is not None
    allowed = 0.9 * np.pi * 2 / robot.rates.command_hz
    assert np.abs(stalled.arm_positions - robot.home).max() <= allowed + 1e-12


def test_a_clock_that_goes_back_repeats_the_set_point(executor: ChunkExecutor, robot: RobotFile) -> None:
    executor.accept(make_chunk(robot, FORWARD), T0)
    before = drive(executor, T0, T0 + 10 * TICK)[-1]
    again = executor.command(T0 + 2 * TICK)
    assert again is not None
    np.testing.assert_allclose(again.arm_positions, before.arm_positions, atol=1e-8)


def test_waypoints_stay_inside_the_workspace_box(
    executor: ChunkExecutor, robot: RobotFile, kinematics: Kinematics
) -> None:
    assert executor.accept(make_chunk(robot, (0.02, 0, -0.13, 0, 0, 0, 1)), T0).accepted
    lowest = min(kinematics.forward(c.arm_positions)[0][2] for c in drive(executor, T0, T0 + 2 * PERIOD))
    assert lowest >= robot.workspace.lower[2] - 1e-3
    assert lowest < robot.workspace.lower[2] + 0.02


def test_a_pose_out_of_reach_is_refused_and_the_arm_holds(robot: RobotFile, kinematics: Kinematics) -> None:
    wide = dataclasses.replace(robot.workspace, lower=np.full(3, -9.0), upper=np.full(3, 9.0))
    robot = dataclasses.replace(robot, workspace=wide)
    executor = ChunkExecutor(robot, kinematics)
    executor.hold(robot.home, robot.gripper.open_m)
    verdict = executor.accept(make_chunk(robot, (0.5, 0, 0, 0, 0, 0, 1)), T0)
    assert verdict.outcome is Outcome.REFUSED
    assert "step 0: no arm position reaches (0.740" in verdict.reason
    assert executor.command(T0 + TICK) is None


def test_steps_before_one_that_is_out_of_reach_are_executed(robot: RobotFile, kinematics: Kinematics) -> None:
    wide = dataclasses.replace(robot.workspace, lower=np.full(3, -9.0), upper=np.full(3, 9.0))
    robot = dataclasses.replace(robot, workspace=wide)
    executor = ChunkExecutor(robot, kinematics, execution_steps=4)
    executor.hold(robot.home, robot.gripper.open_m)
    data = make_chunk(robot, FORWARD).data.copy()
    data[2, 0] = 0.5
    verdict = executor.accept(make_chunk(robot, data=data), T0)
    assert verdict.accepted and "step 2: no arm position reaches" in verdict.reason
    commands = drive(executor, T0, T0 + 10 * PERIOD)
    assert commands[-1].stamp_ns == T0 + 2 * PERIOD
    moved = kinematics.forward(commands[-1].arm_positions)[0] - kinematics.forward(robot.home)[0]
    np.testing.assert_allclose(moved, [0.04, 0, 0], atol=1e-3)


def test_a_pose_just_out_of_reach_becomes_the_nearest_one_in_reach(
    robot: RobotFile, kinematics: Kinematics
) -> None:
    start, rotation = kinematics.forward(robot.home)
    corner = np.array([0.44, -0.24, start[2]])
    near = kinematics.inverse(np.array([0.40, -0.20, start[2]]), rotation, robot.home).q
    assert kinematics.inverse(corner, rotation, near).position_error_m > 0.02
    executor = ChunkExecutor(robot, kinematics)
    executor.hold(near, robot.gripper.open_m)
    chunk = make_chunk(robot, (0.02, -0.02, 0, 0, 0, 0, 1), observation_positions=near)
    assert executor.accept(chunk, T0).accepted
    reached = kinematics.forward(drive(executor, T0, T0 + 2 * PERIOD)[-1].arm_positions)[0]
    assert np.linalg.norm(reached - corner) < MAX_POSITION_ERROR_M


def test_the_gripper_is_a_switch(executor: ChunkExecutor, robot: RobotFile) -> None:
    data = make_chunk(robot).data.copy()
    data[:, 6] = [0.51, 0.49, 1, 1, 1, 1, 1, 1]
    executor.accept(make_chunk(robot, data=data), T0)
    fingers = {command.stamp_ns: command.finger_m for command in drive(executor, T0, T0 + 2 * PERIOD)}
    assert fingers[T0 + PERIOD - TICK] == robot.gripper.open_m
    assert fingers[T0 + PERIOD] == robot.gripper.closed_m
    assert fingers[T0 + 2 * PERIOD] == robot.gripper.closed_m


def test_observation_composition_starts_at_the_observed_joints(
    executor: ChunkExecutor, robot: RobotFile, kinematics: Kinematics
) -> None:
    observed = robot.home + np.array([0.05, 0, 0, 0, 0, 0])
    executor.accept(make_chunk(robot, FORWARD, observation_positions=observed), T0)
    reached = kinematics.forward(drive(executor, T0, T0 + PERIOD)[-1].arm_positions)[0]
    expected = kinematics.forward(observed)[0] + [0.02, 0, 0]
    np.testing.assert_allclose(reached, expected, atol=1e-4)


def test_previous_target_composition_starts_at_the_pose_commanded_at_due(
    robot: RobotFile, kinematics: Kinematics
) -> None:
    robot = with_action(robot, composition="previous_target")
    executor = ChunkExecutor(robot, kinematics)
    executor.hold(robot.home, robot.gripper.open_m)
    elsewhere = np.zeros(6)  # where the arm was measured must not matter
    executor.accept(make_chunk(robot, FORWARD, observation_positions=elsewhere), T0)
    drive(executor, T0, T0 + PERIOD + 3 * TICK)
    second = make_chunk(
        robot, FORWARD, sequence=2, observation_ns=T0 + PERIOD, observation_positions=elsewhere
    )
    # At due the target was one delta from home; by its arrival the old chunk has moved on a little.
    assert executor.accept(second, T0 + PERIOD + 3 * TICK).accepted
    last = drive(executor, T0 + PERIOD + 4 * TICK, T0 + 2 * PERIOD)[-1]
    reached = kinematics.forward(last.arm_positions)[0]
    np.testing.assert_allclose(reached - kinematics.forward(robot.home)[0], [0.04, 0, 0], atol=1e-4)


def test_joint_positions_are_absolute_and_the_opening_is_not_switched(
    robot: RobotFile, kinematics: Kinematics
) -> None:
    robot = with_action(robot, space="joint_position", names=(*robot.arm_joints, "gripper"))
    executor = ChunkExecutor(robot, kinematics)
    executor.hold(robot.home, robot.gripper.open_m)
    target = robot.home + 0.1
    executor.accept(make_chunk(robot, [*target, 0.25]), T0)
    last = drive(executor, T0, T0 + PERIOD)[-1]
    np.testing.assert_allclose(last.arm_positions, target, atol=1e-9)
    assert last.finger_m == pytest.approx(robot.gripper.finger(0.25))


def test_joint_positions_outside_the_workspace_move_to_its_border(
    robot: RobotFile, kinematics: Kinematics
) -> None:
    robot = with_action(robot, space="joint_position", names=(*robot.arm_joints, "gripper"))
    executor = ChunkExecutor(robot, kinematics, execution_steps=8)
    executor.hold(robot.home, robot.gripper.open_m)
    below = kinematics.inverse(np.array([0.24, 0, 0.002]), kinematics.forward(robot.home)[1], robot.home).q
    assert executor.accept(make_chunk(robot, [*below, 1]), T0).accepted
    last = drive(executor, T0, T0 + 8 * PERIOD)[-1]
    assert kinematics.forward(last.arm_positions)[0][2] == pytest.approx(robot.workspace.lower[2], abs=1e-4)


def test_a_joint_that_would_jump_to_another_branch_is_refused(
    executor: ChunkExecutor, robot: RobotFile
) -> None:
    verdict = executor.accept(make_chunk(robot, (0, 0, 0, 0, 0, 3.0, 1)), T0)
    assert verdict.outcome is Outcome.REFUSED
    assert "would have to jump" in verdict.reason and "expected at most 1.26 rad" in verdict.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": np.full((8, 7), np.nan)}, r"data\[0, 0\] is nan, expected a finite number"),
        ({"names": ("dx", "dy", "dz", "roll", "pitch", "yaw", "gripper")}, "names is .*expected .*'droll'"),
        ({"data": np.zeros((7, 7))}, r"data shape is \(7, 7\), expected \(8, 7\)"),
        ({"robot": "panda"}, "robot is 'panda', expected 'wx250s'"),
        ({"action_space": "joint_position"}, "action_space is 'joint_position', expected 'ee_delta'"),
        ({"observation_positions": np.full(6, np.inf)}, "observation_positions.* is inf"),
        ({"period_s": 0.1}, "period_s is 0.1, expected 0.2"),
    ],
)
def test_a_wrong_chunk_is_refused_whole(
    executor: ChunkExecutor, robot: RobotFile, changes: dict[str, Any], words: str
) -> None:
    verdict = executor.accept(make_chunk(robot, FORWARD, **changes), T0)
    assert verdict.outcome is Outcome.REFUSED
    assert re.search(words, verdict.reason), verdict.reason
    assert executor.command(T0 + TICK) is None


def test_a_refused_chunk_does_not_disturb_the_running_one(executor: ChunkExecutor, robot: RobotFile) -> None:
    executor.accept(make_chunk(robot, FORWARD), T0)
    bad = make_chunk(robot, sequence=2, observation_ns=T0 + TICK, data=np.full((8, 7), np.nan))
    assert executor.accept(bad, T0 + TICK).outcome is Outcome.REFUSED
    assert executor.running is not None and executor.running.sequence == 1


def test_an_old_chunk_is_stale(executor: ChunkExecutor, robot: RobotFile) -> None:
    verdict = executor.accept(make_chunk(robot, FORWARD), T0 + to_ns(0.6))
    assert verdict.outcome is Outcome.STALE
    assert verdict.reason == "its observation is 0.600 s old, expected at most 0.5 s"
    assert executor.command(T0 + to_ns(0.6)) is None


def test_a_chunk_wholly_in_the_past_is_stale(robot: RobotFile, kinematics: Kinematics) -> None:
    robot = with_action(robot, max_chunk_age_s=10.0)
    executor = ChunkExecutor(robot, kinematics)
    executor.hold(robot.home, robot.gripper.open_m)
    verdict = executor.accept(make_chunk(robot, FORWARD), T0 + to_ns(1.7))
    assert (verdict.outcome, verdict.reason) == (Outcome.STALE, "its last step was due 0.100 s ago")


def test_a_chunk_from_the_future_is_refused(executor: ChunkExecutor, robot: RobotFile) -> None:
    verdict = executor.accept(make_chunk(robot, FORWARD, observation_ns=T0 + to_ns(1.0)), T0)
    assert verdict.outcome is Outcome.REFUSED
    assert "lies 1.000 s in the future" in verdict.reason


def test_an_older_or_repeated_chunk_is_discarded(executor: ChunkExecutor, robot: RobotFile) -> None:
    newer = make_chunk(robot, FORWARD, sequence=2, observation_ns=T0)
    assert executor.accept(newer, T0).accepted
    assert executor.accept(newer, T0 + TICK).outcome is Outcome.DISCARDED
    older = make_chunk(robot, FORWARD, sequence=1, observation_ns=T0 - TICK)
    assert executor.accept(older, T0 + TICK).outcome is Outcome.DISCARDED
    assert executor.running is not None and executor.running.sequence == 2


def test_a_restarted_policy_may_count_from_one_again(executor: ChunkExecutor, robot: RobotFile) -> None:
    executor.accept(make_chunk(robot, FORWARD, sequence=70), T0)
    restarted = make_chunk(robot, FORWARD, sequence=1, observation_ns=T0 + TICK)
    assert executor.accept(restarted, T0 + TICK).accepted


def test_nothing_is_accepted_before_the_arm_is_known(robot: RobotFile, kinematics: Kinematics) -> None:
    executor = ChunkExecutor(robot, kinematics)
    verdict = executor.accept(make_chunk(robot, FORWARD), T0)
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.reason == "the position of the arm is not known yet"


def test_hold_drops_the_running_chunk(executor: ChunkExecutor, robot: RobotFile) -> None:
    executor.accept(make_chunk(robot, FORWARD), T0)
    executor.command(T0 + TICK)
    executor.hold()
    assert executor.command(T0 + 2 * TICK) is None


def test_hold_refuses_what_is_not_a_position(executor: ChunkExecutor) -> None:
    with pytest.raises(ValueError, match="expected 6 finite joint positions"):
        executor.hold(np.array([0, 0, np.nan, 0, 0, 0]), 0.03)


def test_accepting_is_quick(executor: ChunkExecutor, robot: RobotFile) -> None:
    taken = []
    for sequence in range(30):
        stamp = T0 + sequence * TICK
        chunk = make_chunk(robot, (0.015, 0.01, -0.01, 0, 0.02, 0.1, 1), observation_ns=stamp)
        start = time.perf_counter()
        assert executor.accept(chunk, stamp).accepted
        taken.append(time.perf_counter() - start)
    assert np.median(taken) < 0.01


def test_random_chunks_never_break_a_limit(robot: RobotFile, kinematics: Kinematics) -> None:
    random = np.random.default_rng(7)
    executor = ChunkExecutor(robot, kinematics)
    executor.hold(robot.home, robot.gripper.open_m)
    previous, now = np.array(robot.home), T0
    allowed = np.array([robot.limits[name].velocity for name in robot.arm_joints]) * 0.02
    for sequence in range(150):
        data = random.normal(0, [0.03, 0.03, 0.03, 0.1, 0.1, 0.3, 1], (8, 7))
        late = int(random.integers(0, to_ns(0.3)))
        measured = previous + random.normal(0, 0.02, 6)
        chunk = make_chunk(
            robot, data=data, sequence=sequence, observation_ns=now - late, observation_positions=measured
        )
        executor.accept(chunk, now)
        for _ in range(int(random.integers(1, 30))):
            command = executor.command(now)
            now += TICK
            if command is None:
                continue
            assert np.all(np.abs(command.arm_positions - previous) <= allowed + 1e-12)
            assert np.all(command.arm_positions >= robot.lower)
            assert np.all(command.arm_positions <= robot.upper)
            position = kinematics.forward(command.arm_positions)[0]
            assert np.all(position >= robot.workspace.lower - BOX_TOLERANCE_M)
            assert np.all(position <= robot.workspace.upper + BOX_TOLERANCE_M)
            previous = command.arm_positions


def test_the_same_calls_give_the_same_commands(robot: RobotFile, kinematics: Kinematics) -> None:
    def run() -> list[np.ndarray]:
        executor = ChunkExecutor(robot, kinematics)
        executor.hold(robot.home, robot.gripper.open_m)
        executor.accept(make_chunk(robot, FORWARD), T0)
        first = drive(executor, T0, T0 + PERIOD)
        second = make_chunk(robot, (0, 0.02, 0, 0, 0, 0.1, 0), observation_ns=T0 + PERIOD)
        executor.accept(second, T0 + PERIOD)
        return [c.arm_positions for c in first + drive(executor, T0 + PERIOD, T0 + 3 * PERIOD)]

    np.testing.assert_array_equal(run(), run())
