"""Chunks on a simulator's grid of steps: which row of which chunk is due.

The benchmarks step a simulator and wait for the policy meanwhile; what a late policy would cost is injected
as whole steps. Strategies, their settings, weights and masks are the arm's (`strategies.py`, `realtime.py`);
rows are executed as they are, since that is how published protocols do it, where the arm goes through
waypoints.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.realtime import soft_mask
from twinbrain_ros.control.strategies import ChunkSettings, Strategy, vote_weights


@dataclass(frozen=True, eq=False)
class _Chunk:
    rows: Array
    driven: int  # steps that chunks had driven when it was observed
    arrives: int  # the step from which on it can drive


class StepExecutor:
    """Executes chunks step by step: `due`, `add` where it is, then `take`, once per step.

    A chunk's row k belongs to the k-th driven step after its observation: steps that passed while the arm
    stood still are not skipped, as on the arm (`ChunkExecutor`).

    Args:
        settings: strategy, steps and weights.
        horizon: rows per chunk.
        delay_steps: from an observation until its chunk can drive.
        votes: chunks that vote at most in a temporal ensemble.
    Raises:
        ValueError: steps, delay or votes are not within their bounds; real_time has no steps left to run.
    """

    def __init__(
        self, settings: ChunkSettings, horizon: int, delay_steps: int = 0, votes: int | None = None
    ) -> None:
        self._steps = settings.steps(horizon, horizon)
        if not 0 <= delay_steps < horizon:
            raise ValueError(f"delay_steps is {delay_steps}, expected 0 to the horizon - 1, {horizon - 1}")
        if votes is not None and votes < 1:
            raise ValueError(f"votes is {votes}, expected 1 or more")
        self.settings, self._horizon, self._delay, self._most_votes = settings, horizon, delay_steps, votes
        self.reset()

    def reset(self) -> None:
        """A new episode."""
        self.step = 0
        self._driven = 0
        self._asked: int | None = None
        self._pending: _Chunk | None = None
        self._driving: tuple[_Chunk, int] | None = None  # and the driven steps when it took over
        self._votes: deque[_Chunk] = deque(maxlen=self._most_votes)

    def due(self) -> bool:
        """Whether the observation of this step is to be put to the policy, which works on one at a time."""
        if self._pending is not None or self._asked == self.step:
            return False
        if self._asked is None or self._driving is None:
            return True
        if self.settings.strategy is Strategy.OPEN_LOOP:
            # So that it arrives when the one that drives is at its end.
            return self._driven - self._driving[1] + self._delay >= self._steps
        return self.step - self._asked >= self._steps

    def add(self, rows: Array) -> None:
        """The chunk [horizon, D] of this step's observation; it drives once the delay is over."""
        rows = np.asarray(rows, dtype=np.float64)
        if len(rows) != self._horizon or not np.isfinite(rows).all():
            raise ValueError(
                f"chunk: found shape {rows.shape}, expected {self._horizon} rows of finite numbers"
            )
        self._asked = self.step
        self._pending = _Chunk(rows, self._driven, self.step + self._delay)

    def guide(self) -> tuple[Array, Array, int] | None:
        """What a chunk of this step's observation has to agree with, None if nothing drives.

        Rows [overlap, D] of what drives, weights [horizon], and how many are as good as executed: equation 5
        of arXiv 2506.07339 with the injected delay.
        """
        if self.settings.strategy is not Strategy.REAL_TIME or self._driving is None:
            return None
        rows = self._driving[0].rows[self._row(self._driving[0]) :]
        if not len(rows):
            return None
        frozen = min(self._delay, len(rows))
        return rows, soft_mask(self._horizon, frozen, len(rows)), frozen

    def take(self) -> Array | None:
        """The row [D] of this step, None where nothing drives: the arm holds. Goes on to the next step."""
        pending = self._pending
        if pending is not None and self.step >= pending.arrives and self._may_replace():
            self._pending = None
            self._driving = pending, self._driven
            self._votes.append(pending)
        self.step += 1
        if self._driving is None:
            return None
        chunk, since = self._driving
        # A chunk that will be replaced drives one step further, for the case that its successor is late.
        most = self._steps + (self.settings.strategy is not Strategy.OPEN_LOOP)
        row = self._row(chunk)
        if row >= self._horizon or self._driven - since >= most:
            self._driving = None
            return None
        voted = self._voted(chunk.rows[row])
        self._driven += 1
        return voted

    def _row(self, chunk: _Chunk) -> int:
        return self._driven - chunk.driven

    def _may_replace(self) -> bool:
        if self.settings.strategy is not Strategy.OPEN_LOOP or self._driving is None:
            return True
        return self._driven - self._driving[1] >= self._steps

    def _voted(self, row: Array) -> Array:
        if self.settings.strategy is not Strategy.TEMPORAL_ENSEMBLE:
            return row
        said = [vote.rows[self._row(vote)] for vote in self._votes if self._row(vote) < self._horizon]
        weights = vote_weights(self.settings.weighting, self.settings.decay, said)
        return np.asarray(weights @ np.array(said))
