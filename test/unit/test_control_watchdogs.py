"""What stops a driven arm: each watchdog trips by itself, at its threshold and not before, and says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from control_fixtures import DEADMAN, FORWARD, STILL, T0, TICK, Drive, joystick, with_action
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.joints_watch import JointsWatch
from twinbrain_ros.control.modes import Mode, ModeChange, ModeError
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.control.verdict import Outcome
from twinbrain_ros.control.watchdogs import (
    ClockWatch,
    PolicyBeat,
    PolicyWatch,
    WatchdogSettings,
)
from twinbrain_ros.robot.joint_part import JointPart

SETTINGS = WatchdogSettings()
NAMES = shared_robot().arm_joints
HOME = shared_robot().home


def in_autonomy(delta: Sequence[float] = STILL) -> Drive:
    drive = Drive()
    drive.autonomy(delta)
    return drive


def in_teleop() -> Drive:
    """A person holds the joystick, which is at rest."""
    drive = Drive()
    drive.set_mode(Mode.TELEOP)
    joystick(drive, DEADMAN)
    drive.tick()
    return drive


def fault(drive: Drive) -> ModeChange | None:
    """The fault that is latched, None if there is none."""
    state = drive.controller.state
    if not state.latched:
        return None
    assert state.mode is Mode.HOLD and state.source == "watchdog"
    return state


def ticks_to_fault(drive: Drive, most: int = 200) -> int:
    for ticks in range(1, most + 1):
        drive.tick()
        if fault(drive) is not None:
            return ticks
    raise AssertionError(f"nothing tripped in {most} ticks")


def unread(drive: Drive) -> None:
    drive.reads = lambda now_ns: None


def stuck(drive: Drive) -> None:
    drive.reads = lambda now_ns: HOME


def mute(drive: Drive) -> None:
    drive.beat = None


def blind(drive: Drive) -> None:
    drive.beat = PolicyBeat("camera 'front' has sent nothing")


def hung(drive: Drive) -> None:
    drive.beat = PolicyBeat("", busy_s=2.4)


def idle(drive: Drive) -> None:
    drive.beat = PolicyBeat()


# Each by itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "delta", "ticks", "said"),
    [
        (unread, STILL, 13, ["the joint states are 0.260 s old", "at most 0.25 s"]),
        (mute, STILL, 26, ["the policy has been silent for 0.520 s"]),
        (
            blind,
            STILL,
            26,
            ["the policy has had nothing to act on for 0.520 s", "camera 'front' has sent nothing"],
        ),
        (idle, STILL, 126, ["no chunk was accepted for 2.520 s", "expected one every 2.5 s"]),
        (hung, STILL, 126, ["no chunk was accepted for 2.520 s", "working on one for 2.400 s"]),
        (stuck, FORWARD, 29, ["frozen", "not one value has changed since 'shoulder' was told", "0.4 s ago"]),
    ],
)
def test_one_thing_wrong_in_autonomy_trips_in_its_time_and_is_named(
    wrong: Callable[[Drive], None], delta: Sequence[float], ticks: int, said: list[str]
) -> None:
    drive = in_autonomy(delta)
    wrong(drive)
    assert ticks_to_fault(drive) == ticks
    found = fault(drive)
    assert found is not None and found.since_ns == drive.now
    for part in said:
        assert part in found.reason


@pytest.mark.parametrize(
    ("clock_s", "steady_s", "said"),
    [
        (-0.49, 0.02, "the clock jumped back by 0.510 s, expected at most 0.5 s"),
        (-3600.0, 0.02, "the clock jumped back by 3600.020 s, expected at most 0.5 s"),
        (0.53, 0.02, "the clock jumped forward by 0.510 s, expected at most 0.5 s"),
        (0.26, 0.26, "the controller was held up for 0.260 s, expected at most 0.25 s"),
        (0.6, 0.6, "the controller was held up for 0.600 s, expected at most 0.25 s"),
    ],
)
@pytest.mark.parametrize("driven", [in_autonomy, in_teleop])
def test_a_tick_out_of_time_trips_at_once(
    driven: Callable[[], Drive], clock_s: float, steady_s: float, said: str
) -> None:
    drive = driven()
    drive.tick(to_ns(clock_s), to_ns(steady_s))
    found = fault(drive)
    assert found is not None and found.reason == said


@pytest.mark.parametrize(("clock_s", "steady_s"), [(-0.47, 0.02), (0.5, 0.02), (0.24, 0.24), (0.02, 0.25)])
def test_a_tick_a_little_out_of_time_does_not(clock_s: float, steady_s: float) -> None:
    drive = in_autonomy()
    drive.tick(to_ns(clock_s), to_ns(steady_s))
    drive.run(0.4)
    assert fault(drive) is None and drive.mode is Mode.AUTONOMY


@pytest.mark.parametrize(("clock_s", "back"), [(-0.006, True), (-3600.0, True), (-0.004, False)])
def test_an_arm_that_moves_by_the_ros_clock_stops_if_it_goes_back(clock_s: float, back: bool) -> None:
    drive = Drive(ros_time=True)
    drive.autonomy()
    drive.tick(to_ns(clock_s), TICK)
    found = fault(drive)
    assert (found.reason if found is not None else "") == (
        f"the clock went back by {-clock_s:.3f} s" if back else ""
    )


def test_the_first_tick_of_all_has_nothing_to_compare_with() -> None:
    assert ClockWatch().tick(T0, 5, SETTINGS) == ("", "")


@pytest.mark.parametrize("wrong", [mute, blind, hung])
def test_the_policy_is_not_watched_while_a_person_drives(wrong: Callable[[Drive], None]) -> None:
    drive = in_teleop()
    wrong(drive)
    drive.run(3.0)
    assert drive.mode is Mode.TELEOP


def test_the_joints_are_watched_while_a_person_drives() -> None:
    drive = in_teleop()
    unread(drive)
    assert ticks_to_fault(drive) == 13


@pytest.mark.parametrize("wrong", [unread, mute, blind, hung])
def test_nothing_trips_in_hold(wrong: Callable[[Drive], None]) -> None:
    drive = Drive()
    wrong(drive)
    drive.run(3.0)
    for clock_s, steady_s in ((-5.0, 0.02), (5.0, 0.02), (0.6, 0.6)):
        drive.tick(to_ns(clock_s), to_ns(steady_s))
    assert drive.mode is Mode.HOLD and not drive.controller.state.latched and not drive.happenings


def test_a_policy_that_was_silent_before_the_switch_gets_its_time() -> None:
    drive = Drive()
    mute(drive)
    drive.run(3.0)
    drive.set_mode(Mode.AUTONOMY)
    assert ticks_to_fault(drive) == 26


def test_only_an_accepted_chunk_is_an_answer() -> None:
    drive = in_autonomy()
    drive.run(2.4)
    assert drive.give(observation_ns=drive.now - to_ns(0.6)).verdict.outcome is Outcome.STALE
    assert ticks_to_fault(drive) == 6
    drive = in_autonomy()
    drive.run(2.4)
    assert drive.give().verdict.outcome is Outcome.ACCEPTED
    assert ticks_to_fault(drive) == 126


# Joints -----------------------------------------------------------------------------------------------


def test_joints_are_too_old_after_their_timeout_and_not_before() -> None:
    watch = JointsWatch(shared_robot())
    assert watch.problem(T0, 0.25) == "no joint states have arrived yet"
    watch.add(JointPart.whole(T0, HOME, 0.03), T0)
    assert watch.problem(T0 + to_ns(0.25), 0.25) == ""
    assert "0.251 s old, expected at most 0.25 s" in watch.problem(T0 + to_ns(0.251), 0.25)
    assert watch.problem(T0 - to_ns(0.25), 0.25) == ""
    assert "0.251 s in the future" in watch.problem(T0 - to_ns(0.251), 0.25)


def test_joints_that_are_refused_are_blamed_until_good_ones_come() -> None:
    watch = JointsWatch(shared_robot())
    watch.refuse("'elbow' is nan", T0)
    assert "the newest were refused: 'elbow' is nan" in watch.problem(T0, 0.25)
    watch.add(JointPart.whole(T0, HOME, 0.03), T0)
    assert "refused" not in watch.problem(T0 + to_ns(1.0), 0.25)


def test_constant_readings_of_an_arm_at_rest_are_fine() -> None:
    drive = in_autonomy()
    stuck(drive)
    for _ in range(5):
        drive.run(1.0)
        drive.give(STILL)
    assert fault(drive) is None


def test_constant_readings_of_an_arm_that_hardly_moves_are_fine() -> None:
    drive = in_autonomy((0.001, 0, 0, 0, 0, 0, 1))  # 5 mm in all, less than 0.05 rad
    stuck(drive)
    drive.run(2.0)
    assert np.max(np.abs(drive.q - HOME)) > 0.01
    assert fault(drive) is None


def test_an_arm_that_starts_late_after_a_long_rest_is_not_frozen() -> None:
    """The time before the motion does not count: 200 ms from command to motion are no broken encoder."""
    robot = with_action(shared_robot(), space="joint_position")
    drive = Drive(robot=robot)
    drive.reads = lambda now_ns: drive.path[-10] if len(drive.path) > 10 else HOME
    drive.autonomy([*HOME, 1])
    drive.run(1.0)
    assert drive.give([HOME[0] + 0.3, *HOME[1:], 1]).verdict.outcome is Outcome.ACCEPTED
    drive.run(1.0)
    found = fault(drive)
    assert found is None, found


def blocked(error_rad: float) -> tuple[JointsWatch, Governor]:
    """An arm that was commanded to home, and stands beside it with its elbow; its encoders work."""
    governor = Governor(shared_robot(), shared_kinematics(), 0.9)
    governor.place(HOME, T0)
    watch = JointsWatch(shared_robot())
    stand(watch, T0, error_rad)
    return watch, governor


def stand(watch: JointsWatch, now_ns: int, error_rad: float) -> None:
    q = HOME + np.array([0, 0, error_rad, 0, 0, (now_ns // TICK) % 2 * 1e-4])
    watch.add(JointPart.whole(now_ns, q, 0.03), now_ns)


def test_an_arm_astray_trips_after_its_time_and_names_joint_and_figures() -> None:
    watch, governor = blocked(-0.36)
    for ticks in range(20):
        stand(watch, T0 + ticks * TICK, -0.36)
        assert watch.astray(T0 + ticks * TICK, governor, SETTINGS, NAMES) == ""
    stand(watch, T0 + to_ns(0.4), -0.36)
    reason = watch.astray(T0 + to_ns(0.4), governor, SETTINGS, NAMES)
    assert "joint 'elbow' is 0.360 rad" in reason and "at most 0.35 rad" in reason


def test_an_arm_a_little_behind_never_trips() -> None:
    watch, governor = blocked(0.34)
    for ticks in range(200):
        stand(watch, T0 + ticks * TICK, 0.34)
        assert watch.astray(T0 + ticks * TICK, governor, SETTINGS, NAMES) == ""


def test_time_astray_adds_up_and_is_forgotten_as_slowly() -> None:
    """One good look between bad ones proves nothing; an arm that has caught up gets its time again."""
    watch, governor = blocked(0.36)
    astray = []
    for ticks, error in enumerate([0.36] * 16 + [0.34] * 6 + [0.36] * 11):
        stand(watch, T0 + ticks * TICK, error)
        astray.append(bool(watch.astray(T0 + ticks * TICK, governor, SETTINGS, NAMES)))
    assert astray.index(True) == len(astray) - 1


def test_an_arm_that_runs_into_something_is_stopped() -> None:
    drive = Drive(robot=with_action(shared_robot(), space="joint_position"))
    drive.reads = lambda now_ns: HOME + (now_ns // TICK) % 2 * 1e-4
    drive.autonomy([HOME[0] + 0.6, *HOME[1:], 1])
    drive.run(1.5)
    found = fault(drive)
    assert found is not None and "joint 'waist'" in found.reason and "blocked, or not driven?" in found.reason


@pytest.mark.parametrize("noise", [0.0, 1e-4], ids=["frozen", "astray"])
def test_in_a_dry_run_the_arm_is_not_expected_to_move(noise: float) -> None:
    robot = with_action(shared_robot(), space="joint_position")
    drive = Drive(ControlSettings(follows=False), robot)
    drive.reads = lambda now_ns: HOME + (now_ns // TICK) % 2 * noise
    drive.autonomy([HOME[0] + 0.6, *HOME[1:], 1])
    drive.run(1.5)
    assert fault(drive) is None and drive.mode is Mode.AUTONOMY


# The policy, to the nanosecond ------------------------------------------------------------------------


def test_policy_thresholds_are_exact() -> None:
    watch = PolicyWatch()
    watch.start(T0)
    assert watch.problem(T0 + to_ns(0.5), SETTINGS) == ""
    assert "silent for 0.501 s" in watch.problem(T0 + to_ns(0.501), SETTINGS)
    watch.add(PolicyBeat("dark"), T0 + to_ns(0.5))
    assert watch.problem(T0 + to_ns(0.5), SETTINGS) == ""
    assert "had nothing to act on for 0.501 s, expected at most 0.5 s: dark" in watch.problem(
        T0 + to_ns(0.501), SETTINGS
    )
    watch.add(PolicyBeat(), T0 + to_ns(2.5))
    assert watch.problem(T0 + to_ns(2.5), SETTINGS) == ""
    assert "no chunk was accepted for 2.501 s" in watch.problem(T0 + to_ns(2.501), SETTINGS)


# Afterwards -------------------------------------------------------------------------------------------


def test_a_trip_brings_the_arm_to_rest_without_a_command() -> None:
    drive = in_autonomy(FORWARD)
    drive.run(0.3)
    mute(drive)
    ticks_to_fault(drive)
    assert drive.controller.settling(drive.now) is not None
    assert drive.run(1.0) == []
    speeds = np.max(np.abs(np.diff(drive.path, axis=0)), axis=1)
    assert speeds[30] > 1e-3 and speeds[-1] < 1e-9
    assert np.max(np.abs(np.diff(drive.path, 2, axis=0))) <= 12.0 * 0.02**2 * 1.01


def test_a_trip_stays_until_reset_whatever_is_asked_meanwhile() -> None:
    drive = in_autonomy()
    mute(drive)
    ticks_to_fault(drive)
    idle(drive)
    drive.run(1.0)
    for mode in (Mode.AUTONOMY, Mode.TELEOP):
        with pytest.raises(ModeError, match=r"the policy has been silent.*call the service reset first"):
            drive.set_mode(mode)
    drive.set_mode(Mode.HOLD)
    assert fault(drive) is not None
    joystick(drive, DEADMAN, x=1.0)
    drive.run(0.2)
    assert fault(drive) is not None, "a joystick must not take over from a fault"
    drive.hands = lambda now_ns: None
    drive.run(0.5)
    drive.controller.reset(drive.now, drive.steady, "test", "seen to")
    assert drive.mode is Mode.HOLD and not drive.controller.state.latched
    drive.autonomy()
    assert drive.mode is Mode.AUTONOMY


def test_a_chunk_after_a_trip_is_discarded() -> None:
    drive = in_autonomy()
    mute(drive)
    ticks_to_fault(drive)
    assert drive.give(FORWARD).verdict.outcome is Outcome.DISCARDED


@pytest.mark.parametrize(("clock_s", "from_measured"), [(-5.0, True), (5.0, True), (0.02, False)])
def test_after_a_clock_jump_the_arm_starts_from_where_it_is_measured(
    clock_s: float, from_measured: bool
) -> None:
    """Without one it starts from where it was left, lest it sink by its sag each time."""
    drive = Drive(ros_time=True)
    drive.autonomy()
    drive.run(0.5)
    sagged = HOME + np.array([0, 0.03, 0, 0, 0, 0])
    drive.reads = lambda now_ns: sagged
    drive.tick(to_ns(clock_s))
    if not from_measured:
        drive.set_mode(Mode.HOLD)
    else:
        assert fault(drive) is not None
        drive.controller.reset(drive.now, drive.steady, "test", "seen to")
    drive.run(0.5)
    drive.set_mode(Mode.AUTONOMY)
    expected = sagged if from_measured else HOME
    np.testing.assert_allclose(drive.controller.governor.resting_place(), expected, atol=1e-9)
    drive.tick()
    assert drive.give().verdict.outcome is Outcome.ACCEPTED, "what was seen before the jump is forgotten"
