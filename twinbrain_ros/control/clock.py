"""The clock by which motion is reckoned, and what stamps mean on it."""

from __future__ import annotations

from twinbrain_ros.control.timing import to_ns

# Two clocks cannot be read at once: a difference that changes by less than this has not changed, so that
# equal stamps stay equal. A clock that is slewed gets there in some seconds.
SAME_S = 0.001
# Share of such a change that stamps of commands follow at each reading: their way must not bend with it.
FOLLOWED = 0.01


class MotionClock:
    """A steady clock; the ROS clock only names observations.

    The arm moves in real time. If the ROS clock is stepped, as by NTP, that must not step the arm: stamps are
    taken over to the steady clock when they arrive, and what was taken over stays as it is. In a simulation
    the arm moves by the ROS clock (use_sim_time), and so is motion reckoned.

    Args:
        ros_time: motion is reckoned by the ROS clock.
    """

    def __init__(self, ros_time: bool = False) -> None:
        self.ros_time = ros_time
        self.offset_ns = 0  # how far the ROS clock is ahead of this one, for stamps that arrive
        self._ahead_ns = 0.0  # the same, for stamps that are given

    def tell(self, now_ns: int, steady_ns: int) -> int:
        """Takes in the time on the ROS clock and on a steady one; gives the time of motion [ns]."""
        if self.ros_time:
            return now_ns
        ahead_ns = now_ns - steady_ns
        if abs(ahead_ns - self.offset_ns) > to_ns(SAME_S):
            self.offset_ns = ahead_ns
        change_ns = ahead_ns - self._ahead_ns
        self._ahead_ns += change_ns if abs(change_ns) > to_ns(SAME_S) else FOLLOWED * change_ns
        return steady_ns

    def stamp(self, motion_ns: int) -> int:
        """The stamp, on the ROS clock, of a moment of motion that is about now."""
        return motion_ns + round(self._ahead_ns)

    def motion(self, stamp_ns: int) -> int:
        """A stamp of the ROS clock, as the clocks are now."""
        return stamp_ns - self.offset_ns
