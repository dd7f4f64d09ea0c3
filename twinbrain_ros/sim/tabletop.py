"""The simulated tabletop: physics, servos, cameras and the truth about the scene; deterministic."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from twinbrain_ros.robot.poses import HOME
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.camera import RayCamera
from twinbrain_ros.sim.model import block_body, build_model, plate_body
from twinbrain_ros.sim.scene import BLOCKS, PLATES, Placement, Scene, draw_scene
from twinbrain_ros.sim.state import ObjectState, SceneState
from twinbrain_ros.sim.tasks import BLOCK_EDGE_M
from twinbrain_ros.text import shown

# Far apart in hue, and none near the greys of arm and table, also in the shade.
COLOUR_RGB = {
    "red": (0.85, 0.10, 0.08),
    "green": (0.08, 0.62, 0.16),
    "blue": (0.08, 0.28, 0.90),
    "yellow": (0.95, 0.80, 0.05),
    "purple": (0.58, 0.12, 0.72),
}


class TabletopSim:
    """A table with three blocks, two plates and the arm of a robot file. Not thread-safe.

    Args:
        robot: the arm.
        timestep_s: of the physics; `step` advances by whole ones.
    """

    def __init__(self, robot: RobotFile, timestep_s: float = 0.002) -> None:
        self.robot = robot
        self.timestep_s = timestep_s
        self.model = build_model(robot, timestep_s)
        self.data = mujoco.MjData(self.model)
        model = self.model
        joints = [model.joint(name) for name in robot.arm_joints]
        self._arm_qpos = np.array([joint.qposadr[0] for joint in joints])
        self._arm_dofs = np.array([joint.dofadr[0] for joint in joints])
        fingers = [model.joint(name) for name in (robot.gripper.joint, robot.gripper.mimic)]
        self._finger_qpos = np.array([joint.qposadr[0] for joint in fingers])
        self._finger_dof = int(fingers[0].dofadr[0])
        self._arm_servos = np.array([model.actuator(name).id for name in robot.arm_joints])
        self._finger_servo = model.actuator(robot.gripper.joint).id
        self._tool = model.body(robot.tool_frame).id
        self._finger_bodies = [joint.bodyid[0] for joint in fingers]
        # Whatever can touch a block without being one, or what it stands on, is part of the gripper.
        solid = model.geom_bodyid[model.geom_contype != 0].tolist()
        self._block_bodies = [model.body(block_body(index)).id for index in range(BLOCKS)]
        self._plate_bodies = [model.body(plate_body(index)).id for index in range(PLATES)]
        self._gripper_bodies = set(solid) - set(self._block_bodies)
        self._cameras = {camera.name: RayCamera(model, camera) for camera in robot.cameras}
        self._steps = 0
        self._unspent_s = 0.0
        self.scene = self.reset(0, "pick")

    def reset(self, seed: int, task: str, pose: str = HOME) -> Scene:
        """Start an episode at time 0: objects and goal drawn from the seed, arm in a pose, gripper open.

        Raises:
            ValueError: unknown task or pose.
        """
        return self.load(draw_scene(seed, task), pose)

    def load(self, scene: Scene, pose: str = HOME) -> Scene:
        """Start an episode with a given scene, otherwise as `reset`."""
        if pose not in self.robot.poses:
            raise ValueError(f"pose is {shown(pose)}, expected one of {', '.join(self.robot.poses)}")
        mujoco.mj_resetData(self.model, self.data)
        self._steps = 0
        self._unspent_s = 0.0
        self.scene = scene
        for index, placement in enumerate(scene.objects):
            self._colour(self._object_body(index), placement)
            self.place(placement.name, (placement.x, placement.y, 0.0), placement.yaw)
        start = self.robot.poses[pose]
        self.teleport(start.arm, self.robot.gripper.open_m if start.finger_m is None else start.finger_m)
        return scene

    def place(self, name: str, position: tuple[float, float, float], yaw: float = 0.0) -> None:
        """Put an object down, at rest: ``position`` [m] is where the centre of its underside goes."""
        index = [entry.name for entry in self.scene.objects].index(name)
        x, y, z = position
        turn = [math.cos(0.5 * yaw), 0.0, 0.0, math.sin(0.5 * yaw)]
        if index >= BLOCKS:
            mocap = self.model.body_mocapid[self._object_body(index)]
            self.data.mocap_pos[mocap] = [x, y, z]
            self.data.mocap_quat[mocap] = turn
        else:
            joint = self.model.body_jntadr[self._object_body(index)]
            address, dof = self.model.jnt_qposadr[joint], self.model.jnt_dofadr[joint]
            self.data.qpos[address : address + 7] = [x, y, z + 0.5 * BLOCK_EDGE_M, *turn]
            self.data.qvel[dof : dof + 6] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def teleport(self, arm_q: np.ndarray, finger_m: float) -> None:
        """Put arm [6, rad] and fingers [m] somewhere, at rest, servo targets included."""
        self.data.qpos[self._arm_qpos] = arm_q
        self.data.qpos[self._finger_qpos] = finger_m
        self.data.qvel[: self._arm_dofs.max() + 3] = 0.0
        self.set_arm_target(arm_q)
        self.set_gripper_target(finger_m)
        mujoco.mj_forward(self.model, self.data)

    def knock_camera(self, name: str, shift_m: tuple[float, float, float], yaw: float) -> None:
        """Move a camera of the world, for good: by [m] along the base's axes, and turned by [rad] about z.

        Raises:
            KeyError: no such camera.
            ValueError: it is mounted on the arm.
        """
        camera = self.model.camera(name)
        if self.model.cam_bodyid[camera.id] != 0:
            raise ValueError(f"camera {name!r} is mounted on the arm, expected one that stands in the world")
        turned = np.zeros(4)
        turn = np.array([math.cos(0.5 * yaw), 0.0, 0.0, math.sin(0.5 * yaw)])
        mujoco.mju_mulQuat(turned, turn, self.model.cam_quat[camera.id])
        self.model.cam_quat[camera.id] = turned
        self.model.cam_pos[camera.id] += shift_m
        mujoco.mj_forward(self.model, self.data)

    def set_arm_target(self, q: np.ndarray) -> None:
        """Set the position targets [6, rad] of the arm's servos; clipped into the joint limits."""
        self.data.ctrl[self._arm_servos] = np.clip(q, self.robot.lower, self.robot.upper)

    def set_gripper_target(self, finger_m: float) -> None:
        """Set the position target [m] of the finger servo; clipped into its range."""
        gripper = self.robot.gripper
        self.data.ctrl[self._finger_servo] = gripper.clipped(float(finger_m))

    def step(self, duration_s: float) -> None:
        """Advance by ``duration_s``, in whole timesteps; what does not fill one is kept for the next call."""
        self._unspent_s += duration_s
        count = math.floor(self._unspent_s / self.timestep_s + 1e-6)
        if count > 0:
            mujoco.mj_step(self.model, self.data, count)
            self._unspent_s -= count * self.timestep_s
            self._steps += count

    def render(self, camera: str) -> np.ndarray:
        """Return the image of a camera of the robot file, uint8 RGB [height, width, 3].

        Raises:
            KeyError: no such camera.
        """
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        return self._cameras[camera].render(self.model, self.data)

    def segment(self, camera: str) -> np.ndarray:
        """Return what each pixel shows: int32 [height, width], index into ``scene.objects`` or -1."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        lookup = np.full(self.model.ngeom + 1, -1, dtype=np.int32)
        for index in range(len(self.scene.objects)):
            lookup[self.model.body_geomadr[self._object_body(index)]] = index
        return lookup[self._cameras[camera].segment(self.model, self.data)]

    @property
    def time_ns(self) -> int:
        """Simulated time since the reset [ns]."""
        return round(self._steps * self.timestep_s * 1e9)

    @property
    def arm_positions(self) -> np.ndarray:
        """Arm joint positions [6], rad."""
        return self.data.qpos[self._arm_qpos]

    @property
    def arm_velocities(self) -> np.ndarray:
        """Arm joint velocities [6], rad/s."""
        return self.data.qvel[self._arm_dofs]

    @property
    def finger_position(self) -> float:
        """Left finger position [m]."""
        return float(self.data.qpos[self._finger_qpos[0]])

    @property
    def finger_velocity(self) -> float:
        """Left finger velocity [m/s]."""
        return float(self.data.qvel[self._finger_dof])

    def scene_state(self) -> SceneState:
        """Return the truth about the scene, now."""
        mujoco.mj_kinematics(self.model, self.data)
        objects = [self._object_state(index, entry) for index, entry in enumerate(self.scene.objects)]
        held, touching = self._contacts()
        return SceneState(
            time_ns=self.time_ns,
            tool_position=self.data.xpos[self._tool].copy(),
            tool_rotation=self.data.xmat[self._tool].reshape(3, 3).copy(),
            gripper_opening=self.robot.gripper.opening(self.finger_position),
            objects=tuple(objects),
            held=held,
            touching=touching,
        )

    def _object_body(self, index: int) -> int:
        return self._block_bodies[index] if index < BLOCKS else self._plate_bodies[index - BLOCKS]

    def _colour(self, body: int, placement: Placement) -> None:
        self.model.geom_rgba[self.model.body_geomadr[body], :3] = COLOUR_RGB[placement.colour]

    def _object_state(self, index: int, placement: Placement) -> ObjectState:
        body = self._object_body(index)
        speed = 0.0
        if index < BLOCKS:
            velocity = self.data.qvel[self.model.body_dofadr[body] :][:3]
            speed = math.sqrt(float(velocity @ velocity))
        return ObjectState(
            placement.name,
            placement.kind,
            placement.colour,
            self.data.xpos[body].copy(),
            self.data.xmat[body].reshape(3, 3).copy(),
            speed,
        )

    def _contacts(self) -> tuple[str, frozenset[str]]:
        """Return the block between the fingers, if any, and all blocks the gripper touches."""
        touched: dict[int, set[int]] = {}
        bodies = self.model.geom_bodyid[self.data.contact.geom]
        for first, second in bodies.tolist():
            for block, other in ((first, second), (second, first)):
                if block in self._block_bodies and other in self._gripper_bodies:
                    touched.setdefault(block, set()).add(other)
        held = ""
        for block, others in touched.items():
            if all(finger in others for finger in self._finger_bodies):
                held = self.scene.objects[self._block_bodies.index(block)].name
        return held, frozenset(self.scene.objects[self._block_bodies.index(block)].name for block in touched)
