"""The left brain as judge: was the task of a recorded episode done, going by its first and last frames?"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.data.bag import METADATA, Bag, BagError, Message, open_bag
from twinbrain_ros.data.contract import in_namespace
from twinbrain_ros.data.decode import FrameError
from twinbrain_ros.data.episode_info import FAILURE, JUDGE, SUCCESS, Verdict
from twinbrain_ros.data.instructions import Instructions
from twinbrain_ros.data.recorded import camera_topics, namespace_of, recorded_image, robot_of
from twinbrain_ros.evaluation.comparison import cohens_kappa
from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.robot.robot_file import Camera, RobotFile

if TYPE_CHECKING:
    from twinbrain_ros.brain.generalist import Answer

FIRST, LAST = "first", "last"
FRAMES = {"first,last": (FIRST, LAST), FIRST: (FIRST,), LAST: (LAST,)}
INSTRUCTION = "{instruction}"
ANSWER_TOKENS = 64  # yes or no is said at once; the rest is its reason, kept for people
NO_ANSWER = "(no answer)"
# How many frames are kept to fall back on where the last ones are damaged.
TAIL = 8

_PLACE = re.compile(r"\{[A-Za-z_]*\}")
# The word ends the answer, or a sign or a line break follows: "no idea" and "yes or no" say neither.
_YES_NO = re.compile(r"[\W_]*(yes|no)(?=[.,;:!?*_)\"']|\s*$|\s*\n|\s*\u2014|\s+[-\u2013]\s)", re.IGNORECASE)

Image = NDArray[np.uint8]


class Asked(Protocol):
    """What is needed of a `brain.generalist.Generalist`."""

    @property
    def cameras(self) -> tuple[str, ...]: ...

    def check(self, question: str) -> str: ...

    def ask(self, images: Sequence[Image], question: str, max_tokens: int = ...) -> Answer: ...


class JudgeError(ValueError):
    """An episode that cannot be judged, or a question that cannot be asked; says what was found."""


def default_question(frames: Sequence[str], cameras: int) -> str:
    """The question for so many cameras; says in words which pictures are which."""
    many = cameras > 1
    if tuple(frames) == (FIRST, LAST):
        first, last = (f"first {cameras} pictures", f"last {cameras}") if many else ("first picture", "last")
        shown = f"The {first} show{'' if many else 's'} the start, the {last} the end."
    else:
        when = "start" if tuple(frames) == (FIRST,) else "end"
        shown = f"The picture{'s show' if many else ' shows'} the {when}."
    return f"{shown} Was this done: {INSTRUCTION}? Answer yes or no."


def check_places(question: str) -> None:
    """Refuses a question with a place, such as {object}, that only a guess could fill. Raises JudgeError."""
    others = sorted(set(_PLACE.findall(question)) - {INSTRUCTION})
    if others:
        raise JudgeError(f"question: found {', '.join(others)}, expected no other place than {INSTRUCTION}")


def filled(question: str, instruction: str) -> str:
    """The question about this instruction.

    Raises:
        JudgeError: it asks about an instruction, and there is none.
    """
    words = instruction.strip().rstrip(". ")  # the sentence goes on after it
    if INSTRUCTION in question and not words:
        raise JudgeError(f"no instruction is recorded, expected one for {INSTRUCTION} of the question")
    return question.replace(INSTRUCTION, words)


def read_answer(text: str) -> str:
    """SUCCESS or FAILURE of an answer that begins with yes or no; "" of every other: it is not clear."""
    match = _YES_NO.match(text)
    if match is None:
        return ""
    return SUCCESS if match[1].lower() == "yes" else FAILURE


@dataclass(frozen=True)
class Ends:
    """How an episode began and ended: by camera the frame [H, W, 3] uint8 RGB; and the last instruction."""

    first: Mapping[str, Image]
    last: Mapping[str, Image]
    instruction: str

    def images(self, frames: Sequence[str]) -> list[Image]:
        """In the order in which they are shown: all first ones, then all last ones."""
        return [image for name in frames for image in (self.first if name == FIRST else self.last).values()]


@dataclass
class _Stream:
    """A camera's topic: the first frame that could be read, and the last messages."""

    camera: Camera
    first: Image | None = None
    tail: deque[Message] = field(default_factory=lambda: deque(maxlen=TAIL))
    damage: str = ""

    def clear(self) -> None:
        self.first, self.damage = None, ""
        self.tail.clear()

    def add(self, bag: Bag, message: Message) -> None:
        if self.first is None:
            self.first = self._read(bag, message)
        self.tail.append(message)

    def last(self, bag: Bag) -> Image | None:
        for message in reversed(self.tail):
            image = self._read(bag, message)
            if image is not None:
                return image
        return None

    def _read(self, bag: Bag, message: Message) -> Image | None:
        try:
            return recorded_image(bag.decode(message), self.camera)
        except (BagError, FrameError, AttributeError) as error:
            self.damage = str(error)
            return None


