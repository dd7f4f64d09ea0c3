"""The tiny published run of test/data, imported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from twinbrain_ros.brain.importing import Imported, import_checkpoint
from twinbrain_ros.resources import robot_file_path
from twinbrain_ros.robot.robot_file import load_robot

DATA = Path(__file__).parents[1] / "data" / "published"
BASE = DATA / "base" / "Qwen2.5-VL-tiny"
CASES = ("one_image", "two_images_with_state", "raw_size_with_state")
WEIGHTS = Path("checkpoints") / "steps_100_model.safetensors"


def run_copy(to: Path, name: str = "run") -> Path:
    """A copy of a run that a test may change."""
    folder = to / name
    shutil.copytree(DATA / "run", folder)
    if name != "run":
        shutil.copy(DATA / name / "config.yaml", folder / "config.yaml")
    return folder


def imported(run: Path, out: Path, **options: Any) -> Imported:
    base = str(options.pop("base", BASE))
    return import_checkpoint(run, base, load_robot(robot_file_path("wx250s")), out, **options)


def case(name: str) -> dict[str, Any]:
    """A case with its files read: images RGB, state or None, noise and expected [8, 7]."""
    folder = DATA / "cases" / name
    facts = json.loads((folder / "case.json").read_text())
    state = facts.get("normalized_state")
    return facts | {
        "paths": [folder / image for image in facts["images"]],
        "images": [
            cv2.cvtColor(cv2.imread(str(folder / image)), cv2.COLOR_BGR2RGB) for image in facts["images"]
        ],
        "state": None if state is None else np.array(state),
        "noise_path": folder / facts["noise"],
        "expected": np.load(folder / facts["expected"]),
    }
