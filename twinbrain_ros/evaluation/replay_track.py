"""What an arm did after an observation, and who drove it, from a bag."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.bag import BagError
from twinbrain_ros.data.decode import FrameError
from twinbrain_ros.data.frames import Observation
from twinbrain_ros.data.instructions import Instructions
from twinbrain_ros.data.joint_parts import JointMerger, part_of_message
from twinbrain_ros.data.messages import NS_PER_S, commands_from_message, from_time
from twinbrain_ros.data.recorded import RecordedFrames
from twinbrain_ros.evaluation.replay_errors import Poses
from twinbrain_ros.robot.actions import relative_ee_deltas
from twinbrain_ros.robot.kinematics import Kinematics

Array = NDArray[np.float64]
Entry = TypeVar("Entry")

# A message may be received so much later than its stamp says before who drove is taken for known [ns].
LATE_NS = NS_PER_S // 2
DRIVERS = {Mode.AUTONOMY: "autonomy", Mode.TELEOP: "teleop"}
# Why a step is not compared with what was done.
AFTER_END = "after the end of the recording"
GAP = "no joint states then"
CHANGED = "who drives changed"
NOBODY = "nobody drove"
UNKNOWN = "not known who drove"


@dataclass(frozen=True)
class Done:
    """What the arm did in the steps [T] after an observation.

    Attributes:
        actions: [T, A] that would have led it there; NaN where that is not known.
        poses: of the tool.
        drivers: who drove during the whole step; None: see `reasons`.
        steady: who drove from the observation to the end of the step; None if that changed.
        reasons: why a step is not to be compared; "" where it is.
    """

    actions: Array
    poses: Poses
    drivers: tuple[Mode | None, ...]
    steady: tuple[Mode | None, ...]
    reasons: tuple[str, ...]


class Track:
    """Joint states, modes and instructions of a bag, read as far as they are asked for.

    Messages that cannot be used are named by `RecordedFrames`, which reads most of them too. Joint states
    whose stamps go back are left out.

    An action's gripper opening is a command, and the measured one only tells how thick is what is held: where
    the bag has the gripper's commands, what was done is what it was told last.

    Attributes:
        start_ns, newest_ns: stamps of the first and of the newest joint state; -1 before one was read.
        modes, instructions: every change with the stamp at which it took effect [ns].
    """

    def __init__(self, frames: RecordedFrames, kinematics: Kinematics) -> None:
        self._frames, self._robot, self._kinematics = frames, frames.robot, kinematics
        self._rows: deque[tuple[int, Array]] = deque()
        self._merger = JointMerger(frames.robot)
        self._told: deque[tuple[int, float]] = deque()  # the gripper: opening, 0 to 1
        self.newest_ns = -1
        self._feed = self._read()
        self.start_ns = -1
        self.modes: list[tuple[int, Mode]] = []
        self.instructions: list[tuple[int, str]] = []

    def _read(self) -> Iterator[None]:
        bag, names, topic = self._frames.bag, self._robot.topics, self._frames.topic
        joints = [topic(name) for name in names.all_joint_states]
        commanded = topic(names.commanded_joint_states)
        mode = topic(names.control_mode)
        instructions = Instructions(self._robot, self._frames.namespace)
        gripper = topic(names.gripper_trajectory)
        for message in bag.messages([*joints, mode, *instructions.topics, gripper]):
            try:
                content = bag.decode(message)
                if message.topic in joints:
                    self._on_joints(content, message.topic == commanded)
                elif message.topic == gripper:
                    self._on_gripper(content)
                elif message.topic == mode:
                    self._on_change(self.modes, from_time(content.header.stamp), Mode(content.mode))
                elif (followed := instructions.read(message.topic, content)) is not None:
                    self._on_change(self.instructions, max(self.newest_ns, 0), followed)
            except (FrameError, BagError, AttributeError, ValueError, IndexError) as error:
                if message.topic == gripper:
                    self._frames.problems.add(f"{gripper}/{type(error).__name__}", f"{gripper}: {error}")
                continue
            yield

    def _on_joints(self, content: Any, commanded: bool) -> None:
        whole = self._merger.add(part_of_message(content, self._robot, commanded))
        if whole is not None:
            self._rows.append(whole)
            self.newest_ns = whole[0]
            self.start_ns = self.newest_ns if self.start_ns < 0 else self.start_ns

    def _on_gripper(self, content: Any) -> None:
        told = commands_from_message(content, self._robot)
        if told.finger_m is not None:
            self._told.append((self.newest_ns, self._robot.gripper.opening(told.finger_m)))

    @staticmethod
    def _on_change(changes: list[tuple[int, Entry]], stamp_ns: int, value: Entry) -> None:
        if not changes or changes[-1][1] != value:
            changes.append((max(stamp_ns, changes[-1][0]) if changes else stamp_ns, value))

    def read(self, until_ns: int | None = None) -> None:
        """Reads on until joint states of this stamp are there [ns], or to the end."""
        if until_ns is not None and self.newest_ns >= until_ns:
            return
        for _ in self._feed:
            if until_ns is None:  # only the changes are still of interest
                self._rows.clear()
                self._told.clear()
            elif self.newest_ns >= until_ns:
                return

    def done(self, seen: Observation) -> Done:
        """What the arm did after an observation; observations are asked for in the order of their stamps."""
        action = self._robot.action
        period_ns = round(action.period_s * NS_PER_S)
        ends = [seen.stamp_ns + (step + 1) * period_ns for step in range(action.horizon)]
        self.read(ends[-1] + LATE_NS)
        while len(self._rows) > 1 and self._rows[1][0] <= seen.stamp_ns:
            self._rows.popleft()
        while len(self._told) > 1 and self._told[1][0] <= seen.stamp_ns:
            self._told.popleft()
        joints = np.array([self._at(end_ns) for end_ns in ends])
        poses, known_steps = Poses.of(self._kinematics, joints[:, :-1]), np.isfinite(joints).all(axis=1)
        drivers, reasons, steady = [], [], []
        for step, end_ns in enumerate(ends):
            driver, reason = self._driver(end_ns - period_ns, end_ns)
            if end_ns > self.newest_ns:
                reason = AFTER_END
            elif not known_steps[max(step - 1, 0) : step + 1].all():
                reason = GAP
            drivers.append(None if reason else driver)
            reasons.append(reason)
            steady.append(self._driver(seen.stamp_ns, end_ns)[0] if known_steps[step] else None)
        return Done(
            self._actions(seen, ends, joints, poses), poses, tuple(drivers), tuple(steady), tuple(reasons)
        )

    def _at(self, stamp_ns: int) -> Array:
        """Joints and finger [J + 1] at a time, between the measurements around it; NaN without them."""
        after = bisect_left(self._rows, stamp_ns, key=lambda row: row[0])
        if after < len(self._rows) and self._rows[after][0] == stamp_ns:
            return self._rows[after][1]
        nothing = np.full(len(self._robot.arm_joints) + 1, np.nan)
        if not 0 < after < len(self._rows):
            return nothing
        (old_ns, old), (new_ns, new) = self._rows[after - 1], self._rows[after]
        if new_ns - old_ns > self._robot.observation.max_skew_s * NS_PER_S:
            return nothing
        return old + (new - old) * ((stamp_ns - old_ns) / (new_ns - old_ns))

    def _driver(self, start_ns: int, end_ns: int) -> tuple[Mode | None, str]:
        """Who drove all the time, or None and why nobody did."""
        now = bisect_right(self.modes, start_ns, key=lambda change: change[0])
        if now < bisect_left(self.modes, end_ns, key=lambda change: change[0]):
            return None, CHANGED
        if not now:
            return None, UNKNOWN
        mode = self.modes[now - 1][1]
        return (mode, "") if mode in DRIVERS else (None, NOBODY)

    def _actions(self, seen: Observation, ends: list[int], joints: Array, poses: Poses) -> Array:
        openings = [self._opening(end_ns, finger) for end_ns, finger in zip(ends, joints[:, -1], strict=True)]
        if self._robot.action.space == "joint_position":
            return np.column_stack([joints[:, :-1], openings])
        start = self._kinematics.forward(seen.arm_positions)
        return np.column_stack([relative_ee_deltas(*start, *poses), openings])

    def _opening(self, stamp_ns: int, finger_m: float) -> float:
        """What the gripper was told last, else what was measured."""
        told = bisect_right(self._told, stamp_ns, key=lambda row: row[0])
        return self._told[told - 1][1] if told else self._robot.gripper.opening(finger_m)
