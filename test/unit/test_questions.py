"""`twinbrain questions`: both brains beside the stock VLM, over files of three layouts."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from training_fixtures import RandomSource
from vlm_folders import FAMILIES, vlm_folder

from twinbrain_ros import cli
from twinbrain_ros.brain import checkpoint
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.generalist import Answer, Generalist
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.pretrained import load_base
from twinbrain_ros.brain.query import QueryBuilder
from twinbrain_ros.brain.stock import StockVlm
from twinbrain_ros.evaluation.question_results import AnswerLog, Protocol, Said, first_difference, report
from twinbrain_ros.evaluation.questions import Question, QuestionError, QuestionFile, load_questions
from twinbrain_ros.training.loop import LoopConfig
from twinbrain_ros.training.policy import PolicyOptions, train_policy

TOKENS = "8"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in two sizes: noise_0.png to noise_3.png."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    for i in range(4):
        cv2.imwrite(
            str(folder / f"noise_{i}.png"), rng.integers(0, 256, (64 + 40 * (i % 2), 96, 3), np.uint8)
        )
    return folder


def pope(folder: Path, count: int = 8) -> Path:
    lines = [
        {
            "question_id": i,
            "image": f"noise_{i % 4}.png",
            "text": f"Is there a {'very ' * (i % 3)}red block in the picture?",
            "label": ("yes", "no")[i % 2],
            "category": ("random", "popular")[i // 4 % 2],
        }
        for i in range(count)
    ]
    path = folder / "pope.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def mmbench(path: Path, rows: list[dict[str, str]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


def run(*arguments: str | Path) -> int:
    return cli.main(["questions", *map(str, arguments), "--max-tokens", TOKENS])


def results(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


# -- the brains and the stock VLM


@pytest.fixture(scope="module", params=FAMILIES)
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A VLM's folder and a twin that `init` made of it."""
    return made_twin(tmp_path_factory.mktemp(request.param), request.param)


def made_twin(folder: Path, family: str) -> tuple[Path, Path]:
    vlm, out = vlm_folder(folder / "vlm", family), folder / "twin"
    init = ["init", "--vlm", str(vlm), "--out", str(out), "--expert", "small", "--camera", "front"]
    assert cli.main(init) == 0
    return vlm, out


def trained(checkpoint: Path, out: Path) -> None:
    """The same twin after a few steps of training, on random samples."""
    shutil.copytree(checkpoint, out)
    config = TwinBrainConfig.load(out)
    action, state = RandomSource(config).statistics()
    dataclasses.replace(config, action_statistics=action, state_statistics=state).save(out)
    policy = TwinBrainPolicy.from_pretrained(out)
    loop = LoopConfig(4, 4, 3e-2, warmup_steps=1, save_every_steps=4, ema_decay=0.0, seed=3)
    train_policy(policy, RandomSource(policy.config), PolicyOptions(), loop, out)
    policy.save_pretrained(out)


