"""What stops the arm: everything that must be seen to happen while it is driven, and is not.

Silence is by arrival, on a steady clock that no reset of the ROS clock can disturb. The joints have a module
of their own, `joints_watch`.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinbrain_ros.control.timing import NS_PER_S

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
    """Whether this process comes to its turn, and whether the ROS clock can be relied on.

    Args:
        ros_time: the arm moves by that clock: it must not go back at all.
    """

    def __init__(self, ros_time: bool = False) -> None:
        self._ros_time = ros_time
        self._last: tuple[int, int] | None = None

    def tick(self, now_ns: int, steady_ns: int, settings: WatchdogSettings) -> tuple[str, str]:
        """Why the time, and why the rhythm, cannot be relied on; empty where they can."""
        last, self._last = self._last, (now_ns, steady_ns)
        if last is None:
            return "", ""
        clock_s, steady_s = (now_ns - last[0]) / NS_PER_S, (steady_ns - last[1]) / NS_PER_S
        clock = rhythm = ""
        step_s = clock_s - steady_s
        if self._ros_time and clock_s < -CLOCK_SLACK_S:
            clock = f"the clock went back by {-clock_s:.3f} s"
        elif abs(step_s) > settings.clock_jump_s:
            way = "forward" if step_s > 0 else "back"
            clock = (
                f"the clock jumped {way} by {abs(step_s):.3f} s, expected at most {settings.clock_jump_s} s"
            )
        if steady_s > settings.overrun_s:
            rhythm = (
                f"the controller was held up for {steady_s:.3f} s, expected at most {settings.overrun_s} s"
            )
        return clock, rhythm
