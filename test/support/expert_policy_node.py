"""The policy node with the scripted expert in the policy's place; run as `python -m expert_policy_node`.

It reads the simulator's truth and not the images: whatever goes wrong with it is no checkpoint's fault.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from stand_in import StandInPolicy
from twinbrain_ros.msg import SceneState as SceneStateMessage

from twinbrain_ros.demo.scene import scene_from_message
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.nodes.runner import run_node
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.expert import Expert
from twinbrain_ros.sim.state import SceneState
from twinbrain_ros.sim.tasks import parse_instruction


class ExpertPolicy(StandInPolicy):
    """A policy that knows the scene."""

    def __init__(self) -> None:
        self.scene: SceneState | None = None
        self._expert: Expert | None = None

    def take_robot(self, robot: RobotFile) -> None:
        self._expert = Expert(robot)

    def prompts(self, instruction: str) -> object:
        return parse_instruction(instruction)

    def act(self, images: Any, instruction: str, state: Any, **rest: Any) -> np.ndarray:
        if self.scene is None or self._expert is None:
            raise ValueError("no scene_state has arrived yet")
        return self._expert.chunk(self.scene, parse_instruction(instruction))


class ExpertPolicyNode(PolicyNode):
    def __init__(self) -> None:
        self.expert = ExpertPolicy()
        super().__init__(load=lambda *_: self.expert, generalist=lambda _: None)

    def setup(self, robot: RobotFile) -> None:
        super().setup(robot)
        self.subscribe(SceneStateMessage, "scene_state", self._on_scene, qos.STATUS)

    def _on_scene(self, message: SceneStateMessage) -> None:
        self.expert.scene = scene_from_message(message)


if __name__ == "__main__":
    run_node(ExpertPolicyNode)
