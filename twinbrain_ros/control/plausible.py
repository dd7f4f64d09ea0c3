"""What a joint can have done between two readings, and how many impossible ones are too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.robot.robot_file import RobotFile

# Gravity or a person may have brought a joint this far beyond its limit [rad].
OUTSIDE_RAD = 0.1
# Readings of a joint at rest agree to this: encoders' noise, and what a brake gives way [rad].
AGREE_RAD = 0.02
# Between two readings a joint may move at its limit, and so much longer [s]: stamps are not exact.
LATER_S = 0.03
# Commands arrive early or late by so much [s]: an arm in motion seems to go to and fro by as much of its way.
JITTER_S = 0.05
# So many impossible readings within this time [s] are no accident; nor are two without many good ones.
RUN, RUN_S = 3, 0.4
PAIR_S, GOOD_FOR_ONE = 0.2, 2
_RUN_NS, _PAIR_NS = to_ns(RUN_S), to_ns(PAIR_S)
TURN_RAD = 0.2
# A driver that has been silent for longer [s] may have been started again, and hold the arm somewhere else.
SILENT_S = 0.25

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reading:
    """Joints of one message: when measured and arrived [ns], which of the arm [n], and where [n], rad."""

    stamp_ns: int
    arrived_ns: int
    index: Indices
    q: Array


@dataclass(frozen=True, eq=False)
class JointBounds:
    """Where joints can be [J] rad, and how fast and suddenly they can move [J] rad/s, rad/s2."""

    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array

    @classmethod
    def of(cls, robot: RobotFile) -> JointBounds:
        """Of a robot file's limits."""
        limits = [robot.limits[name] for name in robot.arm_joints]
        velocity = np.array([limit.velocity for limit in limits])
        return cls(robot.lower, robot.upper, velocity, np.array([limit.acceleration for limit in limits]))

    def outside(self, index: Indices, q: Array, names: Sequence[str]) -> str:
        """Which joint is where it cannot be; empty if none is."""
        lower, upper = self.lower[index], self.upper[index]
        beyond = np.maximum(lower - q, q - upper)
        worst = int(beyond.argmax())
        if beyond[worst] <= OUTSIDE_RAD:
            return ""
        degrees = ", or are these degrees?" if abs(q[worst]) > 2 * np.pi else ""
        return (
            f"joint {names[index[worst]]!r} is at {q[worst]:.4g} rad, expected within "
            f"[{lower[worst]:.3f}, {upper[worst]:.3f}] or at most {OUTSIDE_RAD} rad beyond{degrees}"
        )

    def too_far(
        self, index: Indices, before: Array, q: Array, since_ns: Indices, known: NDArray[np.bool_],
        names: Sequence[str], slack: Array | float,
    ) -> str:  # fmt: skip
        """Which joint went further than it can in the time, and `slack` [rad]; empty if none did."""
        since_s = np.maximum(since_ns, 0) / NS_PER_S
        allowed_s = since_s + np.minimum(since_s, LATER_S)
        over = np.abs(q - before) - (AGREE_RAD + self.velocity[index] * allowed_s + slack)
        over[~known] = -np.inf
        worst = int(over.argmax())
        if over[worst] <= 0:
            return ""
        joint = int(index[worst])
        return self._jump(names[joint], joint, float(before[worst]), float(since_s[worst]), float(q[worst]))

    def _jump(self, name: str, joint: int, before: float, since_s: float, q: float) -> str:
        turn = " (a whole turn?)" if abs(abs(q - before) - 2 * np.pi) < TURN_RAD else ""
        return (
            f"joint {name!r} is at {before:.3f} rad and {since_s:.3f} s later at {q:.3f} rad{turn}, expected "
            f"at most {self.velocity[joint]:.3g} rad/s"
        )

    def jitter(self, first: Reading, last: Reading) -> Array:
        """How far [n], rad, an arm that moves as between these readings may be beside its way."""
        since_s = max(last.stamp_ns - first.stamp_ns, 1) / NS_PER_S
        return np.minimum(np.abs(last.q - first.q) / since_s, self.velocity[last.index]) * JITTER_S

    def beside(
        self, line: Sequence[Reading], reading: Reading, of: NDArray[np.bool_], names: Sequence[str]
    ) -> str:  # fmt: skip
        """Which joint of a late reading is elsewhere than the believed ones say of then; empty if none is.

        line: the believed ones by arrival; of: which joints [n] of the reading count.
        """
        for at in np.flatnonzero(of):
            joint, q = int(reading.index[at]), float(reading.q[at])
            before, after = _around(line, reading, joint)
            near = [one for one in (before, after) if one is not None]
            if not near:
                continue
            off_ns = min(abs(reading.stamp_ns - stamp_ns) for stamp_ns, _ in near)
            there, slack = near[0][1], 0.0
            if before is not None and after is not None:
                gap_s = (after[0] - before[0]) / NS_PER_S
                way = after[1] - before[1]
                there += (reading.stamp_ns - before[0]) / NS_PER_S / gap_s * way
                slack = min(abs(way) / gap_s, float(self.velocity[joint])) * JITTER_S
            if abs(q - there) > AGREE_RAD + self.velocity[joint] * off_ns / NS_PER_S + slack:
                return (
                    f"joint {names[joint]!r} is at {q:.3f} rad in one that came late, and was at {there:.3f} "
                    f"rad then by the others"
                )
        return ""

    def disagreement(
        self, joint: int, names: Sequence[str], stamps_ns: Indices, arrived_ns: Indices, q: Array
    ) -> str:
        """Why these [n] are not the readings of one joint that rests, or moves within its limits."""
        name = names[joint]
        wrong = (q < self.lower[joint] - OUTSIDE_RAD) | (q > self.upper[joint] + OUTSIDE_RAD)
        if wrong.any():
            return self.outside(np.array([joint]), q[wrong][-1:], names)
        since_s = np.maximum(np.diff(stamps_ns), np.diff(arrived_ns)) / NS_PER_S
        over = np.abs(np.diff(q)) > AGREE_RAD + self.velocity[joint] * np.maximum(since_s, 0.0)
        if over.any():
            at = int(over.argmax())
            return self._jump(name, joint, float(q[at]), float(since_s[at]), float(q[at + 1]))
        if len(q) < 3:
            return ""
        gaps_s = np.maximum(np.diff(stamps_ns), 1) / NS_PER_S
        share = gaps_s[:-1] / (gaps_s[:-1] + gaps_s[1:])
        beside = np.abs(q[1:-1] - (q[:-2] + share * (q[2:] - q[:-2])))
        allowed = AGREE_RAD + self.acceleration[joint] * np.maximum(gaps_s[:-1], gaps_s[1:]) ** 2
        at = int((beside - allowed).argmax())
        if beside[at] > allowed[at]:
            return to_and_fro(name, q[at : at + 3].tolist(), float(gaps_s[at] + gaps_s[at + 1]))
        # What follows the newest is not known: it has to go on as those before it.
        ahead = q[-2] + min(gaps_s[-1] / gaps_s[-2], 2.0) * (q[-2] - q[-3])
        if abs(q[-1] - q[-2]) > AGREE_RAD < abs(q[-1] - ahead):
            return f"joint {name!r} is at {q[-1]:.3f} rad, and was at {q[-2]:.3f} rad the reading before"
        return ""


