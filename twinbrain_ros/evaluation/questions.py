"""Questions about pictures, from files of three layouts, and what counts as a right answer to them.

Layouts, told apart by what is in the file:

jsonl: ours, an object a line: `id`, `image` or `images` (files), `question`; and, where there is a right
answer, `answer`, with `choices` (letter to text) the letter of one of them; `category`.
pope: POPE's (arXiv 2305.10355), an object a line: `question_id`, `image`, `text`, `label` yes or no.
mmbench: MMBench's (arXiv 2307.06281), a table with tabs: `index`, `question`, `hint`, `A`, `B`, `C`, `D`,
`answer`, `category`, `image` in base64 or, as in the published tables, the index of the row that has it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

YES_NO = ("yes", "no")
LETTERS = "ABCDEFGH"
# What is added to each question, where the layout's own text does not say how to answer.
SUFFIXES = {
    "jsonl": "",
    "pope": "\nAnswer with yes or no.",
    "mmbench": "\nAnswer with the letter of the right choice.",
}
LAYOUTS = (
    "an object a line with id, image, question (ours) or question_id, image, text, label (POPE), or a table "
    "with tabs and the columns index, question, A, B, image (MMBench)"
)
REFERENCE_LENGTH = 64  # characters; a shorter entry of `image` in MMBench's tables names another row


class QuestionError(ValueError):
    """A file of questions that cannot be used: the line, the key, what was found and what was expected."""


@dataclass(frozen=True)
class Picture:
    """A picture to be decoded when it is needed; `encoded`: its file's bytes in base64."""

    path: Path | None = None
    encoded: str = field(default="", repr=False)

    def data(self) -> bytes:
        """The file's bytes. Raises OSError or ValueError."""
        if self.path is not None:
            return self.path.read_bytes()
        return base64.b64decode("".join(self.encoded.split()), validate=True)

    def load(self) -> np.ndarray:
        """uint8 [H, W, 3] RGB. Raises OSError or ValueError for what is no picture."""
        return _decoded(self.data())


def _decoded(data: bytes) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError("not a readable picture")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


@dataclass(frozen=True)
class Question:
    """One question: what is asked, and what is right.

    text: in words, choices listed below it; expected: None where nothing is known to be right, else "yes" or
    "no", a letter of `choices`, or a text.
    """

    id: str
    line: int
    text: str
    pictures: tuple[Picture, ...]
    expected: str | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    category: str = ""

    def parsed(self, answer: str) -> str | None:
        """An answer in the terms of `expected`; None: it cannot be told what it says.

        Yes or no: the first word of the answer that is either. A letter: the answer's first character (after
        a bracket), if it is all of its line or is followed by `.`, `)`, `:` or `,`; else the capital after
        "answer is" or "answer:"; else the one choice whose text is the whole answer. A text: the whole
        answer. Case, blanks around and a full stop at the end do not count.
        """
        if self.choices:
            return _letter(answer, self.choices)
        if self.expected in YES_NO:
            found = re.search(r"\b(yes|no)\b", answer, re.IGNORECASE)
            return found[1].lower() if found else None
        return _plain(answer) or None

    def right(self, answer: str) -> bool | None:
        """Whether an answer is right; what cannot be parsed is not. None where no answer is known."""
        if self.expected is None:
            return None
        wanted = self.expected if self.choices else _plain(self.expected)
        return self.parsed(answer) == wanted


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


def _letter(answer: str, choices: Mapping[str, str]) -> str | None:
    text, letters = answer.strip(), "".join(choices)
    first = re.match(rf"\(?([{letters}])(?:[.):,\n]|$)", text, re.IGNORECASE)
    # A capital only: "the answer is a dog" names no letter.
    found = first or re.search(rf"\b(?i:answer(?: is|:))[\s*(]*([{letters}])\b", text)
    if found:
        return found[1].upper()
    same = [letter for letter, choice in choices.items() if _plain(choice) == _plain(text)]
    return same[0] if len(same) == 1 else None


