"""Who drives the arm, and what it is commanded."""

from __future__ import annotations

import numpy as np
import pytest
from control_fixtures import DEADMAN, FORWARD, STILL, T0, TICK, Drive, joystick, with_action
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.control.joints_watch import SAME_PLACE_RAD
from twinbrain_ros.control.modes import Mode, ModeChange, ModeError
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.control.timing import lead_s, to_ns
from twinbrain_ros.control.verdict import Judged, Outcome

HOME = shared_robot().home


@pytest.fixture
def drive() -> Drive:
    """An arm at home, in hold."""
    return Drive()


def test_it_starts_in_hold_and_commands_nothing(drive: Drive) -> None:
    assert drive.mode is Mode.HOLD
    verdict = drive.give(FORWARD).verdict
    assert (verdict.outcome, verdict.reason) == (Outcome.DISCARDED, "the mode is HOLD")
    assert drive.tick() is None


def test_driving_needs_fresh_joint_states() -> None:
    controller, robot = ArmController(shared_robot(), shared_kinematics()), shared_robot()
    for mode in (Mode.AUTONOMY, Mode.TELEOP):
        with pytest.raises(ModeError, match="no joint states have arrived yet"):
            controller.set_mode(mode, T0, T0, "test", "")
        controller.add_joints(T0, robot.home, robot.gripper.open_m)
        with pytest.raises(
            ModeError, match=r"cannot start .*: the joint states are 0.300 s old, expected at most"
        ):
            controller.set_mode(mode, T0 + to_ns(0.3), T0 + to_ns(0.3), "test", "")
        assert controller.mode is Mode.HOLD
        controller = ArmController(shared_robot(), shared_kinematics())


@pytest.mark.parametrize("mode", [3, 7, -1])
def test_a_mode_that_is_not_to_be_asked_for_is_refused(drive: Drive, mode: int) -> None:
    expected = rf"mode is {mode}, expected one of HOLD \(0\), TELEOP \(1\), AUTONOMY \(2\)"
    with pytest.raises(ModeError, match=expected):
        drive.controller.set_mode(mode, drive.now, drive.steady, "test", "")


def test_a_chunk_observed_before_the_switch_is_discarded(drive: Drive) -> None:
    drive.set_mode(Mode.AUTONOMY)
    verdict = drive.give(FORWARD, observation_ns=T0).verdict
    assert verdict.outcome is Outcome.DISCARDED
    assert verdict.reason == "it was observed before the switch to autonomy"


def test_commands_are_ahead_by_the_lead_and_start_at_the_arm(drive: Drive) -> None:
    drive.autonomy(FORWARD)
    command = drive.controller.command(drive.now)
    assert command is not None and command.first_of is not None
    assert command.motion.lead_s == pytest.approx(lead_s(50.0))
    np.testing.assert_allclose(command.motion.positions[0], drive.robot.home, atol=2e-3)
    np.testing.assert_array_equal(command.motion.velocities[-1], 0.0)


def test_hold_needs_no_command_and_brings_the_arm_to_rest(drive: Drive) -> None:
    drive.autonomy(FORWARD)
    drive.run(0.5)
    speed = np.abs(drive.q - drive.path[-2]).max()
    assert speed > 1e-3
    drive.set_mode(Mode.HOLD)
    path = [drive.q]
    for _ in range(20):
        assert drive.tick() is None
        path.append(drive.q)
    limits = drive.controller.governor.limits
    steps = np.diff(path, n=2, axis=0) / 0.02**2
    assert np.all(np.abs(steps) <= limits.acceleration * 1.05)
    # Two periods as committed, then as quickly as the limits allow.
    v = np.abs(np.diff(path, axis=0)).max(axis=1) / 0.02
    allowed_s = 2 * 0.02 + v[0] / limits.acceleration[0] + limits.acceleration[0] / limits.jerk[0]
    assert np.all(v[int(np.ceil(allowed_s / 0.02)) + 1 :] < 1e-6)
    changes = drive.happened(ModeChange)
    assert (changes[-1].mode, changes[-1].source, changes[-1].reason) == (Mode.HOLD, "test", "asked")


