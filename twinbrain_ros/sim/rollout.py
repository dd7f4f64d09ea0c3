"""Episodes in lock-step: simulator, policy and the real controller on the simulated clock, without ROS.

What the nodes do over topics happens here in one loop: an observation every ``execution_steps`` periods, the
chunk (late by an injected latency) into the controller, and its commands to the servos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from twinbrain_ros.control.realtime import RealTimeGuide
from twinbrain_ros.control.settings import ControlSettings
from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.control.verdict import Outcome, Verdict
from twinbrain_ros.robot.actions import tool_state
from twinbrain_ros.robot.chunk import ActionChunk, Guide
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.robot.state import pick_state
from twinbrain_ros.sim.expert import Expert
from twinbrain_ros.sim.lockstep import Driver, LockStepArm, Watcher
from twinbrain_ros.sim.scene import Scene
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.tasks import Judge, parse_instruction

_NS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class SimObservation:
    """What a policy is given: the fields of a live observation, and the truth for experts and labels.

    Attributes:
        stamp_ns: simulated time [ns].
        images: by camera name, uint8 RGB [height, width, 3]; empty if the episode runs without images.
        arm_positions: [6], rad.
        gripper_opening: 0 closed to 1 open.
        state: [7], the proprioceptive state.
        arm_joints: names of the joints.
        scene: the truth.
        guide: what the chunk is asked to agree with, with strategy real_time.
    """

    stamp_ns: int
    images: dict[str, np.ndarray]
    arm_positions: np.ndarray
    gripper_opening: float
    state: np.ndarray
    arm_joints: tuple[str, ...]
    scene: SceneState
    guide: Guide | None = None

    def named_state(self, names: Sequence[str]) -> np.ndarray | None:
        """As of a live observation."""
        return pick_state(names, self.state, self.arm_positions, self.arm_joints) if names else None


Policy = Callable[[SimObservation, str], np.ndarray]
"""From an observation and an instruction to a chunk's data [horizon, actions]."""


@dataclass(frozen=True)
class EpisodeRecord:
    """What became of an episode.

    Attributes:
        time_s: simulated time until success or giving up [s].
        steps: chunks asked of the policy.
        rejected: chunks the executor did not accept; ``reason`` is the last one's.
    """

    seed: int
    task: str
    instruction: str
    success: bool
    wrong_object: bool
    time_s: float
    steps: int
    rejected: int
    reason: str = ""


