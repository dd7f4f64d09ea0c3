"""How commands went out and what they asked for: regularity, seams, jerk, and how the arm followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Slower than this, every joint is taken to be at rest [rad/s]: no command need follow then.
REST_RAD_S = 5e-3
# Of the arm's readings, how far the two around a moment may be apart to tell where it was [s].
READINGS_APART_S = 0.1


@dataclass(frozen=True, eq=False)
class Commands:
    """Commands of an arm: when each was received, times_s [N]; what it asks for next, in_s [N] later:
    positions [N, J] rad, velocities [N, J] rad/s; first [N]: whether it was a chunk's first."""

    times_s: Array
    in_s: Array
    positions: Array
    velocities: Array
    first: NDArray[np.bool_]

    def jitter_ms(self, period_s: float) -> Array:
        """Of each command in time, how far the time since the one before is from the period [ms].

        A chunk's first command goes out on its arrival, between two others: these two are compared. After a
        command that leads to rest there is no next one.
        """
        kept = self._regular(period_s)
        times, moving = self.times_s[kept], self._moving()[kept]
        return np.asarray(np.abs(np.diff(times) - period_s)[moving[:-1]] * 1e3, dtype=np.float64)

    def seam_steps(self, period_s: float) -> Array:
        """At each chunk's first command, the largest change of a joint's velocity [rad/s].

        Since the command before; if there was none within two periods, since rest.
        """
        steps = []
        for i in np.flatnonzero(self.first):
            follows = i > 0 and self.times_s[i] - self.times_s[i - 1] < 2.5 * period_s
            before = self.velocities[i - 1] if follows else np.zeros(self.velocities.shape[1])
            steps.append(float(np.max(np.abs(self.velocities[i] - before))))
        return np.array(steps, dtype=np.float64)

    def jerk_rms(self, period_s: float) -> float | None:
        """Root mean square over joints and commands, of the commanded jerk [rad/s3]; None of too few.

        From the velocities of three commands in a row, chunks' first ones between two others left out.
        """
        kept = self._regular(period_s)
        gaps, velocities = np.diff(self.times_s[kept]), self.velocities[kept]
        near = np.abs(gaps - period_s) < 0.5 * period_s
        three = near[1:] & near[:-1]
        if not three.any():
            return None
        jerk = (velocities[2:] - 2 * velocities[1:-1] + velocities[:-2])[three] / period_s**2
        return float(np.sqrt(np.mean(jerk**2)))

    def tracking_error(self, times_s: Array, joints: Array) -> Array:
        """At the moment that each command leads to, the joint farthest from where it was to be [rad].

        Args:
            times_s, joints: the arm's readings [N], [N, J]; where two are too far apart nothing is said.
        """
        if len(times_s) < 2 or not len(self.times_s):
            return np.zeros(0)
        due = self.times_s + self.in_s
        after = np.searchsorted(times_s, due)
        known = (after > 0) & (after < len(times_s))
        after, due = after[known], due[known]
        near = times_s[after] - times_s[after - 1] <= READINGS_APART_S
        after, due, wanted = after[near], due[near], self.positions[known][near]
        share = ((due - times_s[after - 1]) / (times_s[after] - times_s[after - 1]))[:, None]
        there = joints[after - 1] + share * (joints[after] - joints[after - 1])
        return np.asarray(np.max(np.abs(there - wanted), axis=1, initial=0.0), dtype=np.float64)

    def _regular(self, period_s: float) -> NDArray[np.bool_]:
        """Which commands [N] are not a chunk's first one that went out between two others."""
        times, regular = self.times_s, np.ones(len(self.times_s), dtype=np.bool_)
        if len(times) > 2:
            regular[1:-1] = ~(self.first[1:-1] & (times[2:] - times[:-2] < 1.5 * period_s))
        return regular

    def _moving(self) -> NDArray[np.bool_]:
        return np.asarray(np.max(np.abs(self.velocities), axis=1, initial=0.0) > REST_RAD_S, dtype=np.bool_)


def velocities_of(times_s: Array, positions: Array) -> Array:
    """Velocities [N, J] of commands that state positions [N, J] only, as the step from the one before."""
    velocities = np.zeros_like(positions)
    if len(times_s) > 1:
        gaps = np.maximum(np.diff(times_s), 1e-6)[:, None]
        velocities[1:] = np.diff(positions, axis=0) / gaps
    return velocities
