"""The paper's path from end to end, small: a Qwen-VL's folder, a twin, its training on the paper's mixture,
its benchmark, its answers, and the arm that it drives. And the same from a published run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from published_run import BASE, run_copy
from robot_files import changed_robot
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from twinbrain_ros.msg import ChunkStatus, ControlMode
from twinbrain_ros.srv import Ask, SetMode
from vlm_folders import FAMILIES, vlm_folder
from whole_path import narrow_expert, run, taught

from twinbrain_ros.benchmarks import evaluation
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.controller_node import ControllerNode
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.nodes.sim_node import SimNode
from twinbrain_ros.robot.robot_file import RobotFile

SHAPES = Path(__file__).parents[1] / "support" / "simpler_shapes.py"
# A bench that computes beside the nodes is late now and then.
CALM = {"joints_timeout_s": 5.0, "overrun_s": 5.0, "policy_timeout_s": 30.0, "observation_timeout_s": 30.0}
CALM |= {"chunk_timeout_s": 60.0, "following_timeout_s": 5.0}
WORDS = "put the red block on the blue plate"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow expert, and the embedded simulator in the place of ManiSkill3's WidowX tasks."""
    narrow_expert(monkeypatch)

    def command(suite: str, task: str, limit: int, python: Path | None) -> list[str]:
        return [sys.executable, str(SHAPES), "--suite", suite, "--task", task, "--limit", str(limit)]

    monkeypatch.setattr(evaluation, "worker_command", command)


def small_robot(folder: Path, horizon: int) -> RobotFile:
    """BridgeData's WidowX with a small picture, which the simulator draws quickly."""

    def change(document: dict[str, Any]) -> None:
        document["cameras"][0].update(width=80, height=60, rate_hz=10.0)
        document["action"].update(horizon=horizon, max_chunk_age_s=10.0)
        document["observation"].update(max_age_s=5.0, max_skew_s=2.0)

    folder.mkdir()
    return changed_robot(folder, "wx250s_bridge", change)


def evaluated(folder: Path, checkpoint: Path, *options: str) -> dict[str, Any]:
    out = folder / "widowx.json"
    tasks = ["--tasks", "widowx_carrot_on_plate", "--trials", "2", "--limit", "4", "--python", sys.executable]
    run("evaluate", "simpler-ms3", "--checkpoint", checkpoint, *tasks, *options, "--json", out)
    values: dict[str, Any] = json.loads(out.read_text())
    return values


def asked(folder: Path, checkpoint: Path, question: str) -> None:
    picture = folder / "picture.png"
    cv2.imwrite(str(picture), np.full((60, 80, 3), 128, np.uint8))
    run("ask", question, "--image", picture, "--checkpoint", checkpoint, "--max-tokens", "3")


def drives(bench: Any, robot: RobotFile, checkpoint: Path) -> None:
    """The policy node is active, answers questions, and its chunks move the simulated arm."""
    where = {"robot": str(robot.path), "autostart": True}
    assert bench.add(SimNode, **where).autostart()
    assert bench.add(ControllerNode, **where, **CALM).autostart()
    policy = bench.add(PolicyNode, **where, checkpoint=str(checkpoint))
    assert policy.autostart()
    joints: list[JointState] = bench.record(JointState, robot.topics.joint_states, qos.SENSOR_IN)
    chunks: list[ChunkStatus] = bench.record(ChunkStatus, robot.topics.chunk_status, qos.STATUS)
    bench.publisher(String, robot.topics.instruction, qos.LATCHED).publish(String(data=WORDS))
    bench.until(lambda: joints, "no joint states")
    start = np.array(joints[0].position)
    bench.until(lambda: bench.call(SetMode, "set_mode", SetMode.Request(mode=ControlMode.AUTONOMY)).success)
    bench.until(
        lambda: np.abs(np.array(joints[-1].position) - start)[:6].max() > 0.01,
        lambda: f"the arm never moved: {[(c.outcome, c.reason) for c in chunks[-3:]]}",
    )
    answer = bench.call(Ask, "ask", Ask.Request(question="go", max_tokens=2))
    assert answer.success, answer.message


def parts(config: TwinBrainConfig) -> Sequence[str]:
    return config.state_goes_to, config.conditioning, *config.robots


@pytest.mark.parametrize(
    ("family", "recipe", "training"),
    [(FAMILIES[0], "paper_simplerenv", "simplerenv"), (FAMILIES[1], "published", "published")],
)
def test_a_vlm_becomes_a_twin_that_is_taught_measured_asked_and_drives(
    bench: Any, tmp_path: Path, family: str, recipe: str, training: str
) -> None:
    robot = small_robot(tmp_path / "robot", 16)
    vlm, twin = vlm_folder(tmp_path / family, family), tmp_path / "twin"
    state = ["--state", "none"] if recipe == "published" else []
    run("init", "--vlm", vlm, "--recipe", recipe, "--robot", robot.path, "--out", twin, *state)
    checkpoint = taught(tmp_path, twin, training, robot)
    asks = "action_queries" if recipe == "published" else "hidden_states"
    assert parts(TwinBrainConfig.load(checkpoint)) == ("none", asks, "wx250s", "google_robot")
    values = evaluated(tmp_path, checkpoint, "--profile", "simpler_starvla")
    assert values["n"] == 2 and "profile=simpler_starvla" in values["protocol"]
    asked(tmp_path, checkpoint, "go")
    drives(bench, robot, checkpoint)


@pytest.mark.parametrize("stated", [False, True])
def test_a_published_run_is_imported_measured_asked_and_drives(
    bench: Any, tmp_path: Path, stated: bool
) -> None:
    robot = small_robot(tmp_path / "robot", 8)
    run_folder, checkpoint = run_copy(tmp_path / "runs"), tmp_path / "imported"
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    config["datasets"]["vla_data"]["include_state"] = stated
    (run_folder / "config.yaml").write_text(yaml.safe_dump(config))
    run("import-checkpoint", run_folder, "--vlm", BASE, "--robot", robot.path, "--out", checkpoint)
    profile = ["--profile", "simpler_starvla", *(["--state", "tool"] if stated else [])]
    assert evaluated(tmp_path, checkpoint, *profile)["n"] == 2
    asked(tmp_path, checkpoint, "go")
    drives(bench, robot, checkpoint)
