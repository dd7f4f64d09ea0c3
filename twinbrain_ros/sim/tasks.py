"""The tasks of the tabletop: their words, what counts as success, and what counts as the wrong object."""

from __future__ import annotations

import re
from dataclasses import dataclass

from twinbrain_ros.sim.state import ObjectState, SceneState

COLOURS = ("red", "green", "blue", "yellow", "purple")
TASKS = ("pick", "put")
BLOCK_EDGE_M = 0.03
PLATE_RADIUS_M = 0.045
PLATE_HEIGHT_M = 0.006

LIFTED_M = 0.05  # a picked block's underside is this far above the table
WRONG_LIFTED_M = 0.03
HOLD_S = 0.4  # success must last this long
_ON_PLATE_M = PLATE_HEIGHT_M + 0.5 * BLOCK_EDGE_M + 0.010  # highest centre of a block that lies on a plate
_AT_REST_M_S = 0.03

_COLOUR = "|".join(COLOURS)
_PICK = re.compile(rf"pick up the ({_COLOUR}) block\.?", re.IGNORECASE)
_PUT = re.compile(rf"put the ({_COLOUR}) block on the ({_COLOUR}) plate\.?", re.IGNORECASE)


@dataclass(frozen=True)
class Goal:
    """What is to be done: ``task`` is ``pick`` or ``put``; ``plate_colour`` is empty for ``pick``."""

    task: str
    block_colour: str
    plate_colour: str = ""

    @property
    def block(self) -> str:
        """Name of the block, such as ``red block``."""
        return f"{self.block_colour} block"

    @property
    def plate(self) -> str:
        """Name of the plate, empty for ``pick``."""
        return f"{self.plate_colour} plate" if self.plate_colour else ""

    def instruction(self) -> str:
        """Return the words for it."""
        if self.task == "pick":
            return f"pick up the {self.block}"
        return f"put the {self.block} on the {self.plate}"


def parse_instruction(text: str) -> Goal:
    """Return the goal of an instruction; letter case and the amount of space do not matter.

    Raises:
        ValueError: the text is none of the two forms; the message names them and the colours.
    """
    words = " ".join(text.split())
    if match := _PICK.fullmatch(words):
        return Goal("pick", match[1].lower())
    if match := _PUT.fullmatch(words):
        return Goal("put", match[1].lower(), match[2].lower())
    shown = words if len(words) <= 80 else words[:77] + "..."
    raise ValueError(
        f"instruction {shown!r} is not understood, expected 'pick up the <colour> block' or "
        f"'put the <colour> block on the <colour> plate' with a colour of {', '.join(COLOURS)}"
    )


@dataclass(frozen=True)
class Outcome:
    """What has happened so far; both stay true once they are."""

    success: bool = False
    wrong_object: bool = False


class Judge:
    """Watches an episode and says whether the goal is reached and whether another object was handled.

    It is to be shown the scene every 0.1 s or oftener. What is already wrong in the first scene it is shown,
    such as a block still in the gripper from another instruction, counts only once it has been put right.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.outcome = Outcome()
        self._since_ns: int | None = None
        self._excused: frozenset[str] | None = None

    def update(self, state: SceneState) -> Outcome:
        """Take in the scene and return the outcome so far.

        Raises:
            KeyError: the scene lacks an object of the goal.
        """
        done = self._picked(state) if self.goal.task == "pick" else self._put(state)
        if not done:
            self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = state.time_ns
        lasted = self._since_ns is not None and state.time_ns - self._since_ns >= HOLD_S * 1e9
        wrong = self._wrong(state)
        self._excused = wrong if self._excused is None else self._excused & wrong
        newly_wrong = bool(wrong - self._excused)
        self.outcome = Outcome(self.outcome.success or lasted, self.outcome.wrong_object or newly_wrong)
        return self.outcome

    def _picked(self, state: SceneState) -> bool:
        return _clearance(state.object(self.goal.block)) > LIFTED_M

    def _put(self, state: SceneState) -> bool:
        block, plate = state.object(self.goal.block), state.object(self.goal.plate)
        return _lies_on(block, plate) and _is_let_go(block, state)

    def _wrong(self, state: SceneState) -> frozenset[str]:
        """Return the blocks that are lifted though not named, or lie on a plate though another is named."""
        others = [block for block in state.blocks if block.name != self.goal.block]
        names = {other.name for other in others if _clearance(other) > WRONG_LIFTED_M}
        if self.goal.task == "put":
            block = state.object(self.goal.block)
            wrong_plates = [plate for plate in state.plates if plate.name != self.goal.plate]
            if _is_let_go(block, state) and any(_lies_on(block, plate) for plate in wrong_plates):
                names.add(block.name)
        return frozenset(names)


def _is_let_go(block: ObjectState, state: SceneState) -> bool:
    return block.speed < _AT_REST_M_S and block.name not in state.touching


def _clearance(block: ObjectState) -> float:
    """Return the height [m] of a flat-lying block's underside."""
    return float(block.position[2]) - 0.5 * BLOCK_EDGE_M


def _lies_on(block: ObjectState, plate: ObjectState) -> bool:
    dx, dy = block.position[0] - plate.position[0], block.position[1] - plate.position[1]
    near = dx * dx + dy * dy < PLATE_RADIUS_M**2
    return bool(near and PLATE_HEIGHT_M < block.position[2] < _ON_PLATE_M)