class Rollout:
    """Runs episodes one after another in one simulator.

    Args:
        robot: the arm.
        sim: to be used; by default a new one.
        images: whether observations have images.
        latency_s: from observation to the chunk's arrival at the executor.
        execution_steps: a chunk is asked for every so many; None takes the robot file's.
        max_time_s: when an episode is given up.
        chunks: how they are executed; by default as many steps as above, a new chunk at once.
        driver: what moves the arm.
        watcher: is told of commands and set-points, if there is one.
    """

    def __init__(
        self,
        robot: RobotFile,
        sim: TabletopSim | None = None,
        *,
        images: bool = True,
        latency_s: float = 0.0,
        execution_steps: int | None = None,
        max_time_s: float = 15.0,
        chunks: ChunkSettings | None = None,
        driver: Driver | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.robot = robot
        self.sim = sim or TabletopSim(robot)
        self.images = images
        self.latency_s = latency_s
        self.max_time_s = max_time_s
        steps = execution_steps or robot.action.execution_steps
        self._replan_ns = round(steps * robot.action.period_s * _NS)
        settings = ControlSettings(chunks or ChunkSettings(execution_steps=execution_steps))
        self.arm = LockStepArm(robot, self.sim, settings, driver, watcher)
        real_time = settings.chunks.strategy is Strategy.REAL_TIME
        self._guide = RealTimeGuide(robot, Kinematics(robot)) if real_time else None

    def observe(self) -> SimObservation:
        """Return the observation now."""
        sim = self.sim
        scene = sim.scene_state()
        cameras = self.robot.cameras if self.images else ()
        return SimObservation(
            stamp_ns=sim.time_ns,
            images={camera.name: sim.render(camera.name) for camera in cameras},
            arm_positions=sim.arm_positions,
            gripper_opening=scene.gripper_opening,
            state=tool_state(scene.tool_position, scene.tool_rotation, scene.gripper_opening),
            arm_joints=self.robot.arm_joints,
            scene=scene,
        )

    def run(self, policy: Policy, seed: int, task: str, instruction: str | None = None) -> EpisodeRecord:
        """Reset to a seed and run one episode; ``instruction`` overrides the scene's own.

        Raises:
            ValueError: unknown task or an instruction that is not understood.
            KeyError: the instruction names an object that is not in the scene.
        """
        scene = self.sim.reset(seed, task)
        return self.continue_from_here(policy, scene, instruction or scene.instruction)

    def continue_from_here(self, policy: Policy, scene: Scene, instruction: str) -> EpisodeRecord:
        """Run one episode from the simulator's present state, such as one placed by hand after a reset."""
        sim = self.sim
        judge = Judge(parse_instruction(instruction))
        self.arm.start()
        if self._guide is not None:
            self._guide.restart()
        pending: list[tuple[int, ActionChunk]] = []
        start_ns = next_ns = sim.time_ns
        steps = rejected = 0
        reason = ""
        while sim.time_ns - start_ns < self.max_time_s * _NS and not judge.outcome.success:
            if sim.time_ns >= next_ns and not pending:  # a policy works on one observation at a time
                steps += 1
                chunk = self._ask(policy, instruction, steps)
                pending.append((sim.time_ns + round(self.latency_s * _NS), chunk))
                next_ns = sim.time_ns + self._replan_ns
            if pending and sim.time_ns >= pending[0][0]:
                verdict = self._hand_over(pending.pop(0)[1])
                if verdict.outcome not in (Outcome.ACCEPTED, Outcome.WAITING):
                    rejected, reason = rejected + 1, verdict.reason
            self.arm.tick()
            judge.update(sim.scene_state())
        outcome = judge.outcome
        time_s = (sim.time_ns - start_ns) / _NS
        return EpisodeRecord(
            scene.seed,
            judge.goal.task,
            instruction,
            outcome.success,
            outcome.wrong_object,
            time_s,
            steps,
            rejected,
            reason,
        )

    def _hand_over(self, chunk: ActionChunk) -> Verdict:
        verdict = self.arm.take(chunk)
        if self._guide is not None and verdict.accepted:
            self._guide.sent(chunk)
            self._guide.executed(chunk.sequence, verdict.due_ns, self.sim.time_ns)
        return verdict

    def _ask(self, policy: Policy, instruction: str, sequence: int) -> ActionChunk:
        observation = self.observe()
        if self._guide is not None:
            found = self._guide.guide(observation.stamp_ns, observation.arm_positions, instruction)
            observation = replace(observation, guide=found[0] if found else None)
        data = policy(observation, instruction)
        positions = observation.arm_positions
        return ActionChunk.for_robot(self.robot, sequence, observation.stamp_ns, instruction, data, positions)


def acting(policy: Any, told: str = "") -> Policy:
    """A `TwinBrainPolicy` as a policy of a rollout; the seed of its noise is the observation's time [ms].

    told: what it is told in place of the instruction that is judged; "": the same.
    """

    def act(observation: SimObservation, instruction: str) -> np.ndarray:
        data: np.ndarray = policy.act(
            observation.images,
            told or instruction,
            observation.named_state(policy.state_names),
            seed=observation.stamp_ns // 1_000_000,
            guide=observation.guide,
        )
        return data

    return act


def expert_policy(robot: RobotFile) -> Policy:
    """Return the scripted expert as a policy of a rollout."""
    expert = Expert(robot)
    return lambda observation, instruction: expert.chunk(observation.scene, parse_instruction(instruction))
