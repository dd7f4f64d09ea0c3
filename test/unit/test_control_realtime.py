"""What a new chunk is made to agree with: the weights, the delay, and the old chunk's way carried over."""

from __future__ import annotations

import math

import mink
import numpy as np
import pytest
from control_fixtures import FORWARD, T0, make_chunk, with_action
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.control.realtime import DelayWindow, RealTimeGuide, soft_mask
from twinbrain_ros.control.timing import lead_s, to_ns
from twinbrain_ros.robot.actions import compose_ee_deltas
from twinbrain_ros.robot.chunk import ActionChunk, Guide
from twinbrain_ros.robot.robot_file import RobotFile

PERIOD = to_ns(0.2)
WORDS = "pick up the red block"
HORIZON = 8
LEAD = to_ns(lead_s(50.0))


def a_way(seed: int = 3) -> np.ndarray:
    """Deltas [8, 7] of a chunk that turns and closes its gripper half way."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0.0, [0.01, 0.01, 0.005, 0.02, 0.02, 0.05], (HORIZON, 6))
    return np.column_stack([steps, [1, 1, 1, 1, 0, 0, 0, 0]])


def warm_guide(chunk: ActionChunk, delay_s: float = 0.3, robot: RobotFile | None = None) -> RealTimeGuide:
    """A chunk drives since its due time, and the delay from observation to takeover has been measured."""
    guide = RealTimeGuide(robot or shared_robot(), shared_kinematics())
    guide.delays.add(9.0)  # cold
    guide.sent(chunk)
    guide.executed(chunk.sequence, chunk.due_ns, chunk.observation_ns + to_ns(delay_s) - LEAD)
    return guide


def guide_of(guide: RealTimeGuide, observation_ns: int, q: np.ndarray | None = None) -> Guide:
    found = guide.guide(observation_ns, shared_robot().home if q is None else q, WORDS)
    assert found is not None
    found[0].validate(HORIZON, 7)
    return found[0]


def pose_on_way(deltas: np.ndarray, steps: float) -> tuple[np.ndarray, np.ndarray]:
    """The pose so many steps after home [3], [3, 3]: straight, and turning evenly, between two waypoints."""
    start = shared_kinematics().forward(shared_robot().home)
    there = compose_ee_deltas(*start, deltas)
    positions = np.vstack([start[0], there[0]])
    rotations = [mink.SO3.from_matrix(rotation) for rotation in (start[1], *there[1])]
    step = min(int(steps), len(deltas) - 1)
    share = min(steps - step, 1.0)
    turn = rotations[step].inverse().multiply(rotations[step + 1]).log()
    rotation = rotations[step].multiply(mink.SO3.exp(share * turn)).as_matrix()
    return positions[step] + share * (positions[step + 1] - positions[step]), rotation


def joints_at(position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    found = shared_kinematics().inverse(position, rotation, shared_robot().home)
    assert found.position_error_m < 2e-5
    return found.q


# Weights and delays ---------------------------------------------------------------------------------


def test_the_soft_mask_is_the_papers() -> None:
    # d = 2, H - s = 5: c = 3/4, 2/4, 1/4 and W = c (e^c - 1) / (e - 1)
    expected = [1.0, 1.0, 0.487551, 0.188770, 0.041324, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(soft_mask(8, 2, 5), expected, atol=1e-6)


@pytest.mark.parametrize(("horizon", "frozen", "overlap"), [(8, 0, 8), (8, 3, 8), (16, 5, 11), (8, 4, 4)])
def test_the_soft_mask_follows_the_papers_formula(horizon: int, frozen: int, overlap: int) -> None:
    for i, weight in enumerate(soft_mask(horizon, frozen, overlap)):
        c = (overlap - i) / (overlap - frozen + 1)
        falling = c * (math.exp(c) - 1) / (math.e - 1)
        assert weight == pytest.approx(1.0 if i < frozen else falling if i < overlap else 0.0)


def test_the_delay_is_the_longest_of_the_last_ones_without_the_cold_first() -> None:
    window = DelayWindow(kept=3)
    assert window.longest_s() is None
    window.add(7.0)
    assert window.longest_s() is None
    for delay_s, longest in ((0.2, 0.2), (0.5, 0.5), (0.1, 0.5), (0.1, 0.5), (0.1, 0.1)):
        window.add(delay_s)
        assert window.longest_s() == longest
    window.restart()
    window.add(7.0)
    assert window.longest_s() is None, "the first after a restart is cold again"


def test_the_delay_runs_from_the_observation_to_where_the_first_command_leads() -> None:
    guide = warm_guide(make_chunk(shared_robot()), delay_s=0.35)
    assert guide.delays.longest_s() == pytest.approx(0.35)


@pytest.mark.parametrize(("delay_s", "frozen"), [(0.01, 1), (0.2, 1), (0.21, 2), (0.4, 2), (0.75, 4)])
def test_every_step_that_begins_within_the_delay_is_frozen(delay_s: float, frozen: int) -> None:
    guide = guide_of(warm_guide(make_chunk(shared_robot()), delay_s), T0)
    assert guide.frozen == frozen
    np.testing.assert_array_equal(guide.weights, soft_mask(HORIZON, frozen, HORIZON))


@pytest.mark.parametrize(("phase", "overlap"), [(0.0, 8), (0.01, 7), (1.0, 7), (3.5, 4), (6.5, 1), (7.0, 1)])
def test_steps_after_the_old_chunks_end_bind_nothing(phase: float, overlap: int) -> None:
    guide = guide_of(warm_guide(make_chunk(shared_robot())), T0 + round(phase * PERIOD))
    assert np.all(guide.weights[:overlap] > 0.0) and not np.any(guide.weights[overlap:])
    assert guide.frozen == min(2, overlap)


# The way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [0.0, 0.25, 1.0, 2.6, 3.99, 6.9])
def test_on_the_way_the_guide_leads_through_the_old_chunks_poses(phase: float) -> None:
    deltas = a_way()
    guide = warm_guide(make_chunk(shared_robot(), data=deltas))
    q = joints_at(*pose_on_way(deltas, phase))
    actions = guide_of(guide, T0 + round(phase * PERIOD), q).actions
    found = compose_ee_deltas(*shared_kinematics().forward(q), actions)
    for k, (position, rotation) in enumerate(zip(*found, strict=True)):
        wanted, turned = pose_on_way(deltas, min(phase + k + 1, HORIZON))
        np.testing.assert_allclose(position, wanted, atol=1e-4)
        np.testing.assert_allclose(rotation, turned, atol=5e-4)
        assert actions[k, 6] == deltas[min(math.ceil(phase + k), HORIZON - 1), 6]


def test_a_due_time_later_than_the_chunk_says_moves_the_way_with_it() -> None:
    deltas = a_way()
    chunk = make_chunk(shared_robot(), data=deltas)
    guide = warm_guide(chunk)
    guide.executed(chunk.sequence, T0 + 2 * PERIOD, T0 + 2 * PERIOD)
    np.testing.assert_allclose(guide_of(guide, T0 + 2 * PERIOD).actions, deltas, atol=1e-6)


def test_an_arm_that_lags_makes_up_for_it_in_the_first_step() -> None:
    guide = warm_guide(make_chunk(shared_robot(), FORWARD))
    position, rotation = pose_on_way(np.tile(FORWARD, (HORIZON, 1)), 2.0)
    q = joints_at(position - [0.01, 0.0, 0.0], rotation)
    actions = guide_of(guide, T0 + 2 * PERIOD, q).actions
    np.testing.assert_allclose(actions[0, :6], [0.03, 0, 0, 0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(actions[1:6, :6], np.tile([0.02, 0, 0, 0, 0, 0], (5, 1)), atol=1e-6)
    np.testing.assert_allclose(actions[6:, :6], 0.0, atol=1e-9)


def test_composed_on_the_previous_target_the_guide_knows_nothing_of_where_the_arm_is() -> None:
    robot = with_action(shared_robot(), composition="previous_target")
    deltas = a_way()
    guide = warm_guide(make_chunk(robot, data=deltas), robot=robot)
    astray = shared_robot().home + 0.3
    np.testing.assert_allclose(guide_of(guide, T0 + 2 * PERIOD, astray).actions[:6], deltas[2:], atol=1e-9)
    halves = guide_of(guide, T0 + round(0.5 * PERIOD), astray).actions
    np.testing.assert_allclose(halves[:7, :3], (deltas[:-1, :3] + deltas[1:, :3]) / 2, atol=1e-9)
    np.testing.assert_allclose(halves[7, :3], deltas[7, :3] / 2, atol=1e-9)


def test_joint_positions_are_carried_over_as_they_are() -> None:
    robot = with_action(shared_robot(), space="joint_position")
    data = np.column_stack([np.arange(8)[:, None] * 0.1 + np.arange(6), [1, 1, 0, 0, 0, 0, 0, 0]])
    guide = warm_guide(make_chunk(robot, data=data), robot=robot)
    actions = guide_of(guide, T0 + round(1.5 * PERIOD)).actions
    np.testing.assert_allclose(actions[:6, :6], (data[1:-1, :6] + data[2:, :6]) / 2)
    np.testing.assert_allclose(actions[6:, :6], data[[7, 7], :6])
    assert actions[:, 6].tolist() == [0.0] * 8


# When there is none ---------------------------------------------------------------------------------


def test_no_guide_before_a_delay_was_measured() -> None:
    chunk = make_chunk(shared_robot())
    guide = RealTimeGuide(shared_robot(), shared_kinematics())
    guide.sent(chunk)
    guide.executed(chunk.sequence, T0, T0)
    assert guide.guide(T0 + PERIOD, shared_robot().home, WORDS) is None


def test_no_guide_for_other_words() -> None:
    guide = warm_guide(make_chunk(shared_robot()))
    assert guide.guide(T0 + PERIOD, shared_robot().home, WORDS) is not None
    assert guide.guide(T0 + PERIOD, shared_robot().home, "put it down") is None


@pytest.mark.parametrize("phase", [-0.1, 7.01, 20.0])
def test_no_guide_before_the_chunk_began_and_after_its_last_whole_step(phase: float) -> None:
    guide = warm_guide(make_chunk(shared_robot()))
    assert guide.guide(T0 + round(phase * PERIOD), shared_robot().home, WORDS) is None


def test_no_guide_when_nothing_drives() -> None:
    guide = warm_guide(make_chunk(shared_robot()))
    guide.rest()
    assert guide.guide(T0 + PERIOD, shared_robot().home, WORDS) is None
    assert guide.delays.longest_s() == pytest.approx(0.3), "the delay is still what it was"


def test_another_driver_makes_it_forget_the_delay_too() -> None:
    guide = warm_guide(make_chunk(shared_robot()))
    guide.restart()
    assert guide.delays.longest_s() is None


def test_only_a_chunk_of_its_own_drives() -> None:
    guide = warm_guide(make_chunk(shared_robot()))
    guide.executed(99, T0 + PERIOD, T0 + PERIOD)
    found = guide.guide(T0 + PERIOD, shared_robot().home, WORDS)
    assert found is not None and found[1] == 1


def test_the_newest_chunk_that_drives_says_the_way() -> None:
    guide = warm_guide(make_chunk(shared_robot(), FORWARD))
    second = make_chunk(shared_robot(), (0, 0.01, 0, 0, 0, 0, 0), sequence=2, observation_ns=T0 + 2 * PERIOD)
    guide.sent(second)
    found = guide.guide(T0 + 3 * PERIOD, shared_robot().home, WORDS)
    assert found is not None and found[1] == 1, "sent, but it does not drive yet"
    guide.executed(2, second.due_ns, second.due_ns + to_ns(0.2))
    found = guide.guide(second.due_ns, shared_robot().home, WORDS)
    assert found is not None and found[1] == 2
    np.testing.assert_allclose(found[0].actions, second.data, atol=1e-9)
