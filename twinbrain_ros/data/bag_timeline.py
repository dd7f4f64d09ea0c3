"""What a bag says of commands, motion and who drove, by time: read once, small enough to keep."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.bag import BagError
from twinbrain_ros.data.decode import FrameError
from twinbrain_ros.data.joint_parts import JointMerger, part_of_message
from twinbrain_ros.data.messages import NS_PER_S, commands_from_message, from_time
from twinbrain_ros.data.recorded import RecordedFrames

Array = NDArray[np.float64]

# A command's stamp and its time of receipt that are this far apart are of two clocks.
CLOCKS_APART_S = 1.0


class Timeline:
    """Of one arm in a bag.

    Joint vectors are [J + 1]: arm joints in robot-file order [rad], gripper opening 0 to 1. Commands count
    from their stamps or, without one, from when they were received; joint states and modes from their stamps
    [ns]. Messages that cannot be read are in `frames.problems`, as those of cameras are.
    """

    def __init__(self, frames: RecordedFrames) -> None:
        self._robot, self._frames = frames.robot, frames
        self._arm: list[tuple[int, Array, Array]] = []  # received, times from then [s], positions [n, J]
        self._gripper: list[tuple[int, float]] = []
        self._joints: list[tuple[int, Array]] = []
        self._modes: list[tuple[int, Mode]] = []
        self._merger = JointMerger(frames.robot)
        names = frames.robot.topics
        joint_states = [frames.topic(name) for name in names.all_joint_states]
        topics: dict[str, Callable[..., None]] = {
            frames.topic(names.arm_trajectory): self._on_command,
            frames.topic(names.gripper_trajectory): self._on_command,
            **dict.fromkeys(joint_states, self._on_joints),
            frames.topic(names.commanded_joint_states): partial(self._on_joints, commanded=True),
            frames.topic(names.control_mode): self._on_mode,
        }
        for message in frames.bag.messages(list(topics)):
            try:
                topics[message.topic](frames.bag.decode(message), message.log_ns)
            except (FrameError, BagError, AttributeError, ValueError, IndexError) as error:
                key = f"{message.topic}/{type(error).__name__}"
                if message.topic not in joint_states:  # these are read again, and named then
                    frames.problems.add(key, f"{message.topic}: {error}")
        self._arm_ns = [entry[0] for entry in self._arm]
        self._gripper_ns = [entry[0] for entry in self._gripper]
        self._joint_ns = [entry[0] for entry in self._joints]
        self._mode_ns = [entry[0] for entry in self._modes]

    # -- messages

    def _on_command(self, content: Any, log_ns: int) -> None:
        told = commands_from_message(content, self._robot)
        if told.arm is not None:
            # A stamp of another clock would move it far away.
            late_s = (log_ns - told.start_ns) / NS_PER_S
            since_s = late_s if told.start_ns and abs(late_s) < CLOCKS_APART_S else 0.0
            self._arm.append((log_ns, told.times_s - since_s, told.arm))
        if told.finger_m is not None:
            self._gripper.append((log_ns, self._robot.gripper.opening(told.finger_m)))

    def _on_joints(self, content: Any, log_ns: int, commanded: bool = False) -> None:
        whole = self._merger.add(part_of_message(content, self._robot, commanded))
        if whole is not None:
            whole_ns, values = whole
            opening = self._robot.gripper.opening(float(values[-1]))
            self._joints.append((whole_ns, np.append(values[:-1], opening)))

    def _on_mode(self, content: Any, log_ns: int) -> None:
        self._modes.append((from_time(content.header.stamp), Mode(content.mode)))

    # -- by time

    @property
    def commanded(self) -> bool:
        """Whether the arm was told anything at all."""
        return bool(self._arm)

    def mode(self, at_ns: int) -> Mode:
        """Who drove then; HOLD before anybody said so."""
        found = bisect_right(self._mode_ns, at_ns)
        return self._modes[found - 1][1] if found else Mode.HOLD

    def held_between(self, start_ns: int, end_ns: int) -> bool:
        """Whether there was a moment in which neither the policy nor a person drove."""
        first, last = bisect_right(self._mode_ns, start_ns), bisect_right(self._mode_ns, end_ns)
        inside = [self.mode(start_ns), *(mode for _, mode in self._modes[first:last])]
        return any(mode not in (Mode.AUTONOMY, Mode.TELEOP) for mode in inside)

    def corrected(self, at_ns: int) -> bool:
        """Whether a person drove then who had interrupted the policy."""
        found = bisect_right(self._mode_ns, at_ns)
        modes = [mode for _, mode in self._modes[:found]]
        return bool(modes) and modes[-1] is Mode.TELEOP and Mode.AUTONOMY in modes

    def command(self, at_ns: int) -> Array | None:
        """Where the last command by then wanted the arm to be then; None: nothing was commanded before.

        The gripper's opening is the one it was told last, or as long as it was told none the measured one.
        """
        found = bisect_right(self._arm_ns, at_ns)
        if not found:
            return None
        since_ns, times, positions = self._arm[found - 1]
        after_s = (at_ns - since_ns) / NS_PER_S
        arm = [np.interp(after_s, times, column) for column in positions.T]
        told = bisect_right(self._gripper_ns, at_ns)
        opening = self._gripper[told - 1][1] if told else self._measured_opening(at_ns)
        return np.array([*arm, min(max(opening, 0.0), 1.0)])

    def _measured_opening(self, at_ns: int) -> float:
        found = self.measured(at_ns, NS_PER_S)
        return 1.0 if found is None else float(found[-1])

    def measured(self, at_ns: int, within_ns: int) -> Array | None:
        """The joint state nearest in time; None if there is none within so much."""
        found = bisect_right(self._joint_ns, at_ns)
        near = [i for i in (found - 1, found) if 0 <= i < len(self._joint_ns)]
        if not near:
            return None
        best = min(near, key=lambda i: abs(self._joint_ns[i] - at_ns))
        return self._joints[best][1] if abs(self._joint_ns[best] - at_ns) <= within_ns else None

    def first_motion_ns(self, start_ns: int, threshold: float) -> int:
        """When, from then on, a joint is first commanded or measured away from where it was by more than a
        threshold [rad; opening 0 to 1], or the gripper is told something else; never: far in the future."""
        ends = [
            _leaves(self._arm_ns, [entry[2][0] for entry in self._arm], start_ns, threshold),
            _leaves(self._joint_ns, [entry[1] for entry in self._joints], start_ns, threshold),
            _leaves(self._gripper_ns, [np.array([entry[1]]) for entry in self._gripper], start_ns, threshold),
        ]
        return min(ends)


NEVER_NS = 2**62


def _leaves(times_ns: Sequence[int], values: Sequence[Array], start_ns: int, threshold: float) -> int:
    first = max(0, bisect_right(times_ns, start_ns) - 1)
    if first >= len(values):
        return NEVER_NS
    away = np.abs(np.stack(values[first:]) - values[first]).max(axis=1) > threshold
    return max(times_ns[first + int(away.argmax())], start_ns) if away.any() else NEVER_NS
