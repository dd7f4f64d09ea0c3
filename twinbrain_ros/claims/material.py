"""What all runs share: demonstrations without the held-out colour, and the VLM that they start from."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twinbrain_ros.brain import backbone
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.claims.protocol import Protocol, ProtocolError
from twinbrain_ros.resources import train_start
from twinbrain_ros.robot.robot_file import RobotFile, load_robot
from twinbrain_ros.sim.tasks import COLOURS
from twinbrain_ros.training.dataset import Demonstrations
from twinbrain_ros.training.demonstrations import generate
from twinbrain_ros.training.questions import Question
from twinbrain_ros.training.state import write_whole
from twinbrain_ros.training.vlm import VlmTeacher

BEFORE = "before.json"
QUESTION_SEED = 1


@dataclass
class Material:
    """Robot, words, architecture and the VLM that all runs start from; frames that demonstrate, and a last
    shard that nothing is trained on.

    Raises:
        ProtocolError: the checkpoint to start from has no frozen left brain.
    """

    protocol: Protocol
    out: Path
    robot: RobotFile
    tokenizer: Any
    twin: TwinBrainConfig
    vlm: Any

    @classmethod
    def of(cls, protocol: Protocol, out: Path) -> Material:
        recipe = protocol.recipe
        started = TwinBrainPolicy.from_pretrained(train_start(recipe.start), "cpu", dtype="float32")
        if started.config.left_brain != "frozen":
            raise ProtocolError(
                f"recipe: start: {recipe.start} has the left brain {started.config.left_brain!r}, expected a "
                "frozen one: it is what all runs start from"
            )
        twin = dataclasses.replace(started.config, action_statistics=None, state_statistics=None)
        robot = load_robot(recipe.robot)
        return cls(protocol, out, robot, started.tokenizer, twin, started.model.left)

    @property
    def cell_px(self) -> int:
        return backbone.patch_layout(self.twin.vlm_config()).factor

    def shards(self) -> list[Path]:
        assert self.protocol.recipe.data is not None
        return generate(self.protocol.recipe.robot, self.protocol.recipe.data, self.out / "data")

    def held_out(self) -> Demonstrations:
        """The last shard, whose frames neither VLM nor policies are trained on."""
        return Demonstrations(self.shards()[-1:], self.twin.cameras, self.cell_px)

    def demonstrations(self, name: str) -> Demonstrations:
        """The first so many frames of those that pursue no goal of the held-out colour."""
        assert self.protocol.recipe.data is not None
        wanted, shards = self.protocol.demonstrations[name].frames, self.shards()[:-1]
        per_shard = self.protocol.recipe.data.frames_per_shard
        # Three of ten goals name a given colour; a few shards more make up for the frames that go.
        count = min(len(shards), -(-2 * wanted // per_shard))
        data = without_colour(
            Demonstrations(shards[:count], self.twin.cameras, self.cell_px), self.protocol.held_out_colour
        )
        return first_frames(data, wanted)

    def ask(self) -> dict[str, Any]:
        """The VLM's answers to held-out questions, before any training; as `answers`."""
        report = self.out / BEFORE
        if not report.is_file():
            found = self.answers(self.vlm, self.held_out())
            write_whole(report, lambda partial: partial.write_text(json.dumps(found, indent=2) + "\n"))
        return dict(json.loads(report.read_text(encoding="utf-8")))

    def answers(self, brain: Any, held_out: Demonstrations) -> dict[str, list[int]]:
        """[right, asked] per kind of held-out question, of those naming the held-out colour, of all."""
        return question_hits(
            brain, self.tokenizer, held_out, self.twin, self.protocol.questions, self.protocol.held_out_colour
        )


def without_colour(data: Demonstrations, colour: str) -> Demonstrations:
    """Demonstrations in which no block or plate of this colour is ever a goal.

    Frames that pursue such a goal are left out; where only another goal was labelled, a second allowed one of
    the same frame takes its place. The things themselves stay on the table.
    """
    code, goals = COLOURS.index(colour), data.arrays["goals"]
    named = (goals[..., 1] == code) | (goals[..., 2] == code)
    kept = ~named[:, 0]
    out = _rows(data, kept)
    goals, labels, named = out.arrays["goals"].copy(), out.arrays["labels"].copy(), named[kept]
    count = goals.shape[1]
    for slot in range(1, count):
        rows = np.flatnonzero(named[:, slot])
        # The next slot that is allowed, going round; the pursued goal (0) always is.
        source = np.zeros(len(rows), int)
        for other in [*range(1, slot), *range(slot + 1, count)]:
            source = np.where((source == 0) & ~named[rows, other], other, source)
        goals[rows, slot] = goals[rows, source]
        labels[rows, slot] = labels[rows, source]
    out.arrays = {**out.arrays, "goals": goals, "labels": labels}
    return out


def first_frames(data: Demonstrations, count: int) -> Demonstrations:
    """The first `count` frames. Raises ValueError if there are fewer."""
    if data.size < count:
        raise ValueError(f"demonstrations: found {data.size} frames, expected at least {count}")
    return _rows(data, np.arange(data.size) < count)


def _rows(data: Demonstrations, kept: np.ndarray) -> Demonstrations:
    out = copy.copy(data)
    out.arrays = {key: array[kept] for key, array in data.arrays.items()}
    out.size = int(kept.sum())
    return out


@torch.no_grad()
def question_hits(
    brain: Any, tokenizer: Any, data: Demonstrations, twin: TwinBrainConfig, count: int, colour: str
) -> dict[str, list[int]]:
    """[right, asked] of `count` questions about frames of `data`, the same for every brain."""
    teacher = VlmTeacher(brain, tokenizer, data, twin)
    rng = np.random.default_rng(QUESTION_SEED)
    rows = rng.integers(0, data.size, count)
    questions = sorted(teacher.maker.draw(rng, rows), key=lambda question: question.camera)
    batches = [questions[i : i + 100] for i in range(0, count, 100)]
    hits = torch.cat([teacher.losses_and_hits(batch)[1] for batch in batches]).tolist()
    found: dict[str, list[int]] = {}
    for question, hit in zip(questions, hits, strict=True):
        for group in _groups(question, colour):
            tally = found.setdefault(group, [0, 0])
            tally[0] += int(hit)
            tally[1] += 1
    return {group: found[group] for group in sorted(found)}


def _groups(question: Question, colour: str) -> list[str]:
    kind = " ".join(question.text.split()[:2])
    kind = "left of" if kind == "is the" else kind
    return ["all", kind, *([f"names {colour}"] if colour in question.text.split() else [])]
