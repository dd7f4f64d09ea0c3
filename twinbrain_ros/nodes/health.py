"""What a node has to say about itself: problems, reported once per cause, and counters. No ROS in here."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from twinbrain_ros.text import sentence

# A cause that is mended and comes back (one bad image in ten) is logged again only after this long.
LOG_AGAIN_AFTER_S = 10.0


class Level(enum.IntEnum):
    """Severity, with the numbers of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass
class _Problem:
    level: Level
    message: str
    count: int = 0
    active: bool = True
    logged_s: float = -1e9


@dataclass(frozen=True)
class Summary:
    """A node's condition: the worst active problem's level and words, and everything countable."""

    level: Level
    message: str
    values: dict[str, str]


class Percentiles:
    """Percentiles over the last `kept` values."""

    def __init__(self, kept: int = 1000) -> None:
        self._values: deque[float] = deque(maxlen=kept)

    def add(self, value: float) -> None:
        """Adds a value, forgetting the oldest when full."""
        self._values.append(value)

    def at(self, percent: float) -> float | None:
        """The value that `percent` of the values do not exceed (nearest rank); None without values."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        rank = -(-len(ordered) * percent // 100)
        return ordered[max(0, int(rank) - 1)]


class Health:
    """Problems by cause, and counters.

    A problem stays active until its cause is cleared; its count stays for good. Not thread-safe: to be
    used from the thread that runs the node's callbacks.

    Args:
        clock: seconds from any origin, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._problems: dict[str, _Problem] = {}
        self._counters: dict[str, int] = {}
        self._words: dict[str, str] = {}
        self._figures: dict[str, tuple[Percentiles, tuple[float, ...]]] = {}

    def report(self, cause: str, message: str, level: Level = Level.ERROR, anew: bool = False) -> bool:
        """Notes a problem; True when it is to be logged now, as the first of its cause or after a while.

        Args:
            anew: it is another one of its cause, and to be logged whatever was.
        """
        message = sentence(message)
        problem = self._problems.setdefault(cause, _Problem(level, message, active=False))
        was_active, now = problem.active, self._clock()
        problem.level, problem.message, problem.active = level, message, True
        problem.count += 1
        if not anew and (was_active or now - problem.logged_s < LOG_AGAIN_AFTER_S):
            return False
        problem.logged_s = now
        return True

    def clear(self, cause: str) -> None:
        """The cause, and all causes below it (`cause/...`), are gone for now."""
        for name, problem in self._problems.items():
            if name == cause or name.startswith(cause + "/"):
                problem.active = False

    def active(self, cause: str) -> bool:
        """Whether this cause is a problem now."""
        problem = self._problems.get(cause)
        return problem is not None and problem.active

    def count(self, name: str, by: int = 1) -> int:
        """Adds to a counter (0 makes it appear) and returns it."""
        self._counters[name] = self._counters.get(name, 0) + by
        return self._counters[name]

    def set(self, name: str, value: int) -> None:
        """Sets a counter that somebody else counts."""
        self._counters[name] = value

    def tell(self, name: str, value: str) -> None:
        """Sets a value in words."""
        self._words[name] = sentence(value)

    def figure(self, name: str, percents: tuple[float, ...] = (50, 99), kept: int = 1000) -> Percentiles:
        """Percentiles of the last `kept` values, shown as `<name>_p<percent>`; made on first use."""
        return self._figures.setdefault(name, (Percentiles(kept), percents))[0]

    def summary(self, when_well: str) -> Summary:
        """The condition now; `when_well` is the message if there is no active problem."""
        active = [problem for problem in self._problems.values() if problem.active]
        worst = max(active, key=lambda problem: problem.level, default=None)
        values = {name: str(count) for name, count in self._counters.items()} | self._words
        for name, (figure, percents) in self._figures.items():
            for percent in percents:
                value = figure.at(percent)
                values[f"{name}_p{percent:g}"] = "" if value is None else f"{value:.2f}"
        for cause, problem in self._problems.items():
            values[f"problem/{cause}"] = f"{problem.count}x {problem.message}"
        if worst is None:
            return Summary(Level.OK, when_well, values)
        return Summary(worst.level, worst.message, values)