def to_and_fro(name: str, three: Sequence[float], within_s: float) -> str:
    """Where a joint was that went to and fro as none can."""
    first, middle, last = three
    return f"joint {name!r} is at {first:.3f}, {middle:.3f} and {last:.3f} rad within {within_s:.3f} s"


@dataclass(frozen=True, eq=False)
class Series:
    """Readings of one joint [n], by stamp."""

    stamps_ns: Indices
    arrived_ns: Indices
    q: Array

    @classmethod
    def of(cls, joint: int, readings: Sequence[Reading], since_ns: int, least: int) -> Series:
        """Those since then and the one before, at least a few, but none from before a silence.

        readings: by arrival.
        """
        found: list[tuple[int, int, float]] = []
        for reading in reversed(readings):
            if len(found) >= least and found[-1][1] <= since_ns:
                break
            at = _place(reading.index, joint)
            if at is None:
                continue
            if found and found[-1][1] - reading.arrived_ns > to_ns(SILENT_S):
                break
            found.append((reading.stamp_ns, reading.arrived_ns, float(reading.q[at])))
        found.sort()
        # One that was sent twice is one reading.
        found = [one for one, last in zip(found, [None, *found], strict=False) if not _same(one, last)]
        stamps, arrived, q = zip(*found, strict=True) if found else ((), (), ())
        return cls(np.array(stamps, np.int64), np.array(arrived, np.int64), np.array(q, np.float64))

    @property
    def over_s(self) -> float:
        """How long it lasts, by arrival [s]."""
        return float(np.ptp(self.arrived_ns)) / NS_PER_S if len(self.q) else 0.0


