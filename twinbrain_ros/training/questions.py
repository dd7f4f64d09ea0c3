"""Questions about what a camera sees, with answers from the simulator: how a small VLM is taught to see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twinbrain_ros.brain.config import CameraInput
from twinbrain_ros.sim.tasks import COLOURS
from twinbrain_ros.training.dataset import Demonstrations

# Answers to "where" name one of BINS rows and columns of the view.
BINS = 12
KINDS = ("block", "block", "block", "plate", "plate")  # the order of objects in a scene
QUESTIONS = ("where", "where", "is there", "how many", "left of")  # "where" is the one that teaches aim
NUMBERS = ("zero", "one", "two", "three")


def words() -> list[str]:
    """Every word a taught VLM and the demo's policy may meet, in a fixed order."""
    fixed = "pick up put the on state where is there a how many are left of what in view yes no nowhere"
    bins = [f"{axis}{i}" for axis in ("row", "column") for i in range(BINS)]
    return [*fixed.split(), *COLOURS, "block", "blocks", "plate", "plates", *NUMBERS, *bins]


@dataclass(frozen=True)
class Question:
    """One view, one question, one answer; `asked` is the object it is about, -1 for none in view."""

    camera: str
    row: int
    text: str
    answer: str
    asked: int = -1


class QuestionMaker:
    """Draws questions about frames of a data set; every answer follows from projected object centres."""

    def __init__(
        self, data: Demonstrations, cameras: tuple[CameraInput, ...], front_share: float = 0.65
    ) -> None:
        self.data = data
        self.cameras = cameras
        self.shares = [front_share, *[(1 - front_share) / (len(cameras) - 1)] * (len(cameras) - 1)]

    def draw(self, rng: np.random.Generator, rows: np.ndarray, per_row: int = 1) -> list[Question]:
        """`per_row` questions in a row about one view of each frame."""
        out = []
        for row in rows:
            camera = self.cameras[int(rng.choice(len(self.cameras), p=self.shares))]
            out += [self._one(rng, int(row), camera) for _ in range(per_row)]
        return out

    def _one(self, rng: np.random.Generator, row: int, camera: CameraInput) -> Question:
        pixels = self.data.arrays[f"pixels_{camera.name}"][row]
        colours = self.data.arrays["colours"][row]
        with np.errstate(invalid="ignore"):
            seen = ((pixels >= 0) & (pixels < [camera.width, camera.height])).all(1)
        index = {f"{COLOURS[colours[i]]} {KINDS[i]}": i for i in range(len(KINDS)) if seen[i]}
        things = {name: pixels[i] for name, i in index.items()}
        kind = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
        if kind == "left of" and len(things) >= 2:
            first, second = rng.choice(list(things), 2, replace=False)
            answer = "yes" if things[first][0] < things[second][0] else "no"
            return Question(camera.name, row, f"is the {first} left of the {second}", answer, index[first])
        if kind == "how many":
            noun = ("block", "plate")[int(rng.integers(2))]
            count = sum(name.endswith(noun) for name in things)
            return Question(camera.name, row, f"how many {noun}s are in view", NUMBERS[count])
        name = self._name(rng, list(things))
        asked = index.get(name, -1)
        if kind == "is there":
            return Question(camera.name, row, f"is there a {name}", "yes" if asked >= 0 else "no", asked)
        if asked < 0:
            return Question(camera.name, row, f"where is the {name}", "nowhere")
        column, line = np.floor(things[name] / [camera.width, camera.height] * BINS).astype(int)
        return Question(camera.name, row, f"where is the {name}", f"row{line} column{column}", asked)

    def _name(self, rng: np.random.Generator, seen: list[str]) -> str:
        """Mostly something in view, sometimes anything, so that "no" and "nowhere" are learnt too."""
        if seen and rng.random() < 0.75:
            return seen[int(rng.integers(len(seen)))]
        return f"{COLOURS[int(rng.integers(len(COLOURS)))]} {('block', 'plate')[int(rng.integers(2))]}"
