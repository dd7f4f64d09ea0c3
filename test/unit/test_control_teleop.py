"""A person's hands on the arm: takeover and handing back, the way the tool takes, and its borders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from control_fixtures import CLOSE, DEADMAN, FORWARD, OPEN, STILL, T0, TICK, Drive, joystick
from sim_fixtures import shared_robot

from twinbrain_ros.control.governor import BOX_TOLERANCE_M
from twinbrain_ros.control.modes import Intervention, Mode
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.verdict import Judged, Outcome
from twinbrain_ros.robot.actions import matrix_to_euler

HOME = shared_robot().home
SPEED, TURN, ALIGN = 0.15, 0.8, 0.3  # of the shipped robot file


def twist(drive: Drive, *linear: float) -> None:
    """From now on this twist at every tick; it was zero the moment before."""
    if drive.controller.inputs.wish("twist", drive.now) is None:
        drive.controller.inputs.on_twist("twist", (0, 0, 0), (0, 0, 0), None, drive.now)
    drive.hands = lambda now_ns: drive.controller.inputs.on_twist("twist", linear, (0, 0, 0), None, now_ns)


def leader(drive: Drive, q: Callable[[int], Array]) -> None:
    """A leader arm whose joints are a function of time; it has stood still until now."""
    names = [*drive.robot.arm_joints, "left_finger"]

    def say(now_ns: int, at_ns: int | None = None) -> None:
        joints = dict(zip(names, [*q(at_ns or now_ns), 0.02], strict=True))
        drive.controller.inputs.on_leader("leader", joints, now_ns)

    for ago_s in (0.2, 0.1, 0.0):
        say(drive.now - to_ns(ago_s), drive.now)
    drive.hands = say


def nobody(now_ns: int) -> None:
    pass


def tools(drive: Drive, since: int = 0) -> Array:
    """The tool's way [ticks, 3], m."""
    return np.array([drive.kinematics.forward(q)[0] for q in drive.path[since:]])


def assert_smooth(drive: Drive) -> None:
    """No joint ever jumped: velocity and acceleration stayed within limits from tick to tick."""
    limits = drive.controller.governor.limits
    assert np.all(np.abs(np.diff(drive.path, axis=0)) <= limits.velocity * 0.02 * 1.01)
    assert np.all(np.abs(np.diff(drive.path, 2, axis=0)) <= limits.acceleration * 0.02**2 * 1.1)


def in_autonomy_on_the_move() -> Drive:
    drive = Drive()
    drive.autonomy(FORWARD)
    drive.run(0.3)
    return drive


# Taking over and giving back --------------------------------------------------------------------------


def test_a_joystick_takes_over_within_one_tick_and_the_tool_goes_its_way() -> None:
    drive = in_autonomy_on_the_move()
    joystick(drive, DEADMAN, y=1.0)
    assert drive.tick() is not None
    assert drive.mode is Mode.TELEOP and drive.controller.running is None
    y = drive.tool[1]
    drive.run(0.12)
    assert drive.tool[1] > y + 0.003


def test_nothing_jumps_at_takeover_and_at_handing_back() -> None:
    drive = in_autonomy_on_the_move()
    joystick(drive, DEADMAN, x=-1.0, yaw=0.5)
    drive.run(0.6)
    joystick(drive)
    drive.tick()
    assert drive.mode is Mode.AUTONOMY
    drive.tick()
    assert drive.give(FORWARD).verdict.outcome is Outcome.ACCEPTED
    drive.run(0.6)
    assert_smooth(drive)


def test_a_joystick_takes_over_from_hold_and_gives_back_to_hold() -> None:
    drive = Drive()
    joystick(drive, DEADMAN, z=1.0)
    drive.tick()
    assert drive.mode is Mode.TELEOP
    drive.run(0.4)
    joystick(drive)
    drive.tick()
    assert drive.mode is Mode.HOLD and drive.controller.state.reason == "joystick let go"


def test_a_joystick_that_falls_silent_ends_in_hold_after_its_timeout() -> None:
    drive = in_autonomy_on_the_move()
    joystick(drive, DEADMAN, y=1.0)
    drive.run(0.2)
    drive.hands = nobody
    drive.run(0.3)
    assert drive.mode is Mode.TELEOP
    drive.tick()
    assert drive.mode is Mode.HOLD and not drive.controller.state.latched
    assert drive.controller.state.reason == "joystick fell silent"
    drive.run(0.5)
    assert_smooth(drive)
    assert np.max(np.abs(drive.path[-1] - drive.path[-2])) < 1e-9


