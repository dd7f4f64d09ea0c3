"""The left brain as judge: which frames it is shown, how its answer is read, and where the label lands."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_fixtures import INSTRUCTION, START_NS, make_bag
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage

from twinbrain_ros.brain.generalist import Answer
from twinbrain_ros.brain.prompt import InstructionError
from twinbrain_ros.commands import judge as command
from twinbrain_ros.commands.common import CommandError
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.bag import METADATA, add_verdict, open_bag, rewrite_info
from twinbrain_ros.data.bag_writer import BagWriter
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.episode_info import EpisodeInfo, Verdict
from twinbrain_ros.evaluation import judging
from twinbrain_ros.evaluation.judging import FIRST, LAST, Agreement, Judge, JudgeError, Judgement, read_ends
from twinbrain_ros.nodes.convert import image_message
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.training.tokenizer import word_tokenizer

SECONDS = 0.5  # ten images of each camera, whose pixels are 0 to 9 (front) and 100 to 109 (wrist)
DONE = "done"
PERSON = Verdict("failure", text="it fell", source="anna")


class StandIn:
    """A generalist that gives answers in turn, and remembers what it was shown and asked."""

    def __init__(self, *answers: str, cameras: tuple[str, ...] = ("front",)) -> None:
        self.cameras = cameras
        self.answers = list(answers)
        self.shown: list[list[int]] = []
        self.asked: list[str] = []

    def check(self, question: str) -> str:
        if "unknowable" in question:
            raise InstructionError("question: the words ['unknowable'] are not in this vocabulary")
        return question.strip()

    def ask(self, images: Sequence[np.ndarray], question: str, max_tokens: int = 0) -> Answer:
        assert all(image.shape[2] == 3 and image.dtype == np.uint8 for image in images)
        self.shown.append([int(image[0, 0, 0]) for image in images])
        self.asked.append(question)
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return Answer(answer, [1], True)


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, robot: RobotFile) -> Path:
    """A bag that the policy drives from its beginning to its end."""
    path = tmp_path_factory.mktemp("judging") / "episode_1"
    return make_bag(path, robot, SECONDS, chunk_every_s=None).path


@pytest.fixture
def bag(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bags" / made.name))


def info_of(path: Path) -> EpisodeInfo:
    return EpisodeInfo.from_json(open_bag(path).info)


def label(path: Path, *verdicts: Verdict) -> None:
    rewrite_info(path, dataclasses.replace(info_of(path), verdicts=verdicts).to_json())


YES = ("yes", " YES.\n", "Yes, the block is on the plate.", "**Yes**", "Yes - it is", "Yes\u2014it is")
NO = ("no", "No", "no; it fell", '"No."', "No\nThe block is still there.")
NEITHER = ("", "yesterday", "nowhere", "no idea", "no-one can tell", "yes or no", "Yes/No", "yes yes")
NEITHER += ("It is done: yes", "row3 column4", "oui")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [(a, "success") for a in YES] + [(a, "failure") for a in NO] + [(a, "") for a in NEITHER],
)
def test_only_an_answer_that_begins_with_yes_or_no_is_an_outcome(answer: str, outcome: str) -> None:
    assert judging.read_answer(answer) == outcome


@pytest.mark.parametrize(
    ("frames", "cameras", "shown"),
    [
        ((FIRST, LAST), 1, "The first picture shows the start, the last the end."),
        ((FIRST, LAST), 2, "The first 2 pictures show the start, the last 2 the end."),
        ((LAST,), 1, "The picture shows the end."),
        ((FIRST,), 2, "The pictures show the start."),
    ],
)
def test_the_default_question_says_which_pictures_are_which(
    frames: tuple[str, ...], cameras: int, shown: str
) -> None:
    expected = f"{shown} Was this done: {{instruction}}? Answer yes or no."
    assert judging.default_question(frames, cameras) == expected


def test_only_the_instruction_is_filled_in() -> None:
    assert judging.filled("was {instruction}? yes", "put it down. ") == "was put it down? yes"
    assert judging.filled("is it done", "") == "is it done"
    judging.check_places("{instruction}: {1}")
    with pytest.raises(JudgeError, match=r"found \{object\}, \{plate\}, expected no other place than"):
        judging.check_places("is the {object} on the {plate}: {instruction}")
    with pytest.raises(JudgeError, match="no instruction is recorded"):
        judging.filled("was {instruction} done", "")


@pytest.mark.parametrize(
    ("modes", "first", "last"),
    [
        (((0.0, Mode.AUTONOMY),), 0, 9),
        ((), 0, 9),
        (((0.0, Mode.HOLD), (0.1, Mode.TELEOP)), 0, 9),
        # What an image shows at 0.15 s is received 2 ms later.
        (((0.0, Mode.HOLD), (0.151, Mode.AUTONOMY), (0.351, Mode.HOLD)), 3, 6),
        (((0.1, Mode.AUTONOMY), (0.2, Mode.TELEOP), (0.3, Mode.AUTONOMY), (0.4, Mode.ESTOP)), 2, 7),
    ],
)
def test_frames_are_those_of_the_time_of_autonomy(
    modes: tuple[tuple[float, Mode], ...], first: int, last: int, robot: RobotFile, tmp_path: Path
) -> None:
    path = make_bag(tmp_path / "bag", robot, SECONDS, modes=modes, chunk_every_s=None).path
    ends = read_ends(open_bag(path), robot, ("wrist", "front"))
    assert [int(image[0, 0, 0]) for image in ends.first.values()] == [100 + first, first]
    assert [int(image[0, 0, 0]) for image in ends.last.values()] == [100 + last, last]
    assert list(ends.first) == list(ends.last) == ["wrist", "front"]


def test_a_policy_that_drove_between_two_frames_has_none(robot: RobotFile, tmp_path: Path) -> None:
    modes = ((0.0, Mode.HOLD), (0.16, Mode.AUTONOMY), (0.17, Mode.HOLD))
    path = make_bag(tmp_path / "bag", robot, SECONDS, modes=modes, chunk_every_s=None).path
    with pytest.raises(JudgeError, match="no usable frame of camera 'front' while the policy drove"):
        read_ends(open_bag(path), robot, ("front",))


@pytest.mark.parametrize(
    ("frames", "cameras", "shown"),
    [
        ((FIRST, LAST), (), [0, 9]),
        ((FIRST, LAST), ("front", "wrist"), [0, 100, 9, 109]),
        ((LAST,), ("wrist", "front"), [109, 9]),
        ((FIRST,), ("wrist",), [100]),
    ],
)
def test_first_frames_are_shown_before_last_ones(
    frames: tuple[str, ...], cameras: tuple[str, ...], shown: list[int], made: Path
) -> None:
    generalist = StandIn("yes")
    judgement = Judge(generalist, "", frames, cameras).judge(made)
    assert generalist.shown == [shown]
    template = judging.default_question(frames, len(cameras) or 1)
    assert generalist.asked == [template.replace("{instruction}", INSTRUCTION)] == [judgement.asked]
    assert (judgement.outcome, judgement.source) == ("success", f"judge: {template}")


def test_a_left_brain_made_for_other_cameras_is_shown_all_of_the_robots(made: Path) -> None:
    generalist = StandIn("yes", cameras=("overhead",))
    Judge(generalist, DONE).judge(made)
    assert generalist.shown == [[0, 100, 9, 109]]


def write_images(path: Path, robot: RobotFile, messages: Sequence[tuple[str, str, Any]]) -> Path:
    """A bag of nothing but these: topic, type and message, one every 10 ms."""
    writer = BagWriter(path, {})
    for number, (topic, kind, message) in enumerate(messages):
        writer.write(Topic(topic, kind), START_NS + number * 10_000_000, serialize_message(message))
    writer.close({})
    return path


def test_damaged_frames_are_passed_over_and_named_if_there_are_no_others(
    robot: RobotFile, tmp_path: Path
) -> None:
    camera = robot.cameras[0]
    good = [image_message(np.full((camera.height, camera.width, 3), n, np.uint8), camera, 1) for n in (7, 8)]
    torn = image_message(np.zeros((camera.height, camera.width, 3), np.uint8), camera, 1)
    torn.width += 1
    rows = [("/" + camera.topic, "sensor_msgs/msg/Image", message) for message in (torn, *good, torn)]
    ends = read_ends(open_bag(write_images(tmp_path / "some", robot, rows)), robot, ("front",))
    assert (ends.first["front"][0, 0, 0], ends.last["front"][0, 0, 0]) == (7, 8)
    assert ends.instruction == ""
    path = write_images(tmp_path / "none", robot, rows[:1])
    with pytest.raises(JudgeError, match=r"no usable frame of camera 'front': front: width is \d+ pixels"):
        read_ends(open_bag(path), robot, ("front",))


def test_compressed_images_do_as_well(robot: RobotFile, tmp_path: Path) -> None:
    camera = robot.cameras[0]
    packed = cv2.imencode(".png", np.full((camera.height, camera.width, 3), 40, np.uint8))[1].tobytes()
    message = CompressedImage(format="png", data=packed)
    rows = [(f"/{camera.topic}/compressed", "sensor_msgs/msg/CompressedImage", message)]
    path = write_images(tmp_path / "bag", robot, rows)
    assert read_ends(open_bag(path), robot, (camera.name,)).last[camera.name][0, 0, 0] == 40
    with pytest.raises(JudgeError, match="camera 'overhead': not one of robot 'wx250s', which has"):
        read_ends(open_bag(path), robot, ("overhead",))


def test_a_label_lands_beside_others_and_replaces_only_its_own(bag: Path) -> None:
    other = Verdict("success", source="judge: another question")
    label(bag, PERSON, Verdict("success", text="yes", source=f"judge: {DONE}"), other)
    judgement = Judge(StandIn("No, it fell."), DONE).judge(bag)
    assert (judgement.label, judgement.labelled_by) == ("failure", "anna")
    add_verdict(bag, judgement.verdict)
    expected = Verdict("failure", text="No, it fell.", source=f"judge: {DONE}")
    assert info_of(bag).verdicts == (PERSON, other, expected)
    assert info_of(bag).label == PERSON
    assert sum(1 for _ in open_bag(bag).messages()) == open_bag(bag).message_count


def test_a_label_given_while_the_judge_was_thinking_stays(bag: Path) -> None:
    judgement = Judge(StandIn("yes"), DONE).judge(bag)
    label(bag, PERSON)
    add_verdict(bag, judgement.verdict)
    assert info_of(bag).verdicts == (PERSON, judgement.verdict)


@pytest.mark.parametrize(("answer", "text"), [("row3 column4", "row3 column4"), ("", "(no answer)")])
def test_an_unclear_answer_is_kept_as_words_without_an_outcome(bag: Path, answer: str, text: str) -> None:
    judgement = Judge(StandIn(answer), DONE).judge(bag)
    add_verdict(bag, judgement.verdict)
    assert info_of(bag).verdicts == (Verdict("", text=text, source=f"judge: {DONE}"),)


def judgement(outcome: str, truth: str) -> Judgement:
    return Judgement(Path("bag"), DONE, f"judge: {DONE}", "", outcome, truth, "simulator" if truth else "")


def test_agreement_counts_what_is_clear_on_both_sides() -> None:
    cells = [("success", "success")] * 20 + [("success", "failure")] * 5
    cells += [("failure", "success")] * 10 + [("failure", "failure")] * 15
    cells += [("", "success"), ("success", ""), ("", "")]
    agreement = Agreement.of(judgement(*cell) for cell in cells)
    assert agreement == Agreement(20, 5, 10, 15)
    # The textbook's example: 0.7 observed, 0.5 by chance.
    assert agreement.kappa == pytest.approx(0.4)
    values = agreement.to_json()
    assert (values["rate"], values["agreed_by_commoner_label"]) == (0.7, 30)
    assert values["interval"] == pytest.approx([0.5625, 0.8090], abs=1e-4)
    nothing = Agreement.of([]).to_json()
    assert nothing["rate"] is nothing["interval"] is nothing["kappa"] is None


# -- the command


@pytest.fixture
def generalist(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """In place of the one of a checkpoint; it is loaded once however many bags there are."""
    stand_in = StandIn("yes")
    loaded: list[object] = []

    def load(policy: object) -> StandIn:
        loaded.append(policy)
        assert len(loaded) == 1
        return stand_in

    stand_in.policy = type("Policy", (), {"tokenizer": word_tokenizer(["is", "it", "done"])})()  # type: ignore[attr-defined]
    monkeypatch.setattr("twinbrain_ros.brain.generalist.Generalist", load)
    monkeypatch.setattr(
        "twinbrain_ros.brain.policy.TwinBrainPolicy.from_pretrained", lambda *args, **more: stand_in
    )
    return stand_in


def judge(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.run(parser.parse_args(["judge", *map(str, arguments)]))


def test_bags_at_any_depth_are_judged_and_compared(
    bag: Path, generalist: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, truth in ((2, "success"), (10, "failure")):
        label(Path(shutil.copytree(bag, bag.parent / "more" / f"episode_{number}")),
              Verdict(truth, source="simulator"))  # fmt: skip
    generalist.answers = ["yes", "no", "it is done"]
    figures = tmp_path / "figures.json"
    assert judge(bag.parent, "--question", DONE, "--json", figures) == 0
    values = json.loads(figures.read_text())
    assert [(Path(e["bag"]).name, e["answer"], e["outcome"], e["label"]) for e in values["episodes"]] == [
        ("episode_1", "yes", "success", ""),
        ("episode_2", "no", "failure", "success"),
        ("episode_10", "it is done", "", "failure"),
    ]
    assert (values["judged"], values["unclear"], values["skipped"]) == (2, 1, {})
    assert values["agreement"]["only_label_success"] == values["agreement"]["episodes"] == 1
    assert info_of(bag).judged == Verdict("success", text="yes", source=f"judge: {DONE}")
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["judged"].strip() == "2 (1 failure, 1 success)"
    assert rows["unclear answers"].strip() == "1 (such as 'it is done')"
    assert rows["compared with"].strip() == "simulator (1)"
    assert rows["agreement"].strip().startswith("0.0% (0 of 1), 95 % interval 0.0 to ")
    assert rows["Cohen's kappa"].strip() == "0.00"


def test_a_dry_run_writes_nothing(bag: Path, generalist: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in bag.iterdir()}
    assert judge(bag, "--dry-run", "--question", DONE) == 0
    assert {path: path.read_bytes() for path in bag.iterdir()} == before
    assert "none (dry run)" in capsys.readouterr().out


def test_what_cannot_be_judged_is_skipped_by_name(
    bag: Path, generalist: StandIn, robot: RobotFile, capsys: pytest.CaptureFixture[str]
) -> None:
    (bag / METADATA).unlink()
    blind = make_bag(
        bag.parent / "blind", robot, 0.1, chunk_every_s=None, leave_out=[c.topic for c in robot.cameras]
    )
    assert judge(bag.parent, "--question", DONE) == 1
    out = capsys.readouterr().out
    assert f"{bag}" in out and "was cut off, it cannot keep a label: `twinbrain bag repair` mends it" in out
    assert f"{blind.path}" in out and "no usable frame of camera 'front'" in out
    assert not generalist.asked


def test_a_bag_torn_in_its_middle_gets_no_label(
    bag: Path, generalist: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = (bag / METADATA).read_bytes()
    assert judge(bag, "--question", DONE) == 1
    assert (bag / METADATA).read_bytes() == before and "was cut off" in capsys.readouterr().out


def test_interrupted_it_reports_what_it_has(
    bag: Path, generalist: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = Path(shutil.copytree(bag, bag.parent / "episode_2"))
    ask = generalist.ask

    def interrupted(*args: Any) -> Answer:
        if generalist.asked:
            raise KeyboardInterrupt
        return ask(*args)

    monkeypatch.setattr(generalist, "ask", interrupted)
    assert judge(bag.parent, "--question", DONE) == 130
    assert info_of(bag).judged is not None and info_of(second).judged is None
    assert "1 (1 success)" in capsys.readouterr().out


def test_nothing_but_unclear_answers_is_a_failure(bag: Path, generalist: StandIn) -> None:
    generalist.answers = ["who knows"]
    assert judge(bag, "--question", DONE) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((), CommandError, r"\d+ of its 17 words are not in this checkpoint's vocabulary"),
        (
            ("--question", "is {instruction} truly done"),
            CommandError,
            r"1 of its 3 words are not in this checkpoint's vocabulary, such as \['truly'\]",
        ),
        (("--question", "is {object} done"), JudgeError, "expected no other place"),
        (("--question", "done", "--robot", "nowhere.yaml"), FileNotFoundError, "nowhere"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_asked(
    arguments: tuple[str, ...], error: type[Exception], words: str, bag: Path, generalist: StandIn
) -> None:
    with pytest.raises(error, match=words):
        judge(bag, *arguments)
    assert not generalist.asked


def test_an_instruction_of_unknown_words_skips_its_episode(
    robot: RobotFile, generalist: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instructions = ((0.0, "lift the unknowable"),)
    make_bag(tmp_path / "bag", robot, 0.1, chunk_every_s=None, instructions=instructions)
    assert judge(tmp_path, "--question", "is it done {instruction}") == 1
    assert "the words ['unknowable'] are not in this vocabulary" in capsys.readouterr().out


def test_a_place_without_bags_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"{tmp_path}: found no bag"):
        judge(tmp_path)
