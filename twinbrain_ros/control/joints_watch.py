"""Whether the measured joints deserve to be believed, part by part, and whether the arm does what it is told.

Ages are by the stamps of the data, taken over to the clock of motion when they arrived. Windows, silence and
runs are by arrival, on a clock that never jumps: stamps cannot be trusted to tell how long something has been
going on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from twinbrain_ros.control.governor import Governor
from twinbrain_ros.control.left import MOVED_RAD, LeftArm
from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.plausible import (
    AGREE_RAD,
    SILENT_S,
    Doubt,
    Indices,
    JointBounds,
    Reading,
    Series,
    to_and_fro,
)
from twinbrain_ros.control.timing import NS_PER_S, least_delay_ns, to_ns
from twinbrain_ros.control.turns import Turns
from twinbrain_ros.control.watchdogs import WatchdogSettings
from twinbrain_ros.robot.joint_part import JointPart, listed
from twinbrain_ros.robot.robot_file import RobotFile

# Joints whose readings do not change at all while they are commanded to move this far are not being read.
FROZEN_RAD = 0.05
# A mode that moves is granted after readings over this time [s], and at least so many.
SETTLE_S, SETTLE_READINGS = 0.2, 3
# An arm at rest moves less than this in that time [rad].
AT_REST_RAD = 0.02
# Of an arm of which every joint is exactly 0 it takes longer: drivers send that before they have read any.
ZEROS_S = 1.0
KEPT_S = 1.2
# Readings out of order are left out, but not for longer than this [s]: then the time line has gone back.
ORDER_S = 0.1
# An arm that stands this near to where it was left goes on from there: starting from where it is measured
# instead would let it sink by its sag at every start [rad].
SAME_PLACE_RAD = 0.1
# Of the gripper's last readings the median counts: one that is wrong must not let go of what is held.
FINGERS_KEPT = 5
# Openings beyond this are no measurements of a gripper: 0 is closed, 1 open.
OPENINGS = (-1.0, 2.0)
# Readings of a joint at rest differ by no more [rad], but for wrong ones.
STILL_RAD = 0.005
ASTRAY_STEP_S = 0.1  # of the time astray, most between two looks
_NEVER_NS = -(2**61)
_KEPT_NS = to_ns(KEPT_S)


@dataclass(frozen=True, eq=False)
class Joints:
    """Measured joints: arm [J] in rad, with its oldest part's stamp; finger_m in m, None: not known."""

    stamp_ns: int
    arm: Array
    finger_m: float | None