def test_asking_for_teleop_during_a_takeover_makes_it_stay() -> None:
    drive = in_autonomy_on_the_move()
    joystick(drive, DEADMAN)
    drive.tick()
    drive.set_mode(Mode.TELEOP)
    joystick(drive)
    drive.run(1.0)
    assert drive.mode is Mode.TELEOP
    drive.hands = nobody
    drive.run(1.0)
    assert drive.mode is Mode.TELEOP


def test_no_joystick_takes_over_an_arm_whose_joints_are_not_known() -> None:
    drive = Drive()
    drive.reads = lambda now_ns: None
    drive.run(0.3)
    joystick(drive, DEADMAN, x=1.0)
    assert drive.run(0.2) == [] and drive.mode is Mode.HOLD


def test_of_two_inputs_that_took_over_the_one_that_drives_decides_how_it_ends() -> None:
    """The joystick drives, and dies; that the other one lies still is no letting go."""
    entries = tuple(dataclasses.replace(entry, takes_over=True) for entry in shared_robot().teleop[:2])
    drive = Drive(robot=dataclasses.replace(shared_robot(), teleop=entries))
    drive.autonomy()
    twist(drive, 0.1, 0.0, 0.0)
    drive.run(0.1)
    joystick(drive, DEADMAN, y=1.0)
    drive.run(0.1)
    twist(drive, 0.0, 0.0, 0.0)
    drive.run(0.5)
    assert drive.mode is Mode.HOLD


# Chunks and interventions -----------------------------------------------------------------------------


def test_chunks_are_discarded_while_a_person_drives() -> None:
    drive = in_autonomy_on_the_move()
    joystick(drive, DEADMAN)
    drive.tick()
    found = drive.give(FORWARD).verdict
    assert found.outcome is Outcome.DISCARDED and found.reason == "the mode is TELEOP"


def test_after_handing_back_only_a_chunk_of_a_newer_observation_counts() -> None:
    drive = in_autonomy_on_the_move()
    joystick(drive, DEADMAN)
    drive.run(0.2)
    joystick(drive)
    drive.tick()
    switch_ns = drive.controller.state.since_ns
    for observed_ns in (switch_ns - to_ns(0.1), switch_ns):
        found = drive.give(FORWARD, observation_ns=observed_ns).verdict
        assert found.outcome is Outcome.DISCARDED
        assert found.reason == "it was observed before the switch to autonomy"
    drive.tick()
    assert drive.give(FORWARD, observation_ns=switch_ns + 1).verdict.outcome is Outcome.ACCEPTED


def test_a_chunk_that_had_not_begun_is_told_that_it_never_will() -> None:
    drive = in_autonomy_on_the_move()
    second = drive.give(FORWARD, sequence=2)
    assert second.verdict.outcome is Outcome.ACCEPTED
    joystick(drive, DEADMAN)
    drive.tick()
    last = [judged for judged in drive.happened(Judged) if judged.chunk is second.chunk][-1]
    assert last.verdict.outcome is Outcome.DISCARDED and "stopped" in last.verdict.reason


def test_an_intervention_tells_who_when_and_what_it_interrupted() -> None:
    drive = in_autonomy_on_the_move()
    joystick(drive, DEADMAN)
    drive.tick()
    start_ns = drive.now
    assert drive.happened(Intervention) == [Intervention(1, "joystick", Mode.AUTONOMY, start_ns)]
    drive.run(0.3)
    joystick(drive)
    drive.tick()
    ended = Intervention(1, "joystick", Mode.AUTONOMY, start_ns, drive.now)
    assert drive.happened(Intervention)[1:] == [ended]
    drive.set_mode(Mode.HOLD)
    drive.set_mode(Mode.TELEOP)
    assert drive.happened(Intervention)[2:] == [Intervention(2, "test", Mode.HOLD, drive.now)]


# The tool's way ---------------------------------------------------------------------------------------


def test_at_full_deflection_the_tool_goes_straight_at_full_speed() -> None:
    drive = Drive()
    joystick(drive, DEADMAN, y=1.0)
    drive.run(1.0)
    way = tools(drive)
    assert (way[-1] - way[-11])[1] / 0.2 == pytest.approx(SPEED, rel=0.02)
    np.testing.assert_allclose(way[:, [0, 2]], way[[0]][:, [0, 2]].repeat(len(way), 0), atol=2e-3)


