"""Three commands from recordings to a policy that runs: convert, train, the node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from bag_fixtures import INSTRUCTION, START_NS, make_bag, swing
from std_msgs.msg import String
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage

from twinbrain_ros.cli import main
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.nodes.sim_node import SimNode
from twinbrain_ros.robot.robot_file import RobotFile


def test_recordings_become_a_checkpoint_that_the_node_runs(
    bench: Any, robot: RobotFile, tmp_path: Path
) -> None:
    corrected = ((0.0, Mode.AUTONOMY), (1.5, Mode.TELEOP))
    bags = [
        make_bag(
            tmp_path / f"bag_{i}",
            robot,
            3.0,
            joints=swing(robot, 0.1 + 0.05 * i),
            modes=corrected,
            start_ns=START_NS + i * 10**10,
        ).path
        for i in range(3)
    ]
    dataset, out = tmp_path / "dataset", tmp_path / "out"
    assert main(["convert", *map(str, bags), "--out", str(dataset), "--workers", "1"]) == 0
    changes = ["policy.steps=4", "policy.batch_size=4", "policy.workers=1", "evaluation.every_steps=2"]
    changes += ["dataset_options.held_out_episodes=1", "policy.save_every_steps=2"]
    train = ["train", "--config", "finetune", "--data", str(dataset), "--start", "demo", "--out", str(out)]
    assert main([*train, *(f"--set={change}" for change in changes)]) == 0

    best = json.loads((out / "best.json").read_text())
    assert best["step"] in (2, 4) and np.isfinite(best["held_out_flow"])
    statistics = json.loads((out / "checkpoint" / "dataset_statistics.json").read_text())
    assert len(statistics["mixture"]["action"]["q99"]) == len(robot.action.names)

    policy = bench.add(PolicyNode, autostart=True, checkpoint=str(out / "checkpoint"))
    assert policy.autostart()
    assert bench.add(SimNode, autostart=True).autostart()
    chunks = bench.record(ActionChunkMessage, robot.topics.action_chunk, qos.STATUS)
    bench.publisher(String, robot.topics.instruction, qos.LATCHED).publish(String(data=INSTRUCTION))
    bench.until(lambda: len(chunks) >= 1)
    convert.chunk_from_message(chunks[0], robot).validate(robot)
