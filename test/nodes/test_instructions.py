"""Instructions are heard however they are said, and everybody is told what became of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import rclpy
from policy_rig import Rig
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from std_srvs.srv import Trigger
from twinbrain_ros.msg import InstructionInForce
from twinbrain_ros.srv import StartEpisode

from twinbrain_ros.cli import main
from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.instructions import MAX_INSTRUCTION_CHARACTERS
from twinbrain_ros.nodes.recorder_instructions import EpisodeInstructions
from twinbrain_ros.nodes.recorder_node import RecorderNode
from twinbrain_ros.robot.robot_file import RobotFile

TIMES = 6
RED, GREEN = "pick up the red block", "pick up the green block"
PROFILES = {
    "a default publisher": 10,
    "a latched one": qos.LATCHED,
    "one of best effort": QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT),
    "a latched one of best effort": QoSProfile(
        depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.TRANSIENT_LOCAL
    ),
}


@pytest.fixture
def rig(bench: Any, robot: RobotFile) -> Rig:
    return Rig(bench, robot)


def in_force(rig: Rig) -> list[InstructionInForce]:
    return rig.bench.record(InstructionInForce, rig.robot.topics.instruction_in_force, qos.LATCHED)


@pytest.mark.parametrize("kind", PROFILES)
def test_an_instruction_is_heard_from(rig: Rig, kind: str) -> None:
    said = rig.bench.publisher(String, rig.robot.topics.instruction, PROFILES[kind])
    told = in_force(rig)
    said.publish(String(data=f"  {RED}\n"))
    rig.bench.until(lambda: told and told[-1].text == RED)
    assert rig.node.instruction == RED and not told[-1].refused


def test_each_message_counts_once_and_in_its_order(rig: Rig) -> None:
    """It comes by several subscriptions, and an old copy must not follow a new text."""
    told = in_force(rig)
    for number in range(20):
        rig.say((RED, GREEN)[number % 2])
    rig.bench.until(lambda: len(told) >= 2 and rig.node.instruction == GREEN)
    for _ in range(20):
        rig.bench.executor.spin_once(timeout_sec=0.01)
    assert rig.node.instruction == GREEN and told[-1].text == GREEN


def test_a_policy_that_comes_late_hears_what_is_latched(bench: Any, robot: RobotFile) -> None:
    words = bench.node.create_publisher(String, robot.topics.instruction, qos.LATCHED)
    words.publish(String(data=GREEN))
    rig = Rig(bench, robot)
    bench.until(lambda: rig.node.instruction == GREEN)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("sing", "not in this checkpoint's vocabulary"),
        ("x" * (MAX_INSTRUCTION_CHARACTERS + 1), "expected at most"),
        ("sing " + "\x1b[31m\n" * 100, "not in this checkpoint's vocabulary"),
    ],
)
def test_a_refused_one_is_told_as_refused(rig: Rig, text: str, reason: str) -> None:
    told = in_force(rig)
    rig.told(RED)
    rig.say(text)
    rig.bench.until(lambda: told and told[-1].reason)
    assert reason in told[-1].reason and told[-1].text == "" and len(told[-1].refused) < 300
    assert told[-1].refused.isprintable() and told[-1].reason.isprintable()
    rig.told(GREEN)
    rig.bench.until(lambda: told[-1].text == GREEN)
    assert not told[-1].refused and not told[-1].reason


def test_each_refused_one_is_in_the_log_and_a_repeated_one_once(
    rig: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    told = in_force(rig)
    rig.told(RED)
    for number, text in enumerate(("sing", "sing", "sing on", "")):
        rig.say(text)
        rig.bench.until(lambda number=number: sum(bool(message.reason) for message in told) > number, text)
    logged = [line for line in capfd.readouterr().err.splitlines() if "refused, the arm will hold" in line]
    assert len(logged) == 3
    assert "found an empty text" in logged[-1]


def test_nobody_is_said_not_to_be_heard_who_is(
    bench: Any, robot: RobotFile, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = Rig(bench, robot)
    words = bench.node.create_publisher(String, robot.topics.instruction, qos.SAID_BEST_EFFORT)
    bench.until(lambda: words.get_subscription_count() > 0)
    words.publish(String(data=GREEN))
    bench.until(lambda: rig.node.instruction == GREEN)
    assert "[policy_node]: New publisher" not in capfd.readouterr().err


# Recorders ------------------------------------------------------------------------------------------


class Recording:
    """A recorder beside a policy that it has found."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        self.bench = rig.bench
        self.node = self.bench.add(RecorderNode, autostart=True, directory=str(directory), min_free_mib=1)
        assert self.node.autostart()
        assert isinstance(self.node, RecorderNode)
        assert self.bench.call(StartEpisode, "episode/start", StartEpisode.Request(name="e")).success
        topic = f"/{rig.robot.topics.instruction_in_force}"
        counts = lambda: self.node._recorder.state().counts  # noqa: E731
        self.bench.until(lambda: topic in counts(), "what is in force")

    def stop(self) -> Any:
        answer = self.bench.call(Trigger, "episode/stop", Trigger.Request())
        assert answer.success, answer.message
        return open_bag(answer.message)