def test_a_turn_is_about_the_tool_point() -> None:
    drive = Drive()
    joystick(drive, DEADMAN, yaw=1.0)
    drive.run(1.0)
    before, after = (drive.kinematics.forward(q) for q in (drive.path[-11], drive.path[-1]))
    np.testing.assert_allclose(after[0], drive.kinematics.forward(HOME)[0], atol=2e-3)
    np.testing.assert_allclose(matrix_to_euler(after[1] @ before[1].T), [0, 0, TURN * 0.2], atol=3e-3)


def test_a_correction_of_a_third_of_a_second_is_not_swallowed() -> None:
    drive = Drive()
    drive.autonomy(STILL)
    drive.run(0.2)
    y = drive.tool[1]
    joystick(drive, DEADMAN, y=1.0)
    drive.run(0.3)
    joystick(drive)
    drive.run(0.5)
    assert drive.mode is Mode.AUTONOMY
    assert drive.tool[1] - y > 0.8 * 0.3 * SPEED


@pytest.mark.parametrize("held", [(DEADMAN,), ()], ids=["stick", "dead-man"])
def test_releasing_comes_to_rest_smoothly_and_does_not_swing_back(held: tuple[int, ...]) -> None:
    drive = Drive()
    joystick(drive, DEADMAN, x=1.0)
    drive.run(0.6)
    released = len(drive.path)
    joystick(drive, *held)
    drive.run(0.8)
    assert_smooth(drive)
    x = tools(drive, released)[:, 0]
    assert x[-1] - x[0] < 0.03 and abs(x[-1] - x[-2]) < 1e-6
    assert np.max(x) - x[-1] < 1e-3, "it went beyond where it comes to rest"


@pytest.mark.parametrize(
    ("axis", "sign", "border"), [(0, -1, 0.10), (1, 1, 0.25), (1, -1, -0.25), (2, -1, 0.012)]
)
def test_pushing_into_the_border_stops_there(axis: int, sign: int, border: float) -> None:
    drive = Drive()
    joystick(drive, DEADMAN, **{"xyz"[axis]: float(sign)})
    drive.run(3.0)
    way = tools(drive)
    assert np.all(sign * (way[:, axis] - border) <= BOX_TOLERANCE_M)
    assert way[-1, axis] == pytest.approx(border, abs=2e-3)
    assert_smooth(drive)


def test_pushing_into_the_border_at_a_slant_slides_along_it() -> None:
    drive = Drive()
    joystick(drive, DEADMAN, z=-1.0, y=0.5)
    drive.run(1.6)
    at_border = len(drive.path)
    drive.run(0.8)
    way = tools(drive)
    assert np.min(way[:, 2]) >= 0.012 - BOX_TOLERANCE_M
    np.testing.assert_allclose(way[at_border:, 2], 0.012, atol=2e-3)
    share = (0.5 - 0.08) / 0.92
    assert (way[-1] - way[at_border])[1] / (0.02 * 39) == pytest.approx(share * SPEED, rel=0.05)


PUSHES = [{"x": 1.0}, {"x": 1.0, "z": 1.0}, {"x": 1.0, "y": 1.0, "z": 1.0}]


@pytest.mark.parametrize("push", PUSHES, ids=str)
def test_where_the_arm_ends_the_tool_stays_on_the_line_it_was_asked_along(push: dict[str, float]) -> None:
    drive = Drive()
    joystick(drive, DEADMAN, **push)
    drive.run(2.2)
    asked = np.array([push.get(name, 0.0) for name in "xyz"])
    speed, line = SPEED * np.linalg.norm(asked), asked / np.linalg.norm(asked)
    way = tools(drive) - drive.kinematics.forward(HOME)[0]
    beside = np.linalg.norm(way - np.outer(way @ line, line), axis=1)
    assert np.max(beside) < 1e-2
    assert np.max(np.linalg.norm(np.diff(way, axis=0), axis=1)) / 0.02 < 2 * speed


@pytest.mark.parametrize("push", PUSHES, ids=str)
def test_where_the_arm_ends_there_is_a_way_back(push: dict[str, float]) -> None:
    drive = Drive()
    joystick(drive, DEADMAN, **push)
    drive.run(2.2)
    end = drive.tool
    joystick(drive, DEADMAN, **{name: -value for name, value in push.items()})
    drive.run(0.6)
    assert drive.controller.teleop_problem == ""
    way = (end - drive.tool)[["xyz".index(name) for name in push]]
    assert np.all(way > 0.04), way


# Leader -----------------------------------------------------------------------------------------------