def test_the_gripper_keeps_its_command_when_the_arm_goes_on_after_hold(drive: Drive) -> None:
    """A measured finger stands on the block; commanding that position would let the block go."""
    drive.autonomy((0, 0, 0, 0, 0, 0, 0.0))
    drive.run(0.3)
    drive.set_mode(Mode.HOLD)
    drive.controller.add_joints(drive.now, drive.q, 0.025)
    drive.set_mode(Mode.TELEOP)
    for held in (0, 1):
        drive.controller.inputs.on_joy("joystick", [0.0] * 8, [0, 0, 0, 0, held], drive.now)
    command = drive.controller.command(drive.now + TICK)
    assert command is not None and command.finger_m == drive.robot.gripper.closed_m


def test_the_same_mode_again_changes_nothing(drive: Drive) -> None:
    drive.set_mode(Mode.AUTONOMY)
    before = drive.controller.state
    drive.set_mode(Mode.AUTONOMY)
    assert drive.controller.state is before


def at_rest_with(sag: float) -> Drive:
    """An arm that hangs so far below where it is commanded, left in hold for a second."""
    drive = Drive()
    drive.reads = lambda now_ns: drive.q + np.array([0, sag, 0, 0, 0, 0])
    drive.run(0.3)
    drive.autonomy(STILL)
    # As if it had been commanded to home: the first start is from where it is measured.
    drive.controller.governor.place(HOME, drive.now)
    drive.run(0.2)
    drive.set_mode(Mode.HOLD)
    drive.run(1.0)
    return drive


def started_from(drive: Drive) -> np.ndarray:
    drive.set_mode(Mode.AUTONOMY)
    return np.asarray(drive.controller.governor.resting_place())


@pytest.mark.parametrize("sag", [0.5 * SAME_PLACE_RAD, 1.5 * SAME_PLACE_RAD])
def test_an_arm_that_sags_goes_on_from_where_it_was_left_another_from_where_it_is(sag: float) -> None:
    """Else it would sink by its sag with every start, or jump to where it was left."""
    drive = at_rest_with(sag)
    measured = HOME + np.array([0, sag, 0, 0, 0, 0])
    expected = HOME if sag < SAME_PLACE_RAD else measured
    np.testing.assert_allclose(started_from(drive), expected, atol=1e-5)


@pytest.mark.parametrize("moved", [0.008, -0.015, 0.03, -0.03, 0.3])
def test_an_arm_that_moved_in_hold_goes_on_from_where_it_is(moved: float) -> None:
    """However little: whoever moved it, its driver does not hold it where it was left any more."""
    drive = at_rest_with(0.04)
    measured = HOME + np.array([0.0, 0.04 + moved, 0, 0, 0, 0])
    drive.reads = lambda now_ns: measured
    drive.run(0.5)
    np.testing.assert_allclose(started_from(drive), measured, atol=1e-5)


def test_noise_of_encoders_is_no_motion() -> None:
    random = np.random.default_rng(1)
    drive = Drive()
    drive.reads = lambda now_ns: drive.q + np.array([0, 0.04, 0, 0, 0, 0]) + random.uniform(-0.002, 0.002, 6)
    drive.run(0.5)
    drive.autonomy(STILL)
    drive.run(0.2)
    left = drive.controller.governor.resting_place()
    drive.set_mode(Mode.HOLD)
    for _ in range(20):
        drive.run(0.5)
        np.testing.assert_array_equal(started_from(drive), left)
        drive.set_mode(Mode.HOLD)


@pytest.mark.parametrize(("moved", "from_measured"), [(0.0, False), (0.008, True), (0.1, True)])
def test_after_a_pause_of_joint_states_an_arm_goes_on_from_where_it_was_left_unless_it_moved(
    moved: float, from_measured: bool
) -> None:
    drive = at_rest_with(0.05)
    drive.reads = lambda now_ns: None
    drive.run(0.4)
    measured = HOME + np.array([0, 0.05 + moved, 0, 0, 0, 0])
    drive.reads = lambda now_ns: measured
    drive.run(0.3)
    np.testing.assert_allclose(started_from(drive), measured if from_measured else HOME, atol=1e-5)


