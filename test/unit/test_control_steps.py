"""Chunks on a grid of steps: which row is due, late ones, ensembles, and what a guide asks for."""

from __future__ import annotations

import numpy as np
import pytest

from twinbrain_ros.control.realtime import soft_mask
from twinbrain_ros.control.steps import StepExecutor
from twinbrain_ros.control.strategies import ChunkSettings, Strategy, Weighting, vote_weights

HORIZON = 8


def chunk(step: int, horizon: int = HORIZON) -> np.ndarray:
    """Rows that say which step they were observed at, and which row they are."""
    return np.array([[step, row, 1.0] for row in range(horizon)], dtype=np.float64)


def played(executor: StepExecutor, steps: int) -> tuple[list[tuple[int, int] | None], list[int]]:
    """Rows that drove, as (observed at, row), and the steps at which the policy was asked."""
    rows: list[tuple[int, int] | None] = []
    asked = []
    for step in range(steps):
        if executor.due():
            asked.append(step)
            executor.add(chunk(step))
        row = executor.take()
        rows.append(None if row is None else (int(row[0]), int(row[1])))
    return rows, asked


def test_open_loop_plays_its_steps_to_their_end() -> None:
    rows, asked = played(StepExecutor(ChunkSettings(Strategy.OPEN_LOOP, 3), HORIZON), 7)
    assert rows == [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (3, 2), (6, 0)]
    assert asked == [0, 3, 6]


def test_a_late_open_loop_chunk_is_asked_for_ahead_and_skips_what_was_driven_meanwhile() -> None:
    rows, asked = played(StepExecutor(ChunkSettings(Strategy.OPEN_LOOP, 4), HORIZON, delay_steps=2), 10)
    # Nothing drove while the first was on its way: it is played from its first row.
    assert rows == [None, None, (0, 0), (0, 1), (0, 2), (0, 3), (4, 2), (4, 3), (4, 4), (4, 5)]
    assert asked == [0, 4, 8]


def test_receding_horizon_takes_over_at_once() -> None:
    rows, asked = played(StepExecutor(ChunkSettings(Strategy.RECEDING_HORIZON, 2), HORIZON, delay_steps=1), 7)
    assert asked == [0, 2, 4, 6]
    assert rows == [None, (0, 0), (0, 1), (2, 1), (2, 2), (4, 1), (4, 2)]


def test_without_a_successor_the_arm_holds_after_its_steps_and_one_more() -> None:
    executor = StepExecutor(ChunkSettings(Strategy.RECEDING_HORIZON, 2), HORIZON, delay_steps=5)
    rows, asked = played(executor, 12)
    assert asked == [0, 6]
    # Of the successor two rows were driven meanwhile, and three steps stood still.
    assert rows == [None] * 5 + [(0, 0), (0, 1), (0, 2), None, None, None, (6, 2)]


def test_whole_chunks_are_played_by_default() -> None:
    rows, asked = played(StepExecutor(ChunkSettings(Strategy.OPEN_LOOP), HORIZON), 2 * HORIZON)
    assert rows == [(0, k) for k in range(HORIZON)] + [(HORIZON, k) for k in range(HORIZON)]
    assert asked == [0, HORIZON]


@pytest.mark.parametrize("weighting", list(Weighting))
def test_an_ensemble_is_the_weighted_mean_of_the_last_chunks_for_this_step(weighting: Weighting) -> None:
    random = np.random.default_rng(0)
    chunks = random.normal(size=(12, HORIZON, 7))
    settings = ChunkSettings(Strategy.TEMPORAL_ENSEMBLE, 1, weighting, 0.1)
    executor = StepExecutor(settings, HORIZON, votes=7)
    for step in range(12):
        assert executor.due()
        executor.add(chunks[step])
        # Published clients keep the last seven chunks and take from each what it says of now, oldest first.
        said = [chunks[s][step - s] for s in range(max(0, step - 6), step + 1)]
        expected = vote_weights(weighting, 0.1, said) @ np.array(said)
        np.testing.assert_allclose(executor.take(), expected, atol=1e-12)


def test_a_guide_freezes_what_will_be_over_and_draws_to_the_rest() -> None:
    executor = StepExecutor(ChunkSettings(Strategy.REAL_TIME, 3), HORIZON, delay_steps=2)
    assert executor.guide() is None
    played(executor, 3)  # observed at 0, drives from 2 on: row 0 is over
    found = executor.guide()
    assert found is not None
    rows, weights, frozen = found
    np.testing.assert_array_equal(rows, chunk(0)[1:])
    assert frozen == 2
    np.testing.assert_array_equal(weights, soft_mask(HORIZON, 2, HORIZON - 1))


def test_other_strategies_ask_for_no_agreement() -> None:
    executor = StepExecutor(ChunkSettings(Strategy.RECEDING_HORIZON, 3), HORIZON)
    played(executor, 2)
    assert executor.guide() is None


def test_a_new_episode_knows_nothing_of_the_last() -> None:
    executor = StepExecutor(ChunkSettings(Strategy.TEMPORAL_ENSEMBLE, 2), HORIZON)
    first = played(executor, 9)
    executor.reset()
    assert played(executor, 9) == first


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"delay_steps": HORIZON}, "delay_steps is 8, expected 0 to the horizon - 1, 7"),
        ({"delay_steps": -1}, "delay_steps is -1"),
        ({"votes": 0}, "votes is 0, expected 1 or more"),
        ({"settings": ChunkSettings(execution_steps=9)}, "execution_steps is 9, expected 1 to the horizon 8"),
    ],
)
def test_settings_that_cannot_be_are_named(more: dict[str, object], named: str) -> None:
    settings = more.pop("settings", ChunkSettings())
    with pytest.raises(ValueError, match=named):
        StepExecutor(settings, HORIZON, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [np.zeros((7, 3)), np.full((8, 3), np.nan)])
def test_a_chunk_of_another_length_or_without_numbers_is_refused(wrong: np.ndarray) -> None:
    executor = StepExecutor(ChunkSettings(), HORIZON)
    with pytest.raises(ValueError, match="expected 8 rows of finite numbers"):
        executor.add(wrong)
