"""A leader arm that misreads, leaps, stutters or has fewer joints than the arm that follows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from control_fixtures import TICK, Drive
from sim_fixtures import shared_robot

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.teleop import TeleopError
from twinbrain_ros.control.timing import NS_PER_S
from twinbrain_ros.robot.leader import LeaderJoint, LeaderMap
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.teleop_inputs import LeaderInput

HOME, ALIGN = shared_robot().home, 0.3
VELOCITY = np.array([shared_robot().limits[joint].velocity for joint in shared_robot().arm_joints])


def robot_with(**changes: object) -> RobotFile:
    """The shipped robot with another leader as its only input."""
    (entry,) = (entry for entry in shared_robot().teleop if isinstance(entry, LeaderInput))
    return dataclasses.replace(shared_robot(), teleop=(dataclasses.replace(entry, **changes),))  # type: ignore[arg-type]


class Led:
    """An arm in TELEOP under a leader whose place is a function of the seconds since then; None: silent."""

    def __init__(self, where: Callable[[float], Array | None], robot: RobotFile | None = None) -> None:
        self.drive = Drive(robot=robot)
        self.where, self.errors = where, list[str]()
        self.start_ns = self.drive.now
        self.say(where(0.0), self.drive.now)
        self.drive.set_mode(Mode.TELEOP)
        self.drive.hands = self.hear

    def hear(self, now_ns: int) -> None:
        self.say(self.where((now_ns - self.start_ns) / NS_PER_S), now_ns)

    def say(self, q: Array | None, now_ns: int) -> None:
        (entry,) = (entry for entry in self.drive.robot.teleop if isinstance(entry, LeaderInput))
        if q is None:
            return
        try:
            self.drive.controller.inputs.on_leader("leader", entry.map.positions(q.tolist(), 0.5), now_ns)
        except TeleopError as error:
            self.errors.append(str(error))

    @property
    def active(self) -> bool:
        wish = self.drive.controller.inputs.wish("leader", self.drive.now)
        return wish is not None and wish.active

    @property
    def speeds(self) -> Array:
        return np.abs(np.diff(self.drive.path, axis=0)) / 0.02


@pytest.mark.parametrize("messages", [1, 5])
def test_a_leaders_misread_moves_nothing_and_is_told_once(messages: int) -> None:
    misread = (0.399, 0.399 + 0.02 * messages)
    led = Led(lambda after_s: 0.0 * HOME if misread[0] < after_s < misread[1] else HOME)
    led.drive.run(0.41)
    assert len(led.errors) == 1
    assert "leader: found 'wrist_angle' at 0, 1.5" in led.errors[0]
    assert "rad of the arm away from the message before, expected at most 0.25: it has to be" in led.errors[0]
    assert led.drive.controller.inputs.problem(led.drive.now) == (
        "leader does not count before it was seen at rest: 'wrist_angle' leapt"
    )
    led.drive.run(0.5)
    np.testing.assert_allclose(led.drive.path, HOME[None].repeat(len(led.drive.path), 0), atol=1e-6)
    assert len(led.errors) == 1 and led.active and led.drive.controller.inputs.problem(led.drive.now) == ""


@pytest.mark.parametrize(("quiet_s", "leap"), [(0.0, 0.5), (0.0, -0.7), (0.15, 0.8)])
def test_a_leader_that_leapt_is_followed_as_after_a_takeover_once_it_is_at_rest(
    quiet_s: float, leap: float
) -> None:
    there = HOME + np.array([leap, 0, 0, 0, 0, 0])

    def where(after_s: float) -> Array | None:
        return None if 0.4 - quiet_s < after_s < 0.4 else there if after_s >= 0.4 else HOME

    led = Led(where)
    led.drive.run(0.58)
    assert not led.active and np.max(led.speeds) < 1e-6
    led.drive.run(abs(leap) / ALIGN + 1.0)
    assert len(led.errors) == 1 and np.max(led.speeds) < 2 * ALIGN
    np.testing.assert_allclose(led.drive.q, there, atol=1e-3)


def test_a_leap_onto_the_arms_pose_does_not_bring_the_old_offset_back() -> None:
    """With an offset that is never worked off, from the leader's two places."""
    led = Led(lambda after_s: HOME + 0.6 * (after_s < 0.6), robot_with(align_speed=0.0))
    led.drive.run(1.5)
    assert len(led.errors) == 1 and led.active
    np.testing.assert_allclose(led.drive.path, HOME[None].repeat(len(led.drive.path), 0), atol=1e-6)


