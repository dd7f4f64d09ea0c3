"""Texts from outside are shown short and in one line, at every door that they come in by."""

from __future__ import annotations

from typing import Any

import pytest
from controller_rig import NAME, ControllerRig
from policy_rig import Rig
from twinbrain_ros.msg import ActionChunk as ActionChunkMessage
from twinbrain_ros.srv import SetMode

from twinbrain_ros.robot.robot_file import RobotFile

MOST = 700  # characters of anything that is shown
WILD = ("x" * 1_000_000, "a\n[FATAL] [controller_node]: fake", "\x1b[31mred\x07\u202e")


def fit(text: str) -> bool:
    return 0 < len(text) < MOST and text.isprintable()


@pytest.mark.parametrize("text", WILD)
def test_who_asks_for_a_mode_and_why(bench: Any, robot: RobotFile, text: str) -> None:
    rig = ControllerRig(bench, robot)
    before = len(rig.modes)
    answer = bench.call(SetMode, "set_mode", SetMode.Request(mode=1, source=text, reason=text))
    assert answer.success
    bench.until(lambda: len(rig.modes) > before)
    assert fit(rig.modes[-1].source) and fit(rig.modes[-1].reason)


@pytest.mark.parametrize("text", WILD)
def test_a_chunk_of_another_robot(bench: Any, robot: RobotFile, text: str) -> None:
    rig = ControllerRig(bench, robot)
    rig.chunks.publish(ActionChunkMessage(sequence=7, names=[text], instruction=text))
    bench.until(lambda: rig.status)
    assert fit(rig.status[-1].reason)
    bench.until(lambda: bench.value(NAME, "problem/chunk/refused"))
    assert fit(bench.status[NAME].message) and fit(bench.value(NAME, "problem/chunk/refused"))


@pytest.mark.parametrize("text", WILD)
def test_an_encoding(bench: Any, robot: RobotFile, text: str) -> None:
    rig = Rig(bench, robot)
    rig.observe(front={"encoding": text})
    bench.until(lambda: bench.says("policy_node", 2, "front: encoding is"))
    assert fit(bench.status["policy_node"].message)
    assert all(fit(pair.value) for pair in bench.status["policy_node"].values if "problem" in pair.key)
