"""A small suite for tests, in a process of its own: a tool that goes exactly where it is told, a thing, a
mat.

PYTHON put_on_suite.py --suite S --task T --limit N --connect PATH; T is anything, with words in it that make
trouble: ``dies`` ends the process in step 3 of placement 1, ``dies_once`` only where MARKER is not there yet,
``hangs`` never answers there, ``fails`` raises, ``missing`` lacks a part.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from twinbrain_ros.benchmarks.worker import Missing, answer
from twinbrain_ros.robot.actions import TOOL_DOWN

MARKER = "TWINBRAIN_TEST_MARKER"
THING, MAT = np.array([0.08, 0.03, 0.03]), np.array([0.10, 0.10, 0.004])


def pixel(position: np.ndarray) -> np.ndarray:
    """Where the camera, which looks straight down, sees a place: across and down [pixels]."""
    return np.array([32.0 - 100.0 * position[1], 100.0 * position[0]])


class PutOn:
    """The thing is carried while the closed gripper is around it, and falls straight down when it is let
    go."""

    def __init__(self, task: str, limit: int) -> None:
        if "missing" in task:
            raise Missing("a part: install it")
        self.task, self.limit = task, limit

    def describe(self) -> dict[str, Any]:
        return {
            "simulator": "put-on-1",
            "control_hz": 5.0,
            "action": {"kind": "ee_delta", "relative_to": "target"},
            "cameras": {"3rd_view_camera": [48, 64]},
            "state": "",
            "success": "on the mat",
        }

    def reset(self, placement: int, seed: int) -> dict[str, Any]:
        random = np.random.default_rng(placement)
        self.placement, self.steps = placement, 0
        self.position, self.rotation, self.opening = np.array([0.25, 0.0, 0.15]), TOOL_DOWN.copy(), 1.0
        self.thing = np.array([*random.uniform([0.2, -0.1], [0.35, 0.0]), THING[2] / 2])
        self.mat = np.array([*random.uniform([0.2, 0.08], [0.35, 0.15]), MAT[2] / 2])
        return self._observation()

    def act(self, action: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        self._trouble()
        held = self._near() and self.opening < 0.8 and action["gripper"] < 0.5
        move = np.asarray(action["translation"])
        self.position = self.position + move
        self.rotation = np.asarray(action["rotation"]) @ self.rotation
        least = 0.5 if self._near() else 0.0  # between the fingers there is the thing, or nothing
        self.opening = min(max(self.opening + (0.4 if action["gripper"] > 0.5 else -0.4), least), 1.0)
        if held:
            self.thing = self.thing + move
        else:
            self.thing[2] = THING[2] / 2 + (MAT[2] if self._over() else 0.0)
        self.steps += 1
        info = {"success": self._over() and not held, "truncated": self.steps >= self.limit, "grasped": held}
        return self._observation(), info

    def _trouble(self) -> None:
        if self.placement != 1 or self.steps != 2:
            return
        if "dies_once" in self.task:
            marker = Path(os.environ[MARKER])
            if not marker.exists():
                marker.touch()
                os._exit(7)
        elif "dies" in self.task:
            os._exit(7)
        elif "hangs" in self.task:
            threading.Event().wait()
        elif "fails" in self.task:
            raise RuntimeError("the thing broke")

    def _near(self) -> bool:
        return bool(np.all(np.abs(self.position - self.thing) < 0.02))

    def _over(self) -> bool:
        return bool(np.hypot(*(self.thing - self.mat)[:2]) < 0.03)

    def _observation(self) -> dict[str, Any]:
        image = np.full((48, 64, 3), self.steps, np.uint8)
        image[0, 0] = self.placement
        pose = {"position": self.position, "rotation": self.rotation}
        return {
            "images": {"3rd_view_camera": image},
            "instruction": "put the thing on the mat",
            "state": {
                **pose, "gripper": np.array([self.opening]),
                "target_position": self.position, "target_rotation": self.rotation,
            },
            "truth": {
                "source_position": self.thing, "source_rotation": np.eye(3), "source_size": THING,
                "target_position": self.mat, "target_rotation": np.eye(3), "target_size": MAT,
                "source_pixel": pixel(self.thing), "target_pixel": pixel(self.mat),
                "success": np.array([float(self._over())]), "tool_speed": np.zeros(1),
            },
        }  # fmt: skip

    def close(self) -> None:
        """Nothing to end."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--suite", "--task", "--connect"):
        parser.add_argument(option, required=True)
    parser.add_argument("--limit", type=int, required=True)
    args = parser.parse_args()
    sys.exit(answer(lambda: PutOn(args.task, args.limit), args.connect))
