"""The embedded simulator as a suite, in a process of its own like the others.

python -m twinbrain_ros.benchmarks.tabletop --suite tabletop --task pick --limit 75 --connect PATH
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from twinbrain_ros.benchmarks.worker import Task, answer
from twinbrain_ros.robot.kinematics import Kinematics
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.tasks import Judge, parse_instruction

TASKS = {task: Task(task, "", 75, 0) for task in ("pick", "put")}
_TICK_S = 0.02  # how often servo targets are set


class Tabletop:
    """Tool deltas at the robot file's rate; servo targets go there in a straight line of the joints."""

    ROBOT = "wx250s"

    def __init__(self, task: Task, limit: int) -> None:
        self.task, self.limit = task, limit
        self.robot = load_robot(self.ROBOT)
        self.kinematics = Kinematics(self.robot)
        self.sim = TabletopSim(self.robot)

    def describe(self) -> dict[str, Any]:
        return {
            "simulator": "twinbrain-tabletop",
            "control_hz": 1.0 / self.robot.action.period_s,
            "action": {"kind": "ee_delta", "relative_to": "target"},
            "cameras": {camera.name: [camera.height, camera.width] for camera in self.robot.cameras},
            "state": "position, rotation of the tool and of its target in the base frame; gripper 1 open",
            "success": "the block is up, or lies on the plate and is let go",
        }

    def reset(self, placement: int, seed: int) -> dict[str, Any]:
        self.instruction = self.sim.reset(placement, self.task.id).instruction
        self.judge = Judge(parse_instruction(self.instruction))
        self.q = self.sim.arm_positions.copy()
        self.steps = 0
        return self._observation()

    def act(self, action: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        position, rotation = self.kinematics.forward(self.q)
        box = self.robot.workspace
        wanted = np.clip(position + action["translation"], box.lower, box.upper)
        before = self.q
        after = self.kinematics.inverse(wanted, np.asarray(action["rotation"]) @ rotation, before).q
        speed = np.array([self.robot.limits[name].velocity for name in self.robot.arm_joints])
        most = speed * self.robot.action.period_s
        self.q = before + np.clip(after - before, -most, most)
        gripper = self.robot.gripper
        self.sim.set_gripper_target(gripper.open_m if action["gripper"] > 0.5 else gripper.closed_m)
        ticks = round(self.robot.action.period_s / _TICK_S)
        for tick in range(1, ticks + 1):
            self.sim.set_arm_target(before + (self.q - before) * tick / ticks)
            self.sim.step(_TICK_S)
            outcome = self.judge.update(self.sim.scene_state())
        self.steps += 1
        info = {"success": outcome.success, "truncated": self.steps >= self.limit}
        return self._observation(), info

    def _observation(self) -> dict[str, Any]:
        scene = self.sim.scene_state()
        target = self.kinematics.forward(self.q)
        return {
            "images": {camera.name: self.sim.render(camera.name) for camera in self.robot.cameras},
            "instruction": self.instruction,
            "state": {
                "position": scene.tool_position,
                "rotation": scene.tool_rotation,
                "gripper": np.array([scene.gripper_opening]),
                "target_position": target[0],
                "target_rotation": target[1],
            },
            "truth": {},
        }

    def close(self) -> None:
        """Nothing to end."""


def main() -> int:
    """The command line, as `worker.py` has it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", choices=["tabletop"], required=True)
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--connect", required=True)
    args = parser.parse_args()
    return answer(lambda: Tabletop(TASKS[args.task], args.limit), args.connect)


if __name__ == "__main__":
    sys.exit(main())
