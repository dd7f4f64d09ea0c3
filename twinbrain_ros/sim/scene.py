"""What stands on the table at the start of an episode: drawn from a seed, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twinbrain_ros.sim.tasks import COLOURS, TASKS, Goal

BLOCKS = 3
PLATES = 2

# Where centres may lie [m], base frame, all within reach of a tool that points down.
_LOWER = (0.20, -0.16)
_UPPER = (0.38, 0.16)
_PLATE_Y_M = 0.145  # the front camera sees a whole plate up to here
_REACH_M = 0.41
# Least distances between centres [m]: an open gripper fits around a block, a carried block fits on a plate.
_BLOCK_BLOCK_M = 0.065
_BLOCK_PLATE_M = 0.09
_PLATE_PLATE_M = 0.11


@dataclass(frozen=True)
class Placement:
    """One object at the start: centre ``x``, ``y`` [m] and ``yaw`` [rad] in the base frame."""

    kind: str
    colour: str
    x: float
    y: float
    yaw: float

    @property
    def name(self) -> str:
        """Colour and kind, such as ``red block``."""
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """The start of an episode: objects (blocks, then plates), the goal and its words."""

    seed: int
    task: str
    objects: tuple[Placement, ...]
    goal: Goal
    instruction: str


def draw_scene(seed: int, task: str) -> Scene:
    """Draw a scene; the objects depend on the seed alone, the goal on seed and task.

    Raises:
        ValueError: ``task`` is not one of `TASKS`.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}, expected one of {', '.join(TASKS)}")
    rng = np.random.default_rng(seed)
    colours = [COLOURS[i] for i in rng.permutation(len(COLOURS))[:BLOCKS]]
    plate_colours = [COLOURS[i] for i in rng.permutation(len(COLOURS))[:PLATES]]
    places = _draw_places(rng)
    yaws = rng.uniform(-np.pi, np.pi, BLOCKS)
    blocks = [
        Placement("block", colour, x, y, float(yaw))
        for colour, (x, y), yaw in zip(colours, places[PLATES:], yaws, strict=True)
    ]
    plates = [
        Placement("plate", colour, x, y, 0.0)
        for colour, (x, y) in zip(plate_colours, places[:PLATES], strict=True)
    ]
    block, plate = int(rng.integers(BLOCKS)), int(rng.integers(PLATES))
    goal = Goal(task, colours[block], plate_colours[plate] if task == "put" else "")
    return Scene(seed, task, (*blocks, *plates), goal, goal.instruction())


def _draw_places(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return plate centres, then block centres [m], starting over when the rest does not fit."""
    while True:
        places: list[tuple[float, float]] = []
        for x, y in rng.uniform(_LOWER, _UPPER, (60, 2)).tolist():
            within = x * x + y * y <= _REACH_M**2 and (len(places) >= PLATES or abs(y) <= _PLATE_Y_M)
            if within and _fits(x, y, places):
                places.append((x, y))
                if len(places) == PLATES + BLOCKS:
                    return places


def _fits(x: float, y: float, places: list[tuple[float, float]]) -> bool:
    to_plate = _PLATE_PLATE_M if len(places) < PLATES else _BLOCK_PLATE_M
    for index, (other_x, other_y) in enumerate(places):
        least = to_plate if index < PLATES else _BLOCK_BLOCK_M
        if (x - other_x) ** 2 + (y - other_y) ** 2 < least**2:
            return False
    return True
