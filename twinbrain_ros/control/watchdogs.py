"""What stops the arm: everything that must be seen to happen while it is driven, and is not.

Ages of data are by their stamps, on the ROS clock; silence is by arrival, on a steady clock that no reset of
the ROS clock can disturb.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.timing import NS_PER_S, to_ns

# Joints whose readings do not change at all while they are commanded to move this far are not being read.
FROZEN_RAD = 0.05
# A clock that is corrected by less than this is not a clock that jumped.
CLOCK_SLACK_S = 0.005


@dataclass(frozen=True)
class WatchdogSettings:
    """After how long [s], or how far [rad], each of them trips."""

    policy_timeout_s: float = 0.5
    observation_timeout_s: float = 0.5
    chunk_timeout_s: float = 2.5
    joints_timeout_s: float = 0.25
    following_error_rad: float = 0.35
    following_timeout_s: float = 0.4
    overrun_s: float = 0.25
    clock_jump_s: float = 0.5


@dataclass(frozen=True, eq=False)
class Joints:
    """Measured joints: arm [J] in rad, finger_m in m."""

    stamp_ns: int
    arm: Array
    finger_m: float


class JointsWatch:
    """Whether the measured joints can be relied on, and whether they do what they are told."""

    def __init__(self) -> None:
        self.newest: Joints | None = None
        self._refused = ""
        self._changed_ns = 0
        self._astray_since_ns: int | None = None

    def add(self, joints: Joints) -> None:
        """Takes in good ones."""
        before, self.newest, self._refused = self.newest, joints, ""
        if before is None or joints.stamp_ns < before.stamp_ns or not np.array_equal(before.arm, joints.arm):
            self._changed_ns = joints.stamp_ns

    def refuse(self, reason: str) -> None:
        """Notes that some came that are of no use."""
        self._refused = reason

    def forget_motion(self, now_ns: int) -> None:
        """What was commanded before now is not held against them."""
        self._changed_ns, self._astray_since_ns = now_ns, None

    def problem(self, now_ns: int, timeout_s: float) -> str:
        """Why they cannot be relied on now; empty if they can."""
        refused = f"; the newest were refused: {self._refused}" if self._refused else ""
        if self.newest is None:
            return f"no joint states have arrived yet{refused}"
        age_s = (now_ns - self.newest.stamp_ns) / NS_PER_S
        if age_s > timeout_s:
            return f"the joint states are {age_s:.3f} s old, expected at most {timeout_s} s{refused}"
        if age_s < -timeout_s:
            return f"the joint states lie {-age_s:.3f} s in the future: do the clocks agree?"
        return ""

    def astray(
        self, now_ns: int, governor: Governor, settings: WatchdogSettings, names: tuple[str, ...]
    ) -> str:
        """Why the arm does not seem to follow its commands; empty if it does."""
        if self.newest is None:
            return ""
        # What it was told a while ago, it should have begun to do by now.
        then_ns = self.newest.stamp_ns - to_ns(settings.following_timeout_s)
        if then_ns > self._changed_ns:
            moved = governor.at(then_ns).q - governor.at(self._changed_ns).q
            joint = int(np.argmax(np.abs(moved)))
            if abs(moved[joint]) > FROZEN_RAD:
                return (
                    f"the joint states are frozen: not one value has changed since {names[joint]!r} was told "
                    f"to move by {moved[joint]:.3f} rad, more than {settings.following_timeout_s} s ago"
                )
        error = self.newest.arm - governor.at(self.newest.stamp_ns).q
        joint = int(np.argmax(np.abs(error)))
        if abs(error[joint]) <= settings.following_error_rad:
            self._astray_since_ns = None
            return ""
        if self._astray_since_ns is None:
            self._astray_since_ns = now_ns
        if now_ns - self._astray_since_ns < to_ns(settings.following_timeout_s):
            return ""
        return (
            f"joint {names[joint]!r} is {abs(error[joint]):.3f} rad from where it was commanded, expected at "
            f"most {settings.following_error_rad} rad: blocked, or not driven?"
        )


@dataclass(frozen=True)
class PolicyBeat:
    """What the policy says of itself, many times a second.

    Attributes:
        problem: why there is no observation to act on; empty if there is one.
        busy_s: how long it has been working on the present chunk [s]; 0: it waits.
    """

    problem: str = ""
    busy_s: float = 0.0


class PolicyWatch:
    """Whether the policy lives, sees and answers. Times are of a steady clock."""

    def __init__(self) -> None:
        self._beat = PolicyBeat()
        self._heard_ns = self._saw_ns = self._answered_ns = 0

    def add(self, beat: PolicyBeat, steady_ns: int) -> None:
        """Takes in a beat."""
        self._beat, self._heard_ns = beat, steady_ns
        if not beat.problem:
            self._saw_ns = steady_ns

    def answered(self, steady_ns: int) -> None:
        """A chunk of its has been accepted."""
        self._answered_ns = steady_ns

    def start(self, steady_ns: int) -> None:
        """From now on it counts."""
        self._heard_ns = self._saw_ns = self._answered_ns = steady_ns

    def problem(self, steady_ns: int, settings: WatchdogSettings) -> str:
        """Why it cannot be relied on now; empty if it can."""
        silent_s = (steady_ns - self._heard_ns) / NS_PER_S
        if silent_s > settings.policy_timeout_s:
            most = f"expected at most {settings.policy_timeout_s} s"
            return f"the policy has been silent for {silent_s:.3f} s, {most}: dead, stopped or out of reach"
        blind_s = (steady_ns - self._saw_ns) / NS_PER_S
        if blind_s > settings.observation_timeout_s:
            most = f"expected at most {settings.observation_timeout_s} s"
            return f"the policy has had nothing to act on for {blind_s:.3f} s, {most}: {self._beat.problem}"
        quiet_s = (steady_ns - self._answered_ns) / NS_PER_S
        if quiet_s <= settings.chunk_timeout_s:
            return ""
        busy = f"; it has been working on one for {self._beat.busy_s:.3f} s" if self._beat.busy_s else ""
        expected = f"expected one every {settings.chunk_timeout_s} s"
        return f"no chunk was accepted for {quiet_s:.3f} s, {expected}{busy}"


class ClockWatch:
    """Whether this process comes to its turn, and whether its clock can be relied on."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def tick(self, now_ns: int, steady_ns: int, settings: WatchdogSettings) -> tuple[str, str]:
        """Why the time, and why the rhythm, cannot be relied on; empty where they can."""
        last, self._last = self._last, (now_ns, steady_ns)
        if last is None:
            return "", ""
        clock_s, steady_s = (now_ns - last[0]) / NS_PER_S, (steady_ns - last[1]) / NS_PER_S
        clock = rhythm = ""
        if clock_s < -CLOCK_SLACK_S:
            clock = f"the clock went back by {-clock_s:.3f} s"
        elif clock_s - steady_s > settings.clock_jump_s:
            most = f"expected at most {settings.clock_jump_s} s"
            clock = f"the clock jumped forward by {clock_s - steady_s:.3f} s, {most}"
        if steady_s > settings.overrun_s:
            rhythm = (
                f"the controller was held up for {steady_s:.3f} s, expected at most {settings.overrun_s} s"
            )
        return clock, rhythm
