"""What a stand-in for a policy says of itself where a test does not care."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinbrain_ros.robot.robot_file import STATE_NAMES


class StandInPolicy:
    """Fits every robot, takes every instruction, sees with both brains whenever it acts."""

    name = "stand-in"
    left_period_s = 0.0
    left_age_s = 0.0
    guidance = 1.0
    state_names = STATE_NAMES

    def take_robot(self, robot: Any) -> None:
        pass

    def warm_up(self, sizes: Mapping[str, tuple[int, int]] | None = None, guided: bool = False) -> None:
        pass

    def prompts(self, instruction: str) -> object:
        return None
