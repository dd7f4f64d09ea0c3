"""Inputs count only once they were seen at rest: what a driver reports before its first event is no wish."""

from __future__ import annotations

import numpy as np

from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.timing import NS_PER_S, to_ns
from twinbrain_ros.robot.teleop_inputs import TeleopInput

# A leader that moves less than this [rad] for so long [s] is at rest.
STILL_RAD, STILL_S = 0.02, 0.2
# A leader whose joints are this near to the arm's may move at once: the arm has nowhere to jump to [rad].
AT_POSE_RAD = 0.1
# Twists of less than this share of the input's speeds are the noise of a device that nobody touches.
REST_SHARE = 0.02
# A person moves a leader at most this many times as fast as the arm can follow; what is faster is a misread.
PERSON_SHARE = 2.0
# Messages arrive closer together than they were sent, and encoders are noisy: as if so much later [s].
JITTER_S = 0.02


class RestGate:
    """Which inputs have been at rest since they appeared: since their first message, or after a silence."""

    def __init__(self) -> None:
        self._heard_ns: dict[str, int] = {}
        self._rested: set[str] = set()
        self._problems: dict[str, str] = {}
        self._still: dict[str, tuple[int, Array]] = {}  # of leaders: since when, and where
        self._last: dict[str, tuple[int, Array]] = {}  # of leaders: their newest message
        self._turns: dict[str, int] = {}
        self.leapt: set[str] = set()  # leaders that have, and were not seen at rest since

    def hear(self, entry: TeleopInput, now_ns: int) -> None:
        """A message of an input has come; after a silence it has to be at rest again."""
        last_ns = self._heard_ns.get(entry.name)
        if last_ns is None or not 0 <= now_ns - last_ns <= to_ns(entry.timeout_s):
            self._rested.discard(entry.name)
            self._still.pop(entry.name, None)
            self._last.pop(entry.name, None)
        self._heard_ns[entry.name] = now_ns

    def counts(self, entry: TeleopInput, at_rest: bool, busy: str) -> bool:
        """Whether what an input says counts.

        Args:
            busy: what shows that it is not at rest; empty if that is not known yet.
        """
        if at_rest:
            self._turns[entry.name] = self.turn(entry) + (entry.name not in self._rested)
            self._rested.add(entry.name)
            self.leapt.discard(entry.name)
        rested = entry.name in self._rested
        self._problems[entry.name] = (
            f"{entry.name} does not count before it was seen at rest: {busy}" if busy and not rested else ""
        )
        return rested

    def turn(self, entry: TeleopInput) -> int:
        """How often an input has begun to count."""
        return self._turns.get(entry.name, 0)

    def leap(
        self, entry: TeleopInput, q: Array, velocity: Array, now_ns: int
    ) -> tuple[int, float, float] | None:
        """Whether a leader at [J] got there faster than a person moves it; then it has to be at rest again.

        Args:
            velocity: what the arm's joints can do [J], rad/s.
        Returns:
            Joint, how far it moved since the message before, and how far it could have [rad]. A message
            that is late by half of the input's timeout counts as if it had come then: others are missing.
        """
        before, self._last[entry.name] = self._last.get(entry.name), (now_ns, q)
        if before is None:
            return None
        since_s = min((now_ns - before[0]) / NS_PER_S, entry.timeout_s / 2)
        most = PERSON_SHARE * velocity * (since_s + JITTER_S)
        beyond = np.nan_to_num(np.abs(q - before[1]) - most, nan=-np.inf)
        worst = int(np.argmax(beyond))
        if beyond[worst] <= 0:
            return None
        self._rested.discard(entry.name)
        self._still[entry.name] = (now_ns, q)
        self.leapt.add(entry.name)
        return worst, float(abs(q[worst] - before[1][worst])), float(most[worst])

    def leader_still(self, entry: TeleopInput, q: Array, now_ns: int) -> tuple[bool, int | None]:
        """Whether a leader at [J] has been still for long enough, and which joint moved just now, if any."""
        since = self._still.get(entry.name)
        moved = np.nan_to_num(np.abs(q - since[1])) if since is not None else np.zeros(len(q))
        worst = int(np.argmax(moved))
        if since is None or moved[worst] > STILL_RAD:
            self._still[entry.name] = (now_ns, q)
            return False, None if since is None else worst
        return now_ns - since[0] >= to_ns(STILL_S), None

    def problem(self, now_ns: int, inputs: dict[str, TeleopInput]) -> str:
        """What does not count though it speaks, and why; empty if there is nothing of that kind."""
        said = [
            problem
            for name, problem in self._problems.items()
            if problem and 0 <= now_ns - self._heard_ns[name] <= to_ns(inputs[name].timeout_s)
        ]
        return "; ".join(said)
