"""One benchmark task in a process of its own: adapters to the simulators, and the socket they are asked over.

    PYTHON worker.py --suite simpler-ms3 --task widowx_carrot_on_plate --limit 60 --connect PATH

This file needs NumPy and the suite's own packages, and nothing else of this repository: the suites' pins
contradict each other and ours, so each has an interpreter of its own. That is why it holds all adapters. A
process plays one task: ManiSkill3 keeps the first task's segmentation for a second one.

Canonical actions, which adapters convert last: ``translation`` [3] m and ``rotation`` [3, 3] in base axes,
``gripper`` 1 open, 0 closed; or ``groups``: name to joint targets [n] in rad. Observations: ``images`` name
to upright RGB uint8 [H, W, 3]; ``instruction``; ``state``, arrays whose frames `Adapter.describe` tells;
``truth``, what only a simulator knows, for scripted experts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

Array = np.ndarray


class Task(NamedTuple):
    """A task of a suite: the simulator's id, words (empty: the simulator tells), steps, and how many
    placements there are (0: any number is a placement, as a seed)."""

    id: str
    instruction: str
    limit: int
    placements: int


def _widowx(version: str, eggplant: int) -> dict[str, Task]:
    put = "widowx_put_eggplant_in_basket"
    return {
        "widowx_spoon_on_towel": Task(f"PutSpoonOnTableClothInScene-{version}", "", 60, 24),
        "widowx_carrot_on_plate": Task(f"PutCarrotOnPlateInScene-{version}", "", 60, 24),
        "widowx_stack_cube": Task(f"StackGreenCubeOnYellowCubeBakedTexInScene-{version}", "", 60, 24),
        put: Task(f"PutEggplantInBasketScene-{version}", "", 120, eggplant),
    }


def _gr1() -> dict[str, Task]:
    novel = {
        "Cuttingboard": "Basket Cardboardbox Pan Pot Tieredbasket",
        "Placemat": "Basket Bowl Plate Tieredshelf",
        "Plate": "Bowl Cardboardbox Pan Plate",
        "Tray": "Cardboardbox Plate Pot Tieredbasket Tieredshelf",
    }
    close = "CupToDrawer PotatoToMicrowave MilkToMicrowave BottleToCabinet WineToCabinet CanToDrawer"
    names = [f"PnP{pair}Close" for pair in close.split()]
    names += [f"PosttrainPnPNovelFrom{a}To{b}SplitA" for a, bs in novel.items() for b in bs.split()]
    return {name: Task(f"gr1_unified/{name}_GR1ArmsAndWaistFourierHands_Env", "", 720, 0) for name in names}


def _libero() -> dict[str, Task]:
    limits = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
    return {f"{s}/{k}": Task(f"{s}/{k}", "", limit, 50) for s, limit in limits.items() for k in range(10)}


PICK_CUBE = Task("PickCube-v1", "pick up the red cube and move it to the green ball", 50, 0)
# Suites that run in another interpreter. The first tasks of a suite are its benchmark; EXTRA are only played
# when named.
SUITES: dict[str, dict[str, Task]] = {
    "simpler-ms3": {**_widowx("v1", 64), "pick_cube": PICK_CUBE},
    "simpler-ms2": _widowx("v0", 24),
    "robocasa-gr1": _gr1(),
    "libero": _libero(),
}
EXTRA = ("pick_cube",)
# How far demonstrations move and turn objects from a placement of the benchmark.
SCATTER_M, SCATTER_RAD = 0.04, 0.6
APART_M = 0.10  # and how far from each other they then are at least, or some would begin as successes
# They are let go of from so high, and have to come to rest near there: not thrown out by the wall of a sink.
DROP_M, STRAYED_M = 0.002, 0.02
SCATTER_TRIES = 1000  # every placement of these tasks has room for it


class Missing(Exception):
    """Something that has to be installed or downloaded first; the message says what and how."""


class Adapter(Protocol):
    """A task of a simulator."""

    def describe(self) -> dict[str, Any]:
        """What it is: simulator, control_hz, action (kind, relative_to or groups), cameras, state, success
        rule."""

    def reset(self, placement: int, seed: int) -> dict[str, Any]:
        """The observation at the start of a placement."""

    def act(self, action: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """One step: observation; success, truncated by the simulator's own limit, and grasped where it is
        told."""

    def close(self) -> None:
        """Ends the simulator."""


# Rotations ------------------------------------------------------------------------------------------------


def quaternion_to_matrix(wxyz: Array) -> Array:
    """[3, 3] of a quaternion [4], w first."""
    w, x, y, z = np.asarray(wxyz, dtype=np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def matrix_to_rotation_vector(matrix: Array) -> Array:
    """Axis times angle [3] in rad of a rotation [3, 3]; SimplerEnv's ManiSkill2 and robosuite read this."""
    twice_sine = np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    sine, cosine = np.linalg.norm(twice_sine) / 2, (np.trace(matrix) - 1) / 2
    angle = np.arctan2(sine, cosine)
    if sine > 1e-7:
        return np.asarray(twice_sine / (2 * sine) * angle)
    if cosine > 0:
        return np.asarray(twice_sine / 2)
    # Half a turn: the axis is in the symmetric part, up to its sign.
    column = int(np.argmax(np.diag(matrix)))
    axis = (matrix[:, column] + np.eye(3)[column]) / 2
    return np.asarray(axis / np.linalg.norm(axis) * np.pi)


