"""Which readings an arm is moved from, which are left out, and when there are too many of those."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from control_fixtures import DEADMAN, FORWARD, T0, TICK, Drive, joystick
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.joints_watch import SETTLE_S, JointsWatch
from twinbrain_ros.control.modes import Mode, ModeError
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.plausible import OUTSIDE_RAD
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.watchdogs import WatchdogSettings
from twinbrain_ros.robot.joint_part import JointPart

ROBOT = shared_robot()
HOME, NAMES = ROBOT.home, ROBOT.arm_joints
TIMEOUT_S = WatchdogSettings().joints_timeout_s
MS = to_ns(1e-3)


def off(rad: float, joint: int = 2) -> Array:
    """Home, one joint beside it."""
    q = HOME.copy()
    q[joint] += rad
    return q


class Stream:
    """Joint states that arrive one after the other."""

    def __init__(self, rate_hz: float = 100.0) -> None:
        self.watch = JointsWatch(ROBOT)
        self.period_ns, self.now = to_ns(1.0 / rate_hz), T0

    def say(self, q: Array, *, stamp_ns: int | None = None, parts: tuple[int, ...] = (0, 7)) -> None:
        """A message of all joints, or one for each part [from, to)."""
        self.now += self.period_ns
        whole = np.array([*q, 0.03])
        for first, end in pairwise(parts):
            stamp = self.now if stamp_ns is None else stamp_ns
            part = JointPart(stamp, tuple(range(first, end)), whole[first:end])
            self.watch.add(part, self.now)

    def stand(self, seconds: float, q: Array = HOME) -> Stream:
        for _ in range(round(seconds * NS_PER_S / self.period_ns)):
            self.say(q)
        return self

    @property
    def problem(self) -> str:
        return self.watch.problem(self.now, TIMEOUT_S)

    @property
    def unsettled(self) -> str:
        return self.problem or self.watch.unsettled(self.now)


# A mode that moves ------------------------------------------------------------------------------------


def test_an_arm_that_stands_is_believed_after_its_time_and_not_before() -> None:
    stream = Stream().stand(0.1)
    assert stream.unsettled == (
        "joint 'waist' has been measured for 0.09 s (10 readings), expected 0.2 s and at least 3"
    )
    assert stream.stand(SETTLE_S - 0.1).unsettled == ""


def test_a_driver_that_comes_back_is_waited_for_again() -> None:
    stream = Stream().stand(0.5)
    stream.now += to_ns(0.3)
    stream.stand(0.1)
    assert "has been measured for 0.09 s" in stream.unsettled
    assert stream.stand(0.1).unsettled == ""


@pytest.mark.parametrize("rate_hz", [4.5, 10, 30, 100, 500, 1000])
def test_every_usual_rate_is_believed(rate_hz: float) -> None:
    assert Stream(rate_hz).stand(0.7).unsettled == ""


@pytest.mark.parametrize(
    ("q", "said"),
    [
        (np.degrees(HOME), "joint 'wrist_angle' is at 88.44 rad, expected within [-1.745, 2.147] or at most"),
        (np.degrees(HOME), "or are these degrees?"),
        (np.full(6, -np.pi), "joint 'wrist_angle' is at -3.142 rad, expected within [-1.745, 2.147]"),
        (off(1e308), "joint 'elbow' is at 1e+308 rad"),
        (off(-1e308, 5), "joint 'wrist_rotate' is at -1e+308 rad"),
        (off(ROBOT.upper[2] + OUTSIDE_RAD + 0.01 - HOME[2]), "joint 'elbow' is at 1.716 rad"),
    ],
)
def test_readings_where_no_joint_can_be_are_never_believed(q: Array, said: str) -> None:
    stream = Stream().stand(1.0, q)
    assert stream.watch.newest is None and said in stream.unsettled


def test_an_arm_a_little_beyond_its_limits_is_believed() -> None:
    assert Stream().stand(0.3, off(ROBOT.upper[2] + 0.09 - HOME[2])).unsettled == ""


@pytest.mark.parametrize(
    "glitch", [off(0.05), off(-0.12), off(0.4), off(1.0), np.full(6, -np.pi), np.zeros(6)]
)
@pytest.mark.parametrize("ago", range(4))
def test_one_reading_beside_the_others_keeps_the_arm_where_it_is(glitch: Array, ago: int) -> None:
    stream = Stream().stand(0.5)
    stream.say(glitch)
    stream.stand(0.01 * ago)
    assert "joint '" in stream.unsettled
    assert stream.stand(SETTLE_S + 0.02).unsettled == ""
    assert stream.watch.newest is not None
    np.testing.assert_array_equal(stream.watch.place(stream.now), HOME)


@pytest.mark.parametrize("times", [1, 3, 5])
def test_glitches_too_small_to_be_seen_move_nothing_either(times: int) -> None:
    stream = Stream().stand(0.5)
    for _ in range(times):
        stream.say(off(0.015))
    assert stream.unsettled == ""
    np.testing.assert_array_equal(stream.watch.place(stream.now), HOME)


@pytest.mark.parametrize("speed", [0.3, -1.5, 3.0])
def test_an_arm_that_is_moved_within_its_limits_is_believed_where_it_is(speed: float) -> None:
    stream = Stream()
    for tick in range(40):
        stream.say(off(speed * 0.01 * tick - 0.6 * np.sign(speed)))
    assert stream.unsettled == ""
    # Of a slow one the middle one of three readings counts.
    there = off(speed * 0.39 - 0.6 * np.sign(speed))
    np.testing.assert_allclose(stream.watch.place(stream.now), there, atol=0.3 * 0.01 + 1e-9)


def test_an_arm_that_moves_faster_than_its_limits_allow_is_not() -> None:
    stream = Stream()
    for tick in range(25):
        stream.say(off(5.5 * 0.01 * tick - 1.0))
    assert "expected at most 3.14 rad/s" in stream.unsettled


def test_a_driver_that_sends_zeros_before_it_has_read_the_arm_is_waited_for() -> None:
    stream = Stream().stand(0.5, np.zeros(6))
    assert "as every joint is exactly 0" in stream.unsettled
    stream.stand(0.9)
    assert stream.unsettled == ""
    np.testing.assert_array_equal(stream.watch.place(stream.now), HOME)
    assert Stream().stand(1.2, np.zeros(6)).unsettled == "", "an arm may stand there"


@pytest.mark.parametrize("q", [np.degrees(HOME), np.full(6, -np.pi), off(1e308), np.full(6, math.nan)])
@pytest.mark.parametrize("mode", [Mode.TELEOP, Mode.AUTONOMY])
def test_what_is_no_place_never_becomes_a_command(q: Array, mode: Mode) -> None:
    controller = ArmController(ROBOT, shared_kinematics())
    for tick in range(60):
        now = T0 + tick * TICK
        if np.all(np.isfinite(q)):
            controller.add_joints(now, q, 0.03)
        else:
            controller.joints.refuse("joint_states: position of 'waist' is nan", now)
        controller.inputs.on_joy("joystick", [0.0] * 8, [0, 0, 0, 0, int(tick > 30)], now)
        with pytest.raises(ModeError, match=r"cannot start \w+: .*refused: joint"):
            controller.set_mode(mode, now, now, "test", "")
        assert controller.tick(now, now) is None
    assert not controller.governor.placed
    assert "joystick cannot take over: " in controller.teleop_problem


def test_a_glitch_at_the_moment_of_takeover_is_waited_for() -> None:
    drive = Drive()
    drive.run(0.3)
    joystick(drive, DEADMAN)
    drive.reads = lambda now_ns: np.full(6, -np.pi)
    assert drive.tick() is None and drive.mode is Mode.HOLD
    drive.reads = lambda now_ns: drive.q
    commands = drive.run(0.5)
    assert drive.mode is Mode.TELEOP and commands
    np.testing.assert_allclose(commands[0].motion.positions[0], HOME, atol=1e-6)


def test_a_place_that_is_none_is_refused_by_the_governor() -> None:
    governor = Governor(ROBOT, shared_kinematics(), 0.9)
    for q in (off(math.nan), off(math.inf), off(1e308), off(5.0)):
        with pytest.raises(ValueError, match=r"expected finite positions at most 0.3 rad outside"):
            governor.place(q, T0)
    assert not governor.placed
    governor.place(off(ROBOT.upper[2] + 0.09 - HOME[2]), T0)


# Left out, and too many -------------------------------------------------------------------------------


def test_one_impossible_reading_is_left_out_and_counted() -> None:
    stream = Stream().stand(0.5)
    for glitch in (np.full(6, -np.pi), off(0.4), off(1e308)):
        stream.say(glitch)
        assert stream.problem == ""
        assert stream.watch.newest is not None
        np.testing.assert_array_equal(stream.watch.newest.arm, HOME)
        stream.stand(0.5)
    assert stream.watch.left_out == 3


@pytest.mark.parametrize("rate_hz", [10, 30, 100, 500])
@pytest.mark.parametrize(
    "wrong", [off(1.5), np.full(6, -np.pi), off(2 * np.pi - HOME[5] - 3.2, 5), off(1e308)]
)
def test_a_run_of_impossible_readings_is_told_within_a_fifth_of_a_second(
    rate_hz: float, wrong: Array
) -> None:
    stream = Stream(rate_hz).stand(1.0)
    since = stream.now
    while not stream.problem:
        stream.say(wrong)
        assert stream.now - since <= to_ns(0.201), "not told in time"
    assert "the joint states are impossible" in stream.problem and "left out within" in stream.problem


@pytest.mark.parametrize("rate_hz", [20, 50, 100, 200])
@pytest.mark.parametrize("between", [0.1, -0.4, 1.0])
def test_two_sources_that_contradict_each_other_are_told_with_their_names(
    rate_hz: float, between: float
) -> None:
    stream = Stream(rate_hz).stand(1.0)
    asked: list[int] = []

    def publishers() -> str:
        asked.append(1)
        return "joint_states is published by '/driver' and '/joint_state_publisher'"

    stream.watch.publishers = publishers
    since, problems = stream.now, set()
    for number in range(30):
        stream.say(off(between) if number % 2 else HOME)
        problems.add(stream.problem)
        if stream.now - since > to_ns(0.3):
            assert stream.problem, "not told in time"
    (problem,) = problems - {""}
    assert problem.startswith("the joint states contradict each other: ")
    assert problem.endswith("published by '/driver' and '/joint_state_publisher'")
    assert len(asked) == 1, "the graph was asked again and again"
    stream.stand(0.7)
    assert stream.unsettled == "", "the other source is gone"


def test_a_second_source_of_the_same_stamps_is_seen_too() -> None:
    stream = Stream().stand(0.5)
    for _ in range(6):
        stream.say(HOME)
        stream.watch.add(JointPart.whole(stream.now, off(0.4), 0.03), stream.now + MS)
    assert "contradict each other" in stream.problem


def test_a_second_source_of_a_part_is_seen_too() -> None:
    stream = Stream().stand(0.5)
    for _ in range(6):
        stream.say(HOME, parts=(0, 3, 7))
        stream.watch.add(JointPart(stream.now + MS, (2,), np.array([HOME[2] + 0.4])), stream.now + MS)
    assert "joint 'elbow'" in stream.problem and "contradict each other" in stream.problem


@pytest.mark.parametrize("late_ms", [6, 20, 100, 300])
@pytest.mark.parametrize("parts", [(0, 7), (0, 3, 7)], ids=str)
def test_a_second_source_whose_readings_come_late_is_seen_too(late_ms: int, parts: tuple[int, ...]) -> None:
    stream = Stream().stand(1.0)
    for _ in range(6):
        stream.say(HOME, parts=parts)
        stream.watch.add(JointPart.whole(stream.now - late_ms * MS, off(0.4), 0.03), stream.now + MS)
    assert "contradict each other" in stream.problem and "joint 'elbow'" in stream.problem
    assert stream.watch.newest is not None and stream.watch.repeated == 0
    np.testing.assert_array_equal(stream.watch.newest.arm, HOME)


def test_the_true_source_is_heard_if_the_wrong_one_is_stamped_later() -> None:
    stream = Stream().stand(1.0, off(0.4))
    for _ in range(6):
        stream.say(off(0.4))
        stream.watch.add(JointPart.whole(stream.now - 20 * MS, HOME, 0.03), stream.now + MS)
    assert "contradict each other" in stream.problem


def test_one_late_reading_beside_the_others_is_waited_for_too() -> None:
    stream = Stream().stand(0.5)
    stream.watch.add(JointPart.whole(stream.now - 20 * MS, off(0.1), 0.03), stream.now + MS)
    assert stream.problem == "" and "joint 'elbow' is at 0.362 rad in one that came late" in stream.unsettled
    assert stream.stand(SETTLE_S + 0.02).unsettled == ""


def test_a_stamp_that_runs_ahead_gives_a_joint_no_time_to_get_anywhere() -> None:
    stream = Stream().stand(0.5)
    stream.say(off(0.4), stamp_ns=stream.now + 200 * MS)
    assert stream.watch.left_out == 1 and stream.watch.newest is not None
    np.testing.assert_array_equal(stream.watch.newest.arm, HOME)


@pytest.mark.parametrize("ahead_ms", [-60, 0, 60])
def test_readings_of_a_fast_arm_that_were_held_up_and_come_all_at_once_are_believed(ahead_ms: int) -> None:
    """Whatever the clock of the machine that stamps them says."""
    watch = JointsWatch(ROBOT)
    for number in range(60):
        made_ns = T0 + number * 10 * MS
        arrived_ns = T0 + 500 * MS + number * MS if 35 <= number < 50 else made_ns + MS
        q = off(-1.0 + 2.9 * 0.01 * number)
        watch.add(JointPart.whole(made_ns + ahead_ms * MS, q, 0.03), arrived_ns)
    assert watch.left_out == 0 and watch.newest is not None
    np.testing.assert_array_equal(watch.newest.arm, off(-1.0 + 2.9 * 0.59))


def test_an_arm_that_contradicting_sources_tell_of_is_stopped_and_not_started() -> None:
    drive = Drive()
    drive.run(0.3)
    drive.autonomy(FORWARD)
    drive.run(0.3)

    def second(now_ns: int) -> None:
        drive.controller.add_joints(now_ns - 5 * MS, HOME + 0.4, 0.03, drive.steady - 5 * MS)

    drive.hands = second
    drive.run(0.2)
    assert drive.mode is Mode.HOLD and "contradict each other" in drive.controller.state.reason
    drive.controller.reset(drive.now, drive.steady, "test", "")
    with pytest.raises(ModeError, match=r"cannot start autonomy: the joint states contradict each other"):
        drive.set_mode(Mode.AUTONOMY)


def test_an_encoder_that_sticks_and_then_jumps_stops_the_arm() -> None:
    drive = Drive()
    drive.autonomy((0.04, 0, 0, 0, 0, 0, 1))
    stuck_at = drive.q
    drive.reads = lambda now_ns: stuck_at
    drive.run(0.36)
    assert drive.mode is Mode.AUTONOMY
    drive.reads = lambda now_ns: drive.q + 0.8
    drive.run(0.2)
    assert drive.mode is Mode.HOLD and "impossible" in drive.controller.state.reason


def test_an_arm_that_was_moved_in_hold_is_believed_where_it_is_then() -> None:
    stream = Stream().stand(1.0).stand(0.7, off(1.0))
    assert stream.unsettled == ""
    np.testing.assert_array_equal(stream.watch.place(stream.now), off(1.0))


# Parts, repeats, orders -------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(0, 7), (0, 6, 7), (0, 3, 7), (0, 1, 2, 3, 4, 5, 6, 7)], ids=str)
def test_an_arm_in_parts_is_as_good_as_a_whole_one(parts: tuple[int, ...]) -> None:
    stream = Stream()
    for _ in range(30):
        stream.say(HOME, parts=parts)
    assert stream.unsettled == "" and stream.watch.left_out == stream.watch.repeated == 0
    joints = stream.watch.newest
    assert joints is not None and (joints.stamp_ns, joints.finger_m) == (stream.now, 0.03)


def test_the_part_that_is_old_is_named_and_an_old_gripper_makes_no_arm_old() -> None:
    stream = Stream()
    stream.say(HOME, parts=(0, 4, 6, 7))
    for _ in range(50):
        stream.say(HOME, parts=(0, 4))
    assert stream.problem == (
        "the joint states of 'wrist_angle' and 'wrist_rotate' are 0.500 s old, expected at most 0.25 s"
    )
    for _ in range(50):
        stream.say(HOME, parts=(0, 6))
    assert stream.problem == ""
    finger = stream.watch.finger_problem(stream.now, 0.5)
    assert finger == "the joint states of the gripper joint 'left_finger' are 1.000 s old"


def test_a_joint_that_never_came_is_named_and_so_are_strangers() -> None:
    stream = Stream()
    assert stream.problem == "no joint states have arrived yet"
    stream.watch.strangers(("joint1", "joint2", "joint3", "joint4"))
    assert stream.problem.endswith("yet; some came, of 'joint1', 'joint2' and 'joint3' and more")
    stream.say(HOME, parts=(0, 5))
    assert stream.problem == "no position of 'wrist_rotate' has arrived yet in joint states"


def test_repeats_and_late_ones_are_counted_and_change_nothing() -> None:
    stream = Stream().stand(0.5)
    newest = stream.now
    for stamp_ns in (newest, newest - 20 * MS):
        stream.watch.add(JointPart.whole(stamp_ns, HOME + 0.001, 0.03), newest + MS)
    assert stream.watch.repeated == 2 and stream.problem == ""
    assert stream.watch.newest is not None
    assert stream.watch.newest.stamp_ns == newest
    np.testing.assert_array_equal(stream.watch.newest.arm, HOME)


@pytest.mark.parametrize("back_s", [0.005, 0.2, 0.5, 5.0])
def test_stamps_that_go_back_for_good_are_a_new_time_line(back_s: float) -> None:
    stream = Stream().stand(0.5)
    for _ in range(30):
        stream.say(HOME, stamp_ns=stream.now + stream.period_ns - to_ns(back_s))
    assert stream.watch.newest is not None
    assert stream.watch.newest.stamp_ns == stream.now - to_ns(back_s)
    assert stream.watch.left_out == 0


@pytest.mark.parametrize("finger", [1e308, -0.5, math.pi])
def test_a_gripper_that_is_not_measured_is_not_commanded_until_it_is_told(finger: float) -> None:
    drive = Drive()
    controller = ArmController(ROBOT, shared_kinematics())
    for ago in range(15, -1, -1):
        controller.add_joints(T0 - ago * TICK, HOME, finger)
    controller.set_mode(Mode.TELEOP, T0, T0, "test", "")
    inputs = controller.inputs
    for now, down in ((T0, []), (T0 + TICK, [4]), (T0 + 2 * TICK, [4, 0])):
        inputs.on_joy("joystick", [0.0] * 8, [int(i in down) for i in range(11)], now)
        controller.add_joints(now + MS, HOME, finger)
        command = controller.tick(now + 2 * MS, now + 2 * MS)
        told = None if command is None else command.finger_m
        assert told == (ROBOT.gripper.open_m if 0 in down else None)
    assert "no position of the gripper joint 'left_finger'" in controller.joints.finger_problem(T0, 1.0)
    assert drive.mode is Mode.HOLD


def test_of_a_gripper_the_median_counts() -> None:
    watch = JointsWatch(ROBOT)
    for number, finger in enumerate([0.03, 0.03, 0.03, 0.0, 0.03]):
        watch.add(JointPart(T0 + number * MS, tuple(range(7)), np.array([*HOME, finger])), T0 + number * MS)
    assert watch.newest is not None and watch.newest.finger_m == 0.03


def by_hand(seed: int) -> Callable[[int], Array]:
    """A smooth way within the limits, of an arm that somebody moves."""
    random = np.random.default_rng(seed)
    size, turn = random.uniform(0.05, 0.3, 6), random.uniform(0.5, 4.0, 6)
    return lambda ns: HOME + size * np.sin(turn * ns / NS_PER_S)


@pytest.mark.parametrize("seed", range(20))
def test_real_motion_at_any_rate_with_jitter_and_losses_is_never_left_out(seed: int) -> None:
    random, way = np.random.default_rng(seed), by_hand(seed)
    watch, now = JointsWatch(ROBOT), T0
    period_ns = to_ns(1.0 / random.choice([20, 50, 100, 500]))
    parts = [(0, 7), (0, 3, 7), (0, 6, 7)][seed % 3]
    for _ in range(400):
        now += period_ns
        if random.random() < 0.1:
            continue
        for first, end in pairwise(parts):
            stamp_ns = now - int(random.uniform(0, 2 * MS))
            q = np.array([*(way(stamp_ns) + random.normal(0, 1e-3, 6)), 0.03])
            late_ns = int(random.exponential(2 * MS))
            watch.add(JointPart(stamp_ns, tuple(range(first, end)), q[first:end]), now + late_ns)
    assert watch.left_out == 0 and watch.problem(now, TIMEOUT_S) == ""


@pytest.mark.parametrize("seed", range(10))
def test_real_motion_whose_readings_overtake_each_other_is_never_left_out(seed: int) -> None:
    random, way = np.random.default_rng(seed), by_hand(seed)
    watch = JointsWatch(ROBOT)
    period_ns = to_ns(1.0 / random.choice([50, 100, 500]))
    stamps = [T0 + number * period_ns for number in range(300)]
    for arrived_ns, stamp_ns in sorted((ns + int(random.exponential(10 * MS)), ns) for ns in stamps):
        q = way(stamp_ns) + random.normal(0, 1e-3, 6)
        watch.add(JointPart.whole(stamp_ns, q, 0.03), arrived_ns)
    assert watch.left_out == 0 and watch.repeated > 10
