"""What is true in the simulated scene at one moment: the privileged view of judge and expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ObjectState:
    """One object.

    Attributes:
        name: colour and kind, such as ``red block``.
        kind: ``block`` or ``plate``.
        colour: one of `tasks.COLOURS`.
        position: [3], centre in the base frame [m]; a plate's is its lower face's.
        rotation: [3, 3], in the base frame.
        speed: of the centre [m/s].
    """

    name: str
    kind: str
    colour: str
    position: np.ndarray
    rotation: np.ndarray
    speed: float = 0.0


@dataclass(frozen=True, eq=False)
class SceneState:
    """The scene at one moment.

    Attributes:
        time_ns: simulated time [ns].
        tool_position: [3], tool frame in the base frame [m].
        tool_rotation: [3, 3], likewise.
        gripper_opening: 0 closed to 1 open.
        objects: blocks, then plates.
        held: name of the block both fingers touch, empty if none.
        touching: names of the blocks any part of the gripper touches.
    """

    time_ns: int
    tool_position: np.ndarray
    tool_rotation: np.ndarray
    gripper_opening: float
    objects: tuple[ObjectState, ...]
    held: str = ""
    touching: frozenset[str] = frozenset()

    def object(self, name: str) -> ObjectState:
        """Return the object called ``name``; KeyError names those there are."""
        for entry in self.objects:
            if entry.name == name:
                return entry
        raise KeyError(f"no object '{name}': there are {', '.join(entry.name for entry in self.objects)}")

    @property
    def blocks(self) -> tuple[ObjectState, ...]:
        """The blocks."""
        return tuple(entry for entry in self.objects if entry.kind == "block")

    @property
    def plates(self) -> tuple[ObjectState, ...]:
        """The plates."""
        return tuple(entry for entry in self.objects if entry.kind == "plate")
