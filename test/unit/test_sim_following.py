"""What every trajectory controller of the field makes of a stream of commands, as ours are and as they were.

One joint at a steady 0.5 rad/s, a command every 20 ms, a servo that lags by 50 ms.
"""

from __future__ import annotations

import numpy as np
import pytest

from twinbrain_ros.sim.follower_kinds import KINDS
from twinbrain_ros.sim.following import Arrival, Followed, follow

S = 1_000_000_000
T = 100 * S
SPEED = 0.5
PERIOD_S = 0.02
# How far ahead commands lead before their way to rest: as they did, and so far that no look ahead sees that.
LED_TO_S, LEADS_TO_S = 0.04, 0.26
TICKS = 100
REST_S = 0.1  # of the way to rest: half the speed on average


def command(decided_s: float, first_s: float, leads_to_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, positions and velocities: along the path from `first_s` after the decision, then to rest."""
    ahead = np.arange(first_s, leads_to_s + 1e-9, PERIOD_S)
    times = np.append(ahead, leads_to_s + REST_S)
    positions = SPEED * (decided_s + np.append(ahead, leads_to_s + 0.5 * REST_S))
    velocities = np.append(np.full(len(ahead), SPEED), 0.0)
    return times, positions[:, None], velocities[:, None]


def driven(kind: str, *, as_they_were: bool = False, late_s: float = 0.0, behind_s: float = 0.0) -> Followed:
    """The set-points; commands take up to `late_s`, the driver's clock is behind by `behind_s`."""
    first_s, leads_to_s = (LED_TO_S, LED_TO_S) if as_they_were else (0.0, LEADS_TO_S)
    random = np.random.default_rng(5)
    arrivals = []
    for tick in range(TICKS):
        decided_ns = T + round(tick * PERIOD_S * S)
        times, positions, velocities = command(tick * PERIOD_S, first_s, leads_to_s)
        arrived_ns = decided_ns + round(random.uniform(0.0, late_s) * S) - round(behind_s * S)
        arrivals.append(Arrival(arrived_ns, 0 if as_they_were else decided_ns, times, positions, velocities))
    until_ns = T + round((TICKS * PERIOD_S - 0.1) * S)
    return follow(arrivals, np.zeros(1), until_ns, KINDS[kind], first_ns=T + 3_000_000)


def shares(found: Followed) -> np.ndarray:
    """Speeds of the set-points as shares of the commanded one, after a run-up of 0.5 s."""
    return found.speeds()[found.times_ns[:-1] > T + S // 2, 0] / SPEED


# Rolling begins late trajectories late: the last test.
NOT_ROLLING = [name for name in KINDS if not name.startswith("rolling")]


@pytest.mark.parametrize(
    ("kind", "late_s"), [*((name, 0.0) for name in KINDS), *((name, 0.018) for name in NOT_ROLLING)]
)
def test_a_command_from_its_decision_on_is_followed_at_its_speed_by_every_controller(
    kind: str, late_s: float
) -> None:
    found = shares(driven(kind, late_s=late_s))
    np.testing.assert_allclose(found, 1.0, atol=1e-6)


# Share of the updates with less than a fifth of the commanded speed, as it is known of the real controllers
# for commands whose first point lies 40 ms ahead, without a stamp.
STOPPED = {
    "humble_10": 1.0,
    "humble_50": 1.0,
    "humble_100": 0.5,
    "humble_500": 0.1,
    "humble_100_open_loop": 0.5,
    "jazzy_10": 0.0,
    "jazzy_50": 0.0,
    "jazzy_100": 0.5,
    "jazzy_500": 0.1,
    "jazzy_100_from_desired": 0.0,
    "kilted_100": 0.5,
    "kilted_500": 0.1,
}


@pytest.mark.parametrize("kind", STOPPED)
def test_a_command_from_ahead_without_a_stamp_stops_and_goes_as_with_the_real_ones(kind: str) -> None:
    found = shares(driven(kind, as_they_were=True))
    assert np.mean(found < 0.2) == pytest.approx(STOPPED[kind], abs=0.03)


def test_a_clock_behind_by_more_than_an_update_brings_the_measured_state_back() -> None:
    assert shares(driven("humble_100", behind_s=0.05)).min() < -1.0
    np.testing.assert_allclose(shares(driven("jazzy_100", behind_s=0.009)), 1.0, atol=1e-6)


def test_rolling_stalls_where_a_command_comes_late_and_makes_up_for_it_with_the_next() -> None:
    found = shares(driven("rolling_100", late_s=0.018))
    assert found.min() < 0.01 and found.max() > 1.99