def test_the_left_brain_answers_as_the_stock_vlm_before_and_after_training_and_the_right_one_does_not(
    twin: tuple[Path, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (vlm, checkpoint), file = twin, pope(pictures)
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert run(file, "--checkpoint", checkpoint, "--vlm", vlm, "--batch", "3", "--json", before) == 0
    found = results(before)
    assert found["agreement"]["left"]["equal"] == found["agreement"]["left"]["n"] == 8
    assert found["weights"]["equal"] == found["weights"]["tensors"] > 40
    assert found["brains"]["left"]["n"] == 8 and set(found["brains"]["left"]["categories"]) == {
        "random",
        "popular",
    }
    lines = [json.loads(line) for line in (tmp_path / "before.answers.jsonl").read_text().splitlines()[1:]]
    assert {(line["brain"], line["id"]) for line in lines} == {
        (brain, str(i)) for brain in ("left", "right", "stock") for i in range(8)
    }
    assert len({tuple(line["tokens"]) for line in lines if line["brain"] == "stock"}) > 4, "they say little"

    trained(checkpoint, tmp_path / "trained")
    capsys.readouterr()
    options = ("--vlm", vlm, "--batch", "3", "--json", after, "--against", before)
    assert run(file, "--checkpoint", tmp_path / "trained", *options) == 0
    found = results(after)
    assert found["agreement"]["left"]["equal"] == 8
    assert found["weights"]["equal"] == found["weights"]["tensors"]
    right = found["agreement"]["right"]
    assert right["equal"] < 8 and right["differing"][0]["margin"] > 0
    pairs = {(c["a"], c["b"]): c for c in found["comparisons"]}
    assert pairs["left here", "left of before.json"]["p_value"] == 1.0
    assert {("left", "right"), ("left", "stock"), ("right here", "right of before.json")} < set(pairs)
    told = capsys.readouterr().out
    assert "left and stock: equal in every token 8/8 [67.6, 100.0]\n" in told
    assert "left here minus left of before.json: +0.0 points" in told


def test_a_left_brain_that_was_changed_is_found_out(
    twin: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    vlm, original = twin
    policy = TwinBrainPolicy.from_pretrained(original)
    with torch.no_grad():
        policy.model.left.model.language_model.layers[1].mlp.down_proj.weight.mul_(-1.0)
    policy.save_pretrained(tmp_path / "changed")
    file, out = pope(pictures), tmp_path / "out.json"
    assert run(file, "--checkpoint", tmp_path / "changed", "--vlm", vlm, "--json", out) == 0
    found = results(out)
    assert found["weights"]["differing"] == ["model.language_model.layers.1.mlp.down_proj.weight"]
    assert found["agreement"]["left"]["equal"] < 8
    assert found["agreement"]["left"]["earliest"] is not None


def test_the_stock_vlm_answers_a_batch_as_it_answers_one_by_one(
    twin: tuple[Path, Path], pictures: Path
) -> None:
    vlm, checkpoint_folder = twin
    base = load_base(str(vlm))
    policy = TwinBrainPolicy.from_pretrained(checkpoint_folder)
    builder = QueryBuilder(policy.config, policy.tokenizer, pixel_limits=base.images.pixel_limits)
    picture = cv2.imread(str(pictures / "noise_0.png"))
    queries = [
        builder.build([picture], text) for text in ("what?", "what is on the table over there?", "is it red?")
    ]
    stock = StockVlm(str(vlm), base, "cpu", "float32")
    alone = [stock.ask_batch([query], 8)[0] for query in queries]
    assert stock.ask_batch(queries, 8) == alone
    assert [a.tokens for a in Generalist(policy).ask_batch(queries, 8)] == [a.tokens for a in alone]


def test_another_vlm_than_the_twins_own_is_refused(
    twin: tuple[Path, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vlm, checkpoint_folder = twin
    other = tmp_path / "other"
    shutil.copytree(vlm, other)
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (other / "config.json").write_text(json.dumps(config))
    assert run(pope(pictures), "--checkpoint", checkpoint_folder, "--vlm", other) == 2
    error = capsys.readouterr().err
    shutil.copy(vlm / "config.json", other / "config.json")
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    (other / "tokenizer.json").write_text(json.dumps(words))
    assert run(pope(pictures), "--checkpoint", checkpoint_folder, "--vlm", other) == 2
    assert re.search(
        r"pope.json:1: question: found the tokens .*, expected those of", capsys.readouterr().err
    )
    assert (
        "not the VLM that this checkpoint was made from: text_config.intermediate_size: checkpoint " in error
    )
    assert error.count("\n") == 1


# -- going on


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_twin(tmp_path_factory.mktemp("small"), "qwen3_vl")[1]


def test_an_interrupted_run_goes_on_and_asks_nothing_twice(
    small: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, ask, asked = pope(pictures), Generalist.ask_batch, []

    def interrupted(self: Generalist, queries: Any, max_tokens: int) -> list[Answer]:
        asked.append(len(queries))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(self, queries, max_tokens)

    options = ("--checkpoint", small, "--batch", "3")
    assert run(file, *options, "--json", tmp_path / "whole.json") == 0
    monkeypatch.setattr(Generalist, "ask_batch", interrupted)
    assert run(file, *options, "--json", tmp_path / "cut.json") == 130
    log = tmp_path / "cut.answers.jsonl"
    kept = log.read_text()
    assert len(kept.splitlines()) == 1 + sum(asked[:2]) and not (tmp_path / "cut.json").exists()
    log.write_text(kept + '{"brain": "left", "id": "7", "te')  # what a kill leaves of a line
    done, asked = asked[:2], [0, 0, 0]
    assert run(file, *options, "--json", tmp_path / "cut.json") == 0
    assert sum(done) + sum(asked) == 16, "eight questions of two brains"
    whole, cut = (results(tmp_path / f"{name}.json") for name in ("whole", "cut"))
    assert whole == cut
    assert len(log.read_text().splitlines()) == 17


def test_a_limit_can_be_raised_and_a_log_of_another_run_is_refused(
    small: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = pope(pictures), tmp_path / "out.json"
    options = ("--checkpoint", small, "--json", out)
    assert run(file, *options, "--limit", "3") == 0
    assert results(out)["questions"] == 3
    assert run(file, *options, "--limit", "5") == 0
    assert results(out)["questions"] == 5
    capsys.readouterr()
    assert run(file, *options, "--suffix", " Say yes or no.") == 2
    assert r"suffix: '\nAnswer with yes or no.' and ' Say yes or no.'" in capsys.readouterr().err
    assert run(pope(pictures, 4), *options) == 2
    assert "holds answers of another run (questions: " in capsys.readouterr().err
    shutil.copytree(small, tmp_path / "other")
    assert run(pope(pictures), "--checkpoint", tmp_path / "other", "--json", out) == 2
    assert re.search(r"another run \(checkpoint: 'twin@(\w+)' and 'other@\1'\)", capsys.readouterr().err)
    pope(pictures)
    again = ("--checkpoint", small, "--against", out, "--pixels", "1024,4096")
    assert run(file, *again) == 2
    assert "another protocol, so that it does not compare: pixels: " in capsys.readouterr().err
    (tmp_path / "out.answers.jsonl").write_text("[]\n")
    assert run(file, *options) == 2
    assert "out.answers.jsonl: found no log of answers" in capsys.readouterr().err


# -- layouts


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_mmbench_tables_are_read_with_quotes_hints_and_rows_that_share_a_picture(
    pictures: Path, tmp_path: Path
) -> None:
    rows = [
        {"index": "7", "question": "Which\ncolour?", "hint": "Look.", "A": "red", "B": "blue", "C": "",
         "D": "", "answer": "B", "category": "colour", "image": encoded(pictures / "noise_0.png")},
        {"index": "8", "question": "How many?", "hint": "", "A": "1", "B": "2", "C": "3", "D": "4",
         "answer": "D", "category": "count", "image": "7"},
    ]  # fmt: skip
    file = load_questions(mmbench(tmp_path / "mmbench.tsv", rows))
    first, second = file.questions
    assert file.layout == "mmbench" and (first.line, second.line) == (2, 4)
    assert first.text == "Look.\nWhich\ncolour?\nA. red\nB. blue"
    assert (first.expected, first.category, dict(first.choices)) == ("B", "colour", {"A": "red", "B": "blue"})
    assert file.sizes == {"7": ((64, 96),), "8": ((64, 96),)}
    np.testing.assert_array_equal(first.pictures[0].load(), second.pictures[0].load())


def test_our_own_lines_take_several_pictures_choices_and_open_questions(
    pictures: Path, tmp_path: Path
) -> None:
    lines = [
        {"id": "a", "image": "noise_0.png", "question": "Describe it."},
        {"id": "b", "images": ["noise_0.png", "noise_1.png"], "question": "Which is larger?",
         "choices": {"A": "the first", "B": "the second"}, "answer": "B", "category": "size"},
        {"id": "c", "image": "noise_1.png", "question": "where is the block", "answer": "row3 column4"},
        {"id": "d", "image": "noise_1.png", "question": "is it red", "answer": "No"},
    ]  # fmt: skip
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    file = load_questions(path, pictures)
    described, larger, where, red = file.questions
    assert described.right("anything") is None and red.expected == "no"
    assert file.sizes["b"] == ((64, 96), (104, 96))
    assert where.right(" Row3  column4. ") is True and where.right("row3") is False
    assert larger.right("the second") is True
    assert load_questions(path, pictures).digest == file.digest
    shutil.copytree(pictures, tmp_path / "changed")
    shutil.copy(pictures / "noise_2.png", tmp_path / "changed" / "noise_0.png")
    assert load_questions(path, tmp_path / "changed").digest != file.digest, "pictures count"


YES = Question("q", 1, "Is it?", (), "yes")
LETTER = Question("q", 1, "Which?", (), "B", {"A": "a red block", "B": "a blue block", "C": "answer"})


@pytest.mark.parametrize(
    ("question", "answer", "parsed"),
    [
        (YES, "Yes", "yes"),
        (YES, "No, there is not, yes?", "no"),
        (YES, "I think so; YES.", "yes"),
        (YES, "not at all, nothing is known", None),
        (YES, "", None),
        (LETTER, "B", "B"),
        (LETTER, "(b) a blue block", "B"),
        (LETTER, "A. a red block", "A"),
        (LETTER, "B\nbecause it is", "B"),
        (LETTER, "A blue block", "B"),
        (LETTER, "a blue block.", "B"),
        (LETTER, "A block of some kind", None),
        (LETTER, "The answer is C", "C"),
        (LETTER, "Answer: **B**", "B"),
        (LETTER, "the answer is a block", None),
        (LETTER, "D", None),
    ],
)
def test_answers_are_told_by_the_rules_that_are_documented(
    question: Question, answer: str, parsed: str | None
) -> None:
    assert question.parsed(answer) == parsed
    assert question.right(answer) is (parsed == question.expected)


GOOD = {"question_id": 1, "image": "noise_0.png", "text": "Is it?", "label": "yes"}
OWN = {"id": "a", "image": "noise_0.png", "question": "Is it?"}


def lines(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found an empty file, expected questions"),
        (lines({"id": 1}), r":1: found the keys id, expected an object a line with id, image, question"),
        ("name\tvalue\n", r":1: found 'name\\tvalue', expected an object a line"),
        (lines(GOOD, GOOD), ":2: id: found '1', which line 1 has too, expected another one for each"),
        (
            lines(GOOD, GOOD | {"question_id": 2, "label": "maybe"}),
            ":2: label: found 'maybe', expected yes or no",
        ),
        (lines(GOOD | {"image": "gone.png"}), "gone.png: no such file, expected a PNG or JPEG picture"),
        (lines(GOOD | {"image": "pope.json"}), "pope.json: not a readable picture, expected a PNG"),
        (lines(GOOD) + "{\n", ":2: found no JSON"),
        (lines(OWN, OWN | {"id": "b", "question": " "}), ":2: question: found ' ', expected words"),
        (lines(OWN | {"images": []}), r":1: image: found \[\], expected the name of a picture"),
        (lines(OWN | {"choices": {"A": "x"}, "answer": "B"}), ":1: answer: found 'B', expected one of A"),
        (
            lines(OWN | {"choices": {"Z": "x"}}),
            ":1: choices: found .*expected an object from letters to texts",
        ),
        (lines(OWN | {"answer": True}), ":1: answer: found True, expected a text"),
        ("index\tquestion\tA\tB\timage\n", "found a header and no questions"),
        ("index\tquestion\tA\tB\timage\n1\twhat\tx\n", ":2: found fewer or more fields than expected: 5"),
        (
            "index\tquestion\tA\tB\timage\n1\twhat\tx\ty\t9\n",
            ":2: image: found '9', expected a picture in base64",
        ),
        (f"index\tquestion\tA\tB\timage\n1\twhat\tx\ty\t{'!' * 80}\n", ":2: image: found base64: "),
        (
            f"index\tquestion\tA\tB\timage\n1\twhat\tx\ty\t{'AAAA' * 40}\n",
            ":2: image: found base64: not a readable",
        ),
        (
            f"index\tquestion\tA\tB\tanswer\timage\n1\twhat\tx\ty\tC\t{'A' * 80}\n",
            ":2: answer: found 'C', expected one of A, B",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_line(
    text: str, words: str, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "questions"
    path.write_text(text)
    pope(pictures)
    with pytest.raises(QuestionError, match=words) as refused:
        load_questions(path, pictures)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"text": "is <|im_end|> red?"},
            r"pope.json:3: question: the role tokens ['<|im_end|>'] are not for",
        ),
        ({"text": "x" * 30_000}, "pope.json:3: question: found 30023 characters, expected at most 20000"),
    ],
)
def test_a_question_that_cannot_be_asked_is_named_before_the_weights_are_loaded(
    change: dict[str, str], words: str, small: Path, pictures: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(checkpoint, "load_model", lambda *_: pytest.fail("weights were loaded"))
    entries = [json.loads(line) for line in pope(pictures).read_text().splitlines()]
    path = tmp_path / "pope.json"
    path.write_text(lines(*entries[:2], entries[2] | change))
    assert run(path, "--images", pictures, "--checkpoint", small) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl: found no such file, expected questions"),
        (("FILE", "--images", "nowhere"), "--images nowhere: found no such directory"),
        (("FILE", "--against", "nowhere.json"), "--against nowhere.json: found no results of questions"),
        (("FILE", "--vlm", "nowhere"), "nowhere: not readable as a base VLM"),
        (("FILE", "--json", "FILE"), "found a file that is read, expected another"),
        (("FILE", "--max-tokens", "4000"), "--max-tokens: found 4000, expected 1 to 2048"),
    ],
)
def test_wrong_options_are_named_in_a_line(
    options: tuple[str, ...], words: str, small: Path, pictures: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = pope(pictures)
    before = file.read_bytes()
    given = [str(file) if option == "FILE" else option for option in options]
    assert cli.main(["questions", *given, "--checkpoint", str(small)]) == 2
    assert file.read_bytes() == before
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


# -- figures


def said(brain: str, name: int, text: str, tokens: list[int] | None = None, finished: bool = True) -> Said:
    tokens = [1, 2] if tokens is None else tokens
    return Said(brain, str(name), text, tokens, finished, [0.5 + i for i in range(len(tokens) + finished)])


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], AnswerLog]:
    protocol = Protocol("jsonl", "d", "", "1-2", 8, "float32")
    return lambda: AnswerLog(tmp_path / "log.jsonl", {"checkpoint": "c", "stock": None}, protocol)


def test_figures_count_what_was_right_what_was_not_parsed_and_pairs(log: Callable[[], AnswerLog]) -> None:
    labels = ["yes", "no", "yes", "no", None]
    asked = [Question(str(i), i, "?", (), label, category="ab"[i % 2]) for i, label in enumerate(labels)]
    file = QuestionFile(Path("f"), "jsonl", tuple(asked), {}, "d")
    answers = log()
    texts = {"left": ["yes", "no", "yes", "no", "x"], "right": ["yes", "yes", "maybe", "yes", "x"]}
    texts["stock"] = texts["left"]
    for brain, words in texts.items():
        answers.add([said(brain, i, text) for i, text in enumerate(words)])
    answers.add([said("stock", 2, "yes", [1, 3]), said("stock", 3, "no", [1, 2], finished=False)])
    found = report(file, asked, log(), ("left", "right", "stock"))  # as a second call reads it
    assert found["brains"]["left"]["k"] == 4 and found["brains"]["left"]["n"] == 4
    right = found["brains"]["right"]
    assert (right["k"], right["n"], right["not_parsed"]) == (1, 4, 1)
    assert right["interval"] == pytest.approx([0.0456, 0.6994], abs=1e-4)
    assert {name: part["k"] for name, part in right["categories"].items()} == {"a": 1, "b": 0}
    pair = next(c for c in found["comparisons"] if c["b"] == "right")
    assert (pair["pairs"], pair["n10"], pair["n01"], pair["p_value"]) == (4, 3, 0, 0.25)
    agreement = found["agreement"]["left"]
    assert (agreement["n"], agreement["equal"], agreement["earliest"]) == (5, 3, 1)
    assert agreement["differing"] == [
        {"id": "2", "token": 1, "margin": 1.5},
        {"id": "3", "token": 2, "margin": 2.5},
    ]


@pytest.mark.parametrize(
    ("a", "b", "index"),
    [
        (([1, 2], True), ([1, 2], True), None),
        (([1, 2], True), ([1, 3], True), 1),
        (([1, 2], True), ([1, 2], False), 2),
        (([1], True), ([1, 2], True), 1),
        (([], True), ([1], True), 0),
    ],
)
def test_the_first_difference_counts_the_end_as_a_token(
    a: tuple[list[int], bool], b: tuple[list[int], bool], index: int | None
) -> None:
    first, second = (said("left", 0, "", tokens, finished) for tokens, finished in (a, b))
    assert first_difference(first, second) == first_difference(second, first) == index


def test_one_command_at_a_time_works_on_a_log(log: Callable[[], AnswerLog]) -> None:
    with log().alone():
        second = log().alone()
        with pytest.raises(QuestionError, match="another twinbrain questions is at work"), second:
            pytest.fail("two at once")
    with log().alone():
        pass
