"""Demonstrations from the embedded simulator: a scripted expert, wild starts, and labels for several goals.

The expert is a function of the scene, so every frame can be labelled for any goal, also for those that
were not being pursued: that is what teaches the policy to change its mind when the words change.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.strategies import ChunkSettings
from twinbrain_ros.robot.actions import euler_to_matrix, tool_state
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.sim.expert import Expert, block_yaw
from twinbrain_ros.sim.lockstep import LockStepArm
from twinbrain_ros.sim.model import focal_length
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.tasks import BLOCK_EDGE_M, COLOURS, TASKS, Goal, Judge
from twinbrain_ros.training.state import write_whole

GOALS_PER_FRAME = 3  # the pursued goal, another pick, another put
TOOL_DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class DataConfig:
    """How much is generated. Seeds start far above those used for evaluation (0 to 999,999)."""

    frames: int = 50_000
    frames_per_shard: int = 1_000
    first_seed: int = 10_000_000
    max_steps: int = 28
    workers: int = 2


def encode_goal(goal: Goal) -> tuple[int, int, int]:
    """Goal as integers: task, block colour, plate colour (-1 for none)."""
    plate = COLOURS.index(goal.plate_colour) if goal.plate_colour else -1
    return TASKS.index(goal.task), COLOURS.index(goal.block_colour), plate


def decode_goal(code: np.ndarray) -> Goal:
    task, block, plate = (int(v) for v in code)
    return Goal(TASKS[task], COLOURS[block], COLOURS[plate] if plate >= 0 else "")


def project(sim: TabletopSim, camera: str, points: np.ndarray) -> np.ndarray:
    """Pixels (column, row), float [N, 2], of points [N, 3] in the base frame; NaN behind the camera."""
    index = sim.model.camera(camera).id
    spec = next(c for c in sim.robot.cameras if c.name == camera)
    local = (points - sim.data.cam_xpos[index]) @ sim.data.cam_xmat[index].reshape(3, 3)
    depth = -local[:, 2]
    depth = np.where(depth > 1e-3, depth, np.nan)
    focal = focal_length(spec.height, float(sim.model.cam_fovy[index]))
    return np.stack(
        [0.5 * spec.width + focal * local[:, 0] / depth, 0.5 * spec.height - focal * local[:, 1] / depth],
        axis=1,
    )


class Demonstrator:
    """Plays episodes and records what a policy would have seen and what the expert would do."""

    def __init__(self, robot: RobotFile, max_steps: int) -> None:
        self.robot = robot
        self.max_steps = max_steps
        self.sim = TabletopSim(robot)
        self.kinematics = Kinematics(robot)
        self.expert = Expert(robot)
        settings = ControlSettings(ChunkSettings(execution_steps=1))
        self.arm = LockStepArm(robot, self.sim, settings)

    def episode(self, seed: int) -> list[dict[str, np.ndarray]]:
        """Frames of one episode, 0.2 s apart, from a start that is often not the home pose."""
        rng = np.random.default_rng([seed, 1])
        scene = self.sim.reset(seed, TASKS[seed % len(TASKS)])
        self._start(rng)
        self.arm.start()
        goal = scene.goal
        switch_at = int(rng.integers(3, 16)) if rng.random() < 0.2 else -1
        sigma = float(rng.choice([0.0, 0.004, 0.010]))
        judge, frames, left_over = Judge(goal), [], 4
        for step in range(self.max_steps):
            if step == switch_at:
                goal = self._other_goal(rng, TASKS[int(rng.integers(2))])
                judge = Judge(goal)
            state = self.sim.scene_state()
            if judge.update(state).success:
                left_over -= 1
                if left_over < 0:
                    break
            frame, chunk = self._frame(state, goal, rng)
            frames.append(frame)
            chunk[:, :3] += rng.normal(0.0, sigma, (1, 3))
            if rng.random() < 0.02:
                chunk[:, 6] = 1.0 - chunk[:, 6]
            self._advance(step, goal, chunk)
        return frames

    # -- starts

    def _start(self, rng: np.random.Generator) -> None:
        """Home, a random pose, a pose near an object, or a pose with a block in the gripper."""
        kind = rng.choice(["home", "anywhere", "near", "holding"], p=[0.2, 0.3, 0.3, 0.2])
        if kind == "home":
            offset = rng.normal(0.0, 0.03, len(self.robot.home))
            self.sim.teleport(self.robot.home + offset, self.robot.gripper.open_m)
            return
        objects = self.sim.scene_state().objects
        if kind == "near":
            target = objects[int(rng.integers(len(objects)))].position
            position = target + np.append(rng.normal(0.0, 0.025, 2), rng.uniform(0.045, 0.12))
        else:
            position = np.array([rng.uniform(0.17, 0.40), rng.uniform(-0.19, 0.19), rng.uniform(0.09, 0.26)])
        rotation = euler_to_matrix(rng.normal(0.0, [0.04, 0.04, 0.35])) @ TOOL_DOWN
        result = self.kinematics.inverse(position, rotation, self.robot.home)
        if result.position_error_m > 0.005:
            return
        opening = float(rng.random() < 0.8) if kind != "holding" else 1.0
        self.sim.teleport(result.q, self.robot.gripper.finger(opening))
        if kind == "holding":
            self._grip(rng, position, rotation)

    def _grip(self, rng: np.random.Generator, position: np.ndarray, rotation: np.ndarray) -> None:
        blocks = self.sim.scene_state().blocks
        block = blocks[int(rng.integers(len(blocks)))]
        yaw = float(np.arctan2(rotation[1, 1], rotation[0, 1])) - 0.5 * np.pi
        low = float(position[2]) - 0.5 * BLOCK_EDGE_M + rng.uniform(-0.004, 0.002)
        self.sim.place(block.name, (float(position[0]), float(position[1]), low), yaw)
        self.sim.set_gripper_target(self.robot.gripper.closed_m)
        self.sim.step(0.25)

    def _other_goal(self, rng: np.random.Generator, task: str) -> Goal:
        scene = self.sim.scene
        blocks = [o.colour for o in scene.objects if o.kind == "block"]
        plates = [o.colour for o in scene.objects if o.kind == "plate"]
        return Goal(task, str(rng.choice(blocks)), str(rng.choice(plates)) if task == "put" else "")

    # -- one step

    def _frame(
        self, state: SceneState, goal: Goal, rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        goals = [goal, self._other_goal(rng, "pick"), self._other_goal(rng, "put")]
        labels = np.stack([self.expert.chunk(state, g) for g in goals])
        points = np.stack([o.position for o in state.objects])
        yaws = [block_yaw(o.rotation) for o in state.objects]
        position, rotation = self.kinematics.forward(self.sim.arm_positions)
        opening = self.robot.gripper.opening(self.sim.finger_position)
        frame: dict[str, np.ndarray] = {
            "state": tool_state(position, rotation, opening).astype(np.float32),
            "goals": np.array([encode_goal(g) for g in goals], np.int8),
            "labels": labels.astype(np.float32),
            "positions": points.astype(np.float32),
            "yaws": np.array(yaws, np.float32),
            "colours": np.array([COLOURS.index(o.colour) for o in state.objects], np.int8),
        }
        for camera in self.robot.cameras:
            frame[f"image_{camera.name}"] = self.sim.render(camera.name)
            frame[f"pixels_{camera.name}"] = project(self.sim, camera.name, points).astype(np.float32)
        return frame, labels[0].copy()

    def _advance(self, step: int, goal: Goal, data: np.ndarray) -> None:
        """Executes one period of a chunk through the same controller as on the robot."""
        positions = self.sim.arm_positions.copy()
        chunk = ActionChunk.for_robot(self.robot, step, self.sim.time_ns, goal.instruction(), data, positions)
        self.arm.take(chunk)
        for _ in range(round(self.robot.action.period_s / self.arm.tick_s)):
            self.arm.tick()


def generate_shard(robot_name: str, config: DataConfig, index: int, directory: Path) -> Path:
    """Writes shard `index`, a function of the config and the index alone; an existing one is kept."""
    path = directory / f"shard_{index:04d}.npz"
    if path.is_file():
        return path
    demonstrator = Demonstrator(load_robot(robot_name), config.max_steps)
    frames: list[dict[str, np.ndarray]] = []
    seed = config.first_seed + index * config.frames_per_shard
    while len(frames) < config.frames_per_shard:
        frames += demonstrator.episode(seed)
        seed += 1
    frames = frames[: config.frames_per_shard]
    arrays = {key: np.stack([f[key] for f in frames]) for key in frames[0]}

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)
    return path


def generate(robot_name: str, config: DataConfig, directory: Path) -> list[Path]:
    """All shards of a data set, made side by side; already finished ones are not made again."""
    directory.mkdir(parents=True, exist_ok=True)
    count = -(-config.frames // config.frames_per_shard)
    paths = [directory / f"shard_{i:04d}.npz" for i in range(count)]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    if not missing:
        return paths
    # spawn: a forked child would inherit torch's threads in an unusable state.
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(generate_shard, robot_name, config, i, directory) for i in missing]
        try:
            for future in tqdm(
                as_completed(futures), total=len(missing), desc="demonstrations", unit="shard"
            ):
                future.result()
        except BaseException:
            # Shards are whole files: who is interrupted need not wait for those that are still to come.
            for process in active_children():
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return paths
