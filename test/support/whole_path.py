"""From a VLM's folder to a twin that was taught for two steps, as the commands do it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from oxe_fixtures import bridge, fractal

from twinbrain_ros import cli
from twinbrain_ros.brain import recipes
from twinbrain_ros.robot.robot_file import RobotFile


def narrow_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes' expert in small: 16 blocks of 768 take seconds to be written."""
    expert = dataclasses.replace(
        recipes.EXPERTS["dit_b"], width=32, heads=4, layers=4, output_width=None, decoder_width=None
    )
    monkeypatch.setitem(recipes.EXPERTS, "dit_b", expert)


def run(*arguments: object) -> None:
    assert cli.main([str(argument) for argument in arguments]) == 0


def taught(folder: Path, twin: Path, recipe: str, robot: RobotFile) -> Path:
    """The twin after two steps on the paper's mixture."""
    roots = [
        {"path": str(bridge(folder / "bridge_orig_lerobot")), "mapping": "bridge"},
        {"path": str(fractal(folder / "fractal")), "mapping": "fractal", "robot": "google_robot"},
    ]
    changes = {
        "datasets": json.dumps(roots),
        "robot": robot.path,
        "policy": '{"steps": 2, "batch_size": 4, "learning_rate": 1.0e-3, "ema_decay": 0.0}',
    }
    options = [f"--set={key}={value}" for key, value in changes.items()]
    run("train", "--config", recipe, "--start", twin, "--out", folder / "out", *options)
    return folder / "out" / "checkpoint"