def test_two_leaders_on_one_topic_lead_nowhere() -> None:
    """One of them at the arm's pose."""
    led = Led(lambda after_s: HOME + 0.5 * (round(after_s / 0.02) % 2))
    led.drive.run(1.0)
    assert len(led.errors) == 1 and not led.active
    np.testing.assert_allclose(led.drive.q, HOME, atol=1e-6)


def test_a_leader_that_took_over_and_leaps_does_not_give_the_arm_back_to_the_policy() -> None:
    led = Led(lambda after_s: HOME + 1.0 * (after_s >= 0.4), robot_with(takes_over=True))
    led.drive.set_mode(Mode.HOLD)
    led.drive.hands = lambda now_ns: None
    led.drive.run(0.3)
    led.drive.autonomy()
    led.start_ns, led.drive.hands = led.drive.now, led.hear
    led.drive.run(0.3)
    assert led.drive.mode is Mode.TELEOP
    led.drive.run(0.14)
    assert led.drive.mode is Mode.HOLD


@pytest.mark.parametrize("late", [1, 2, 3], ids=["even", "in twos", "in threes"])
def test_a_person_may_move_a_leader_twice_as_fast_as_the_arm_can(late: int) -> None:
    """Its messages come as they are sent, every 20 ms, or some at once."""
    frequency = 2 * np.pi * 1.5
    where = lambda s: HOME + 1.95 * VELOCITY / frequency * np.array([np.sin(frequency * s), 0, 0, 0, 0, 0])  # noqa: E731
    led = Led(where)
    waiting: list[int] = []

    def hear(now_ns: int) -> None:
        waiting.append(now_ns)
        if len(waiting) == late:
            for index, sent_ns in enumerate(waiting):
                led.say(where((sent_ns - led.start_ns) / NS_PER_S), now_ns + 300_000 * index)
            waiting.clear()

    led.drive.hands = hear
    led.drive.run(2.0)
    assert led.errors == [] and led.active
    assert np.ptp(np.array(led.drive.path)[:, 0]) > 0.4, "it follows all the while"


# Fewer joints ---------------------------------------------------------------------------------------


def without(*missing: int) -> RobotFile:
    joints = shared_robot().arm_joints
    drives = tuple(None if i in missing else LeaderJoint(name) for i, name in enumerate(joints))
    return robot_with(map=LeaderMap(drives, None))


def test_at_the_border_joints_that_a_leader_lacks_stay_where_they_are() -> None:
    """It leads the tool down through the floor, and up again."""
    down = lambda s: HOME + np.array([0, min(s, 1.6 - s) if s < 1.6 else 0.0, 0, 0, 0, 0])  # noqa: E731
    led = Led(down, without(2, 4, 5))
    problems, drive = set(), led.drive
    for _ in range(40):
        drive.tick()
        problems.add(drive.controller.teleop_problem)
    lowest = drive.tool[2]
    assert "the tool is at the border of the workspace box, and leader lacks joints" in problems
    assert lowest == pytest.approx(0.012, abs=5e-3)
    drive.run(0.4)
    assert drive.tool[2] > lowest + 0.05, "the way back begins at once"
    path = np.array(drive.path)
    np.testing.assert_allclose(path[:, [2, 4, 5]], HOME[[2, 4, 5]][None].repeat(len(path), 0), atol=1e-9)
    assert np.min([drive.kinematics.forward(q)[0][2] for q in path]) > 0.012 - 1e-3
    assert np.all(
        np.abs(np.diff(path, 2, axis=0))
        <= drive.controller.governor.limits.acceleration * (TICK / 1e9) ** 2 * 1.1
    )
