"""Words of the tasks, drawing of scenes, and the judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twinbrain_ros.sim.scene import draw_scene
from twinbrain_ros.sim.state import ObjectState, SceneState
from twinbrain_ros.sim.tasks import COLOURS, Goal, Judge, parse_instruction

S = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("pick up the red block", Goal("pick", "red")),
        ("  Pick UP the\tPURPLE  block. ", Goal("pick", "purple")),
        ("put the green block on the yellow plate", Goal("put", "green", "yellow")),
        ("PUT the blue block on the blue plate", Goal("put", "blue", "blue")),
    ],
)
def test_instructions_are_understood_whatever_case_and_space(text: str, goal: Goal) -> None:
    assert parse_instruction(text) == goal
    assert parse_instruction(goal.instruction()) == goal


@pytest.mark.parametrize(
    "text", ["", "pick up the pink block", "pick up the red plate", "dance", "x" * 100_000]
)
def test_other_words_are_refused_naming_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_instruction(text)
    assert "pick up the <colour> block" in str(error.value) and "purple" in str(error.value)
    assert len(str(error.value)) < 400


def test_scenes_are_a_function_of_the_seed_and_keep_their_distances() -> None:
    assert draw_scene(7, "put") == draw_scene(7, "put")
    assert draw_scene(7, "put").objects == draw_scene(7, "pick").objects
    assert draw_scene(8, "put").objects != draw_scene(7, "put").objects
    for seed in range(200):
        scene = draw_scene(seed, "put")
        blocks = [entry for entry in scene.objects if entry.kind == "block"]
        plates = [entry for entry in scene.objects if entry.kind == "plate"]
        assert len({entry.colour for entry in blocks}) == 3 and len({entry.colour for entry in plates}) == 2
        assert parse_instruction(scene.instruction) == scene.goal
        assert scene.goal.block in [entry.name for entry in blocks]
        assert scene.goal.plate in [entry.name for entry in plates]
        for i, first in enumerate(scene.objects):
            assert np.hypot(first.x, first.y) <= 0.42
            for second in scene.objects[i + 1 :]:
                kinds = {first.kind, second.kind}
                least = {"block": 0.065, "plate": 0.11}[first.kind] if len(kinds) == 1 else 0.09
                assert np.hypot(first.x - second.x, first.y - second.y) >= least


def test_every_colour_is_asked_for() -> None:
    assert {draw_scene(seed, "pick").goal.block_colour for seed in range(60)} == set(COLOURS)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="task is 'push', expected one of pick, put"):
        draw_scene(0, "push")


def _state(time_s: float, red_z: float = 0.015, blue_z: float = 0.015, red_x: float = 0.3) -> SceneState:
    def entry(name: str, x: float, z: float) -> ObjectState:
        colour, kind = name.split()
        return ObjectState(name, kind, colour, np.array([x, 0.0, z]), np.eye(3))

    objects = (
        entry("red block", red_x, red_z),
        entry("blue block", 0.2, blue_z),
        entry("green plate", 0.4, 0.0),
        entry("yellow plate", 0.5, 0.0),
    )
    return SceneState(round(time_s * S), np.zeros(3), np.eye(3), 1.0, objects)


def test_pick_succeeds_after_the_block_was_held_up_for_a_while() -> None:
    judge = Judge(Goal("pick", "red"))
    assert not judge.update(_state(0.0)).success
    assert not judge.update(_state(1.0, red_z=0.10)).success
    assert not judge.update(_state(1.3, red_z=0.03)).success  # dropped: starts over
    assert not judge.update(_state(1.4, red_z=0.10)).success
    assert not judge.update(_state(1.7, red_z=0.10)).success
    assert judge.update(_state(1.8, red_z=0.10)).success
    assert judge.update(_state(1.9)).success  # once true it stays
    assert not judge.outcome.wrong_object


def test_lifting_another_block_is_the_wrong_object() -> None:
    judge = Judge(Goal("pick", "red"))
    judge.update(_state(0.0))
    assert judge.update(_state(0.1, blue_z=0.06)).wrong_object
    assert judge.update(_state(0.2)).wrong_object


def test_what_was_wrong_before_the_instruction_is_excused_once() -> None:
    judge = Judge(Goal("pick", "red"))
    assert not judge.update(_state(0.0, blue_z=0.06)).wrong_object
    assert not judge.update(_state(0.1, blue_z=0.08)).wrong_object
    assert not judge.update(_state(0.2)).wrong_object
    assert judge.update(_state(0.3, blue_z=0.08)).wrong_object


def _put(state: SceneState, **changes: object) -> SceneState:
    return replace(state, **changes)  # type: ignore[arg-type]


def test_put_succeeds_when_the_block_rests_on_its_plate_let_go() -> None:
    judge = Judge(Goal("put", "red", "green"))
    on_plate = {"red_x": 0.39, "red_z": 0.021}
    judge.update(_state(0.0))
    for tenth in range(1, 9):  # still in the gripper
        held = _put(_state(0.1 * tenth, **on_plate), touching=frozenset({"red block"}))
        assert not judge.update(held).success
    assert not judge.update(_state(1.0, **on_plate)).success
    assert judge.update(_state(1.5, **on_plate)).success
    assert not judge.outcome.wrong_object


def test_put_on_the_other_plate_is_the_wrong_object_and_no_success() -> None:
    judge = Judge(Goal("put", "red", "green"))
    judge.update(_state(0.0))
    for tenth in range(1, 10):
        outcome = judge.update(_state(0.1 * tenth, red_x=0.49, red_z=0.021))
    assert outcome.wrong_object and not outcome.success


def test_beside_or_above_the_plate_is_no_success() -> None:
    for place in ({"red_x": 0.35, "red_z": 0.015}, {"red_x": 0.40, "red_z": 0.06}):
        judge = Judge(Goal("put", "red", "green"))
        for tenth in range(10):
            outcome = judge.update(_state(0.1 * tenth, **place))
        assert not outcome.success


def test_a_goal_that_is_not_in_the_scene_is_an_error_that_names_what_is() -> None:
    with pytest.raises(KeyError, match="no object 'purple block': there are red block"):
        Judge(Goal("pick", "purple")).update(_state(0.0))
