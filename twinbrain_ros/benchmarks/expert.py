"""A scripted expert for put-on tasks of a parallel gripper, from what only the simulator knows.

It shows that a task can be done through an adapter with its conventions, and demonstrates it. Without memory:
what to do next follows from where things are, so that a dropped object is picked up again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.actions import TOOL_DOWN, euler_to_matrix, matrix_to_euler

Array = NDArray[np.float64]

_MOST_MOVE_M = 0.05  # per step
_MOST_TURN_RAD = 0.25  # so that a turn takes about as long as the way, and is spread over as many steps
_TRAVEL_M = 0.11  # tool height between places, and of the underside of what is carried less what hangs below
_LOWEST_TOOL_M = 0.014
_PAD_OFFSET_M, _CLOSED_M, _TRAVEL_FINGER_M = (
    0.013,
    0.015,
    0.022,
)  # WidowX fingers: pad, closed, closed to open
_SLOPE = 2.5  # of the funnel: height over horizontal distance
_ABOVE_M = 0.008  # horizontal distance that counts as above
_PLACED_M = 0.012
_STANDING_M_S = 0.02  # the tool stands still
_REACH_DOWN_M = 0.022  # of the pads below the tool
_RELEASE_GAP_M = 0.006
_RELEASE_SLACK_M = 0.004  # the arm comes to rest slowly; nothing is to be waited for
_HELD_WITHIN_M = 0.03


class PutOnExpert:
    """One action per step: [1, 7] deltas dx dy dz [m], droll dpitch dyaw [rad], gripper, on the measured
    pose."""

    def act(self, state: Mapping[str, Array], truth: Mapping[str, Array]) -> Array:
        """The next action. Raises KeyError where the suite tells no truth."""
        position, rotation = state["position"], state["rotation"]
        goal, yaw, gripper = self._goal(state, truth)
        way = goal - position
        move = way * min(1.0, _MOST_MOVE_M / max(float(np.linalg.norm(way)), 1e-9))
        now = math.atan2(rotation[1, 2], rotation[0, 2])
        turn = min(max(yaw - now, -_MOST_TURN_RAD), _MOST_TURN_RAD)
        wanted = euler_to_matrix(np.array([0.0, 0.0, now + turn])) @ TOOL_DOWN
        return np.concatenate([move, matrix_to_euler(wanted @ rotation.T), [gripper]])[None]

    def _goal(self, state: Mapping[str, Array], truth: Mapping[str, Array]) -> tuple[Array, float, float]:
        """Where the tool should be, how it should be turned, and the gripper."""
        position, rotation, opening = state["position"], state["rotation"], float(state["gripper"][0])
        source, target = truth["source_position"], truth["target_position"]
        half = _extents(truth["source_rotation"], truth["source_size"]) / 2
        top = _height_under(source, target, truth["target_rotation"], truth["target_size"])
        now = math.atan2(rotation[1, 2], rotation[0, 2])
        to_target = target[:2] - source[:2]
        away = float(np.hypot(*to_target))
        yaw, width = grasp_yaw(truth["source_rotation"], truth["source_size"], now)
        closed_on = (width / 2 + _PAD_OFFSET_M - _CLOSED_M) / _TRAVEL_FINGER_M
        beside = position - source
        near = np.hypot(beside[0], beside[1]) < _HELD_WITHIN_M and abs(beside[2]) < _HELD_WITHIN_M
        held = near and 0.3 * closed_on < opening < closed_on + 0.15
        low_enough = source[2] - half[2] < top + _RELEASE_GAP_M + _RELEASE_SLACK_M
        if (away < _PLACED_M and low_enough) or (truth["success"][0] and not held):
            # It is where it belongs: let go, then leave upwards.
            up = position[2] if near and opening < 0.85 else _TRAVEL_M + top
            return np.array([*position[:2], up]), now, 1.0
        if held:
            hang = position[2] - (source[2] - half[2])
            low = top + _RELEASE_GAP_M + hang
            height = _funnel(max(away - _PLACED_M / 2, 0.0), low, top + 0.06 + hang)
            sideways = to_target if position[2] > height - 0.02 else np.zeros(2)
            return np.array([*(position[:2] + sideways), height]), now, 0.0
        apart = float(np.hypot(beside[0], beside[1]))
        low = max(source[2], _LOWEST_TOOL_M)
        ready = apart < _ABOVE_M and abs(yaw - now) < 0.15
        # A wall of the sink may hold the fingers up: then where they have got to has to do.
        held_up = truth["tool_speed"][0] < _STANDING_M_S and state["target_position"][2] < low + 0.004
        if ready and position[2] < low + (_REACH_DOWN_M if held_up else 0.008):
            return np.array([*source[:2], low]), yaw, 0.0
        height = _funnel(
            apart + 0.1 * max(abs(yaw - now) - 0.1, 0.0) + 0.05 * (1 - opening), low, source[2] + _TRAVEL_M
        )
        sideways = -beside[:2] if position[2] > height - 0.04 else np.zeros(2)
        return np.array([*(position[:2] + sideways), height]), yaw, 1.0


def _extents(rotation: Array, size: Array) -> Array:
    """Sides of the upright box around a turned one [m]."""
    return np.asarray(np.abs(rotation) @ size)


def _height_under(place: Array, target: Array, rotation: Array, size: Array) -> float:
    """Height of a target's upper side where a place is above it, in the middle's neighbourhood [m]."""
    # A plate, a mat and the bottom of a basket are flat; that of a basket may be tilted.
    up = int(np.argmax(np.abs(rotation[2])))
    normal = rotation[:, up] * np.sign(rotation[2, up])
    reach = np.clip(place[:2] - target[:2], -_PLACED_M, _PLACED_M)
    return float(target[2] + size[up] / 2 - reach @ normal[:2] / normal[2])


def grasp_yaw(rotation: Array, size: Array, now: float) -> tuple[float, float]:
    """Yaw [rad] at which the fingers close on the object's narrowest upright side, nearest to `now`; its
    width."""
    best: tuple[float, float, float] | None = None
    flat = [i for i in range(3) if abs(rotation[2, i]) < 0.7]
    for i in flat:
        # The fingers close along the tool's y axis, which at yaw 0 is the base's.
        yaw = math.atan2(-rotation[0, i], rotation[1, i])
        yaw = now + (yaw - now + math.pi / 2) % math.pi - math.pi / 2
        candidate = (round(float(size[i]), 3), abs(yaw - now), yaw)
        best = candidate if best is None else min(best, candidate)
    assert best is not None  # of three axes at right angles two lie flat enough
    return best[2], best[0]


def _funnel(away: float, low: float, high: float) -> float:
    return min(low + _SLOPE * max(away - _ABOVE_M, 0.0), max(low, high))
