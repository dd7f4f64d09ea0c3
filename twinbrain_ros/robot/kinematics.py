"""Forward and inverse kinematics of the arm, from its URDF: MuJoCo, with mink for the inverse."""

from __future__ import annotations

from dataclasses import dataclass

import mink
import mujoco
import numpy as np

from twinbrain_ros.robot.robot_file import RobotFile

_MAX_ITERATIONS = 40
_SOLVER = "daqp"
_NEWTON_STEPS = 5
_NEWTON_RCOND = 1e-2  # near a singular pose plain steps are too long: that is for the solver with limits
_MAX_STEP_RAD = 0.4  # per iteration and joint: the linear model is not to be trusted further
_POSITION_TOLERANCE_M = 1e-5
_ROTATION_TOLERANCE_RAD = 1e-4
# A radian of rotation error weighs as much as this many metres: about the distance from wrist to fingertips.
ROTATION_WEIGHT_M = 0.2
# Levenberg-Marquardt, scaled by the remaining error: what keeps steps tame near singular poses.
_DAMPING = 1e-2


@dataclass(frozen=True)
class IkResult:
    """A solution within the joint limits, and how far from the wanted pose it is."""

    q: np.ndarray
    position_error_m: float
    rotation_error_rad: float

    def reached(self, position_tolerance_m: float = 2e-4, rotation_tolerance_rad: float = 2e-3) -> bool:
        """Return whether both errors are within their tolerances."""
        near = self.position_error_m <= position_tolerance_m
        return near and self.rotation_error_rad <= rotation_tolerance_rad


