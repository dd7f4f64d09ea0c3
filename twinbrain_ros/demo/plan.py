"""Which episodes a run consists of. Drawn before anything starts, so that it can be refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twinbrain_ros.sim.scene import Scene, draw_scene
from twinbrain_ros.sim.tasks import COLOURS, TASKS, Goal, parse_instruction

# A colour is on the table in most scenes; so many in a row without the named objects do not happen.
SEEDS_PER_EPISODE = 1000


class PlanError(ValueError):
    """A run that cannot be planned; the message says what was asked and what is possible."""


@dataclass(frozen=True)
class EpisodePlan:
    """One episode to run. `retarget` is the goal that is published in its middle, None if there is none."""

    index: int
    seed: int
    goal: Goal
    retarget: Goal | None = None

    @property
    def bag(self) -> str:
        """Name of its recording."""
        return f"{self.goal.task}_{self.seed}"

    @property
    def final_goal(self) -> Goal:
        """The goal that success is judged by."""
        return self.retarget or self.goal


def plan_episodes(
    task: str, episodes: int, seed: int, instruction: str | None, retarget: bool
) -> list[EpisodePlan]:
    """Plan a run of `episodes` episodes.

    Seeds count up from `seed`. `task` is `pick`, `put` or `all` (in turn). A fixed `instruction` decides the
    task, and seeds whose scene lacks the objects it names are passed over.

    Raises:
        PlanError: an unknown task, or one that contradicts the instruction.
        ValueError: an instruction that is not understood.
    """
    if task not in (*TASKS, "all"):
        raise PlanError(f"task: found {task!r}, expected one of {', '.join((*TASKS, 'all'))}")
    fixed = parse_instruction(instruction) if instruction is not None else None
    if fixed is not None and task not in (fixed.task, "all"):
        raise PlanError(f"task: found {task!r}, but the instruction {instruction!r} is a {fixed.task!r} task")
    plans: list[EpisodePlan] = []
    next_seed = seed
    for index in range(episodes):
        episode_task = fixed.task if fixed else TASKS[index % len(TASKS)] if task == "all" else task
        scene = _first_scene(next_seed, episode_task, fixed)
        next_seed = scene.seed + 1
        goal = fixed or scene.goal
        other = _other_goal(scene, goal) if retarget else None
        plans.append(EpisodePlan(index, scene.seed, goal, other))
    return plans


def _first_scene(first_seed: int, task: str, fixed: Goal | None) -> Scene:
    """The first scene from `first_seed` on that holds the objects of the fixed goal, if there is one."""
    for seed in range(first_seed, first_seed + SEEDS_PER_EPISODE):
        scene = draw_scene(seed, task)
        if fixed is None or _objects(fixed) <= {placement.name for placement in scene.objects}:
            return scene
    wanted = " and a ".join(sorted(_objects(fixed))) if fixed else task
    raise PlanError(
        f"instruction: none of {SEEDS_PER_EPISODE} scenes from seed {first_seed} on has a {wanted}; "
        f"colours are {', '.join(COLOURS)}"
    )


def _objects(goal: Goal) -> set[str]:
    return {name for name in (goal.block, goal.plate) if name}


def _other_goal(scene: Scene, goal: Goal) -> Goal:
    """The same task with another block that is there, drawn from the scene's seed."""
    others = [p.colour for p in scene.objects if p.kind == "block" and p.colour != goal.block_colour]
    colour = others[int(np.random.default_rng(scene.seed).integers(len(others)))]
    return Goal(goal.task, colour, goal.plate_colour)
