"""The policy's sign of life, and what it makes of the chunk that drives the arm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from policy_rig import Rig, StandIn
from twinbrain_ros.msg import ChunkStatus, PolicyStatus

from twinbrain_ros.nodes import convert, qos
from twinbrain_ros.robot.chunk import Guide
from twinbrain_ros.robot.robot_file import RobotFile

WORDS = "pick up the red block"


class Guided(StandIn):
    """Remembers what it was to agree with."""

    def __init__(self) -> None:
        super().__init__()
        self.guides: list[Guide | None] = []

    def act(self, *arguments: Any, guide: Guide | None = None, **named: Any) -> np.ndarray:
        self.guides.append(guide)
        return super().act(*arguments, **named)


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> Rig:
    return Rig(bench, robot)


def beats(rig: Rig) -> list[PolicyStatus]:
    return rig.bench.record(PolicyStatus, rig.robot.topics.policy_status, qos.COMMAND)


def test_it_says_what_it_lacks_and_then_when_it_last_saw(rig: Rig) -> None:
    said = beats(rig)
    rig.bench.until(lambda: said and "no image of camera 'front' has arrived yet" in said[-1].problem)
    stamp = rig.observe()
    rig.bench.until(lambda: said[-1].problem == "there is no instruction")
    rig.told(WORDS)
    rig.observe_until(lambda: said[-1].problem == "" and said[-1].observation_stamp.sec > 0)
    assert convert.from_time(said[-1].observation_stamp) >= stamp
    rig.bench.until(lambda: "expected at most 0.25 s" in said[-1].problem)  # nothing more comes
    assert "the image of camera" in said[-1].problem


def test_it_says_for_how_long_it_has_been_working(rig: Rig) -> None:
    said = beats(rig)
    rig.told(WORDS)
    rig.policy.go.clear()
    rig.observe_until(lambda: rig.node._worker.busy)
    rig.bench.until(lambda: said and said[-1].busy_s > 0.2)
    rig.policy.go.set()
    rig.bench.until(lambda: said[-1].busy_s == 0.0)


def test_a_camera_that_repeats_its_picture_while_the_arm_moves_is_not_acted_on(rig: Rig) -> None:
    """Its stamps are new, but what it shows is not."""
    said = beats(rig)
    rig.told(WORDS)
    started_ns, moves = rig.now_ns(), {"rate": 0.5}

    def joints() -> dict[str, Any]:
        turn = moves["rate"] * (rig.now_ns() - started_ns) / 1e9
        return {"position": [turn, *rig.robot.home[1:].tolist(), rig.robot.gripper.open_m]}

    def frozen() -> bool:
        rig.observe(joint_states=joints())
        return "is frozen: the same picture for" in said[-1].problem if said else False

    rig.bench.until(frozen, "the frozen camera is not noticed")
    rig.bench.until(lambda: not rig.node._worker.busy)
    before = len(rig.chunks)
    for _ in range(3):
        rig.observe(joint_states=joints())
    assert len(rig.chunks) == before and not rig.node._worker.busy
    rig.bench.until(
        lambda: rig.observe(joint_states=joints()) and rig.bench.says("policy_node", 2, "is frozen")
    )


def test_with_real_time_a_chunk_agrees_with_the_one_that_drives(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot, Guided(), real_time=True, execution_steps=1)
    statuses = bench.publisher(ChunkStatus, robot.topics.chunk_status, qos.STATUS)
    rig.told(WORDS)

    def drive(number: int) -> Any:
        """The controller says that this chunk drives, from 0.1 s after it was observed."""
        chunk = rig.chunk(number)
        late = convert.to_time(convert.from_time(chunk.observation_stamp) + 100_000_000)
        statuses.publish(
            ChunkStatus(
                sequence=chunk.sequence, outcome=ChunkStatus.EXECUTED, due=chunk.due, first_command_stamp=late
            )
        )
        bench.until(lambda: rig.node._guide._driving.chunk.sequence == chunk.sequence)
        return chunk

    rig.chunk(1)
    bench.until(lambda: rig.node._guide._sent)
    assert rig.policy.guides == [None] and rig.chunks[0].guide_sequence == 0
    first = rig.chunks[0]
    statuses.publish(
        ChunkStatus(
            sequence=1,
            outcome=ChunkStatus.EXECUTED,
            due=first.due,
            first_command_stamp=first.due,
        )
    )
    bench.until(lambda: rig.node._guide._driving is not None)
    drive(2)  # the first delay was cold: only from here on is one known
    third = rig.chunk(3)
    guide = rig.policy.guides[-1]
    assert guide is not None and guide.frozen >= 1
    guide.validate(robot.action.horizon, len(robot.action.names))
    assert (third.guide_sequence, third.guide_frozen) == (2, guide.frozen)


def test_chunks_can_be_held_back_for_experiments(bench: Any, robot: RobotFile) -> None:
    rig = Rig(bench, robot, inject_delay_s=0.3)
    rig.say(WORDS)
    chunk = rig.chunk(1)
    sent = convert.from_time(chunk.header.stamp) - convert.from_time(chunk.observation_stamp)
    assert sent > 300_000_000
