"""Builds the MuJoCo model of the tabletop: the arm from its URDF, then table, objects, servos and cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from twinbrain_ros.robot.robot_file import Camera, RobotFile
from twinbrain_ros.sim.scene import BLOCKS, PLATES
from twinbrain_ros.sim.tasks import BLOCK_EDGE_M, PLATE_HEIGHT_M, PLATE_RADIUS_M

VISUAL_GROUP = 1  # what cameras see; group 0 is what collides
_COLLISION_GROUP = 0
_TABLE_RGBA = (0.74, 0.72, 0.68, 1.0)

# Collision bits: blocks meet everything solid, the gripper meets blocks, plates and table; no more.
_SOLID = 1
_GRIPPER_ONLY = 2

BLOCK_MASS_KG = 0.02
_BLOCK_FRICTION = (1.0, 0.005, 0.0001)
# Stiff contacts: at MuJoCo's default softness fingers sink millimetres into so light a block.
_CONTACT_TIME_S = 0.005
_CONTACT_IMPEDANCE = (0.95, 0.99, 0.0005, 0.5, 2.0)

# The servos act like a critically damped spring of this natural frequency on each joint's typical inertia
# (links and rotor), so that a moving target is followed 2 / frequency = 40 ms late.
_SERVO_FREQUENCY_RAD_S = 50.0
_TYPICAL_INERTIA_KG_M2 = (0.14, 0.16, 0.06, 0.012, 0.012, 0.006)
_ARMATURE_KG_M2 = (0.02, 0.02, 0.02, 0.008, 0.008, 0.005)
_FINGER_ARMATURE_KG = 0.02
_FINGER_STIFFNESS_N_M = 1000.0
_FINGER_DAMPING_N_S_M = 70.0  # with the force limit: at most 0.07 m/s


@dataclass(frozen=True)
class CameraMount:
    """Where a camera of a role sits.

    Attributes:
        body: its parent; the rest is in the parent's frame.
        position: [m].
        target: the point it looks at [m].
        up: where the upper edge of the image is.
        fovy_deg: vertical field of view.
    """

    body: str
    position: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float]
    fovy_deg: float


CAMERA_MOUNTS = {
    "third_person": CameraMount("world", (0.72, 0.0, 0.62), (0.255, 0.0, 0.0), (0.0, 0.0, 1.0), 30.0),
    "wrist": CameraMount("gripper_link", (0.040, 0.0, 0.050), (0.105, 0.0, 0.014), (0.0, 0.0, 1.0), 96.0),
}


def block_body(index: int) -> str:
    """Return the body name of a block."""
    return f"block_{index}"


def plate_body(index: int) -> str:
    """Return the body name of a plate."""
    return f"plate_{index}"


def build_model(robot: RobotFile, timestep_s: float) -> mujoco.MjModel:
    """Compile the model; colours and places of the objects are set later, without compiling again."""
    spec = mujoco.MjSpec.from_string(robot.urdf())
    _set_options(spec, timestep_s)
    _prepare_arm(spec, robot)
    _add_table(spec)
    for index in range(BLOCKS):
        _add_block(spec, block_body(index))
    for index in range(PLATES):
        _add_plate(spec, plate_body(index))
    _add_servos(spec, robot)
    for camera in robot.cameras:
        _add_camera(spec, camera)
    return spec.compile()


def _set_options(spec: mujoco.MjSpec, timestep_s: float) -> None:
    option = spec.option
    option.timestep = timestep_s
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0  # stiff friction: a held block does not creep
    # A grip on so light a block is stiff: a line search cut short leaves forces that throw it off.
    option.iterations = 50
    option.ls_iterations = 50
    option.tolerance = 1e-7


def _prepare_arm(spec: mujoco.MjSpec, robot: RobotFile) -> None:
    if len(robot.arm_joints) != len(_ARMATURE_KG_M2):
        raise ValueError(
            f"robot is {robot.name!r} with {len(robot.arm_joints)} joints, expected the WidowX 250 with "
            f"{len(_ARMATURE_KG_M2)}: the simulated tabletop knows no other arm's servos"
        )
    fingers = {spec.joint(name).parent.name for name in (robot.gripper.joint, robot.gripper.mimic)}
    solid = {"gripper_link", "gripper_bar_link", *fingers}
    for body in spec.bodies:
        body.gravcomp = 1.0  # real servos hold their arm up too; sag would blur every label
        for geom in list(body.geoms):
            if geom.group == VISUAL_GROUP:
                continue
            if body.name in solid:
                geom.contype, geom.conaffinity = _SOLID, _GRIPPER_ONLY
                geom.friction = _BLOCK_FRICTION
                geom.solref = (_CONTACT_TIME_S, 1.0)
                geom.solimp = _CONTACT_IMPEDANCE
            else:
                spec.delete(geom)
    for name, armature in zip(robot.arm_joints, _ARMATURE_KG_M2, strict=True):
        spec.joint(name).armature = armature
    for name in (robot.gripper.joint, robot.gripper.mimic):
        spec.joint(name).armature = _FINGER_ARMATURE_KG
    for equality in spec.equalities:  # the two fingers are geared together
        equality.solref = [0.006, 1.0]


def _add_table(spec: mujoco.MjSpec) -> None:
    spec.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[1, 1, 0.1],
        contype=0,
        conaffinity=_SOLID,
        group=_COLLISION_GROUP,
        friction=_BLOCK_FRICTION,
        solref=(_CONTACT_TIME_S, 1.0),
        solimp=_CONTACT_IMPEDANCE,
    )
    spec.worldbody.add_geom(
        name="table_top",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0.25, 0.0, -0.02],
        size=[0.45, 0.5, 0.02],
        contype=0,
        conaffinity=0,
        group=VISUAL_GROUP,
        rgba=_TABLE_RGBA,
    )


def _add_block(spec: mujoco.MjSpec, name: str) -> None:
    body = spec.worldbody.add_body(name=name, pos=[0.3, 0.0, 0.5 * BLOCK_EDGE_M])
    body.add_freejoint()
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.5 * BLOCK_EDGE_M] * 3,
        mass=BLOCK_MASS_KG,
        contype=_SOLID,
        conaffinity=_SOLID,
        group=VISUAL_GROUP,
        friction=_BLOCK_FRICTION,
        solref=(_CONTACT_TIME_S, 1.0),
        solimp=_CONTACT_IMPEDANCE,
    )


def _add_plate(spec: mujoco.MjSpec, name: str) -> None:
    # Fixed to the table (moved only between episodes): a plate that slides would be a task of its own.
    body = spec.worldbody.add_body(name=name, pos=[0.3, 0.0, 0.0], mocap=True)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        pos=[0.0, 0.0, 0.5 * PLATE_HEIGHT_M],
        size=[PLATE_RADIUS_M, 0.5 * PLATE_HEIGHT_M, 0.0],
        contype=0,
        conaffinity=_SOLID,
        group=VISUAL_GROUP,
        friction=_BLOCK_FRICTION,
        solref=(_CONTACT_TIME_S, 1.0),
        solimp=_CONTACT_IMPEDANCE,
    )


def _add_servos(spec: mujoco.MjSpec, robot: RobotFile) -> None:
    for name, inertia in zip(robot.arm_joints, _TYPICAL_INERTIA_KG_M2, strict=True):
        stiffness = inertia * _SERVO_FREQUENCY_RAD_S**2
        damping = 2.0 * inertia * _SERVO_FREQUENCY_RAD_S
        _add_servo(spec, name, stiffness, damping, robot.limits[name].effort)
    gripper = robot.gripper
    _add_servo(spec, gripper.joint, _FINGER_STIFFNESS_N_M, _FINGER_DAMPING_N_S_M, gripper.force_n)


def _add_servo(spec: mujoco.MjSpec, joint: str, stiffness: float, damping: float, force: float) -> None:
    actuator = spec.add_actuator(
        name=joint,
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        forcelimited=True,
        forcerange=[-force, force],
    )
    actuator.set_to_position(kp=stiffness, kv=damping)


def _add_camera(spec: mujoco.MjSpec, camera: Camera) -> None:
    mount = CAMERA_MOUNTS[camera.role]
    body = spec.worldbody if mount.body == "world" else spec.body(mount.body)
    body.add_camera(name=camera.name, pos=mount.position, quat=_look_at(mount), fovy=mount.fovy_deg)


def _look_at(mount: CameraMount) -> np.ndarray:
    """Return the quaternion (w, x, y, z) of a MuJoCo camera: x right, y up, looking along -z."""
    back = np.subtract(mount.position, mount.target)
    back /= np.linalg.norm(back)
    right = np.cross(mount.up, back)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(back, right), back], axis=1)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.reshape(9))
    return quaternion


def focal_length(height: int, fovy_deg: float) -> float:
    """Return the focal length [pixels] of an image ``height`` pixels high."""
    return 0.5 * height / math.tan(0.5 * math.radians(fovy_deg))
