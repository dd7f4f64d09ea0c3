"""Weights of chunks that cover the same moment, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from twinbrain_ros.control.strategies import ChunkSettings, Weighting, vote_weights

X, Y = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def test_exponential_weights_fall_from_the_oldest_on_whatever_the_actions() -> None:
    # exp(-0.5 i): 1, 0.60653, 0.36788, of 1.97441
    expected = [0.506480, 0.307196, 0.186324]
    np.testing.assert_allclose(vote_weights(Weighting.EXPONENTIAL, 0.5, [X, Y, -X]), expected, atol=1e-6)
    np.testing.assert_allclose(vote_weights(Weighting.EXPONENTIAL, 0.5, [Y, Y, Y]), expected, atol=1e-6)


def test_adaptive_cosine_weights_go_by_likeness_to_the_newest() -> None:
    # cosines -1, 0, 0.6, 1; exp(0.5 cos): 0.60653, 1, 1.34986, 1.64872, of 4.60511
    actions = [np.array([-7.0, 0.0]), 0.1 * Y, np.array([3.0, 4.0]), 2.0 * X]
    expected = [0.131708, 0.217150, 0.293122, 0.358020]
    np.testing.assert_allclose(vote_weights(Weighting.ADAPTIVE_COSINE, 0.5, actions), expected, atol=1e-6)


@pytest.mark.parametrize("weighting", list(Weighting))
def test_a_single_chunk_has_all_the_weight(weighting: Weighting) -> None:
    assert vote_weights(weighting, 0.1, [X]).tolist() == [1.0]


@pytest.mark.parametrize("weighting", list(Weighting))
def test_without_decay_all_weigh_the_same(weighting: Weighting) -> None:
    np.testing.assert_allclose(vote_weights(weighting, 0.0, [X, Y, -X]), 1 / 3)


@pytest.mark.parametrize("newest", [X, 0.0 * X])
def test_an_action_without_direction_counts_as_alike(newest: np.ndarray) -> None:
    weights = vote_weights(Weighting.ADAPTIVE_COSINE, 1.0, [0.0 * X, -X, newest])
    # exp(1), exp(-1) or exp(1), exp(1)
    opposite = math.exp(-1.0) if newest.any() else math.exp(1.0)
    expected = np.array([math.e, opposite, math.e])
    np.testing.assert_allclose(weights, expected / expected.sum())


def test_very_short_actions_have_directions_too() -> None:
    weights = vote_weights(Weighting.ADAPTIVE_COSINE, 1.0, [-1e-4 * X, 1e-4 * X])
    assert weights[0] / weights[1] == pytest.approx(math.exp(-2.0))


@pytest.mark.parametrize(("asked", "steps"), [(None, 4), (1, 1), (8, 8)])
def test_execution_steps_are_the_robot_files_unless_asked_otherwise(asked: int | None, steps: int) -> None:
    assert ChunkSettings(execution_steps=asked).steps(default=4, horizon=8) == steps


@pytest.mark.parametrize("asked", [0, -1, 9])
def test_execution_steps_beyond_the_horizon_are_refused(asked: int) -> None:
    with pytest.raises(ValueError, match=f"execution_steps is {asked}, expected 1 to the horizon 8"):
        ChunkSettings(execution_steps=asked).steps(default=4, horizon=8)