def left_late(late_ticks: int, sag: float = 0.0) -> Drive:
    """An arm that is late by so much and hangs by its sag; just told to hold, on its way to rest."""
    drive = Drive(robot=with_action(shared_robot(), space="joint_position"))
    drive.reads = lambda now_ns: (
        (drive.path[-late_ticks] if len(drive.path) > late_ticks else HOME) + np.array([sag, 0, 0, 0, 0, 0])
    )
    drive.run(0.5)
    drive.autonomy([HOME[0] - 0.5, *HOME[1:], 1])
    drive.run(0.5)
    drive.set_mode(Mode.HOLD)
    assert drive.controller.governor.moving(drive.now)
    return drive


@pytest.mark.parametrize("wait_s", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("sag", [0.0, 0.03, -0.03])
def test_an_arm_that_comes_to_rest_late_and_sags_has_not_moved(wait_s: float, sag: float) -> None:
    drive = left_late(4, sag)
    drive.run(wait_s)
    left = drive.controller.governor.resting_place()
    np.testing.assert_array_equal(started_from(drive), left)


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("ticking", [True, False], ids=["active", "inactive"])
def test_an_arm_that_is_moved_soon_after_a_motion_goes_on_from_where_it_is(
    after_s: float, ticking: bool
) -> None:
    """Whether or not anybody ticks meanwhile; while it is on the way nothing starts."""
    drive = left_late(1)
    while drive.controller.governor.moving(drive.now):
        drive.run(0.02)
    drive.run(0.04 + after_s)
    there = drive.q
    for number in range(1, 16):
        measured = there + np.array([0, 0.05 * min(number / 5, 1.0), 0, 0, 0, 0])
        drive.reads = lambda now_ns, q=measured: q
        if ticking:
            drive.tick()
        else:
            drive.now, drive.steady = drive.now + TICK, drive.steady + TICK
            drive.controller.add_joints(drive.now, measured, 0.03, drive.steady)
        if number == 3:
            with pytest.raises(ModeError, match=r"cannot start autonomy: joint 'shoulder'"):
                drive.set_mode(Mode.AUTONOMY)
    np.testing.assert_allclose(started_from(drive), measured, atol=1e-5)


def test_a_controller_that_begins_anew_starts_from_where_the_arm_is() -> None:
    """While nobody ticked, another may have driven the arm; the time that passed is no fault."""
    drive = at_rest_with(0.05)
    for _ in range(250):
        drive.now, drive.steady = drive.now + TICK, drive.steady + TICK
        drive.controller.add_joints(drive.now, drive.reads(drive.now), 0.03, drive.steady)
    drive.controller.begin_anew()
    np.testing.assert_allclose(started_from(drive), HOME + np.array([0, 0.05, 0, 0, 0, 0]), atol=1e-5)
    drive.tick()
    assert drive.mode is Mode.AUTONOMY


def test_an_arm_whose_driver_was_silent_while_it_was_driven_goes_on_from_where_it_is() -> None:
    drive = at_rest_with(0.05)
    reads = drive.reads
    drive.autonomy(STILL)
    drive.reads = lambda now_ns: None
    drive.run(0.3)
    assert drive.controller.state.latched
    drive.reads = reads
    drive.controller.reset(drive.now, drive.steady, "test", "seen to")
    drive.run(1.0)
    np.testing.assert_allclose(started_from(drive), HOME + np.array([0, 0.05, 0, 0, 0, 0]), atol=1e-5)


def test_an_arm_that_is_moved_while_it_comes_to_rest_goes_on_from_where_it_is(drive: Drive) -> None:
    """As a simulator does that starts a new episode; not before its readings agree again."""
    drive.autonomy((0.0, 0.04, 0, 0, 0, 0, 1))
    drive.run(0.5)
    drive.set_mode(Mode.HOLD)
    assert drive.controller.governor.moving(drive.now + to_ns(0.05))
    elsewhere = drive.q + np.array([0, 0.6, 0, 0, 0, 0])
    drive.reads = lambda now_ns: elsewhere
    drive.tick()
    with pytest.raises(ModeError, match=r"cannot start autonomy: joint 'shoulder' is at .* 0.020 s later"):
        drive.set_mode(Mode.AUTONOMY)
    drive.run(0.9)
    np.testing.assert_allclose(started_from(drive), elsewhere, atol=1e-5)


def test_an_emergency_stop_works_from_every_mode_and_until_reset_nothing_moves(drive: Drive) -> None:
    drive.autonomy(FORWARD)
    drive.run(0.3)
    drive.controller.estop(drive.now, drive.steady, "button", "pressed")
    assert drive.mode is Mode.ESTOP and drive.controller.state.latched
    assert drive.run(1.0) == [] and not drive.controller.governor.moving(drive.now)
    assert drive.give(FORWARD, sequence=2).verdict.reason == "the mode is ESTOP"
    for mode in (Mode.HOLD, Mode.TELEOP, Mode.AUTONOMY):
        with pytest.raises(ModeError, match="the emergency stop is latched: call the service reset first"):
            drive.set_mode(mode)
    drive.controller.reset(drive.now, drive.steady, "test", "")
    assert drive.mode is Mode.HOLD
    drive.tick()
    drive.set_mode(Mode.AUTONOMY)
    assert drive.mode is Mode.AUTONOMY


def test_a_chunk_that_is_stopped_before_its_first_command_is_accounted_for(drive: Drive) -> None:
    drive.autonomy(FORWARD)
    drive.controller.estop(drive.now, drive.steady, "button", "pressed")
    drive.tick()
    last = drive.happened(Judged)[-1].verdict
    assert (last.outcome, last.reason) == (Outcome.DISCARDED, "the arm was stopped first")


def test_settings_change_in_hold_and_are_refused_while_the_arm_is_driven(drive: Drive) -> None:
    changed = ControlSettings(ChunkSettings(Strategy.OPEN_LOOP, 1))
    drive.controller.use(changed)
    assert drive.controller.settings is changed
    drive.autonomy((0.01, 0, 0, 0, 0, 0, 1))
    drive.run(1.0)
    moved = drive.tool - drive.kinematics.forward(drive.robot.home)[0]
    assert moved[0] == pytest.approx(0.01, abs=2e-4)  # one step, as it says now
    with pytest.raises(ValueError, match="the mode is AUTONOMY: settings change in HOLD only"):
        drive.controller.use(ControlSettings())
    drive.set_mode(Mode.HOLD)
    with pytest.raises(ValueError, match="execution_steps is 9, expected 1 to the horizon 8"):
        drive.controller.use(ControlSettings(ChunkSettings(execution_steps=9)))
    with pytest.raises(ValueError, match="velocity_margin is fixed"):
        drive.controller.use(ControlSettings(velocity_margin=0.5))
    assert drive.controller.settings is changed


def test_in_a_dry_run_the_arm_need_not_follow() -> None:
    drive = Drive(ControlSettings(follows=False))
    home = drive.robot.home
    drive.reads = lambda now_ns: home
    drive.autonomy(FORWARD)
    commands = drive.run(0.8)
    assert drive.mode is Mode.AUTONOMY
    assert np.abs(commands[-1].motion.positions[0] - home).max() > 0.1


def test_after_a_pause_of_joint_states_the_gripper_goes_on_holding_what_it_holds(drive: Drive) -> None:
    """Closed around something it is measured more open than it was told to be."""
    gripper = drive.robot.gripper
    drive.autonomy((*STILL[:-1], 0.0))
    assert drive.run(0.3)[-1].finger_m == pytest.approx(gripper.closed_m)
    drive.set_mode(Mode.HOLD)
    drive.run(1.0)
    reads, drive.reads = drive.reads, lambda now_ns: None
    drive.run(0.5)
    drive.reads = reads
    drive.run(1.5)
    joystick(drive, DEADMAN)
    assert drive.run(0.1)[-1].finger_m == pytest.approx(gripper.closed_m)
