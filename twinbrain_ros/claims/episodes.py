"""Episodes that judge a policy: scenes and words by split, chosen from seeds before any policy is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.claims.protocol import SPLITS, Protocol
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.sim.rollout import Rollout, acting
from twinbrain_ros.sim.scene import draw_scene
from twinbrain_ros.sim.tabletop import TabletopSim
from twinbrain_ros.sim.tasks import TASKS, Goal
from twinbrain_ros.training.demonstrations import project

FRONT = "front"  # the view in which left is left: both brains see it
CLEARLY_PX = 6.0  # of 96: what stands less beside a plate than this is not called left of it


@dataclass(frozen=True)
class Case:
    """An episode to be played: the scene's seed and task, what the policy is told, what is to be done."""

    split: str
    task: str
    seed: int
    told: str
    instruction: str


def cases(protocol: Protocol, sim: TabletopSim) -> list[Case]:
    """All episodes of a run, the same for every run.

    seen: goals without the held-out colour. held_out: the block has it, the plate has not. relation: the
    block is named by standing left of a plate, words that no demonstration has; only where no other does.
    """
    colour, found = protocol.held_out_colour, []
    for split in SPLITS:
        count = protocol.evaluation.episodes[split]
        if split == "relation":
            found += _first(_relations(protocol, sim), count)
            continue
        for task in TASKS:
            found += _first(_named(protocol, split, task, colour), count // len(TASKS))
    return found


def _first(many: Iterator[Case], count: int) -> list[Case]:
    return [case for case, _ in zip(many, range(count), strict=False)] if count else []


def _seeds(protocol: Protocol) -> Iterator[int]:
    return iter(range(protocol.evaluation.first_seed, 1_000_000))


def _named(protocol: Protocol, split: str, task: str, colour: str) -> Iterator[Case]:
    for seed in _seeds(protocol):
        goal = draw_scene(seed, task).goal
        if colour != goal.plate_colour and (goal.block_colour == colour) == (split == "held_out"):
            yield Case(split, task, seed, goal.instruction(), goal.instruction())


def _relations(protocol: Protocol, sim: TabletopSim) -> Iterator[Case]:
    for seed in _seeds(protocol):
        sim.reset(seed, "pick")
        state, rng = sim.scene_state(), np.random.default_rng(seed)
        column = {o.name: float(project(sim, FRONT, o.position[None])[0, 0]) for o in state.objects}
        plates = [o for o in state.plates if o.colour != protocol.held_out_colour]
        plate = plates[int(rng.integers(len(plates)))]
        left = [b for b in state.blocks if column[b.name] < column[plate.name]]
        if len(left) != 1 or left[0].colour == protocol.held_out_colour:
            continue
        if min(abs(column[b.name] - column[plate.name]) for b in state.blocks) < CLEARLY_PX:
            continue
        told = f"pick up the block left of the {plate.name}"
        yield Case("relation", "pick", seed, told, Goal("pick", left[0].colour).instruction())


def play(policy: TwinBrainPolicy, robot: RobotFile, protocol: Protocol, path: Path) -> list[dict[str, Any]]:
    """Plays all cases, each noted in a file as it ends; those that stand there are not played again."""
    rollout = Rollout(robot, max_time_s=protocol.evaluation.max_seconds)
    done = _noted(path)
    with path.open("a", encoding="utf-8") as file:
        for case in tqdm(cases(protocol, rollout.sim), desc="episodes", unit="episode"):
            if _key(asdict(case)) in done:
                continue
            record = {**asdict(case), **_one(policy, rollout, case)}
            file.write(json.dumps(record) + "\n")
            file.flush()
            done[_key(record)] = record
    return list(done.values())


def _key(record: dict[str, Any]) -> tuple[str, str, int]:
    return record["split"], record["task"], record["seed"]


def _noted(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Records of an earlier stretch; a line that was cut off is dropped, from the file too."""
    if not path.is_file():
        return {}
    whole = [
        line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]
    path.write_text("".join(whole), encoding="utf-8")
    records = [json.loads(line) for line in whole]
    return {_key(record): record for record in records}


def _one(policy: TwinBrainPolicy, rollout: Rollout, case: Case) -> dict[str, Any]:
    # What it is told may differ from what is judged, which must name a colour.
    record = rollout.run(acting(policy, case.told), case.seed, case.task, case.instruction)
    return {
        "success": record.success,
        "wrong_object": record.wrong_object,
        "time_s": round(record.time_s, 3),
        "steps": record.steps,
    }