def _same(one: tuple[int, int, float], other: tuple[int, int, float] | None) -> bool:
    return other is not None and one[0] == other[0] and one[2] == other[2]


def _around(
    line: Sequence[Reading], reading: Reading, joint: int
) -> tuple[tuple[int, float] | None, tuple[int, float] | None]:
    """When and where a joint was measured last before a reading, and first after it."""
    after, here = None, _place(reading.index, joint)
    for one in reversed(line):
        at = here if one.index is reading.index else _place(one.index, joint)
        if at is None:
            continue
        if one.stamp_ns <= reading.stamp_ns:
            return (one.stamp_ns, float(one.q[at])), after
        after = (one.stamp_ns, float(one.q[at]))
    return None, after


def _place(index: Indices, joint: int) -> int | None:
    """Where a joint stands in an ascending index; None: nowhere."""
    at = int(index.searchsorted(joint))
    return at if at < len(index) and index[at] == joint else None


class Doubt:
    """Counts impossible readings, and says when they are too many.

    Attributes:
        count: of all so far.
        reason: why the joint states are not to be believed now; empty if they are.
    """

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""
        self.newest = ""
        self._bad: deque[int] = deque()
        self._good: deque[int] = deque()

    def good(self, arrived_ns: int) -> None:
        """A believable one has arrived."""
        self._good.append(arrived_ns)
        self._forget(arrived_ns)

    def bad(
        self, arrived_ns: int, reason: str, publishers: Callable[[], str], contradicts: bool = False
    ) -> bool:
        """An impossible one has arrived; True if there are too many."""
        self.count += 1
        self.newest = reason
        self._bad.append(arrived_ns)
        self._forget(arrived_ns)
        recent = sum(ns >= arrived_ns - to_ns(PAIR_S) for ns in self._bad)
        rare = recent >= 2 and len(self._good) <= GOOD_FOR_ONE * recent
        if not self.reason and (len(self._bad) >= RUN or rare):
            within_s = (arrived_ns - self._bad[0]) / NS_PER_S
            between = contradicts or any(self._bad[0] < ns < arrived_ns for ns in self._good)
            what = "the joint states contradict each other" if between else "the joint states are impossible"
            told = publishers()
            left_out = f"{len(self._bad)} left out within {within_s:.2f} s"
            who = f"; {told}" if told else ""
            self.reason = f"{what}: {left_out}; the newest were refused: {reason}{who}"
        return bool(self.reason)

    def recent(self, now_ns: int, within_s: float) -> str:
        """The newest impossible one's reason, if it came within this time."""
        return self.newest if self._bad and self._bad[-1] >= now_ns - to_ns(within_s) else ""

    def _forget(self, now_ns: int) -> None:
        while self._good and self._good[0] < now_ns - _PAIR_NS:
            self._good.popleft()
        while self._bad and self._bad[0] < now_ns - _RUN_NS:
            self._bad.popleft()
        if not self._bad:
            self.reason = ""