class JointsWatch:
    """Takes in parts of joint states; gives the newest believable reading of the whole arm.

    Args:
        robot: joints and limits.
        governor: what the arm is commanded; None: nothing, as in a test.
        ros_time: stamps are of the clock of motion, which may run at another rate than arrivals do.

    Attributes:
        newest: None as long as a joint of the arm has never been measured.
        repeated: how many said nothing new: repeats, or out of order.
        publishers: gives who publishes joint states, as a sentence; asked when they are in doubt.
    """

    def __init__(
        self, robot: RobotFile, governor: Governor | None = None, ros_time: bool = False
    ) -> None:  # fmt: skip
        self._names, self._gripper = robot.arm_joints, robot.gripper
        self._bounds = JointBounds.of(robot)
        self._doubt, self._turns = Doubt(), Turns(self._bounds.acceleration)
        self.publishers: Callable[[], str] = str
        self.newest: Joints | None = None
        self.repeated = 0
        count = len(self._names)
        self._q = np.zeros(count)
        self._stamps_ns = np.full(count, _NEVER_NS, dtype=np.int64)
        self._arrived_ns = np.full(count, _NEVER_NS, dtype=np.int64)
        self._readings: deque[Reading] = deque()  # believed or not
        self._line: deque[Reading] = deque()  # the believed ones
        self._indices: dict[tuple[int, ...], tuple[list[int], Indices]] = {}  # of the arm, by part
        self._ros_time, self._delay_ns = ros_time, 2**61
        self._pairs: dict[tuple[int, ...], tuple[Reading, ...]] = {}  # the last two of each part
        self._fingers: deque[float] = deque(maxlen=FINGERS_KEPT)
        self._finger_ns = 0
        self._refused = self._strange = ""
        self._changed_ns = 0
        self._astray_ns, self._looked_ns = 0, -1
        self._left = LeftArm(governor) if governor is not None else None
        self._moved = False

    @property
    def left_out(self) -> int:
        """How many were impossible, and left out."""
        return self._doubt.count

    # In ---------------------------------------------------------------------------------------------

    def add(self, part: JointPart, arrived_ns: int) -> None:
        """Takes in what a message says, if it is possible."""
        count = len(self._names)
        known = self._indices.get(part.indices)
        if known is None:
            arm = [i for i in part.indices if i < count]
            known = self._indices[part.indices] = arm, np.array(arm, np.int64)
        arm, index = known
        if arm and not self._add_arm(arm, index, part, arrived_ns):
            return
        if part.indices[-1] == count:
            self._add_finger(part.stamp_ns, float(part.positions[-1]))
        if arm or self.newest is not None:
            self._renew()

    def _add_arm(self, arm: list[int], index: Indices, part: JointPart, arrived_ns: int) -> bool:
        """False if the message is to be left out."""
        q = part.positions[: len(arm)]
        reading = Reading(part.stamp_ns, arrived_ns, index, q)
        fresh = look = self._stamps_ns[index] < part.stamp_ns
        if not fresh.all():
            newer = self._stamps_ns[index] > part.stamp_ns
            if newer.any() and arrived_ns - int(self._arrived_ns[index].max()) > to_ns(ORDER_S):
                # A time line that begins anew.
                fresh, newer, self._delay_ns = fresh | newer, np.zeros_like(newer), 2**61
                self._line.clear()
            differs = np.abs(q - self._q[index]) > AGREE_RAD
            look = fresh | (~newer & differs)
            if newer.any():
                problem = self._bounds.beside(self._line, reading, newer, self._names)
                if problem:
                    self._keep(self._readings, reading)
                    self._contradicted(problem, arrived_ns)
                    return False
            if not look.any():
                self.repeated += 1
                if newer.any():
                    self._keep(self._readings, reading)
                return True
        self._keep(self._readings, reading)
        problem = self._impossible(reading, part.indices, look)
        if problem:
            self.refuse(problem, arrived_ns)
            return False
        turned = self._turns.add(arm, q.tolist(), part.stamp_ns, arrived_ns) if fresh.all() else None
        if turned is not None:
            joint, three, within_s = turned
            self._contradicted(to_and_fro(self._names[joint], three, within_s), arrived_ns)
        else:
            self._doubt.good(arrived_ns)
        self._pairs[part.indices] = (*self._pairs.get(part.indices, ())[-1:], reading)
        if fresh.any():
            self._keep(self._line, reading)
            self._take(reading, fresh)
        return True

    def _contradicted(self, reason: str, arrived_ns: int) -> None:
        if self._doubt.bad(arrived_ns, reason, self.publishers, contradicts=True):
            self._moved = True

    def _impossible(self, reading: Reading, part: tuple[int, ...], look: np.ndarray) -> str:
        index = reading.index
        outside = self._bounds.outside(index, reading.q, self._names)
        if outside:
            return outside
        known = look & (self._stamps_ns[index] > _NEVER_NS)
        # Readings that were held up arrive all at once: their stamps tell the time between them. A stamp that
        # is further ahead than any before tells of no time.
        stamp_ns = reading.stamp_ns
        if not self._ros_time:
            stamp_ns = min(stamp_ns, reading.arrived_ns - self._delay_ns)
        since_ns = np.maximum(stamp_ns - self._stamps_ns[index], reading.arrived_ns - self._arrived_ns[index])
        before = self._pairs.get(part, ())
        slack = self._bounds.jitter(*before) if len(before) == 2 else 0.0
        return self._bounds.too_far(
            index, self._q[index], reading.q, since_ns, known, self._names, slack=slack
        )

    def _take(self, reading: Reading, fresh: np.ndarray) -> None:
        index, q = reading.index[fresh], reading.q[fresh]
        known = self._left is not None and self._left.place is not None
        gap_ns = reading.arrived_ns - int(self._arrived_ns[index].min())
        if gap_ns > to_ns(SILENT_S) and not known:
            self._moved = True
        delay_ns = reading.arrived_ns - reading.stamp_ns
        self._delay_ns = least_delay_ns(self._delay_ns, delay_ns, gap_ns)
        if (q != self._q[index]).any() or reading.stamp_ns < int(self._stamps_ns[index].max()):
            self._changed_ns = reading.stamp_ns
        self._q[index], self._stamps_ns[index] = q, reading.stamp_ns
        self._arrived_ns[index] = reading.arrived_ns
        self._refused = ""

    def _add_finger(self, stamp_ns: int, finger_m: float) -> None:
        if OPENINGS[0] <= self._gripper.opening(finger_m) <= OPENINGS[1]:
            self._fingers.append(finger_m)
            self._finger_ns = max(self._finger_ns, stamp_ns)

    def _renew(self) -> None:
        stamp_ns = int(self._stamps_ns.min())
        if stamp_ns == _NEVER_NS:
            return
        before_ns = self.newest.stamp_ns if self.newest is not None else _NEVER_NS
        fingers = sorted(self._fingers)
        q = self._q.copy()
        self.newest = Joints(stamp_ns, q, fingers[len(fingers) // 2] if fingers else None)
        if self._left is not None and stamp_ns > before_ns:
            arrived_ns = int(self._arrived_ns.max())
            if self._left.rests(stamp_ns, arrived_ns, q):
                self._left.note(self.place(arrived_ns))

    @staticmethod
    def _keep(readings: deque[Reading], reading: Reading) -> None:
        readings.append(reading)
        while readings[0].arrived_ns < reading.arrived_ns - _KEPT_NS:
            readings.popleft()

    def refuse(self, reason: str, arrived_ns: int) -> None:
        """Notes that some came that are of no use."""
        self._refused = reason
        if self._doubt.bad(arrived_ns, reason, self.publishers):
            self._moved = True

    def strangers(self, names: tuple[str, ...]) -> None:
        """Notes joint states that have no joint of this arm."""
        self._strange = f"; some came, of {listed(names[:3])}{' and more' if len(names) > 3 else ''}"

    # Believed or not --------------------------------------------------------------------------------

    def problem(self, now_ns: int, timeout_s: float) -> str:
        """Why they cannot be relied on now; empty if they can."""
        if self._doubt.reason:
            return self._doubt.reason
        refused = f"; the newest were refused: {self._refused}" if self._refused else ""
        if self.newest is None:
            known = self._stamps_ns > _NEVER_NS
            if not known.any():
                return f"no joint states have arrived yet{refused or self._strange}"
            missing = [name for name, there in zip(self._names, known, strict=True) if not there]
            return f"no position of {listed(missing)} has arrived yet in joint states{refused}"
        age_s = (now_ns - self.newest.stamp_ns) / NS_PER_S
        if age_s > timeout_s:
            late = self._stamps_ns < now_ns - to_ns(timeout_s)
            part = [name for name, old in zip(self._names, late, strict=True) if old]
            of = "" if late.all() else f" of {listed(part)}"
            return f"the joint states{of} are {age_s:.3f} s old, expected at most {timeout_s} s{refused}"
        if age_s < -timeout_s:
            return f"the joint states lie {-age_s:.3f} s in the future: do the clocks agree?"
        return ""

    def finger_problem(self, now_ns: int, timeout_s: float) -> str:
        """Why it is not known where the gripper is; empty if it is."""
        joint = f"the gripper joint {self._gripper.joint!r}"
        if not self._fingers:
            missing = f"no position of {joint} has arrived yet in joint states: it is commanded all the same"
            return f"{missing}; if no driver measures it, the robot file may say gripper.state: commanded"
        age_s = (now_ns - self._finger_ns) / NS_PER_S
        return f"the joint states of {joint} are {age_s:.3f} s old" if age_s > timeout_s else ""

    def unsettled(self, arrived_ns: int) -> str:
        """Why an arm must not be moved from where it is measured, yet; empty if it may.

        Every reading of the last 0.2 s counts, the impossible ones too.
        """
        left_out = self._doubt.recent(arrived_ns, SETTLE_S)
        if left_out:
            return left_out
        zeros = self.newest is not None and not self.newest.arm.any()
        window_s = ZEROS_S if zeros else SETTLE_S
        for joint, name in enumerate(self._names):
            series = Series.of(joint, self._readings, arrived_ns - to_ns(window_s), SETTLE_READINGS)
            problem = self._bounds.disagreement(
                joint, self._names, series.stamps_ns, series.arrived_ns, series.q
            )
            if problem:
                return f"{problem}{self._who()}"
            if len(series.q) < SETTLE_READINGS or series.over_s < 0.75 * window_s:
                what = ", as every joint is exactly 0" if zeros else ""
                return (
                    f"joint {name!r} has been measured for {series.over_s:.2f} s ({len(series.q)} readings), "
                    f"expected {window_s} s and at least {SETTLE_READINGS}{what}"
                )
        return ""

    def restless(self, arrived_ns: int) -> str:
        """Why an arm is not at rest; empty if it is: one that is begun with anew must be."""
        for joint, name in enumerate(self._names):
            q = Series.of(joint, self._readings, arrived_ns - to_ns(SETTLE_S), SETTLE_READINGS).q
            if len(q) and np.ptp(q) > AT_REST_RAD:
                moved = f"joint {name!r} has moved by {np.ptp(q):.3f} rad in {SETTLE_S} s"
                return f"{moved}, expected an arm at rest"
        return ""

    def _who(self) -> str:
        told = self.publishers()
        return f"; {told}" if told else ""

    # Where it is ------------------------------------------------------------------------------------

    def place(self, arrived_ns: int) -> Array:
        """Where the arm is [J]: by its readings of the last 0.2 s, so that a few misreads do not move it."""
        assert self.newest is not None
        q = self.newest.arm.copy()
        for joint in range(len(q)):
            series = Series.of(joint, self._readings, arrived_ns - to_ns(SETTLE_S), SETTLE_READINGS)
            if len(series.q):
                q[joint] = _standing(series.q, float(q[joint]))
        return q

    def stayed(self, left: Array, following_error_rad: float, arrived_ns: int) -> bool:
        """Whether the arm demonstrably is where it was left at [J], apart from its sag."""
        if self.newest is None or self._moved or self._left is None or self._left.strayed:
            return False
        rest = self._left.place
        if rest is None:  # it may be a little behind yet
            return bool(np.max(np.abs(self.newest.arm - left)) <= following_error_rad)
        if np.max(np.abs(self.place(arrived_ns) - rest)) > MOVED_RAD:
            return False
        return bool(np.max(np.abs(rest - left)) <= SAME_PLACE_RAD)

    # Doing what it is told --------------------------------------------------------------------------

    def forget_motion(self, now_ns: int) -> None:
        """A motion begins: what was commanded, or happened to the arm, before now does not count for it."""
        self._changed_ns, self._astray_ns, self._looked_ns = now_ns, 0, -1
        self._moved = False

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
        error = self.newest.arm - governor.at(min(self.newest.stamp_ns, now_ns)).q
        joint = int(np.argmax(np.abs(error)))
        is_astray = abs(error[joint]) > settings.following_error_rad
        since_ns = min(max(now_ns - self._looked_ns, 0), to_ns(ASTRAY_STEP_S)) if self._looked_ns >= 0 else 0
        self._looked_ns = now_ns
        # Time astray adds up, and is forgotten as slowly: one good reading between bad ones proves nothing.
        self._astray_ns = max(self._astray_ns + (since_ns if is_astray else -since_ns), 0)
        if not is_astray or self._astray_ns < to_ns(settings.following_timeout_s):
            return ""
        return (
            f"joint {names[joint]!r} is {abs(error[joint]):.3f} rad from where it was commanded, expected at "
            f"most {settings.following_error_rad} rad: blocked, or not driven?"
        )


def _standing(values: Array, newest: float) -> float:
    """Where a joint is by its readings [n] in order: the median of all if it rests, else of three."""
    middle = float(np.median(values))
    still = values[np.abs(values - middle) <= STILL_RAD / 2]
    rests = len(still) > len(values) / 2
    last = (still if rests else values)[-SETTLE_READINGS:]
    now, spread = float(np.median(last)), float(np.ptp(last))
    if rests:  # what has come to rest just now differs by more than noise
        return now if abs(now - middle) > spread else middle
    return now if spread <= AGREE_RAD else newest