def read_ends(bag: Bag, robot: RobotFile, cameras: Sequence[str], namespace: str | None = None) -> Ends:
    """The frames with which an episode began and ended.

    Of the time in which the policy drove if the bag tells of one: the first frame received since it began to
    and the last before it ceased to. Else the first and the last frame of the bag.

    Args:
        cameras: their names in the robot file, in the order in which they are to be shown.
        namespace: of the arm's topics; None takes the bag's.
    Raises:
        JudgeError: a camera is none of the robot's, or has no frame that could be read.
        BagError: the bag is damaged, or does not say which namespace.
    """
    info = bag.episode
    inner = namespace_of(bag, robot) if namespace is None else namespace
    streams = _streams(bag, robot, cameras, inner)
    instructions = Instructions(robot, inner)
    mode_topic = in_namespace(inner, robot.topics.control_mode)
    instruction, driven, within = info.instruction, False, True
    for message in bag.messages([*streams, *instructions.topics, mode_topic]):
        if message.topic == mode_topic:
            drives = int(bag.decode(message).mode) == Mode.AUTONOMY
            if drives and not driven:
                for stream in streams.values():  # what was before does not count
                    stream.clear()
            driven = driven or drives
            within = drives or not driven
        elif message.topic in instructions.topics:
            followed = instructions.read(message.topic, bag.decode(message))
            if followed is not None:
                instruction = info.instruction or followed
        elif within:
            streams[message.topic].add(bag, message)
    first, last = {}, {}
    for stream in streams.values():
        name, end = stream.camera.name, stream.last(bag)
        if stream.first is None or end is None:
            reason = f": {stream.damage}" if stream.damage else " while the policy drove" if driven else ""
            raise JudgeError(f"{bag.path}: no usable frame of camera {name!r}{reason}")
        first[name], last[name] = stream.first, end
    return Ends(first, last, instruction)


def _streams(bag: Bag, robot: RobotFile, cameras: Sequence[str], namespace: str) -> dict[str, _Stream]:
    """By topic, in the order of `cameras`."""
    known = {camera.name: topic for topic, camera in camera_topics(bag, robot, namespace).items()}
    for name in cameras:
        if name not in known:
            raise JudgeError(f"camera {name!r}: not one of robot {robot.name!r}, which has {list(known)}")
    return {known[name]: _Stream(robot.camera(name)) for name in cameras}