@dataclass(frozen=True)
class QuestionFile:
    """All questions of a file, every picture of which was decoded once.

    sizes: per question height and width of its pictures; digest: the same for the same questions, pictures
    and right answers, wherever they lie.
    """

    path: Path
    layout: str
    questions: tuple[Question, ...]
    sizes: Mapping[str, tuple[tuple[int, int], ...]]
    digest: str


def load_questions(path: Path, images: Path | None = None) -> QuestionFile:
    """Reads and checks a whole file; images: folder of its pictures (default: the file's own).

    Raises:
        QuestionError: anything that could not be asked or judged, by its line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"{path}: cannot be read: {error}") from error
    if not text.strip():
        raise QuestionError(f"{path}: found an empty file, expected questions: {LAYOUTS}")
    layout, entries = _entries(path, text)
    folder = images or path.parent
    read = {"jsonl": _ours, "pope": _pope, "mmbench": _mmbench}[layout]
    questions: dict[str, Question] = {}
    for entry in entries:
        question = read(entry, folder)
        if question.id in questions:
            earlier = questions[question.id].line
            raise entry.error("id", f"{question.id!r}, which line {earlier} has too", "another one for each")
        questions[question.id] = question
    if not questions:
        raise QuestionError(f"{path}: found a header and no questions")
    if layout == "mmbench":
        questions = {i: _resolved(question, questions, path) for i, question in questions.items()}
    return _checked(path, layout, tuple(questions.values()))


def _checked(path: Path, layout: str, questions: tuple[Question, ...]) -> QuestionFile:
    """Decodes each picture once."""
    known: dict[Picture, tuple[tuple[int, int], str]] = {}
    sizes, digest = {}, hashlib.sha256()
    for question in questions:
        for picture in question.pictures:
            if picture in known:
                continue
            try:
                data = picture.data()
                shape = _decoded(data).shape
            except (OSError, ValueError) as error:
                where = "base64" if picture.path is None else str(picture.path)
                reason = "no such file" if isinstance(error, FileNotFoundError) else error
                raise QuestionError(
                    f"{path}:{question.line}: image: found {where}: {reason}, expected a PNG or JPEG picture"
                ) from error
            known[picture] = (shape[0], shape[1]), hashlib.sha256(data).hexdigest()
        facts = [known[picture] for picture in question.pictures]
        sizes[question.id] = tuple(size for size, _ in facts)
        asked = [question.id, question.text, question.expected, dict(question.choices)]
        digest.update(json.dumps([*asked, [data for _, data in facts]]).encode())
    return QuestionFile(path, layout, questions, sizes, digest.hexdigest()[:12])


# Layouts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """One question's raw values and where they stand."""

    path: Path
    line: int
    values: Mapping[str, Any]

    def error(self, key: str, found: Any, expected: str) -> QuestionError:
        return QuestionError(f"{self.path}:{self.line}: {key}: found {found}, expected {expected}")

    def text(self, key: str, expected: str) -> str:
        value = self.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "nothing" if value in (None, "") else repr(value), expected)
        return value.strip()

    def optional(self, key: str, expected: str) -> str:
        return "" if self.values.get(key) in (None, "") else self.text(key, expected)


def _entries(path: Path, text: str) -> tuple[str, Iterator[_Entry]]:
    """The layout, and the entries one by one."""
    first = text.lstrip().splitlines()[0]
    if first.startswith("{"):
        keys = set(_object(path, 1, first).values)
        if {"question_id", "text", "label"} <= keys:
            return "pope", _objects(path, text)
        if {"id", "question"} <= keys:
            return "jsonl", _objects(path, text)
        raise QuestionError(
            f"{path}:1: found the keys {', '.join(sorted(keys)) or 'none'}, expected {LAYOUTS}"
        )
    columns = {name.strip() for name in first.split("\t")}
    if {"index", "question", "A", "B", "image"} <= columns:
        return "mmbench", _rows(path, text)
    raise QuestionError(f"{path}:1: found {first[:60]!r}, expected {LAYOUTS}")


