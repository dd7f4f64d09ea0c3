"""The trajectory controllers of the field as a table: JointTrajectoryController of each distribution.

Facts of ros2_controllers: humble 2.54.0, jazzy 4.42.1, kilted 5.17.0, rolling of August 2026 (94e74de).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from twinbrain_ros.control.timing import to_ns


@dataclass(frozen=True)
class Distribution:
    """How the controller of a ROS distribution behaves where they differ.

    Attributes:
        option: the parameter with which a trajectory begins at the last command, not at the measured state.
        option_name: how names of kinds say it.
        looks_ahead: an update commands the sample for its time plus one update period, else for its time.
        counts_periods: time within a trajectory goes on by the measured periods, else by the clock.
        dates_commands: with the option, a trajectory begins when the last command was sent, else now.
        ends_at_rest: refuses trajectories whose last velocities are not 0, if its parameters say nothing.
        splices: a trajectory begins where the running one is, and one that was to begin earlier begins now.
    """

    name: str
    option: str
    option_name: str
    looks_ahead: bool
    counts_periods: bool
    dates_commands: bool
    ends_at_rest: bool
    splices: bool


_FROM_DESIRED = ("interpolate_from_desired_state", "from_desired")
DISTRIBUTIONS = (
    Distribution("humble", "open_loop_control", "open_loop", False, False, False, False, False),
    Distribution("jazzy", *_FROM_DESIRED, True, True, True, True, False),
    Distribution("kilted", *_FROM_DESIRED, True, True, True, True, False),
    Distribution("rolling", *_FROM_DESIRED, True, True, True, True, True),
)
RATES_HZ = (10, 50, 100, 500)
DEFAULT = "jazzy_100"


@dataclass(frozen=True)
class Tolerances:
    """How far a joint may be from where it is to be; 0 does not ask, as is the default.

    Attributes:
        path: while the trajectory lasts [rad or m].
        goal: after its end [rad or m].
        goal_time_s: how long after its end that may take [s]; 0: for ever.
    """

    path: float = 0.0
    goal: float = 0.0
    goal_time_s: float = 0.0


@dataclass(frozen=True)
class FollowerKind:
    """A controller as it is set up.

    Attributes:
        rate_hz: of its updates.
        from_command: whether the distribution's option is set.
        tolerances: of every joint.
    """

    distribution: Distribution
    rate_hz: int
    from_command: bool = False
    tolerances: Tolerances = Tolerances()

    @property
    def name(self) -> str:
        """What it is asked for by."""
        plain = f"{self.distribution.name}_{self.rate_hz}"
        return f"{plain}_{self.distribution.option_name}" if self.from_command else plain

    @property
    def period_ns(self) -> int:
        """Between two updates."""
        return to_ns(1.0 / self.rate_hz)


KINDS = MappingProxyType(
    {
        kind.name: kind
        for distribution in DISTRIBUTIONS
        for rate_hz in RATES_HZ
        for kind in (FollowerKind(distribution, rate_hz), FollowerKind(distribution, rate_hz, True))
    }
)
"""Every row of docs/controllers.md, by its name."""


def follower_kind(name: str) -> FollowerKind:
    """The kind of a name.

    Raises:
        ValueError: there is none.
    """
    if name in KINDS:
        return KINDS[name]
    rates = ", ".join(str(rate) for rate in RATES_HZ)
    names = ", ".join(f"{entry.name}_RATE[_{entry.option_name}]" for entry in DISTRIBUTIONS)
    raise ValueError(f"follower is {name!r}, expected one of {names}, with a RATE of {rates} Hz")
