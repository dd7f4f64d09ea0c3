"""Joints that move the tool along a straight line, as fast as the arm can there."""

from __future__ import annotations

import numpy as np

from twinbrain_ros.control.motion import Array, MotionLimits
from twinbrain_ros.control.room import Room
from twinbrain_ros.robot.actions import euler_to_matrix
from twinbrain_ros.robot.kinematics import ROTATION_WEIGHT_M, Kinematics, pose_error

# Towards a singular pose (a stretched elbow, wrist axes in line) the tool is slowed down from the first
# ratio of the Jacobian's largest to smallest singular value on, and stopped at the second; away from one not.
# Only those singular values count whose direction takes part in what was asked for by more than the share: a
# folded arm that cannot move its tool to the side can still lift it.
SLOW_AT, STOP_AT = 8.0, 20.0
TAKES_PART = 0.05
# Share of the joints' limits of velocity and acceleration that is asked for: the arm must be able to keep up,
# else it would cut corners.
JOINT_SHARE = 0.7
# How far off its line the tool may be [m, rotations weighted as above], as where a joint is at its limit.
STRAY_M = 0.005
SMALLEST_SHARE = 0.01  # of what was asked for; with less the arm cannot go on
_WEIGHTS = np.array([1.0, 1.0, 1.0, *[ROTATION_WEIGHT_M] * 3])


class ToolServo:
    """Follows twists of the tool with joints, from where it is placed.

    Args:
        kinematics: of the arm.
        room: that the tool stays in; it slides along its border.
        limits: of joint positions and velocities.
    """

    def __init__(self, kinematics: Kinematics, room: Room, limits: MotionLimits) -> None:
        self._kinematics, self._bounds, self._limits = kinematics, room, limits

    def place(self, q: Array) -> None:
        """Begins at joints [J]."""
        self.q, self.v = q, np.zeros_like(q)
        self._pose = self._kinematics.forward(q)

    def step(self, twist: Array, elapsed_s: float) -> bool:
        """Moves on by a twist [6] m/s and rad/s, base axes, for a time; False if it cannot, and stays."""
        jacobian, before = self._jacobian(self.q), self.v
        self.v = np.zeros_like(before)
        wanted = self._moved(twist * elapsed_s)
        way = self._way(jacobian, wanted)
        asked = _WEIGHTS * np.append(wanted[0] - self._pose[0], twist[3:] * elapsed_s)
        share = min(self._keeping_up(way, before, elapsed_s), self._room(jacobian, way, asked))
        if share < SMALLEST_SHARE:
            return False
        pose = self._moved(share * twist * elapsed_s)
        way = self._way(jacobian, pose)
        way = way * self._keeping_up(way, before, elapsed_s)
        q = np.clip(self.q + way, self._limits.lower, self._limits.upper)
        if np.linalg.norm(self._error(pose, q)) > STRAY_M:
            return False
        self.v = (q - self.q) / elapsed_s
        self.q, self._pose = q, pose
        return True

    def _keeping_up(self, way: Array, before: Array, elapsed_s: float) -> float:
        """The largest share, up to 1, of a joint step that the arm can do, and stop after before a limit."""
        asked = np.maximum(np.abs(way) / elapsed_s, 1e-9)
        gain = JOINT_SHARE * self._limits.acceleration
        before = np.maximum(np.sign(way) * before, 0.0)
        fastest = np.minimum(before + gain * elapsed_s, JOINT_SHARE * self._limits.velocity)
        # All joints stop together, on the line: as late as the fastest can, before the first is at its limit.
        room = np.where(way > 0, self._limits.upper - self.q, self.q - self._limits.lower)
        stops = np.sqrt(2 * np.min(gain / np.max(asked)) * np.maximum(room, 0.0) / asked)
        return float(min(1.0, np.min(fastest / asked), np.min(stops)))

    def _moved(self, step: Array) -> tuple[Array, Array]:
        """The pose on the line, further by a step [6] in m and rad, inside the room."""
        position, rotation = self._pose
        return self._bounds.clip(position + step[:3]), euler_to_matrix(step[3:]) @ rotation

    def _jacobian(self, q: Array) -> Array:
        return _WEIGHTS[:, None] * self._kinematics.jacobian(q)

    def _error(self, pose: tuple[Array, Array], q: Array) -> Array:
        """From where the tool is with `q` to a pose, [6] weighted."""
        position, rotation = self._kinematics.forward(q)
        return _WEIGHTS * pose_error(*pose, position, rotation)

    def _way(self, jacobian: Array, pose: tuple[Array, Array]) -> Array:
        """Joint step [J] towards a pose; nothing in directions that are beyond the last ratio anyway."""
        step = np.linalg.lstsq(jacobian, self._error(pose, self.q), rcond=0.5 / STOP_AT)[0]
        return np.asarray(step, dtype=np.float64)

    def _room(self, jacobian: Array, way: Array, asked: Array) -> float:
        """Share of the speed, 0 to 1, that nearness to a singular pose leaves."""
        ahead = np.clip(self.q + way, self._limits.lower, self._limits.upper)
        now, then = _ratio(jacobian, asked), _ratio(self._jacobian(ahead), asked)
        if then <= now:
            return 1.0
        return float(np.clip((STOP_AT - then) / (STOP_AT - SLOW_AT), 0.0, 1.0))


def _ratio(jacobian: Array, step: Array) -> float:
    """Largest singular value to the smallest one whose direction takes part in a step [6] of the tool."""
    directions, values, _ = np.linalg.svd(jacobian)
    parts = np.abs(directions.T @ step)
    least = np.min(values[parts > TAKES_PART * np.linalg.norm(step)], initial=values[0])
    return float(values[0] / max(least, 1e-9))
