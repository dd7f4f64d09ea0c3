"""Two sources of one topic make a joint go to and fro as none can; an arm that moves is believed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
from control_fixtures import FORWARD, T0, Drive
from sim_fixtures import shared_robot

from twinbrain_ros.control.joints_watch import JointsWatch
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.control.turns import Turns
from twinbrain_ros.robot.joint_part import JointPart

ROBOT = shared_robot()
HOME = ROBOT.home
NOISE_RAD = 0.005
NAMED = "joint_states is published by '/driver' and '/joint_state_publisher'"
MOST, FASTEST = 12.0, 3.14  # of every joint of this arm [rad/s2, rad/s]


def at_its_limits(random: np.random.Generator, seconds: float) -> Array:
    """Where an arm is every millisecond [n, J] whose joints go to and fro as hard as they may."""
    ways = np.zeros((round(seconds * 1000), 6))
    q, v, until = np.zeros(6), np.zeros(6), random.uniform(0.01, 0.5, 6)
    a = random.choice([-MOST, MOST], 6)
    for row in range(len(ways)):
        over = until < row / 1000
        a, until = np.where(over, -a, a), np.where(over, row / 1000 + random.uniform(0.01, 0.5, 6), until)
        a = np.where(np.abs(q + v * np.abs(v) / 2 / MOST) > 0.7, -np.sign(q) * MOST, a)
        v = np.clip(v + a * 1e-3, -FASTEST, FASTEST)
        q = q + v * 1e-3
        ways[row] = HOME + q
    return np.clip(ways, ROBOT.lower, ROBOT.upper)


def by_hand(amplitude: float, hz: float) -> Callable[[np.random.Generator, float], Array]:
    """The same of an arm that a person pushes to and fro."""

    def way(random: np.random.Generator, seconds: float) -> Array:
        turn = np.sin(2 * np.pi * hz * np.arange(round(seconds * 1000)) / 1000)
        return np.asarray(HOME + amplitude * turn[:, None] * random.choice([-1, 1], 6))

    return way


def say(watch: JointsWatch, stamp_ns: int, q: Array, arrived_ns: int) -> None:
    watch.add(JointPart.whole(stamp_ns, q, 0.03), arrived_ns)


@pytest.mark.parametrize("between", [0.1, -0.1, 0.3])
@pytest.mark.parametrize(
    ("run", "rate_hz"),
    [(1, 50), (2, 50), (3, 50), (1, 100), (2, 100), (4, 100), (6, 100), (2, 400), (8, 400)],
)
def test_two_sources_that_alternate_in_runs_are_told_by_name(run: int, rate_hz: int, between: float) -> None:
    """Both follow the arm, of which one reads a joint somewhere else."""
    random = np.random.default_rng(run)
    size, turn = random.uniform(0.05, 0.3, 6), random.uniform(0.5, 4.0, 6)
    watch = JointsWatch(ROBOT)
    watch.publishers = lambda: NAMED
    for number in count():
        now_ns = T0 + number * NS_PER_S // rate_hz
        q = HOME + size * np.sin(turn * number / rate_hz) + random.normal(0, NOISE_RAD, 6)
        second = number - rate_hz  # alone for a second
        if second >= 0 and second // run % 2:
            q[2] += between
        say(watch, now_ns, q, now_ns)
        problem = watch.problem(now_ns, 0.25)
        if problem:
            break
        assert second <= 0.4 * rate_hz, "not told in time"
    assert second > 0, problem
    # A long run of one source far from the other is a run of impossible ones.
    kind = "are impossible: " if run >= 6 and between > 0.2 else "contradict each other: "
    assert problem.startswith(f"the joint states {kind}") and problem.endswith(NAMED)
    assert "joint 'elbow'" in problem


def test_pairs_of_both_stop_an_arm_that_is_driven() -> None:
    drive = Drive()
    drive.controller.joints.publishers = lambda: NAMED
    drive.autonomy(FORWARD)
    drive.run(0.3)
    ticks = count()

    def pairs(now_ns: int) -> Array:
        q = drive.q.copy()
        q[1] += 0.1 * (next(ticks) // 2 % 2)
        return q

    drive.reads = pairs
    drive.run(0.4)
    assert drive.mode is Mode.HOLD
    assert "contradict each other" in drive.controller.state.reason and NAMED in drive.controller.state.reason


@pytest.mark.parametrize("rate_hz", [10, 30, 100, 500])
@pytest.mark.parametrize(
    ("way", "late_s", "burst_ms"),
    [
        (at_its_limits, 0.0, 0),
        (at_its_limits, 0.01, 0),
        (at_its_limits, 0.0, 40),
        (by_hand(0.1, 1.5), 0.005, 0),
        (by_hand(0.05, 3.0), 0.005, 0),
        (by_hand(0.5, 0.8), 0.005, 0),
    ],
)
def test_an_arm_that_moves_is_believed_however_its_readings_come(
    way: Callable[..., Array], late_s: float, burst_ms: int, rate_hz: int
) -> None:
    """Noisy, stamped inexactly, late, held up so that several come at once, and every twentieth missing."""
    random = np.random.default_rng(rate_hz)
    ways, watch, arrived_ns, told = way(random, 6.0), JointsWatch(ROBOT), 0, []
    for ms in np.arange(0, len(ways), 1000 / rate_hz):
        if random.random() < 0.05:
            continue
        due_ms = (ms // burst_ms + 1) * burst_ms if burst_ms else ms
        stamp_ns = T0 + to_ns(ms / 1000 - random.uniform(0, late_s / 2))
        arrived_ns = max(T0 + to_ns(due_ms / 1000 + random.exponential(late_s)), arrived_ns + 1)
        say(watch, stamp_ns, ways[int(ms)] + random.normal(0, NOISE_RAD, 6), arrived_ns)
        told.append(watch.problem(arrived_ns, 10.0))
    assert not any(told), next(filter(None, told))
    assert watch.left_out <= 2


def test_single_misreads_are_counted_and_stop_nothing() -> None:
    random, watch = np.random.default_rng(0), JointsWatch(ROBOT)
    for number in range(1000):
        now_ns = T0 + number * NS_PER_S // 100
        q = HOME + random.normal(0, NOISE_RAD, 6)
        if number % 50 == 49:
            q[3] += random.choice([-1, 1]) * random.uniform(0.12, 0.4)
        say(watch, now_ns, q, now_ns)
        assert watch.problem(now_ns, 0.25) == ""
    assert watch.left_out == 20


def test_a_turn_that_cannot_be_counts_only_if_it_is_taken_back_at_once() -> None:
    turns, ms = Turns(np.array([MOST])), to_ns(1e-3)
    assert turns.add([0], [0.0], T0, T0) is None
    assert turns.add([0], [-0.2], T0 + 10 * ms, T0 + 10 * ms) is None
    assert turns.add([0], [0.0], T0 + 500 * ms, T0 + 500 * ms) is None, "it had the time to"
    assert turns.add([0], [0.2], T0 + 510 * ms, T0 + 510 * ms) is None, "it goes on"
    assert turns.add([0], [0.0], T0 + 520 * ms, T0 + 520 * ms) is None
    assert turns.add([0], [0.2], T0 + 530 * ms, T0 + 530 * ms) == (0, (0.2, 0.0, 0.2), 0.02)