def matrix_to_xyz_euler(matrix: Array) -> Array:
    """Angles [3] in rad with R = Rx Ry Rz, as ManiSkill3 reads the same three numbers."""
    b = np.arctan2(matrix[0, 2], np.hypot(matrix[0, 0], matrix[0, 1]))
    a = np.arctan2(-matrix[1, 2], matrix[2, 2])
    return np.array([a, b, np.arctan2(-matrix[0, 1], matrix[0, 0])])


def _in_base(base: tuple[Array, Array], pose: tuple[Array, Array]) -> tuple[Array, Array]:
    """A pose (position, rotation) of the world in the base's frame."""
    return base[1].T @ (pose[0] - base[0]), base[1].T @ pose[1]


def _pose(values: Any) -> tuple[Array, Array]:
    """Position and rotation of xyz + wxyz [7]."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return flat[:3], quaternion_to_matrix(flat[3:7])


def _pixel(camera: dict[str, Any], position: Array) -> Array:
    """Where a camera, as ManiSkill3 tells it, sees a point of the world [2]: across and down in pixels."""
    inside, outside = (np.asarray(camera[key][0]) for key in ("intrinsic_cv", "extrinsic_cv"))
    seen = inside @ (outside @ np.append(position, 1.0))
    return np.asarray(seen[:2] / seen[2], dtype=np.float64)


def _quaternion_product(a: Array, b: Array) -> Array:
    w, v = a[0] * b[0] - a[1:] @ b[1:], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
    return np.concatenate([[w], v])


def _widowx_opening(finger_m: float) -> float:
    return float(np.clip((finger_m - 0.015) / (0.037 - 0.015), 0.0, 1.0))


def _tool(pose: tuple[Array, Array], opening: float, target: tuple[Array, Array]) -> dict[str, Array]:
    return {
        "position": pose[0], "rotation": pose[1], "gripper": np.array([opening]),
        "target_position": target[0], "target_rotation": target[1],
    }  # fmt: skip


# ManiSkill3 -----------------------------------------------------------------------------------------------


class ManiSkill3:
    """SimplerEnv's four WidowX tasks as ManiSkill3 has them (-v1), and PickCube-v1, which needs no
    download."""

    def __init__(self, task: Task, limit: int) -> None:
        self.task = task
        self.bridge = task is not PICK_CUBE
        if self.bridge:
            self.assets = self.find_assets()
        os.environ.setdefault("MS_SKIP_ASSET_DOWNLOAD_PROMPT", "1")
        try:
            import gymnasium
            import mani_skill
            import mani_skill.envs
            import torch
        except ImportError as error:
            raise Missing(f"{error}: pip install mani-skill==3.0.1 (or: make evaluation)") from error
        self.torch = torch
        self.version = f"mani-skill-{mani_skill.__version__}"
        mode = (
            {"obs_mode": "rgb+segmentation"}
            if self.bridge
            else {"obs_mode": "rgb", "control_mode": "pd_ee_target_delta_pose"}
        )
        try:
            # On the CPU a placement gives the same pictures and the same motion every time.
            self.env = gymnasium.make(
                task.id,
                num_envs=1,
                sim_backend="physx_cpu",
                render_backend="cpu",
                max_episode_steps=limit,
                **mode,
            )
        except RuntimeError as error:
            if "device" not in str(error).lower() and "vulkan" not in str(error).lower():
                raise
            raise Missing(
                f"{error}: no Vulkan driver that SAPIEN can draw with; Mesa's lavapipe 25 can "
                "(make evaluation brings it)"
            ) from error
        self.inner: Any = self.env.unwrapped
        self.camera = "3rd_view_camera" if self.bridge else "base_camera"

    @staticmethod
    def find_assets() -> str:
        """How complete the data of the Bridge tasks is: "published", or "standin" where meshes were
        replaced."""
        root = Path(os.environ.get("MS_ASSET_DIR", Path.home() / ".maniskill")).expanduser() / "data"
        bridge = root / "tasks/bridge_v2_real2sim_dataset"
        for part, download in ((bridge, "bridge_v2_real2sim"), (root / "robots/widowx", "widowx250s")):
            if not part.is_dir():
                raise Missing(
                    f"{part}: not there; python -m mani_skill.utils.download_asset {download}, or set "
                    "MS_ASSET_DIR to where it is"
                )
        # The scanned table has thousands of triangles; a box in its place has twelve.
        stage = bridge / "stages/bridge_table_1_v1.glb"
        return "published" if stage.is_file() and stage.stat().st_size > 50_000 else "standin"

    def describe(self) -> dict[str, Any]:
        return {
            "simulator": self.version + "/cpu",
            "control_hz": float(self.inner.control_freq),
            "action": {"kind": "ee_delta", "relative_to": "target"},
            "cameras": {self.camera: [480, 640] if self.bridge else [128, 128]},
            "state": "position, rotation of the tool and of its target in the base frame; gripper 1 open",
            "success": "source over the target, within reach of it"
            if self.bridge
            else "cube at the goal, arm at rest",
            **({"assets": self.assets} if self.bridge else {}),
        }

    def reset(self, placement: int, seed: int) -> dict[str, Any]:
        if not self.bridge:
            return self._observation(self.env.reset(seed=placement)[0])
        listed = self.task.placements
        options = {"episode_id": self.torch.tensor([placement % listed])}
        observation = self.env.reset(seed=seed, options=options)[0]
        if placement < listed:
            return self._observation(observation)
        self._scatter(placement)
        return self._observation(self.inner.get_obs())

    def _scatter(self, placement: int) -> None:
        """Beyond the benchmark's placements: objects moved about and turned, for demonstrations."""
        random = np.random.default_rng(placement)
        # What is drawn as part of the photograph, as the basket, has to stay where the photograph has it.
        actors = [self.inner.objs[name] for name in self.inner.objects_excluded_from_greenscreening]
        before = [actor.pose.raw_pose[0].numpy().astype(np.float64) for actor in actors]
        robot = self.inner.agent.robot
        qpos = robot.get_qpos()[0].numpy()
        for _ in range(SCATTER_TRIES):
            places = [pose[:2] + random.uniform(-SCATTER_M, SCATTER_M, 2) for pose in before]
            turns = random.uniform(-SCATTER_RAD, SCATTER_RAD, len(before)) / 2
            apart = [np.hypot(*(a - b)) for i, a in enumerate(places) for b in places[:i]]
            if min(apart, default=APART_M) < APART_M:
                continue
            for actor, pose, place, half in zip(actors, before, places, turns, strict=True):
                turned = _quaternion_product(np.array([np.cos(half), 0.0, 0.0, np.sin(half)]), pose[3:])
                moved = np.concatenate([place, [pose[2] + DROP_M], turned])[None]
                actor.set_pose(type(actor.pose).create(self.torch.tensor(moved, dtype=self.torch.float32)))
                for still in (actor.set_linear_velocity, actor.set_angular_velocity):
                    still(self.torch.zeros(1, 3))
            self.inner._settle(2)
            rests = [actor.pose.raw_pose[0].numpy() for actor in actors]
            if all(
                np.hypot(*(rest[:2] - place)) < STRAYED_M and abs(rest[2] - pose[2]) < STRAYED_M
                for rest, place, pose in zip(rests, places, before, strict=True)
            ):
                break
        self.inner.agent.reset(init_qpos=qpos)

    def act(self, action: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        angles = matrix_to_xyz_euler(np.asarray(action["rotation"]))
        move = np.asarray(action["translation"], dtype=np.float64)
        if not self.bridge:
            # Units of 0.1 m and, with this controller, of minus 0.1 rad; what is more is cut off by the
            # simulator.
            move, angles = move / 0.1, angles / -0.1
        row = np.concatenate([move, angles, [2.0 * float(action["gripper"]) - 1.0]])
        observation, _, success, truncated, info = self.env.step(row.astype(np.float32))
        grasped = info.get("is_src_obj_grasped", info.get("is_grasped"))
        return self._observation(observation, bool(success)), {
            "success": bool(success),
            "truncated": bool(truncated),
            **({} if grasped is None else {"grasped": bool(grasped)}),
        }

    def _observation(self, observation: Any, success: bool = False) -> dict[str, Any]:
        robot = self.inner.agent.robot
        base = _pose(robot.pose.raw_pose)
        link = "ee_gripper_link" if self.bridge else "panda_hand_tcp"
        tool = _in_base(base, _pose(robot.links_map[link].pose.raw_pose))
        finger = float(observation["agent"]["qpos"][0, -2])
        target = self.inner.agent.controller.controllers["arm"]._target_pose
        return {
            "images": {self.camera: observation["sensor_data"][self.camera]["rgb"][0].numpy()},
            "instruction": self.task.instruction or self.inner.get_language_instruction()[0],
            "state": _tool(
                tool, _widowx_opening(finger) if self.bridge else finger / 0.04, _pose(target.raw_pose)
            ),
            "truth": {
                **self._truth(base, observation["sensor_param"][self.camera]),
                "success": np.array([float(success)]),
                "tool_speed": np.array([float(robot.links_map[link].linear_velocity.norm())]),
            },
        }

    def _truth(self, base: tuple[Array, Array], camera: dict[str, Any]) -> dict[str, Array]:
        inner = self.inner
        if not self.bridge:
            poses = {
                "source": _pose(inner.cube.pose.raw_pose),
                "target": _pose(inner.goal_site.pose.raw_pose),
            }
            sizes = {"source": np.full(3, 2 * inner.cube_half_size), "target": np.zeros(3)}
        else:
            names = {"source": inner.source_obj_name, "target": inner.target_obj_name}
            poses = {k: _pose(inner.objs[name].pose.raw_pose) for k, name in names.items()}
            sizes = {k: inner.episode_model_bbox_sizes[name].numpy() for k, name in names.items()}
        found = {k: _in_base(base, pose) for k, pose in poses.items()}
        return {
            **{f"{k}_position": pose[0] for k, pose in found.items()},
            **{f"{k}_rotation": pose[1] for k, pose in found.items()},
            **{f"{k}_size": np.asarray(size, dtype=np.float64) for k, size in sizes.items()},
            **{f"{k}_pixel": _pixel(camera, pose[0]) for k, pose in poses.items()},
        }

    def close(self) -> None:
        self.env.close()


# SimplerEnv on ManiSkill2 ---------------------------------------------------------------------------------


class ManiSkill2:
    """SimplerEnv's four WidowX tasks as published (-v0, SAPIEN 2): visual matching, needs a GPU's Vulkan
    driver."""

    def __init__(self, task: Task, limit: int) -> None:
        try:
            import simpler_env
        except ImportError as error:
            raise Missing(f"{error}: install SimplerEnv with its ManiSkill2_real2sim") from error
        name = next(name for name, known in SUITES["simpler-ms2"].items() if known == task)
        self.sink = "eggplant" in name
        self.env = simpler_env.make(name, max_episode_steps=limit)

    def describe(self) -> dict[str, Any]:
        return {
            "simulator": "simpler-env/maniskill2-real2sim/visual-matching",
            "control_hz": 5.0,
            "action": {"kind": "ee_delta", "relative_to": "target"},
            "cameras": {"3rd_view_camera": [480, 640]},
            "state": "position, rotation of the tool and of its target in the base frame; gripper 1 open",
            "success": "source over the target, within reach of it",
            "assets": "published",
        }

    def reset(self, placement: int, seed: int) -> dict[str, Any]:
        robot = {
            "init_xy": [0.127, 0.06] if self.sink else [0.147, 0.028],
            "init_rot_quat": [0, 0, 0, 1],
        }
        options = {"robot_init_options": robot, "obj_init_options": {"episode_id": placement}}
        return self._observation(self.env.reset(seed=seed, options=options)[0])

    def act(self, action: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        turn = matrix_to_rotation_vector(np.asarray(action["rotation"]))
        row = np.concatenate([action["translation"], turn, [2.0 * float(action["gripper"]) - 1.0]])
        observation, _, success, truncated, info = self.env.step(row)
        return self._observation(observation), {
            "success": bool(success),
            "truncated": bool(truncated),
            "grasped": bool(info["is_src_obj_grasped"]),
        }

    def _observation(self, observation: Any) -> dict[str, Any]:
        agent = observation["agent"]
        tool = _in_base(_pose(agent["base_pose"]), _pose(observation["extra"]["tcp_pose"]))
        # The controller's target is among what the agent says, in the base frame; its name is the
        # controller's.
        target = next((np.ravel(v) for v in _leaves(agent["controller"]) if np.size(v) == 7), None)
        return {
            "images": {
                "3rd_view_camera": np.asarray(observation["image"]["3rd_view_camera"]["rgb"], np.uint8)
            },
            "instruction": self.env.unwrapped.get_language_instruction(),
            "state": _tool(
                tool, _widowx_opening(agent["qpos"][6]), tool if target is None else _pose(target)
            ),
            "truth": {},
        }

    def close(self) -> None:
        self.env.close()


def _leaves(tree: Any) -> list[Any]:
    return [leaf for value in tree.values() for leaf in _leaves(value)] if isinstance(tree, dict) else [tree]


# RoboCasa GR1 ---------------------------------------------------------------------------------------------


class RoboCasaGR1:
    """RoboCasa's tabletop tasks of the Fourier GR1: absolute joint targets of arms, hands and waist at 20
    Hz."""

    GROUPS: ClassVar[dict[str, int]] = {
        "left_arm": 7,
        "right_arm": 7,
        "left_hand": 6,
        "right_hand": 6,
        "waist": 3,
    }
    CAMERAS = ("ego_view_bg_crop_pad_res256_freq20", "ego_view_pad_res256_freq20")
    PREFIX = "unlocked_waist: "

    def __init__(self, task: Task, limit: int) -> None:
        try:
            import gymnasium
            import robocasa  # noqa: F401
            from robocasa.utils.gym_utils import GrootRoboCasaEnv  # noqa: F401
        except ImportError as error:
            raise Missing(f"{error}: install robocasa-gr1-tabletop-tasks with its objects") from error
        self.limit, self.steps = limit, 0
        self.env = gymnasium.make(task.id, enable_render=True)

    def describe(self) -> dict[str, Any]:
        return {
            "simulator": "robocasa-gr1-tabletop-tasks",
            "control_hz": 20.0,
            "action": {"kind": "joint_groups", "groups": dict(self.GROUPS)},
            "cameras": {name: [256, 256] for name in self.CAMERAS},
            "state": "joint angles of each group [rad]",
            "success": "reward above 0",
        }

    def reset(self, placement: int, seed: int) -> dict[str, Any]:
        # These tasks draw from NumPy's global generator.
        np.random.seed(placement % 2**32)
        self.steps = 0
        return self._observation(self.env.reset(seed=placement)[0])

    def act(self, action: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        row = {f"action.{name}": np.asarray(action["groups"][name], np.float32) for name in self.GROUPS}
        observation, reward, _, _, info = self.env.step(row)
        self.steps += 1
        success = bool(info.get("success", reward > 0))
        return self._observation(observation), {"success": success, "truncated": self.steps >= self.limit}

    def _observation(self, observation: Any) -> dict[str, Any]:
        words = str(observation["annotation.human.coarse_action"])
        return {
            "images": {name: np.asarray(observation[f"video.{name}"], np.uint8) for name in self.CAMERAS},
            "instruction": words.removeprefix(self.PREFIX),
            "state": {name: np.asarray(observation[f"state.{name}"], np.float64) for name in self.GROUPS},
            "truth": {},
        }

    def close(self) -> None:
        self.env.close()


# LIBERO ---------------------------------------------------------------------------------------------------


class Libero:
    """LIBERO's suites on robosuite: tool deltas relative to the measured pose at 20 Hz, two cameras.

    Its controller does not get there within a step: of steps of a centimetre a fifth is driven.
    """

    MOST_M, MOST_RAD = 0.05, 0.5  # what an input of 1 moves
    IDLE = 10  # steps for the objects to settle, as in the published loops

    def __init__(self, task: Task, limit: int) -> None:
        try:
            import robosuite
            import torch
            from libero.libero import benchmark, get_libero_path
            from libero.libero.envs import OffScreenRenderEnv
        except ImportError as error:
            raise Missing(f"{error}: install LIBERO, robosuite 1.4.0 and bddl") from error
        self.version = robosuite.__version__
        suite, _, number = task.id.partition("/")
        known = benchmark.get_benchmark_dict()[suite]()
        self.words = known.get_task(int(number)).language
        chosen = known.get_task(int(number))
        starts = Path(get_libero_path("init_states")) / chosen.problem_folder / chosen.init_states_file
        self.starts = torch.load(
            starts, weights_only=False
        )  # NumPy arrays; torch's own loader would refuse them
        file = Path(get_libero_path("bddl_files")) / chosen.problem_folder / chosen.bddl_file
        self.env = OffScreenRenderEnv(bddl_file_name=str(file), camera_heights=256, camera_widths=256)
        self.limit, self.steps = limit, 0

    def describe(self) -> dict[str, Any]:
        return {
            "simulator": f"libero/robosuite-{self.version}",
            "control_hz": 20.0,
            "action": {"kind": "ee_delta", "relative_to": "pose"},
            "cameras": {"agentview": [256, 256], "robot0_eye_in_hand": [256, 256]},
            "state": "position, rotation of the tool in the base frame; gripper_qpos [2] m",
            "success": "the task's own check",
        }

    def reset(self, placement: int, seed: int) -> dict[str, Any]:
        self.env.seed(seed)
        self.env.reset()
        observation = self.env.set_init_state(self.starts[placement])
        for _ in range(self.IDLE):
            observation, *_ = self.env.step([0.0] * 6 + [-1.0])
        self.steps = 0
        return self._observation(observation)

    def act(self, action: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        move = np.asarray(action["translation"]) / self.MOST_M
        turn = matrix_to_rotation_vector(np.asarray(action["rotation"])) / self.MOST_RAD
        row = np.clip(np.concatenate([move, turn]), -1.0, 1.0)
        observation, _, done, _ = self.env.step([*row, 1.0 - 2.0 * float(action["gripper"])])
        self.steps += 1
        return self._observation(observation), {"success": bool(done), "truncated": self.steps >= self.limit}

    def _observation(self, observation: Any) -> dict[str, Any]:
        x, y, z, w = observation["robot0_eef_quat"]
        position, rotation = (
            np.array(observation["robot0_eef_pos"]),
            quaternion_to_matrix(np.array([w, x, y, z])),
        )
        fingers = np.array(observation["robot0_gripper_qpos"])
        opening = float(np.clip((fingers[0] - fingers[1]) / 0.08, 0.0, 1.0))
        # Rendered upside down; published policies see them turned by half a turn, which is upright.
        images = {
            k: np.ascontiguousarray(observation[f"{k}_image"][::-1, ::-1]) for k in self.describe()["cameras"]
        }
        pose = (position, rotation)
        return {
            "images": images,
            "instruction": self.words,
            "state": {**_tool(pose, opening, pose), "gripper_qpos": fingers},
            "truth": {},
        }

    def close(self) -> None:
        self.env.close()


ADAPTERS: dict[str, Any] = {
    "simpler-ms3": ManiSkill3,
    "simpler-ms2": ManiSkill2,
    "robocasa-gr1": RoboCasaGR1,
    "libero": Libero,
}


# Over the socket ------------------------------------------------------------------------------------------

# A message: the length of its JSON and of the arrays behind it, both little-endian uint32; an array in the
# JSON is {"array": [type, shape, offset]}.
_HEAD = struct.Struct("<II")
MOST_BYTES = 1 << 28


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends a message: plain data and NumPy arrays."""
    blobs: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            offset = sum(map(len, blobs))
            blobs.append(np.ascontiguousarray(value).tobytes())
            return {"array": [value.dtype.str, list(value.shape), offset]}
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{type(value).__name__} cannot be sent")

    text = json.dumps(message, default=plain).encode()
    connection.sendall(b"".join([_HEAD.pack(len(text), sum(map(len, blobs))), text, *blobs]))


def receive(connection: socket.socket) -> dict[str, Any]:
    """The next message. Raises ConnectionError when the other side is gone or talks nonsense."""
    text_length, blob_length = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if text_length + blob_length > MOST_BYTES:
        raise ConnectionError(
            f"a message of {text_length + blob_length} bytes, expected at most {MOST_BYTES}"
        )
    text, blob = _exactly(connection, text_length), _exactly(connection, blob_length)

    def whole(value: dict[str, Any]) -> Any:
        if value.keys() != {"array"}:
            return value
        kind, shape, offset = value["array"]
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(blob, np.dtype(kind), count, offset).reshape(shape)

    return dict(json.loads(text, object_hook=whole))


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise ConnectionError("the other side is gone")
        parts += part
    return bytes(parts)


def serve(adapter: Adapter, connection: socket.socket) -> None:
    """Says what the task is, then does what it is asked until the other side is gone or says close."""
    send(connection, {"describe": adapter.describe()})
    while True:
        try:
            ask = receive(connection)
        except ConnectionError:
            return
        if ask["do"] == "close":
            return
        if ask["do"] == "reset":
            send(connection, {"observation": adapter.reset(ask["placement"], ask["seed"])})
        else:
            began = time.perf_counter()
            observation, info = adapter.act(ask["action"])
            seconds = time.perf_counter() - began
            send(connection, {"observation": observation, "info": {**info, "seconds": seconds}})


def answer(make: Any, connect: str) -> int:
    """Makes an adapter and serves it at the socket of this path; what goes wrong is said there too."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(connect)
        try:
            adapter = make()
            try:
                serve(adapter, connection)
            finally:
                adapter.close()
        except Exception as error:
            traceback.print_exc()
            kind = "missing" if isinstance(error, Missing) else "failed"
            with contextlib.suppress(OSError):
                send(connection, {"error": f"{type(error).__name__}: {error}", "kind": kind})
            return 1
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Plays one task of a benchmark for `twinbrain evaluate`.")
    parser.add_argument("--suite", choices=sorted(ADAPTERS), required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--limit", type=int, required=True, help="steps until the simulator says truncated")
    parser.add_argument("--connect", required=True, metavar="PATH", help="a Unix socket that is listened to")
    args = parser.parse_args()
    task = SUITES[args.suite][args.task]
    return answer(lambda: ADAPTERS[args.suite](task, args.limit), args.connect)


if __name__ == "__main__":
    sys.exit(main())