def test_a_leader_elsewhere_makes_no_jump_and_loses_its_offset_at_its_speed() -> None:
    drive = Drive()
    drive.set_mode(Mode.TELEOP)
    there = HOME + np.array([0.45, 0, 0, 0.2, 0, 0])
    leader(drive, lambda now_ns: there)
    drive.run(1.0)
    assert_smooth(drive)
    np.testing.assert_allclose(drive.q[[0, 3]], [ALIGN, 0.2], atol=0.03)
    np.testing.assert_allclose(np.diff(drive.path, axis=0)[10:30, [0, 3]] / 0.02, ALIGN, rtol=0.05)
    drive.run(1.0)
    np.testing.assert_allclose(drive.q, there, atol=1e-3)


def test_a_leaders_motion_is_followed_at_once_while_its_offset_lasts() -> None:
    drive = Drive()
    drive.set_mode(Mode.TELEOP)
    start_ns = drive.now + to_ns(0.1)

    def moves(now_ns: int) -> Array:
        moved = 0.5 * max(now_ns - start_ns, 0) / NS_PER_S
        return HOME + np.array([-0.4 + moved, 0, 0, 0, 0, moved])

    leader(drive, moves)
    drive.run(0.1)
    before = drive.q
    drive.run(0.4)
    assert_smooth(drive)
    assert (drive.q - before)[5] == pytest.approx(0.5 * 0.4, abs=0.04)
    drive.run(0.4)
    speeds = np.diff(drive.path, axis=0)[-10:] / 0.02
    np.testing.assert_allclose(speeds[:, 5], 0.5, atol=0.01)
    np.testing.assert_allclose(speeds[:, 0], 0.5 - ALIGN, atol=0.01)  # its offset is lost by the way


# Which hand, and the gripper --------------------------------------------------------------------------


def test_a_stronger_input_takes_the_wheel_and_gives_it_back_without_a_jump() -> None:
    drive = Drive()
    drive.set_mode(Mode.TELEOP)

    def both(now_ns: int) -> None:
        inputs = drive.controller.inputs
        inputs.on_twist("twist", (0.0, 0.2 * (now_ns > T0 + TICK), 0.0), (0, 0, 0), None, now_ns)
        held = to_ns(100.4) <= now_ns < to_ns(100.8)
        inputs.on_joy("joystick", [0, 0, 0, 0, 1.0 * held, 0, 0, 0], [0, 0, 0, 0, int(held)], now_ns)

    drive.hands = both
    drive.run(1.2)
    assert_smooth(drive)
    speed = np.diff(tools(drive), axis=0) / 0.02
    for tick, expected in ((15, [0, 0.2, 0]), (37, [0, 0, SPEED]), (58, [0, 0.2, 0])):
        np.testing.assert_allclose(speed[tick], expected, atol=0.01)


def test_an_input_that_does_not_take_over_drives_only_when_teleop_was_asked_for() -> None:
    drive = Drive()
    twist(drive, 0.1, 0.0, 0.0)
    assert drive.run(0.3) == [] and drive.mode is Mode.HOLD
    drive.set_mode(Mode.TELEOP)
    assert drive.run(0.3) != []
    drive.hands = nobody
    drive.run(0.5)
    assert drive.run(0.5) == [] and drive.mode is Mode.TELEOP


def test_the_gripper_follows_the_buttons_and_keeps_what_it_was_told() -> None:
    drive = Drive()
    gripper = drive.robot.gripper
    told = []
    for down in ((), (CLOSE,), (), (OPEN,), ()):
        joystick(drive, DEADMAN, *down)
        told.append(drive.run(0.1)[-1].finger_m)
    assert told == [gripper.open_m, gripper.closed_m, gripper.closed_m, gripper.open_m, gripper.open_m]


def test_a_leaders_gripper_is_followed_in_between() -> None:
    drive = Drive()
    drive.set_mode(Mode.TELEOP)
    leader(drive, lambda now_ns: HOME)
    assert drive.run(0.1)[-1].finger_m == pytest.approx(0.02)


def test_an_emergency_stop_ends_a_persons_drive_too() -> None:
    drive = Drive()
    joystick(drive, DEADMAN, x=1.0)
    drive.run(0.4)
    drive.controller.estop(drive.now, drive.steady, "joystick", "pressed")
    assert drive.run(0.5) == [] and drive.mode is Mode.ESTOP
    assert_smooth(drive)
    assert np.max(np.abs(drive.path[-1] - drive.path[-2])) < 1e-9
