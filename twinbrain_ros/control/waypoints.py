"""From a chunk's action space to joint waypoints, inside the workspace and the joint limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.room import Room
from twinbrain_ros.robot.actions import compose_ee_deltas
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile

Array = NDArray[np.float64]

# The corners of a workspace box are often just out of an arm's reach. A pose that inverse kinematics misses
# by less than this becomes the nearest one that can be reached, as a pose outside the box becomes the nearest
# one inside; holding there would trap the arm, as the next chunk would ask for the same. What is missed by
# more is not the pose the policy asked for.
MAX_POSITION_ERROR_M = 0.05
MAX_ROTATION_ERROR_RAD = 0.3
# A joint that would have to move this many times faster than it can has changed branch (elbow up to elbow
# down, a wrist turned round): following it would swing the arm through poses nobody asked for.
BRANCH_JUMP_FACTOR = 2.0
GRIPPER_THRESHOLD = 0.5  # an opening above this opens, else closes (WidowX convention)


class WaypointError(ValueError):
    """The chunk's waypoints cannot be executed on this arm."""


@dataclass(frozen=True)
class Waypoints:
    """Joint waypoints of some steps of a chunk: arm [N, J] in rad, finger_m [N] in m.

    `cut` says why the steps after them are left out, empty if none are.
    """

    arm: Array
    finger_m: Array
    cut: str = ""


class WaypointMaker:
    """Turns steps of a chunk into joint waypoints.

    Args:
        robot: limits, workspace box, gripper and action space.
        kinematics: of the same robot.
    """

    def __init__(self, robot: RobotFile, kinematics: Kinematics) -> None:
        self._robot = robot
        self._kinematics = kinematics
        self._room = Room(robot.workspace)
        self._speed = np.array([robot.limits[name].velocity for name in robot.arm_joints])

    def make(
        self, chunk: ActionChunk, first: int, last: int, start_q: Array, target_at_due: Callable[[], Array]
    ) -> Waypoints:
        """Waypoints of the steps `first` to `last`, both included, without those from an unreachable one on.

        Holding at once because of a pose that is still some steps away would trap the arm short of it.

        Args:
            chunk: validated against the robot.
            first, last: steps that will be executed; only these cost inverse kinematics.
            start_q: [J] joints that the motion starts from [rad], the seed of inverse kinematics.
            target_at_due: gives the joints [J] that were commanded at the chunk's due time [rad]; asked
                only when the chunk composes on the previous target.
        Raises:
            WaypointError: the first pose is out of reach, or a joint would have to jump to it.
        """
        self._room.hold(self._kinematics.forward(start_q)[0])
        joints = chunk.action_space == "joint_position"
        if joints:
            solve = self._joints_solver(chunk)
        else:
            base = chunk.observation_positions if chunk.composition == "observation" else target_at_due()
            solve = self._deltas_solver(chunk, last, np.asarray(base, dtype=np.float64))
        arm: list[Array] = []
        cut, seed = "", start_q
        for step in range(first, last + 1):
            try:
                seed = solve(step, seed)
            except WaypointError as error:
                if not arm:
                    raise
                cut = str(error)
                break
            arm.append(seed)
        openings = chunk.data[first : first + len(arm), -1]
        finger = self._proportional(openings) if joints else self._switched(openings)
        return Waypoints(np.array(arm), finger, cut)

    def _proportional(self, openings: Array) -> Array:
        return np.array([self._robot.gripper.finger(opening) for opening in openings])

    def _switched(self, openings: Array) -> Array:
        gripper = self._robot.gripper
        return np.where(openings > GRIPPER_THRESHOLD, gripper.open_m, gripper.closed_m).astype(np.float64)

    def _deltas_solver(self, chunk: ActionChunk, last: int, base_q: Array) -> Callable[[int, Array], Array]:
        position, rotation = self._kinematics.forward(base_q)
        positions, rotations = compose_ee_deltas(position, rotation, chunk.data[: last + 1, :6])

        def solve(step: int, previous: Array) -> Array:
            q = self._solve(step, positions[step], rotations[step], previous)
            self._check_jump(step, previous, q, chunk.period_s)
            return q

        return solve

    def _joints_solver(self, chunk: ActionChunk) -> Callable[[int, Array], Array]:
        """Absolute joint targets; one whose tool leaves the room is moved to its border."""
        count = len(self._robot.arm_joints)

        def solve(step: int, previous: Array) -> Array:
            q = np.asarray(chunk.data[step, :count], dtype=np.float64)
            position, rotation = self._kinematics.forward(q)
            if self._room.outside_m(position) > 0:
                q = self._solve(step, position, rotation, q)
            return q

        return solve

    def _solve(self, step: int, position: Array, rotation: Array, seed: Array) -> Array:
        inside = self._room.clip(position)
        result = self._kinematics.inverse(inside, rotation, seed)
        far = result.position_error_m > MAX_POSITION_ERROR_M
        if far or result.rotation_error_rad > MAX_ROTATION_ERROR_RAD:
            x, y, z = inside
            raise WaypointError(
                f"step {step}: no arm position reaches ({x:.3f}, {y:.3f}, {z:.3f}) m: missed by "
                f"{result.position_error_m * 1e3:.1f} mm and {result.rotation_error_rad:.2f} rad, expected "
                f"at most {MAX_POSITION_ERROR_M * 1e3:.0f} mm and {MAX_ROTATION_ERROR_RAD} rad"
            )
        return np.asarray(result.q, dtype=np.float64)

    def _check_jump(self, step: int, previous: Array, q: Array, period_s: float) -> None:
        moved = np.abs(q - previous)
        allowed = BRANCH_JUMP_FACTOR * self._speed * period_s
        if np.any(moved > allowed):
            worst = int(np.argmax(moved / allowed))
            raise WaypointError(
                f"step {step}: joint {self._robot.arm_joints[worst]!r} would have to jump by "
                f"{moved[worst]:.2f} rad in {period_s} s, expected at most {allowed[worst]:.2f} rad"
            )