def said_once(bench: Any, topic: str, text: str, profile: Any) -> None:
    """As `ros2 topic pub --once`: waits for one listener, says it, and is gone a tenth of a second later.

    Unlike it, it does not go before those it has found have the message: on a busy machine that takes longer.
    """
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("once", context=context)
    publisher = node.create_publisher(String, topic, profile)
    bench.until(lambda: publisher.get_subscription_count() >= 1)
    publisher.publish(String(data=text))
    assert publisher.wait_for_all_acked(Duration(seconds=30.0))
    gone_s = time.monotonic() + 0.1
    while time.monotonic() < gone_s:
        bench.executor.spin_once(timeout_sec=0.01)
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("kind", ["a default publisher", "a latched one"])
def test_beside_a_recorder_every_one_is_heard_that_is_said_once(rig: Rig, tmp_path: Path, kind: str) -> None:
    recording = Recording(rig, tmp_path)
    for number in range(TIMES):
        text = f"{RED} {number}"
        said_once(rig.bench, rig.robot.topics.instruction, text, PROFILES[kind])
        rig.bench.until(lambda text=text: rig.node.instruction == text, text)
    bag = recording.stop()
    followed = [bag.decode(message).text for message in bag.messages(["/instruction_in_force"])]
    assert followed[-TIMES:] == [f"{RED} {number}" for number in range(TIMES)]
    assert bag.episode.instruction == followed[-1] and not bag.episode.refused


def test_a_recorder_labels_what_the_policy_took_and_what_it_refused(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = Recording(rig, tmp_path)
    rig.told(RED)
    rig.say("sing")
    rig.bench.until(lambda: recording.node._instructions.refused)
    bag = recording.stop()
    info = bag.episode
    assert main(["bag", "info", str(bag.path)]) == 0
    assert "'sing': " in next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("refused")
    )
    assert info.instruction == RED
    assert info.refused.startswith("'sing': ") and "vocabulary" in info.refused


class Followed:
    def __init__(self, text: str, refused: str = "", reason: str = "") -> None:
        self.text, self.refused, self.reason = text, refused, reason


def test_without_a_policy_a_recorder_listens_itself() -> None:
    known = EpisodeInstructions(now_s=0.0)
    assert not known.listens(policy=False, now_s=1.0)  # one may just be starting
    assert known.listens(policy=False, now_s=3.0)
    known.on_said(f" {RED} ")
    assert known.followed == RED
    assert not known.listens(policy=True, now_s=4.0) and not known.listens(policy=False, now_s=6.9)
    assert known.listens(policy=False, now_s=7.0)


def test_an_episode_has_what_holds_at_its_beginning_and_nothing_older() -> None:
    known = EpisodeInstructions(now_s=0.0)
    known.on_in_force(Followed(RED))
    known.begin()
    assert known.followed == RED
    known.on_in_force(Followed("", "'sing'", "not understood"))
    assert (known.followed, known.refused) == (RED, "'sing': not understood")
    known.begin()
    assert (known.followed, known.refused) == ("", "'sing': not understood")
    known.on_in_force(Followed(GREEN))
    assert (known.followed, known.refused) == (GREEN, "")
