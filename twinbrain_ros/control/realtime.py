"""What a new chunk has to agree with so that it can take over from one in motion (arXiv 2506.07339).

While the policy works, the arm goes on with the chunk it has. Those steps of the new chunk will be over when
it arrives: they are frozen to what the arm will have done. The steps after them, as far as the old chunk
goes, are drawn towards it with falling weight, so that the new one does not choose another way round.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from twinbrain_ros.control.motion import Array
from twinbrain_ros.control.timing import NS_PER_S, lead_s, to_ns
from twinbrain_ros.robot.actions import (
    compose_ee_deltas,
    euler_to_matrix,
    matrix_to_euler,
    relative_ee_deltas,
)
from twinbrain_ros.robot.chunk import ActionChunk, Guide
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

DELAYS_KEPT = 10


def soft_mask(horizon: int, frozen: int, overlap: int) -> Array:
    """Weights [horizon]: 1 for `frozen` steps, falling to 0 at `overlap` (equation 5 of the paper)."""
    i = np.arange(horizon)
    c = (overlap - i) / (overlap - frozen + 1.0)
    falling = c * np.expm1(c) / np.expm1(1.0)
    return np.where(i < frozen, 1.0, np.where(i < overlap, falling, 0.0)).astype(np.float64)


class DelayWindow:
    """How long from observation to takeover, as measured: the longest of the last few.

    The first one after a start is left out: it includes whatever was cold.
    """

    def __init__(self, kept: int = DELAYS_KEPT) -> None:
        self._delays: deque[float] = deque(maxlen=kept)
        self._warm = False

    def restart(self) -> None:
        """Forgets all."""
        self._delays.clear()
        self._warm = False

    def add(self, delay_s: float) -> None:
        """Takes in a delay [s]."""
        if self._warm:
            self._delays.append(delay_s)
        self._warm = True

    def longest_s(self) -> float | None:
        """The longest [s], None as long as there is none."""
        return max(self._delays, default=None)


@dataclass(frozen=True, eq=False)
class _Driving:
    chunk: ActionChunk
    due_ns: int


class RealTimeGuide:
    """Makes guides from the chunk that drives the arm.

    Args:
        robot: action space and rates.
        kinematics: of the same robot.
    """

    def __init__(self, robot: RobotFile, kinematics: Kinematics) -> None:
        self._robot, self._kinematics = robot, kinematics
        self._lead_ns = to_ns(lead_s(robot.rates.command_hz))
        self.delays = DelayWindow()
        self._sent: deque[ActionChunk] = deque(maxlen=4)
        self._driving: _Driving | None = None

    def restart(self) -> None:
        """Forgets everything, as when the driver changes."""
        self.delays.restart()
        self.rest()

    def rest(self) -> None:
        """No chunk drives the arm now."""
        self._sent.clear()
        self._driving = None

    def sent(self, chunk: ActionChunk) -> None:
        """A chunk is on its way to the controller."""
        self._sent.append(chunk)

    def executed(self, sequence: int, due_ns: int, first_command_ns: int) -> None:
        """A chunk drives: when its first step started, and when its first command went out [ns]."""
        chunk = next((chunk for chunk in self._sent if chunk.sequence == sequence), None)
        if chunk is None:
            return
        self._driving = _Driving(chunk, due_ns)
        self.delays.add((first_command_ns + self._lead_ns - chunk.observation_ns) / NS_PER_S)

    def guide(self, observation_ns: int, arm_positions: Array, instruction: str) -> tuple[Guide, int] | None:
        """What a chunk of this observation has to agree with, and the sequence of the chunk that says so.

        None if none drives any more, if it follows other words, or if no delay has been measured yet.
        """
        driving, delay_s = self._driving, self.delays.longest_s()
        if driving is None or delay_s is None or driving.chunk.instruction != instruction:
            return None
        frozen = -(-to_ns(delay_s) // to_ns(driving.chunk.period_s))
        guide = self.along(driving.chunk, driving.due_ns, observation_ns, arm_positions, frozen)
        return None if guide is None else (guide, driving.chunk.sequence)

    def along(
        self, chunk: ActionChunk, due_ns: int, observation_ns: int, arm_positions: Array, frozen: int
    ) -> Guide | None:
        """The guide that a chunk gives whose first step started at ``due_ns``; None if it ends before.

        Everything in it is in a record, so that a guided chunk can be computed again.

        Args:
            observation_ns, arm_positions: of the observation of the new chunk [ns], [J] rad.
            frozen: steps of it that will be over when it arrives.
        """
        horizon, period_ns = self._robot.action.horizon, to_ns(chunk.period_s)
        overlap = min((due_ns + horizon * period_ns - observation_ns) // period_ns, horizon)
        if overlap < 1 or observation_ns < due_ns:
            return None
        frozen = min(frozen, overlap)
        actions = self._carried(chunk, due_ns, observation_ns, arm_positions)
        return Guide(actions, soft_mask(horizon, frozen, overlap), frozen)

    def _carried(self, chunk: ActionChunk, due_ns: int, observation_ns: int, arm_positions: Array) -> Array:
        """The driving chunk's motion as actions [horizon, names] of a new chunk; after its end it stands."""
        steps = np.arange(1, len(chunk.data) + 1)
        # In steps of the driving chunk: its waypoint k is at k + 1, the new one's at `there`.
        there = (observation_ns - due_ns) / to_ns(chunk.period_s) + steps
        row = np.clip(np.ceil(there - 1e-6).astype(int) - 1, 0, len(chunk.data) - 1)
        gripper = chunk.data[row, -1:]
        if chunk.action_space == "joint_position":
            joints = chunk.data[:, :-1]
            arm = np.stack([np.interp(there, steps, joint) for joint in joints.T], axis=1)
            return np.concatenate([arm, gripper], axis=1)
        on_observation = chunk.composition == "observation"
        position, rotation = np.zeros(3), np.eye(3)
        if on_observation:
            position, rotation = self._kinematics.forward(chunk.observation_positions)
        way = _Poses(position, rotation, *compose_ee_deltas(position, rotation, chunk.data))
        # Deltas do not depend on where they start; what does is how far the arm is from its way by now.
        position, rotation = way.at(float(there[0]) - 1.0)
        if on_observation:
            position, rotation = self._kinematics.forward(arm_positions)
        poses = [way.at(float(step)) for step in there]
        positions, rotations = np.stack([p for p, _ in poses]), np.stack([r for _, r in poses])
        return np.concatenate([relative_ee_deltas(position, rotation, positions, rotations), gripper], axis=1)


class _Poses:
    """Poses at whole steps, the start being step 0; in between straight and with constant turn."""

    def __init__(self, position: Array, rotation: Array, positions: Array, rotations: Array) -> None:
        self._positions = np.concatenate([position[None], positions])
        self._rotations = np.concatenate([rotation[None], rotations])

    def at(self, step: float) -> tuple[Array, Array]:
        """Position [3] and rotation [3, 3], held before the start and after the end."""
        step = min(max(step, 0.0), len(self._positions) - 1.0)
        i = min(int(step), len(self._positions) - 2)
        u = step - i
        p0, p1, r0, r1 = *self._positions[i : i + 2], *self._rotations[i : i + 2]
        # The turn of one step is small: its euler angles scale.
        turn = euler_to_matrix(u * matrix_to_euler(r1 @ r0.T))
        return p0 + u * (p1 - p0), turn @ r0
