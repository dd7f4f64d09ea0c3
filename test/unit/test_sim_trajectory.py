"""The follower against numbers worked out by hand from the controllers' documentation and sources.

P is the update period, T the time of the first update that knows of a trajectory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from twinbrain_ros.sim.follower_kinds import DISTRIBUTIONS, KINDS, FollowerKind, Tolerances, follower_kind
from twinbrain_ros.sim.following import Arrival, follow
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower, TrajectoryError

S = 1_000_000_000
T = 100 * S
NEWER = ("jazzy", "kilted", "rolling")
RATES = (10, 50, 100, 500)


def one(kind: str, q: float = 0.0) -> JointTrajectoryFollower:
    """A follower of one joint."""
    return JointTrajectoryFollower(("a",), np.array([q]), KINDS[kind])


def give(
    follower: JointTrajectoryFollower,
    points: list[float],
    times_s: list[float],
    now_ns: int = T,
    stamp_ns: int = 0,
    v: list[float] | None = None,
    a: list[float] | None = None,
) -> None:
    def column(values: list[float] | None) -> list[list[float]] | None:
        return None if values is None else [[value] for value in values]

    follower.receive(
        ["a"], [[p] for p in points], times_s, now_ns, velocities=column(v), accelerations=column(a),
        start_ns=stamp_ns,
    )  # fmt: skip


def updates(follower: JointTrajectoryFollower, count: int, measured: float, first_ns: int = T) -> list[float]:
    period_ns = follower.kind.period_ns
    return [float(follower.update(first_ns + k * period_ns, np.array([measured]))[0]) for k in range(count)]


# Which sample an update commands ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("names", "ahead"), [(("humble",), 0), (NEWER, 1)])
def test_humble_commands_the_sample_for_now_and_the_others_that_for_the_next_update(
    names: tuple[str, ...], ahead: int, rate: int
) -> None:
    # From 0, measured, to 1 in 1 s with positions alone: linear. Update k is at T + k P, its sample at k P,
    # or (k + 1) P: q = k / rate, or (k + 1) / rate.
    for name in names:
        follower = one(f"{name}_{rate}")
        give(follower, [1.0], [1.0])
        expected = [(k + ahead) / rate for k in range(4)]
        np.testing.assert_allclose(updates(follower, 4, 0.0), expected, atol=1e-12)


# Where a new trajectory begins ----------------------------------------------------------------------


def replaced(kind: str) -> list[float]:
    """Commands just before and at the first update with a second trajectory; the servo is 0.2 behind then.

    The first leads from 0 to 1 in 1 s, linear. At T + 0.5 s the second comes: to 1 in 0.4 s, at rest there.
    """
    follower = one(kind)
    give(follower, [1.0], [1.0])
    rate = follower.kind.rate_hz
    first = updates(follower, rate // 2, 0.0)
    give(follower, [1.0], [0.4], T + S // 2, v=[0.0])
    return [first[-1], *updates(follower, 1, 0.3, T + S // 2)]


# Cubic from rest at the measured 0.3 to 1: 0.3 + 0.7 (3 u^2 - 2 u^3), and u = P / 0.4 s at the first sample
# of all but Humble, whose first is at u = 0: the measured state. Before that, 0.5 - P (Humble) or 0.5.
AT_THE_MEASURED = {
    10: 0.409375,  # u = 0.25: 3 u^2 - 2 u^3 = 0.15625
    50: 0.305075,  # u = 0.05: 0.00725
    100: 0.301290625,  # u = 0.025: 0.00184375
    500: 0.300052325,  # u = 0.005: 0.00007475
}


@pytest.mark.parametrize("rate", RATES)
def test_a_new_trajectory_begins_at_the_measured_state_at_rest(rate: int) -> None:
    np.testing.assert_allclose(replaced(f"humble_{rate}"), [0.5 - 1 / rate, 0.3], atol=1e-12)
    for name in ("jazzy", "kilted"):
        np.testing.assert_allclose(replaced(f"{name}_{rate}"), [0.5, AT_THE_MEASURED[rate]], atol=1e-12)


# With the option it begins at the last command, 1 /s fast. Humble: at the last command, dated now, so the
# command stands still for one update. The others: the last command (0.5) dated P ago, sampled 2 P later, on
# the cubic of D = 0.4 + P seconds: 0.5 + s + (1.5 - 2 D) / D^2 s^2 + (D - 1) / D^3 s^3 with s = 2 P.
AT_THE_COMMAND = {
    10: 0.748,  # D = 0.5, s = 0.2: 0.5 + 0.2 + 2 * 0.04 - 4 * 0.008
    100: 0.5215496,  # D = 0.41, s = 0.02: 0.52 + 4.04521118 * 4e-4 - 8.56052582 * 8e-6
}


@pytest.mark.parametrize("rate", AT_THE_COMMAND)
def test_with_the_option_it_begins_at_the_last_command(rate: int) -> None:
    before = 0.5 - 1 / rate
    np.testing.assert_allclose(replaced(f"humble_{rate}_open_loop"), [before, before], atol=1e-12)
    for name in ("jazzy", "kilted"):
        found = replaced(f"{name}_{rate}_from_desired")
        np.testing.assert_allclose(found, [0.5, AT_THE_COMMAND[rate]], atol=1e-9)


# Stamps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
def test_a_stamped_trajectory_is_where_it_should_be_by_now_whatever_is_measured(rate: int) -> None:
    # q = 0.5 t from the stamp on, which is 20 ms ago: 0.01 at T, 0.5 (0.02 + P) one update later.
    times = [0.0, 0.1, 0.2, 0.5]
    for distribution in DISTRIBUTIONS:
        follower = one(f"{distribution.name}_{rate}")
        give(follower, [0.5 * t for t in times], times, stamp_ns=T - S // 50)
        expected = 0.5 * (0.02 + 1 / rate) if distribution.looks_ahead else 0.01
        assert updates(follower, 1, -0.5)[0] == pytest.approx(expected, abs=1e-12), distribution.name


def test_before_its_first_point_it_goes_there_from_where_it_begins() -> None:
    # Stamp 30 ms ahead: from the measured 0 at T to 0.3 at T + 30 ms in a line, 0.1 every 10 ms.
    follower = one("humble_100")
    give(follower, [0.3, 0.5], [0.0, 0.02], stamp_ns=T + 30_000_000)
    np.testing.assert_allclose(updates(follower, 7, 0.0), [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5], atol=1e-12)


def test_a_trajectory_that_is_over_is_refused_and_one_that_ends_now_is_not() -> None:
    follower = one("humble_100")
    with pytest.raises(TrajectoryError, match=r"the last point was due 0\.001 s ago"):
        give(follower, [1.0], [0.1], T, stamp_ns=T - 101_000_000)
    assert updates(follower, 1, 0.0) == [0.0]
    give(follower, [1.0], [0.1], T, stamp_ns=T - 100_000_000)
    assert updates(follower, 1, 0.0, T + 10_000_000) == [1.0]


def test_a_clock_that_goes_back_sends_humble_to_the_end_and_the_others_on() -> None:
    # q = t, segments of 0.1 s; 0.15 s in, the clock goes back by 0.1 s. Humble's search does not look behind
    # the segment that it was in, finds none and takes the last point; the others count periods.
    for name, expected in (("humble", 0.3), ("jazzy", 0.17)):
        follower = one(f"{name}_100")
        give(follower, [0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2, 0.3], stamp_ns=T)
        updates(follower, 16, 0.0)  # the last one 0.15 s in
        found = follower.update(T + 50_000_000, np.array([0.0]), period_ns=10_000_000)
        assert found[0] == pytest.approx(expected, abs=1e-12)


# Rolling's replacement -------------------------------------------------------------------------------


def test_rolling_begins_a_trajectory_of_the_past_now() -> None:
    # q = 0.5 t from T on; at T + 20 ms the same again. By its stamp, the sample for T + 30 ms is 0.015; begun
    # now, 10 ms in, 0.005.
    for name, expected in (("jazzy", 0.015), ("rolling", 0.005)):
        follower = one(f"{name}_100")
        give(follower, [0.0, 0.5], [0.0, 1.0], stamp_ns=T)
        updates(follower, 2, 0.0)
        give(follower, [0.0, 0.5], [0.0, 1.0], T + 20_000_000, stamp_ns=T)
        assert updates(follower, 1, 0.0, T + 20_000_000)[0] == pytest.approx(expected, abs=1e-12)


def test_rolling_bridges_to_a_trajectory_of_the_future() -> None:
    # 10 Hz, q = 0.5 t from T on, first command 0.05, for T + 0.1. At T + 0.1 one to 1.0 comes, begun at
    # T + 0.2, 0.1 s long. The running one stands at T (its last update): the bridge is its 0.05, 0.1 s on,
    # and all begins anew at T + 0.1: 0.05 once more, then 1.0. Jazzy: measured 0 to 1, T + 0.1 to T + 0.3.
    for name, expected in (("jazzy", [0.05, 0.5, 1.0]), ("rolling", [0.05, 0.05, 1.0])):
        follower = one(f"{name}_10")
        give(follower, [0.0, 0.5], [0.0, 1.0], stamp_ns=T)
        found = updates(follower, 1, 0.0)
        give(follower, [1.0], [0.1], T + S // 10, stamp_ns=T + S // 5)
        found += updates(follower, 2, 0.0, T + S // 10)
        np.testing.assert_allclose(found, expected, atol=1e-12)


# Between points --------------------------------------------------------------------------------------

LINEAR = [0.1, 0.2, 0.3, 1.0]
CUBIC = [0.028, 0.104, 0.216, 1.0]  # 3 u^2 - 2 u^3
QUINTIC = [0.00856, 0.05792, 0.16308, 1.0]  # 10 u^3 - 15 u^4 + 6 u^5


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, LINEAR), ({"v": [0.0]}, CUBIC), ({"v": [0.0], "a": [0.0]}, QUINTIC)],
)
def test_the_fields_of_the_points_say_how_it_interpolates(
    fields: dict[str, list[float]], expected: list[float]
) -> None:
    # From rest at 0 to 1 in 1 s, at u = 0.1, 0.2, 0.3 and past the end; Humble is one update later.
    for kind, late in (("humble_10", 1), ("jazzy_10", 0), ("kilted_10", 0), ("rolling_10", 0)):
        follower = one(kind)
        give(follower, [1.0], [1.0], **fields)
        found = updates(follower, 12, 0.0)
        np.testing.assert_allclose([*found[late : late + 3], found[-1]], expected, atol=1e-12)


def test_it_is_linear_where_only_one_of_two_points_has_velocities() -> None:
    follower = one("jazzy_10")
    points, times = [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0]
    follower.receive(["a"], points, times, T, velocities=[[0.0], [], [0.0]], start_ns=T)
    np.testing.assert_allclose(updates(follower, 5, 0.0), [0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-12)


def test_moving_points_are_met_with_their_velocity() -> None:
    # (0, 0) to (1, 3 /s) in 1 s: v1 = 3 gives q = 3 u^2 - 2 u^3 - 3 (u^2 - u^3) = u^3.
    follower = one("jazzy_10")
    give(follower, [0.0, 1.0, 2.0], [0.0, 1.0, 2.0], stamp_ns=T, v=[0.0, 3.0, 0.0])
    np.testing.assert_allclose(updates(follower, 3, 0.0), [0.001, 0.008, 0.027], atol=1e-12)


# What is taken ---------------------------------------------------------------------------------------


@pytest.fixture
def two() -> JointTrajectoryFollower:
    return JointTrajectoryFollower(("a", "b"), np.array([0.0, 1.0]))


def test_it_holds_the_measured_place_until_a_trajectory_comes(two: JointTrajectoryFollower) -> None:
    for k in range(3):
        np.testing.assert_array_equal(two.update(T + k, np.array([5.0, 5.0])), [0.0, 1.0])
    two.activate(np.array([5.0, 5.0]))
    np.testing.assert_array_equal(two.update(T, np.array([4.0, 4.0])), [5.0, 5.0])


def test_joints_are_matched_by_name(two: JointTrajectoryFollower) -> None:
    two.receive(["b", "a"], [[7.0, 8.0]], [0.0], T)
    np.testing.assert_allclose(two.update(T, np.array([0.0, 1.0])), [8.0, 7.0])


def test_an_update_takes_the_newest_that_has_arrived_by_then() -> None:
    follower = one("jazzy_100")
    for q, arrived_ns in ((1.0, T), (2.0, T + 1), (3.0, T + 2)):
        give(follower, [q], [0.0], arrived_ns)
    assert [follower.update(T + k, np.array([0.0]))[0] for k in range(4)] == [1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ["a"], "points": [[1.0], [2.0]]}, "joint names are"),
        ({"names": ["a", "c"]}, "expected each of"),
        ({"names": ["a", "a"]}, "expected each of"),
        ({"points": [], "times_s": []}, "0 points"),
        ({"points": [[1.0, 2.0]]}, "1 rows of positions, expected 2"),
        ({"points": [[1.0, 2.0], [1.0]]}, "point 1 has 1 positions, expected 2"),
        ({"points": [[1.0, 2.0], []]}, "point 1 has 0 positions, expected 2"),
        ({"points": [[1.0, 2.0], [np.nan, 1.0]]}, r"positions\[0\] of point 1 is nan"),
        ({"velocities": [[0.0, 0.0], [0.0, np.inf]]}, r"velocities\[1\] of point 1 is inf"),
        ({"velocities": [[0.0], [0.0, 0.0]]}, "point 0 has 1 velocities, expected 2"),
        ({"accelerations": [[0.0, 0.0], [0.0]]}, "point 1 has 1 accelerations, expected 2"),
        ({"accelerations": [[0.0, 0.0], [0.0, 0.0]]}, "accelerations without velocities"),
        ({"times_s": [1.0, 1.0]}, "point 1 is 1.0 s, expected more than"),
        ({"times_s": [1.0, 0.5]}, "point 1 is 0.5 s, expected more than"),
        ({"times_s": [1.0, np.nan]}, "point 1 is nan s"),
        ({"start_ns": 1}, "the last point was due 98"),
    ],
)
def test_a_bad_trajectory_is_refused_with_a_reason_and_changes_nothing(
    two: JointTrajectoryFollower, change: dict[str, Any], said: str
) -> None:
    arguments: dict[str, Any] = {
        "names": ["a", "b"],
        "points": [[1.0, 1.0], [2.0, 2.0]],
        "times_s": [1.0, 2.0],
        "now_ns": 100 * S,
    }
    with pytest.raises(TrajectoryError, match=said):
        two.receive(**{**arguments, **change})
    np.testing.assert_allclose(two.update(102 * S, np.array([0.0, 1.0])), [0.0, 1.0])


def test_an_end_in_motion_is_taken_by_humble_alone() -> None:
    for distribution in DISTRIBUTIONS:
        follower = one(f"{distribution.name}_100")
        if distribution.name == "humble":
            give(follower, [1.0], [1.0], v=[0.5])
            continue
        with pytest.raises(TrajectoryError, match=r"velocity of joint 'a' at the last point is 0\.5"):
            give(follower, [1.0], [1.0], v=[0.5])


# Tolerances ------------------------------------------------------------------------------------------


def tolerant(name: str, **tolerances: float) -> JointTrajectoryFollower:
    kind = dataclasses.replace(KINDS[name], tolerances=Tolerances(**tolerances))
    return JointTrajectoryFollower(("a",), np.array([0.0]), kind)


def test_off_its_path_it_holds_the_measured_place_until_the_next_trajectory() -> None:
    # To 1 in 1 s, the joint stays at 0.02. Wanted 0, 0.1, 0.2: 0.18 off at the third update, which commands
    # nothing; the next one commands the measured place.
    for name, expected in (("humble_10", [0.0, 0.1, 0.1]), ("jazzy_10", [0.1, 0.2, 0.2])):
        follower = tolerant(name, path=0.15)
        give(follower, [1.0], [1.0])
        follower.update(T, np.array([0.0]))
        found = [follower.set_point[0], *updates(follower, 3, 0.02, T + S // 10)]
        start = 0.0 if name == "humble_10" else 0.1
        np.testing.assert_allclose(found, [start, *expected[1:], 0.02], atol=1e-12)
        assert follower.problem == "'a' is 0.180 from its path, at most 0.15: it holds"
        give(follower, [0.1], [0.0], T + S)
        assert updates(follower, 1, 0.02, T + S) == [0.1] and not follower.problem


def test_short_of_its_goal_for_too_long_it_holds_the_measured_place() -> None:
    # Due at T + 0.2 s; 0.3 s later it may still be off, at T + 0.6 s not any more.
    follower = tolerant("jazzy_10", goal=0.05, goal_time_s=0.3)
    give(follower, [1.0], [0.2])
    found = updates(follower, 9, 0.9)
    np.testing.assert_allclose(found[1:], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.9], atol=1e-12)
    assert "from its goal, 0.3 s after it was due" in follower.problem


# Names and recorded messages -------------------------------------------------------------------------


def test_every_kind_has_a_name_and_others_are_refused_with_the_names() -> None:
    assert len(KINDS) == 32
    assert follower_kind("humble_10_open_loop") == FollowerKind(DISTRIBUTIONS[0], 10, True)
    for name in ("jazzy", "jazzy_100_open_loop", "jazzy_99", ""):
        with pytest.raises(ValueError, match=r"humble_RATE\[_open_loop\], jazzy_RATE") as error:
            follower_kind(name)
        assert repr(name) in str(error.value)


def test_recorded_messages_are_followed_as_they_arrived() -> None:
    # Two of the same path q = 0.5 t from T on, the second 10 ms late: the set-points stay on the path.
    times = np.array([0.0, 1.0])
    messages = [
        Arrival(T, T, times, np.array([[0.0], [0.5]])),
        Arrival(T + 30_000_000, T + 20_000_000, times, np.array([[0.01], [0.51]])),
        Arrival(T, 1, times, np.array([[0.0], [0.5]])),
    ]
    found = follow(messages, np.array([0.0]), T + 60_000_000, servo_lag_s=0.0)
    assert found.times_ns.tolist() == [T + k * 10_000_000 for k in range(6)]
    expected = [0.005, 0.01, 0.015, 0.02, 0.025, 0.03]
    np.testing.assert_allclose(found.set_points[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(found.measured[:, 0], [0.0, *expected[:-1]], atol=1e-12)
    np.testing.assert_allclose(found.speeds(), 0.5)
    np.testing.assert_allclose(found.accelerations(), 0.0, atol=1e-8)
    assert len(found.refused) == 1 and "the last point was due 99" in found.refused[0]