def _object(path: Path, line: int, text: str) -> _Entry:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise QuestionError(f"{path}:{line}: found no JSON ({error}), expected an object") from error
    if not isinstance(values, dict):
        raise QuestionError(f"{path}:{line}: found {type(values).__name__}, expected an object")
    return _Entry(path, line, values)


def _objects(path: Path, text: str) -> Iterator[_Entry]:
    for line, entry in enumerate(text.split("\n"), 1):
        if entry.strip():
            yield _object(path, line, entry)


def _rows(path: Path, text: str) -> Iterator[_Entry]:
    csv.field_size_limit(2**31 - 1)  # a picture is one field
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t")
    line = 2
    try:
        for row in reader:
            if None in row or None in row.values():
                count = len(reader.fieldnames or ())
                raise QuestionError(f"{path}:{line}: found fewer or more fields than expected: {count}")
            yield _Entry(path, line, row)
            line = reader.line_num + 1
    except csv.Error as error:
        raise QuestionError(f"{path}:{line}: found no row of a table with tabs: {error}") from error


def _ours(entry: _Entry, folder: Path) -> Question:
    names = entry.values.get("images", entry.values.get("image"))
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise entry.error("image", repr(names), "the name of a picture, or a list of them under images")
    choices = entry.values.get("choices") or {}
    good = isinstance(choices, dict) and all(k in LETTERS and len(k) == 1 for k in choices)
    if not good or not all(isinstance(v, str) and v.strip() for v in choices.values()):
        raise entry.error("choices", repr(choices), "an object from letters to texts")
    expected: str | None = entry.optional("answer", "a text") or None
    if choices and expected is not None and expected not in choices:
        raise entry.error("answer", repr(expected), f"one of {', '.join(choices)}")
    if expected is not None and not choices and _plain(expected) in YES_NO:
        expected = _plain(expected)
    return Question(
        entry.text("id", "a name of its own"),
        entry.line,
        _with_choices(entry.text("question", "words"), choices),
        tuple(Picture(folder / name) for name in names),
        expected,
        choices,
        entry.optional("category", "a text"),
    )


def _pope(entry: _Entry, folder: Path) -> Question:
    label = entry.text("label", "yes or no").lower()
    if label not in YES_NO:
        raise entry.error("label", repr(label), "yes or no")
    return Question(
        entry.text("question_id", "a number of its own"),
        entry.line,
        entry.text("text", "a question"),
        (Picture(folder / entry.text("image", "the name of a picture")),),
        label,
        category=entry.optional("category", "a text"),
    )


def _mmbench(entry: _Entry, folder: Path) -> Question:
    choices = {
        letter: str(entry.values[letter]).strip()
        for letter in LETTERS
        if str(entry.values.get(letter) or "").strip()
    }
    expected = entry.optional("answer", "a letter") or None
    if expected is not None and expected not in choices:
        raise entry.error("answer", repr(expected), f"one of {', '.join(choices)}")
    hint = entry.optional("hint", "a text")
    question = entry.text("question", "words")
    return Question(
        entry.text("index", "a number of its own"),
        entry.line,
        _with_choices(question if not hint else f"{hint}\n{question}", choices),
        (Picture(encoded=entry.text("image", "a picture in base64")),),
        expected,
        choices,
        entry.optional("category", "a text"),
    )


def _resolved(question: Question, others: Mapping[str, Question], path: Path) -> Question:
    """With the picture of the row that its own names instead of having one."""
    encoded = question.pictures[0].encoded
    if len(encoded) > REFERENCE_LENGTH:
        return question
    other = others.get(encoded)
    if other is None or len(other.pictures[0].encoded) <= REFERENCE_LENGTH:
        raise QuestionError(
            f"{path}:{question.line}: image: found {encoded!r}, expected a picture in base64, or the index "
            "of a row that has one"
        )
    return Question(**{**vars(question), "pictures": other.pictures})


def _with_choices(question: str, choices: Mapping[str, str]) -> str:
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in choices.items())])
