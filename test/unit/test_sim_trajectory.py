"""The trajectory follower behaves as a ros2_control JointTrajectoryController."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twinbrain_ros.sim.trajectory import JointTrajectoryFollower, TrajectoryError

S = 1_000_000_000


@pytest.fixture
def follower() -> JointTrajectoryFollower:
    return JointTrajectoryFollower(("a", "b"), np.array([0.0, 1.0]))


def test_it_holds_until_a_trajectory_comes(follower: JointTrajectoryFollower) -> None:
    np.testing.assert_allclose(follower.sample(5 * S), [0.0, 1.0])
    assert follower.done(5 * S)


def test_it_goes_from_the_set_point_to_each_point_and_holds_the_last(
    follower: JointTrajectoryFollower,
) -> None:
    follower.set(["a", "b"], [[1.0, 1.0], [1.0, 3.0]], [1.0, 2.0], now_ns=10 * S)
    assert not follower.done(11 * S)
    np.testing.assert_allclose(follower.sample(10 * S), [0.0, 1.0])
    np.testing.assert_allclose(follower.sample(10 * S + S // 2), [0.5, 1.0])
    np.testing.assert_allclose(follower.sample(11 * S + S // 2), [1.0, 2.0])
    np.testing.assert_allclose(follower.sample(99 * S), [1.0, 3.0])


def test_joints_are_matched_by_name(follower: JointTrajectoryFollower) -> None:
    follower.set(["b", "a"], [[7.0, 8.0]], [1.0], now_ns=0)
    np.testing.assert_allclose(follower.sample(S), [8.0, 7.0])


def test_a_new_trajectory_replaces_the_running_one_from_where_it_is(
    follower: JointTrajectoryFollower,
) -> None:
    follower.set(["a", "b"], [[2.0, 1.0]], [2.0], now_ns=0)
    follower.set(["a", "b"], [[0.0, 1.0]], [1.0], now_ns=S)
    np.testing.assert_allclose(follower.sample(S), [1.0, 1.0])
    np.testing.assert_allclose(follower.sample(S + S // 2), [0.5, 1.0])


def test_a_stamped_trajectory_is_joined_where_it_should_be_by_now(follower: JointTrajectoryFollower) -> None:
    follower.set(["a", "b"], [[5.0, 1.0], [6.0, 1.0]], [0.5, 2.0], now_ns=11 * S, start_ns=10 * S)
    np.testing.assert_allclose(follower.sample(12 * S), [6.0, 1.0])
    np.testing.assert_allclose(follower.sample(11 * S + S // 2), [3.0, 1.0])


def test_velocities_make_it_cubic(follower: JointTrajectoryFollower) -> None:
    follower.set(["a", "b"], [[1.0, 1.0]], [1.0], now_ns=0, velocities=[[0.0, 0.0]])
    np.testing.assert_allclose(follower.sample(S // 2), [0.5, 1.0])
    assert follower.sample(S // 10)[0] < 0.05  # sets off gently, linear would be at 0.1
    samples = np.array([follower.sample(t)[0] for t in range(0, S + 1, S // 100)])
    assert np.all(np.diff(samples) > -1e-12)


def test_a_point_due_now_is_taken_at_once(follower: JointTrajectoryFollower) -> None:
    follower.set(["a", "b"], [[3.0, 4.0]], [0.0], now_ns=S)
    np.testing.assert_allclose(follower.sample(S), [3.0, 4.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ["a"], "points": [[1.0]]}, "joint names are"),
        ({"names": ["a", "c"]}, "expected each of"),
        ({"names": ["a", "a"]}, "expected each of"),
        ({"points": [], "times_s": []}, "0 points"),
        ({"points": [[1.0, 2.0]]}, "1 rows of positions, expected 2"),
        ({"points": [[1.0, 2.0], [1.0]]}, "point 1 has 1 positions, expected 2"),
        ({"points": [[1.0, 2.0], [np.nan, 1.0]]}, r"positions\[0\] of point 1 is nan"),
        ({"velocities": [[0.0, 0.0], [0.0, np.inf]]}, r"velocities\[1\] of point 1 is inf"),
        ({"times_s": [1.0, 1.0]}, "point 1 is 1.0 s, expected more than"),
        ({"times_s": [-1.0, 1.0]}, "point 0 is -1.0 s, expected 0 or more"),
        ({"times_s": [1.0, np.nan]}, "point 1 is nan s"),
        ({"start_ns": 1}, "the last point was due 98"),
    ],
)
def test_a_bad_trajectory_is_refused_with_a_reason_and_changes_nothing(
    follower: JointTrajectoryFollower, change: dict[str, Any], said: str
) -> None:
    arguments: dict[str, Any] = {
        "names": ["a", "b"],
        "points": [[1.0, 1.0], [2.0, 2.0]],
        "times_s": [1.0, 2.0],
        "now_ns": 100 * S,
    }
    with pytest.raises(TrajectoryError, match=said):
        follower.set(**{**arguments, **change})
    np.testing.assert_allclose(follower.sample(102 * S), [0.0, 1.0])