@dataclass(frozen=True)
class Judgement:
    """What was said of one episode.

    Attributes:
        bag: its path.
        asked: the question, as the generalist was asked it.
        source: of the label, with the question before it was filled in: the same for every episode.
        answer: the words.
        outcome: SUCCESS, FAILURE, or "" for an answer that is neither yes nor no.
        label, labelled_by: what a person or a simulator says, "" if nobody does, and who.
    """

    bag: Path
    asked: str
    source: str
    answer: str
    outcome: str
    label: str
    labelled_by: str

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.outcome, text=self.answer or NO_ANSWER, source=self.source)

    def to_json(self) -> dict[str, Any]:
        names = ("asked", "answer", "outcome", "label", "labelled_by")
        return {"bag": str(self.bag), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Judge:
    """How episodes are judged.

    Attributes:
        generalist: who is asked.
        question: with a place for the {instruction} if it asks about it; "" asks the default one.
        frames: what is shown: FIRST, LAST or both in this order.
        cameras: of which; () takes those of the left brain, or all of a robot that has none of these.
        robot: name or path of a robot file, None takes the bag's own.
        namespace: of the arm's topics, None takes the bag's own.
    """

    generalist: Asked
    question: str = ""
    frames: tuple[str, ...] = (FIRST, LAST)
    cameras: tuple[str, ...] = ()
    robot: str | None = None
    namespace: str | None = None

    def template(self, cameras: int | None = None) -> str:
        """The question before it is filled in, for so many cameras (default: as many as will be shown)."""
        count = len(self.cameras or self.generalist.cameras) if cameras is None else cameras
        return self.question or default_question(self.frames, count)

    def judge(self, path: Path) -> Judgement:
        """Asks about a bag; writes nothing.

        Raises:
            JudgeError: it was cut off, has no frames or no instruction to ask about.
            ValueError, OSError: it cannot be read, or the generalist does not take the question.
        """
        bag = open_bag(path)
        if bag.truncated or not (path / METADATA).is_file():
            raise JudgeError(f"{path}: was cut off, it cannot keep a label: `twinbrain bag repair` mends it")
        robot = robot_of(bag, self.robot)
        ends = read_ends(bag, robot, self._cameras_of(robot), self.namespace)
        template = self.template(len(ends.first))
        asked = self.generalist.check(filled(template, ends.instruction))
        answer = self.generalist.ask(ends.images(self.frames), asked, ANSWER_TOKENS).text
        label = bag.episode.label
        known = (label.outcome, label.source) if label is not None and label.outcome else ("", "")
        return Judgement(path, asked, f"{JUDGE}: {template}", answer, read_answer(answer), *known)

    def _cameras_of(self, robot: RobotFile) -> tuple[str, ...]:
        names = tuple(camera.name for camera in robot.cameras)
        return self.cameras or tuple(name for name in self.generalist.cameras if name in names) or names


@dataclass(frozen=True)
class Agreement:
    """The judge beside the labels, where both are clear: how many were called a success by whom."""

    both: int = 0
    only_judge: int = 0
    only_label: int = 0
    neither: int = 0

    @classmethod
    def of(cls, judgements: Iterable[Judgement]) -> Agreement:
        pairs = [(j.outcome == SUCCESS, j.label == SUCCESS) for j in judgements if j.outcome and j.label]
        cells = ((True, True), (True, False), (False, True), (False, False))
        return cls(*(pairs.count(cell) for cell in cells))

    @property
    def total(self) -> int:
        return self.both + self.only_judge + self.only_label + self.neither

    @property
    def agreed(self) -> int:
        return self.both + self.neither

    @property
    def constant(self) -> int:
        """How often one who always says the commoner label would agree."""
        successes = self.both + self.only_label
        return max(successes, self.total - successes)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate of agreement, as fractions."""
        return wilson_interval(self.agreed, self.total)

    @property
    def kappa(self) -> float | None:
        """Cohen's: agreement beyond chance; None where chance alone agrees fully, or of nothing."""
        return cohens_kappa(self.both, self.only_judge, self.only_label, self.neither)

    def to_json(self) -> dict[str, Any]:
        return {
            "episodes": self.total,
            "both_success": self.both,
            "only_judge_success": self.only_judge,
            "only_label_success": self.only_label,
            "neither_success": self.neither,
            "agreed": self.agreed,
            "rate": self.agreed / self.total if self.total else None,
            "interval": list(self.interval) if self.total else None,
            "kappa": self.kappa,
            "agreed_by_commoner_label": self.constant,
        }
