"""The clock by which motion is reckoned, and what stamps mean on it."""

from __future__ import annotations

from twinbrain_ros.control.timing import NS_PER_S, TRANSPORT_S, to_ns

# Two clocks cannot be read at once: a difference that changes by less than this has not changed, so that
# equal stamps stay equal. A clock that is slewed gets there in some seconds.
SAME_S = 0.001
# One that changes by more at once was stepped, and not slewed [ns].
_STEP_NS = to_ns(0.004)
# Share of such a change that stamps of commands follow at each reading: their way must not bend with it.
FOLLOWED = 0.01
# What a clock that goes on in steps says is late by up to a step [s], and commands with it: they may be so
# late and no more. A tenth more is for steps that are not exact.
MOST_STEP_S = TRANSPORT_S
_MOST_NS = to_ns(1.1 * MOST_STEP_S)
# A clock has stood still that has not gone on for this long [ns].
_STILL_NS = to_ns(0.01)
# So many steps, each after a standstill, and at least this share of all: no accidents of a fast simulation.
_STEPS, _SHARE, _KEPT = 3, 0.2, 20


class ClockSteps:
    """Whether a clock that is read now and then goes on in steps that are too large to move an arm by.

    A simulation that runs faster than real time goes on by as much between two readings, but does not stand
    still before it does.
    """

    def __init__(self) -> None:
        self._now_ns = self._read_ns = self._changed_ns = 0
        self._large = self._after_still = 0  # steps since the last one that was small
        self._step_ns = 0

    def add(self, now_ns: int, steady_ns: int) -> None:
        """Takes in the clock's time and a steady one's [ns]."""
        step_ns, before_ns, self._read_ns = now_ns - self._now_ns, self._read_ns, steady_ns
        if not step_ns:
            return
        stood = before_ns - self._changed_ns >= _STILL_NS
        first, self._now_ns, self._changed_ns = not self._now_ns, now_ns, steady_ns
        if first or step_ns <= _MOST_NS:
            self._large = self._after_still = 0
            return
        self._large, self._after_still, self._step_ns = self._large + 1, self._after_still + stood, step_ns
        if self._large > _KEPT:
            self._large, self._after_still = self._large // 2, self._after_still // 2

    def problem(self) -> str:
        """Why an arm cannot be moved by this clock; empty if it can."""
        if self._after_still < _STEPS or self._after_still < _SHARE * self._large:
            return ""
        steps = f"steps of {self._step_ns / NS_PER_S:.3f} s, expected at most {MOST_STEP_S} s"
        return f"/clock goes on in {steps}: publish it more often"


class MotionClock:
    """A steady clock; the ROS clock only names observations.

    The arm moves in real time. If the ROS clock is stepped, as by NTP, that must not step the arm: stamps are
    taken over to the steady clock when they arrive, and what was taken over stays as it is. In a simulation
    the arm moves by the ROS clock (use_sim_time), and so is motion reckoned.

    Args:
        ros_time: motion is reckoned by the ROS clock.

    Attributes:
        stepped_ns: when the newest step of the ROS clock was seen, by this clock [ns].
    """

    def __init__(self, ros_time: bool = False) -> None:
        self.ros_time = ros_time
        self.offset_ns = 0  # how far the ROS clock is ahead of this one, for stamps that arrive
        self.stepped_ns, self._before_ns = 0, 0  # and how far it was ahead before
        self._told = False
        self._ahead_ns = 0.0  # the same as offset_ns, for stamps that are given
        self._steps = ClockSteps()

    def tell(self, now_ns: int, steady_ns: int) -> int:
        """Takes in the time on the ROS clock and on a steady one; gives the time of motion [ns]."""
        if self.ros_time:
            self._steps.add(now_ns, steady_ns)
            return now_ns
        ahead_ns = now_ns - steady_ns
        if abs(ahead_ns - self.offset_ns) > to_ns(SAME_S):
            if self._told and abs(ahead_ns - self.offset_ns) > _STEP_NS:
                self.stepped_ns, self._before_ns = steady_ns, self.offset_ns
            self.offset_ns = ahead_ns
        self._told = True
        change_ns = ahead_ns - self._ahead_ns
        self._ahead_ns += change_ns if abs(change_ns) > to_ns(SAME_S) else FOLLOWED * change_ns
        return steady_ns

    @property
    def problem(self) -> str:
        """Why the arm must not be moved by this clock; empty if it may."""
        return self._steps.problem() if self.ros_time else ""

    def before(self, now_ns: int, within_ns: int) -> int | None:
        """How far the ROS clock was ahead before a step of this time [ns]; None: there was none."""
        recent = self.stepped_ns and now_ns - self.stepped_ns <= within_ns
        return self._before_ns if recent else None

    def stamp(self, motion_ns: int) -> int:
        """The stamp, on the ROS clock, of a moment of motion that is about now."""
        return motion_ns + round(self._ahead_ns)

    def motion(self, stamp_ns: int) -> int:
        """A stamp of the ROS clock, as the clocks are now."""
        return stamp_ns - self.offset_ns
