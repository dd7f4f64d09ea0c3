"""Episodes in lock-step: simulator, policy and the real chunk executor on the simulated clock, without ROS.

What the nodes do over topics happens here in one loop: an observation every ``execution_steps`` periods, the
chunk (late by an injected latency) into the executor, its set-points at the controller's rate as one-point
trajectories into a trajectory follower, and that to the servos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from twinbrain_ros.control.controller import LEAD_PERIODS
from twinbrain_ros.control.executor import ChunkExecutor
from twinbrain_ros.robot.actions import tool_state
from twinbrain_ros.robot.chunk import ActionChunk
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.expert import Expert
from twinbrain_ros.sim.scene import Scene
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.tasks import Judge, parse_instruction
from twinbrain_ros.sim.trajectory import JointTrajectoryFollower

_NS = 1_000_000_000
_UPDATE_S = 0.01  # how often servo targets follow the trajectory and the joints are read


@dataclass(frozen=True, eq=False)
class SimObservation:
    """What a policy is given: the fields of a live observation, and the truth for experts and labels.

    Attributes:
        stamp_ns: simulated time [ns].
        images: by camera name, uint8 RGB [height, width, 3]; empty if the episode runs without images.
        arm_positions: [6], rad.
        gripper_opening: 0 closed to 1 open.
        state: [7], the proprioceptive state.
        scene: the truth.
    """

    stamp_ns: int
    images: dict[str, np.ndarray]
    arm_positions: np.ndarray
    gripper_opening: float
    state: np.ndarray
    scene: SceneState


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
        execution_steps: of each chunk; None takes the robot file's.
        max_time_s: when an episode is given up.
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
    ) -> None:
        self.robot = robot
        self.sim = sim or TabletopSim(robot)
        self.images = images
        self.latency_s = latency_s
        self.max_time_s = max_time_s
        steps = execution_steps or robot.action.execution_steps
        self._executor = ChunkExecutor(robot, Kinematics(robot), execution_steps)
        self._replan_ns = round(steps * robot.action.period_s * _NS)
        self._tick_s = 1.0 / robot.rates.command_hz
        self._lead_s = LEAD_PERIODS * self._tick_s
        self._lead_ns = round(self._lead_s * _NS)
        gripper = robot.gripper
        joints = (*robot.arm_joints, gripper.joint)
        self._follower = JointTrajectoryFollower(joints, np.append(robot.home, gripper.open_m))

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
        self._executor.reset()
        self._executor.hold(sim.arm_positions, sim.finger_position)
        self._follower.hold(np.append(sim.arm_positions, sim.finger_position))
        pending: list[tuple[int, ActionChunk]] = []
        start_ns = next_ns = sim.time_ns
        steps = rejected = 0
        reason = ""
        while sim.time_ns - start_ns < self.max_time_s * _NS and not judge.outcome.success:
            if sim.time_ns >= next_ns:
                chunk = self._ask(policy, instruction, steps)
                pending.append((sim.time_ns + round(self.latency_s * _NS), chunk))
                next_ns += self._replan_ns
                steps += 1
            if pending and sim.time_ns >= pending[0][0]:
                chunk = pending.pop(0)[1]
                verdict = self._executor.accept(chunk, sim.time_ns, sim.time_ns + self._lead_ns)
                if not verdict.accepted:
                    rejected, reason = rejected + 1, verdict.reason
            self._command()
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

    def _ask(self, policy: Policy, instruction: str, sequence: int) -> ActionChunk:
        observation = self.observe()
        action = self.robot.action
        return ActionChunk(
            sequence=sequence,
            observation_ns=observation.stamp_ns,
            due_ns=observation.stamp_ns,
            period_s=action.period_s,
            instruction=instruction,
            robot=self.robot.name,
            action_space=action.space,
            composition=action.composition,
            names=action.names,
            data=np.asarray(policy(observation, instruction), dtype=np.float64),
            observation_positions=observation.arm_positions,
        )

    def _command(self) -> None:
        """One tick of the controller, and the physics until the next."""
        sim = self.sim
        command = self._executor.command(sim.time_ns + self._lead_ns)
        if command is not None:
            target = np.append(command.arm_positions, command.finger_m)
            self._follower.set(self._follower.joints, target[None], [self._lead_s], sim.time_ns)
        end_ns = sim.time_ns + round(self._tick_s * _NS)
        while sim.time_ns < end_ns:
            target = self._follower.sample(sim.time_ns + round(_UPDATE_S * _NS))
            sim.set_arm_target(target[:-1])
            sim.set_gripper_target(float(target[-1]))
            sim.step(min(_UPDATE_S, (end_ns - sim.time_ns) / _NS))


def expert_policy(robot: RobotFile) -> Policy:
    """Return the scripted expert as a policy of a rollout."""
    expert = Expert(robot)
    return lambda observation, instruction: expert.chunk(observation.scene, parse_instruction(instruction))