class Kinematics:
    """Kinematics of the arm joints of a robot file; the gripper does not matter to it. Not thread-safe."""

    def __init__(self, robot: RobotFile) -> None:
        spec = mujoco.MjSpec.from_string(robot.urdf())
        for geom in list(spec.geoms):  # shapes play no part in kinematics
            spec.delete(geom)
        self._model = spec.compile()
        if self._model.body_parentid[self._model.body(robot.base_frame).id] != 0:
            raise ValueError(f"base frame '{robot.base_frame}' is not the root of {robot.urdf_path.name}")
        self._qpos = np.array([self._model.joint(name).qposadr[0] for name in robot.arm_joints])
        self._dofs = np.array([self._model.joint(name).dofadr[0] for name in robot.arm_joints])
        self._body = self._model.body(robot.tool_frame).id
        self._lower, self._upper = robot.lower, robot.upper
        # Joints that are not the arm's rest in the middle of their range, where no limit is active.
        self._rest = np.where(self._model.jnt_limited, self._model.jnt_range.mean(axis=1), 0.0)
        self._configuration = mink.Configuration(self._model)
        # Forward kinematics alone is asked for several times a tick: a place of its own, without the rest.
        self._data = mujoco.MjData(self._model)
        self._data.qpos[:] = self._rest
        self._task = mink.FrameTask(
            robot.tool_frame,
            "body",
            position_cost=1.0,
            orientation_cost=ROTATION_WEIGHT_M,
            lm_damping=_DAMPING,
        )
        self._limits = [mink.ConfigurationLimit(self._model)]

    def forward(self, arm_q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tool's position [3] (m) and rotation [3, 3] in the base frame for joints [6] (rad)."""
        data = self._data
        data.qpos[self._qpos] = arm_q
        mujoco.mj_kinematics(self._model, data)
        return data.xpos[self._body].copy(), data.xmat[self._body].reshape(3, 3).copy()

    def jacobian(self, arm_q: np.ndarray) -> np.ndarray:
        """Return how the tool moves with the joints, [6, J] in base axes: m/rad and rad/rad."""
        self._set(np.asarray(arm_q, dtype=np.float64))
        linear, angular = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        mujoco.mj_jacBody(self._model, self._configuration.data, linear, angular, self._body)
        return np.concatenate([linear, angular])[:, self._dofs]

    def inverse(self, position: np.ndarray, rotation: np.ndarray, seed_q: np.ndarray) -> IkResult:
        """Find joints that bring the tool to a pose, near a seed.

        Args:
            position: [3], metres, base frame.
            rotation: [3, 3], base frame.
            seed_q: [6], radians; clipped into the limits. The nearer, the faster and the surer.

        Returns:
            The best found, always inside the joint limits; for an unreachable pose its errors tell.
        """
        near = self._newton(position, rotation, seed_q)
        if near is not None:
            return near
        target = mink.SO3.from_matrix(np.asarray(rotation, dtype=np.float64).reshape(3, 3))
        wanted = np.asarray(position, dtype=np.float64)
        self._task.set_target(mink.SE3.from_rotation_and_translation(target, wanted))
        self._set(np.clip(np.asarray(seed_q, dtype=np.float64), self._lower, self._upper))
        best = self._reading(target, wanted)
        for _ in range(_MAX_ITERATIONS):
            if best.reached(_POSITION_TOLERANCE_M, _ROTATION_TOLERANCE_RAD):
                break
            try:
                step = mink.solve_ik(self._configuration, [self._task], 1.0, _SOLVER, limits=self._limits)
            except mink.MinkError:  # no step keeps the limits: what was found so far is the answer
                break
            step *= min(1.0, _MAX_STEP_RAD / max(float(np.max(np.abs(step))), 1e-9))
            self._set(np.clip((self._configuration.q + step)[self._qpos], self._lower, self._upper))
            reading = self._reading(target, wanted)
            if _cost(reading) < _cost(best):
                best = reading
        return best

    def _newton(self, position: np.ndarray, rotation: np.ndarray, seed_q: np.ndarray) -> IkResult | None:
        """A solution within few plain Newton steps, as for the next waypoint of a path; None elsewhere.

        A tenth of the time that the solver with limits takes, and it is what keeps a chunk's arrival from
        delaying a controller's tick.
        """
        wanted = np.asarray(rotation, dtype=np.float64).reshape(3, 3)
        q = np.clip(np.asarray(seed_q, dtype=np.float64), self._lower, self._upper)
        for _ in range(_NEWTON_STEPS + 1):
            here, turned = self.forward(q)
            error = pose_error(np.asarray(position, dtype=np.float64), wanted, here, turned)
            if np.trace(wanted @ turned.T) < 1.0:  # beyond a quarter turn the sine does not tell any more
                return None
            found = IkResult(q, float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:])))
            if found.reached(_POSITION_TOLERANCE_M, _ROTATION_TOLERANCE_RAD):
                return found
            step = np.linalg.lstsq(self.jacobian(q), error, rcond=_NEWTON_RCOND)[0]
            q = q + step
            outside = np.any(q < self._lower) or np.any(q > self._upper)
            if outside or np.max(np.abs(step)) > _MAX_STEP_RAD:
                return None
        return None

    def _set(self, arm_q: np.ndarray) -> None:
        q = self._rest.copy()
        q[self._qpos] = arm_q
        self._configuration.update(q)

    def _reading(self, rotation: mink.SO3, position: np.ndarray) -> IkResult:
        """The present joints and their plain errors; mink's own mix both in one screw motion."""
        data = self._configuration.data
        found = mink.SO3.from_matrix(data.xmat[self._body].reshape(3, 3))
        arm_q = self._configuration.q[self._qpos].copy()
        far = float(np.linalg.norm(data.xpos[self._body] - position))
        return IkResult(arm_q, far, float(np.linalg.norm(rotation.rminus(found))))


def pose_error(
    position: np.ndarray, rotation: np.ndarray, from_position: np.ndarray, from_rotation: np.ndarray
) -> np.ndarray:
    """Return the way from one pose to another, [6] in m and rad, base axes; for turns small enough that the
    sine of their angle is the angle."""
    turn = rotation @ from_rotation.T
    vector = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    return np.concatenate([position - from_position, vector])


def _cost(result: IkResult) -> float:
    return result.position_error_m**2 + (ROTATION_WEIGHT_M * result.rotation_error_rad) ** 2
