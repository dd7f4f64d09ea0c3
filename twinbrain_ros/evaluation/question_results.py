"""What asking leaves: a line per answer as it comes, and figures with intervals and paired tests."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.evaluation.comparison import MCNEMAR, Matched, format_p
from twinbrain_ros.evaluation.line_log import append_lines, whole_lines
from twinbrain_ros.evaluation.questions import Question, QuestionError, QuestionFile
from twinbrain_ros.evaluation.statistics import percentile, wilson_interval

if TYPE_CHECKING:
    from twinbrain_ros.brain.generalist import Answer

FORMAT = 1
LEFT, RIGHT, STOCK = "left", "right", "stock"
ENDED = -1  # stands for the token that ends an answer, whichever it was
LEAST_CATEGORIES = 2  # with fewer there is nothing to tell apart


@dataclass(frozen=True)
class Protocol:
    """Everything that answers depend on beside the weights. Figures of other protocols do not compare.

    questions: digest of the file; suffix: what is added to each question; pixels: how pictures are sized.
    """

    layout: str
    questions: str
    suffix: str
    pixels: str
    max_tokens: int
    dtype: str

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Every field in which another one, as of a file, differs."""
        mine = dataclasses.asdict(self)
        return [f"{k}: {other.get(k)!r} and {v!r}" for k, v in mine.items() if other.get(k) != v]


@dataclass(frozen=True)
class Said:
    """One brain's answer to one question, as the log holds it; the fields are those of `Answer`."""

    brain: str
    id: str
    text: str
    tokens: list[int]
    finished: bool
    margins: list[float]

    @classmethod
    def of(cls, brain: str, question: Question, answer: Answer) -> Said:
        margins = [round(margin, 5) for margin in answer.margins]
        return cls(brain, question.id, answer.text, answer.tokens, answer.finished, margins)


