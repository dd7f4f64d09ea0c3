"""The policy node's service `ask`: the generalist answers over real topics while everything else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brain_fixtures import tiny_policy
from policy_rig import Rig
from rclpy.lifecycle import TransitionCallbackReturn
from twinbrain_ros.srv import Ask

from twinbrain_ros.brain.generalist import Generalist
from twinbrain_ros.nodes import asking, convert
from twinbrain_ros.robot.robot_file import RobotFile

QUESTION = "pick up the red block"  # in words that the tiny policy knows
SUCCESS = TransitionCallbackReturn.SUCCESS


@dataclass(frozen=True)
class Said:
    text: str
    tokens: list[int]


class Gated:
    """A generalist that is as slow as the test wants it to be."""

    cameras = ("front",)

    def __init__(self) -> None:
        self.asked: list[tuple[list[np.ndarray], str, int]] = []
        self.go, self.deaf = threading.Event(), False
        self.fails: Exception | None = None

    def ask(
        self,
        images: list[np.ndarray],
        question: str,
        max_tokens: int = 128,
        *,
        cancelled: Callable[[], bool],
    ) -> Said:
        self.asked.append((images, question, max_tokens))
        while not self.go.wait(0.002) and (self.deaf or not cancelled()):
            pass
        if self.fails is not None:
            raise self.fails
        return Said("a block", [5, 6])


@pytest.fixture
def generalist() -> Iterator[Gated]:
    gated = Gated()
    yield gated
    gated.go.set()  # no thread is left behind


@pytest.fixture
def patient(robot: RobotFile, tmp_path: Path) -> str:
    """A robot file whose images may be old, so that no test has to be quick."""
    text = robot.path.read_text(encoding="utf-8").replace("urdf: wx250s.urdf", f"urdf: {robot.urdf_path}")
    assert "max_age_s: 0.25" in text
    path = tmp_path / "patient.yaml"
    path.write_text(text.replace("max_age_s: 0.25", "max_age_s: 10.0"), encoding="utf-8")
    return str(path)


@pytest.fixture
def rig(bench: Any, robot: RobotFile, generalist: Gated, patient: str) -> Rig:
    return Rig(bench, robot, generalist=generalist, robot_file=patient)


class Questions:
    """Asks without waiting for the answer."""

    def __init__(self, rig: Rig) -> None:
        self.bench = rig.bench
        self.client = rig.bench.node.create_client(Ask, "ask")
        self.bench.until(self.client.service_is_ready, "no service ask")

    def put(self, question: str = QUESTION, **options: Any) -> Any:
        return self.client.call_async(Ask.Request(question=question, **options))

    def answer(self, future: Any) -> Ask.Response:
        self.bench.until(future.done, "no answer")
        return future.result()

    def ask(self, question: str = QUESTION, **options: Any) -> Ask.Response:
        return self.answer(self.put(question, **options))


def begun(rig: Rig, generalist: Gated, count: int = 1) -> tuple[Questions, Any]:
    """A question that is being answered."""
    rig.observe()
    questions = Questions(rig)
    future = questions.put()
    rig.bench.until(lambda: len(generalist.asked) == count, "the question never came")
    return questions, future


# What it answers ------------------------------------------------------------------------------------


def test_it_answers_what_the_policys_left_brain_answers(bench: Any, robot: RobotFile, patient: str) -> None:
    policy = tiny_policy()
    alone = Generalist(policy)
    rig = Rig(bench, robot, policy, Generalist(policy), robot_file=patient)
    stamp_ns = rig.observe()
    answer = Questions(rig).ask(max_tokens=9)
    expected = alone.ask([np.full((96, 96, 3), 7, np.uint8)], QUESTION, 9)
    assert answer.success and answer.message == ""
    assert (answer.answer, answer.tokens) == (expected.text, len(expected.tokens))
    assert convert.from_time(answer.image_stamp) == stamp_ns and 0 < answer.seconds < 60
    refused = Questions(rig).ask("what is on the sofa")
    assert not refused.success and "['what', 'is', 'sofa'] are not in this" in refused.message


def test_it_is_shown_the_newest_images_of_its_cameras_only(rig: Rig, generalist: Gated) -> None:
    generalist.go.set()
    newest = rig.now_ns()
    for stamp_ns in (newest - 50_000_000, newest):  # no wrist, no joints: they are not what it looks at
        rig.cameras["front"].publish(rig.image("front", stamp_ns))
    rig.bench.until(lambda: rig.node.health.summary("").values["frames_received/front"] == "2")
    answer = Questions(rig).ask()
    assert answer.success and convert.from_time(answer.image_stamp) == newest
    (images, question, max_tokens), *_ = generalist.asked
    assert [image.shape for image in images] == [(96, 96, 3)] and (question, max_tokens) == (QUESTION, 128)


def test_it_answers_while_the_node_is_inactive(rig: Rig, generalist: Gated) -> None:
    generalist.go.set()
    assert rig.node.trigger_deactivate() == SUCCESS
    rig.observe()
    assert Questions(rig).ask().answer == "a block"
    assert rig.node.trigger_activate() == SUCCESS
    rig.observe()
    assert Questions(rig).ask().answer == "a block"


def test_chunks_keep_coming_while_it_answers(rig: Rig, generalist: Gated) -> None:
    rig.told("pick up the red block")
    rig.chunk(1)
    questions, future = begun(rig, generalist)
    rig.chunk(len(rig.chunks) + 3)
    assert not future.done()
    generalist.go.set()
    answer = questions.answer(future)
    assert (answer.success, answer.answer, answer.tokens) == (True, "a block", 2)


# What it refuses ------------------------------------------------------------------------------------


def test_without_an_image_there_is_nothing_to_answer(rig: Rig, generalist: Gated) -> None:
    answer = Questions(rig).ask()
    assert not answer.success
    assert answer.message == "nothing to look at: no image of camera 'front' has arrived yet"
    assert generalist.asked == [] and convert.from_time(answer.image_stamp) == 0


def test_images_that_are_too_old_are_not_looked_at(bench: Any, robot: RobotFile, generalist: Gated) -> None:
    rig = Rig(bench, robot, generalist=generalist)
    rig.cameras["front"].publish(rig.image("front", rig.now_ns() - 10_000_000_000))
    rig.bench.until(lambda: rig.node.health.summary("").values["frames_received/front"] == "1")
    answer = Questions(rig).ask()
    assert not answer.success and "the image of camera 'front' is 10." in answer.message
    assert "expected at most 0.25 s" in answer.message and generalist.asked == []


def test_a_second_question_is_refused_while_the_first_is_being_answered(rig: Rig, generalist: Gated) -> None:
    questions, first = begun(rig, generalist)
    second = questions.ask()
    assert not second.success and second.message == "another question is still being answered"
    assert not first.done() and len(generalist.asked) == 1
    generalist.go.set()
    assert questions.answer(first).success
    rig.observe()
    assert questions.ask().success  # and the next one is taken


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("question: found an empty text"), "question: found an empty text"),
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
    ],
)
def test_why_there_is_no_answer_is_told_to_who_asked(
    rig: Rig, generalist: Gated, error: Exception, message: str
) -> None:
    generalist.fails = error
    generalist.go.set()
    rig.observe()
    answer = Questions(rig).ask()
    assert (answer.success, answer.answer, answer.message) == (False, "", message)
    generalist.fails = None
    rig.observe()
    assert Questions(rig).ask().success


def test_a_policy_that_has_no_generalist_says_so(bench: Any, robot: RobotFile) -> None:
    answer = Questions(Rig(bench, robot)).ask()
    assert not answer.success and "no generalist" in answer.message


# How it ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda node: node.trigger_deactivate(), "cancelled: the node stops"),
        (lambda node: node.trigger_shutdown(), "cancelled: the node stops"),
        (lambda node: node.close(), "cancelled: the node stops"),
    ],
    ids=["deactivate", "shutdown", "end"],
)
def test_an_answer_is_cancelled_when_the_node_stops(
    rig: Rig, generalist: Gated, end: Callable[[Any], Any], reason: str
) -> None:
    questions, future = begun(rig, generalist)
    end(rig.node)
    answer = questions.answer(future)
    assert (answer.success, answer.answer, answer.message) == (False, "", reason)


def test_an_answer_given_while_inactive_is_cancelled_at_cleanup(rig: Rig, generalist: Gated) -> None:
    assert rig.node.trigger_deactivate() == SUCCESS
    questions, future = begun(rig, generalist)
    assert rig.node.trigger_cleanup() == SUCCESS
    answer = questions.answer(future)
    assert (answer.success, answer.message) == (False, "cancelled: the node is cleaned up")
    assert rig.node.trigger_configure() == SUCCESS  # and all is as new
    generalist.go.set()
    rig.observe()
    assert Questions(rig).ask().success


def test_a_cancelled_question_is_over_before_the_next_one_is_taken(rig: Rig, generalist: Gated) -> None:
    generalist.deaf = True
    questions, first = begun(rig, generalist)
    assert rig.node.trigger_deactivate() == SUCCESS
    assert not questions.answer(first).success
    rig.observe()
    assert questions.ask().message == "a cancelled question is still being answered"
    generalist.go.set()
    rig.bench.until(lambda: rig.observe() and questions.ask().success, "the next question is not taken")


def test_a_generalist_that_hangs_does_not_hold_up_the_cleanup(
    rig: Rig, generalist: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "JOIN_TIMEOUT_S", 0.01)
    generalist.deaf = True
    questions, future = begun(rig, generalist)
    assert rig.node.trigger_deactivate() == SUCCESS and rig.node.trigger_cleanup() == SUCCESS
    assert not questions.answer(future).success
    rig.bench.until(lambda: rig.bench.says("policy_node", 2, "the generalist did not come back in time"))
