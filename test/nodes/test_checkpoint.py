"""The policy node with the checkpoint that ships: real pixels in, chunks out; wrong checkpoints refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_run import DATA, imported, run_copy
from rclpy.lifecycle import TransitionCallbackReturn
from safetensors.torch import load_file, save_file
from std_msgs.msg import String
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage

from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.nodes.sim_node import SimNode
from twinbrain_ros.resources import demo_checkpoint
from twinbrain_ros.robot.robot_file import RobotFile

ERROR, WARN, OK = 2, 1, 0
NAME = "policy_node"
WEIGHTS = "model.safetensors"
STATISTICS = json.loads((DATA / "run" / "dataset_statistics.json").read_text())["oxe_bridge"]["action"]


def refused(bench: Any, words: list[str], **parameters: Any) -> None:
    """Configuring fails, the node says so with these words, and is still there."""
    node = bench.add(PolicyNode, **parameters)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    bench.until(lambda: all(bench.says(NAME, ERROR, text) for text in words))
    assert node.phase == "unconfigured"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the checkpoint to spoil."""
    return Path(shutil.copytree(demo_checkpoint(), tmp_path / "checkpoint"))


def test_it_turns_pixels_and_words_into_chunks(bench: Any, robot: RobotFile) -> None:
    policy = bench.add(PolicyNode, autostart=True)
    assert policy.autostart()
    assert bench.add(SimNode, autostart=True).autostart()
    chunks = bench.record(ActionChunkMessage, robot.topics.action_chunk, qos.STATUS)
    words = bench.publisher(String, robot.topics.instruction, qos.LATCHED)
    words.publish(String(data="pick up the red block"))
    bench.until(lambda: len(chunks) >= 2)
    for message in chunks:
        convert.chunk_from_message(message, robot).validate(robot)
        assert message.instruction == "pick up the red block"
    assert [message.sequence for message in chunks[:2]] == [1, 2]
    words.publish(String(data="pick up the zyxwv block"))
    bench.until(lambda: bench.says(NAME, ERROR, "zyxwv"))


def test_an_imported_run_turns_the_robots_own_view_into_chunks(
    bench: Any, robot: RobotFile, tmp_path: Path
) -> None:
    imported(run_copy(tmp_path), tmp_path / "imported")
    node = bench.add(PolicyNode, autostart=True, checkpoint=str(tmp_path / "imported"))
    assert node.autostart()
    assert bench.add(SimNode, autostart=True).autostart()
    chunks = bench.record(ActionChunkMessage, robot.topics.action_chunk, qos.STATUS)
    words = bench.publisher(String, robot.topics.instruction, qos.LATCHED)
    words.publish(String(data="close the drawer"))
    bench.until(lambda: len(chunks) >= 1)
    chunk = convert.chunk_from_message(chunks[0], robot)
    chunk.validate(robot)
    low, high = (np.array(STATISTICS[key]) for key in ("q01", "q99"))
    assert (chunk.data[:, :6] >= low[:6] - 1e-6).all() and (chunk.data[:, :6] <= high[:6] + 1e-6).all()
    assert set(chunk.data[:, 6]) <= {0.0, 1.0}, "in the robot's units, the gripper decided"


def test_a_robot_it_was_not_made_for_is_refused(bench: Any, robot: RobotFile, tmp_path: Path) -> None:
    text = robot.path.read_text(encoding="utf-8").replace("urdf: wx250s.urdf", f"urdf: {robot.urdf_path}")
    path = tmp_path / "other.yaml"
    path.write_text(text.replace("name: wx250s ", "name: panda "), encoding="utf-8")
    refused(bench, ["cannot configure", "'wx250s'", "'panda'"], robot=str(path))


def test_missing_tensors_are_refused_and_named(bench: Any, copy: Path) -> None:
    tensors = load_file(copy / WEIGHTS)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    refused(bench, ["cannot configure", "missing tensor", name], checkpoint=str(copy))


def test_weights_that_are_cut_short_are_refused(bench: Any, copy: Path) -> None:
    whole = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(bench, ["cannot configure", WEIGHTS], checkpoint=str(copy))


def test_a_device_that_is_not_there_is_refused(bench: Any) -> None:
    refused(bench, ["cannot configure: device: found 'nonsense', expected cpu"], device="nonsense")