class AnswerLog:
    """Answers of one checkpoint under one protocol, on disk before the next ones are asked for.

    A file that is there is gone on with. Raises QuestionError if it holds answers of another run.
    """

    def __init__(self, path: Path, names: Mapping[str, str | None], protocol: Protocol) -> None:
        self.path = path
        self.answers: dict[tuple[str, str], Said] = {}
        lines = whole_lines(path)
        if lines:
            self._read(lines, names, protocol)
        else:
            head = {"format": FORMAT, **names, "protocol": dataclasses.asdict(protocol)}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    def _read(self, lines: Sequence[str], names: Mapping[str, str | None], protocol: Protocol) -> None:
        try:
            head = json.loads(lines[0])
            wrong = [f"{k}: {head[k]!r} and {v!r}" for k, v in names.items() if head[k] != v]
            wrong += protocol.differences(head["protocol"])
            said = [Said(**json.loads(line)) for line in lines[1:]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise QuestionError(f"{self.path}: found no log of answers: {error!r}") from error
        if wrong:
            raise QuestionError(
                f"{self.path}: holds answers of another run ({'; '.join(wrong)}), expected the same one to "
                "go on, or another --json"
            )
        self.answers = {(one.brain, one.id): one for one in said}

    def add(self, said: Sequence[Said]) -> None:
        """Keeps the answers of a batch; they are on disk when this returns."""
        append_lines(self.path, [json.dumps(dataclasses.asdict(one)) for one in said])
        self.answers |= {(one.brain, one.id): one for one in said}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the log for one command at a time; a process that ends in any way lets go of it."""
        with self.path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise QuestionError(f"{self.path}: another twinbrain questions is at work on it") from None
            yield


# Figures ----------------------------------------------------------------------------------------------------


def report(
    file: QuestionFile, questions: Sequence[Question], log: AnswerLog, brains: Sequence[str]
) -> dict[str, Any]:
    """The figures of each brain, of what they say alike, and every answer; n counts questions with a known
    answer."""
    per_brain = {brain: _figures(brain, questions, log) for brain in brains}
    mine = [brain for brain in brains if brain != STOCK]
    return {
        "file": str(file.path),
        "questions": len(questions),
        "brains": per_brain,
        "agreement": {brain: _agreement(brain, questions, log) for brain in mine if STOCK in brains},
        "comparisons": [
            comparison(a, b, paired(_judged(a, questions, log), _judged(b, questions, log)))
            for a, b in ((LEFT, RIGHT), (LEFT, STOCK))
            if a in brains and b in brains and any(q.expected is not None for q in questions)
        ],
        "answers": [_answers(question, log, brains) for question in questions],
    }


def _answers(question: Question, log: AnswerLog, brains: Sequence[str]) -> dict[str, Any]:
    """What each brain answered to one question."""
    texts = {brain: log.answers[brain, question.id].text for brain in brains}
    return {
        "id": question.id,
        "category": question.category,
        "expected": question.expected,
        **{
            b: {"text": t, "parsed": question.parsed(t), "right": question.right(t)} for b, t in texts.items()
        },
    }


def _judged(brain: str, questions: Iterable[Question], log: AnswerLog) -> dict[str, bool]:
    verdicts = {q.id: q.right(log.answers[brain, q.id].text) for q in questions}
    return {name: verdict for name, verdict in verdicts.items() if verdict is not None}


def _figures(brain: str, questions: Sequence[Question], log: AnswerLog) -> dict[str, Any]:
    categories = sorted({q.category for q in questions})
    found = _rate(brain, questions, log)
    if len(categories) >= LEAST_CATEGORIES:
        groups = {name: [q for q in questions if q.category == name] for name in categories}
        found["categories"] = {name: _rate(brain, group, log) for name, group in groups.items()}
    return found


def _rate(brain: str, questions: Sequence[Question], log: AnswerLog) -> dict[str, Any]:
    judged = [q for q in questions if q.expected is not None]
    right = sum(_judged(brain, judged, log).values())
    return {
        "n": len(judged),
        "k": right,
        "rate": right / len(judged) if judged else None,
        "interval": list(wilson_interval(right, len(judged))),
        "not_parsed": sum(q.parsed(log.answers[brain, q.id].text) is None for q in judged),
        "unfinished": sum(not log.answers[brain, q.id].finished for q in questions),
    }


def _agreement(brain: str, questions: Sequence[Question], log: AnswerLog) -> dict[str, Any]:
    """How many answers are the stock VLM's in every token, and where the others first differ.

    margin: by how much this brain preferred its token there: next to nothing where rounding decided.
    """
    differing: list[dict[str, Any]] = []
    for question in questions:
        own, stock = log.answers[brain, question.id], log.answers[STOCK, question.id]
        token = first_difference(own, stock)
        if token is not None:
            margin = own.margins[token] if token < len(own.margins) else None
            differing.append({"id": question.id, "token": token, "margin": margin})
    n, equal = len(questions), len(questions) - len(differing)
    margins = [entry["margin"] for entry in differing if entry["margin"] is not None]
    return {
        "n": n,
        "equal": equal,
        "interval": list(wilson_interval(equal, n)),
        "earliest": min((entry["token"] for entry in differing), default=None),
        "median_token": percentile([entry["token"] for entry in differing], 50),
        "largest_margin": max(margins, default=None),
        "differing": differing,
    }


def first_difference(a: Said, b: Said) -> int | None:
    """Index of the first token in which two answers differ, their ends among them; None: they are equal."""
    first, second = ([*said.tokens, *([ENDED] if said.finished else [])] for said in (a, b))
    if first == second:
        return None
    same = (i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y)
    return next(same, min(len(first), len(second)))


def paired(a: Mapping[str, bool], b: Mapping[str, bool]) -> Matched:
    """Questions that both were judged on, by what came of them."""
    pairs = [(a[name], b[name]) for name in a if name in b]
    return Matched(
        *(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False)))
    )


def comparison(a: str, b: str, matched: Matched) -> dict[str, Any]:
    known = matched.pairs > 0
    return {
        "a": a,
        "b": b,
        "test": MCNEMAR,
        **matched.counts(),
        "difference": matched.difference if known else None,
        "interval": list(matched.interval) if known else None,
        "p_value": matched.p_value if known else None,
    }


def compare_with(
    values: Mapping[str, Any], theirs: Mapping[str, Mapping[str, bool]], name: str
) -> list[dict[str, Any]]:
    """Each brain of these results against the same one of earlier ones (`read_verdicts`), called `name`."""
    mine = _verdicts(values)
    return [
        comparison(f"{brain} here", f"{brain} of {name}", paired(mine[brain], theirs[brain]))
        for brain in mine
        if brain in theirs
    ]


def read_verdicts(path: Path, protocol: Protocol) -> dict[str, dict[str, bool]]:
    """By brain and question, whether an earlier run's answers were right.

    Raises:
        QuestionError: the file cannot be read, or holds other questions or another protocol.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        wrong = protocol.differences(values["protocol"])
        verdicts = _verdicts(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuestionError(f"--against {path}: found no results of questions: {error!r}") from error
    if wrong:
        raise QuestionError(
            f"--against {path}: another protocol, so that it does not compare: {'; '.join(wrong)}"
        )
    return verdicts


def _verdicts(values: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    return {
        brain: {a["id"]: a[brain]["right"] for a in values["answers"] if a[brain]["right"] is not None}
        for brain in values["brains"]
    }


# For people -------------------------------------------------------------------------------------------------


def table(values: Mapping[str, Any]) -> str:
    """The figures for a terminal."""
    rows: list[tuple[str, ...]] = [("", "right", "n", "95 %", "not parsed", "unfinished")]
    for brain, found in values["brains"].items():
        rows.append(_row(brain, found))
        rows += [_row(f"  {name or 'none'}", part) for name, part in found.get("categories", {}).items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [_agreement_line(brain, found) for brain, found in values["agreement"].items()]
    if values.get("weights"):
        equal, count = values["weights"]["equal"], values["weights"]["tensors"]
        lines.append(f"left brain's tensors that are the stock VLM's bit for bit: {equal} of {count}")
    lines += [_comparison_line(found) for found in values["comparisons"]]
    return "\n".join(
        [*lines, f"protocol: {json.dumps(values['protocol'])}", f"checkpoint: {values['checkpoint']}"]
    )


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    if not found["n"]:
        return name, "-", "0", "-", "-", str(found["unfinished"])
    low, high = found["interval"]
    return (
        name, f"{found['rate']:.1%}", f"{found['k']}/{found['n']}", f"[{100 * low:.1f}, {100 * high:.1f}]",
        str(found["not_parsed"]), str(found["unfinished"]),
    )  # fmt: skip


def _agreement_line(brain: str, found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    line = (
        f"{brain} and stock: equal in every token {found['equal']}/{found['n']} "
        f"[{100 * low:.1f}, {100 * high:.1f}]"
    )
    if found["differing"]:
        margin = found["largest_margin"]
        line += (
            f"; first difference at token {found['earliest']} at the earliest, {found['median_token']:g} in "
        )
        line += f"the median, where {brain} preferred its own by a logit of "
        line += "(not known)" if margin is None else f"{margin:.3g} at most"
    return line


def _comparison_line(found: Mapping[str, Any]) -> str:
    if not found["pairs"]:
        return f"{found['a']} and {found['b']}: no question in common"
    low, high = found["interval"]
    return (
        f"{found['a']} minus {found['b']}: {100 * found['difference']:+.1f} points "
        f"[{100 * low:+.1f}, {100 * high:+.1f}], {format_p(found['p_value'])} ({found['test']} on "
        f"{found['pairs']} questions: {found['n10']} only {found['a']}, {found['n01']} only {found['b']})"
    )
