"""How an episode is judged, retargeted ones too. No ROS: scene states are made by hand."""

from __future__ import annotations

import numpy as np

from twinbrain_ros.demo.runner import _Episode
from twinbrain_ros.sim.state import ObjectState, SceneState
from twinbrain_ros.sim.tasks import Goal

RED, BLUE = Goal("pick", "red"), Goal("pick", "blue")
ON_TABLE, IN_AIR = 0.015, 0.12


def scene(time_s: float, red_z: float = ON_TABLE, blue_z: float = ON_TABLE, held: str = "") -> SceneState:
    heights = {"red": red_z, "blue": blue_z}
    objects = tuple(
        ObjectState(f"{colour} block", "block", colour, np.array([0.3, 0.1 * i, z]), np.eye(3))
        for i, (colour, z) in enumerate(heights.items())
    )
    return SceneState(int(time_s * 1e9), np.zeros(3), np.eye(3), 1.0, objects, held)


def show(episode: _Episode, *scenes: SceneState) -> None:
    for state in scenes:
        episode.on_scene(state)


def test_a_block_that_stays_up_is_a_success() -> None:
    episode = _Episode(RED)
    show(episode, scene(0.0), scene(1.0, red_z=IN_AIR, held="red block"))
    assert not episode.success
    show(episode, scene(1.6, red_z=IN_AIR, held="red block"))
    assert episode.success and not episode.wrong_object


def test_another_block_in_the_air_is_a_wrong_object() -> None:
    episode = _Episode(RED)
    show(episode, scene(0.0), scene(1.0, blue_z=IN_AIR, held="blue block"), scene(2.0))
    assert episode.wrong_object and not episode.success


def test_after_a_new_instruction_only_the_new_block_counts() -> None:
    episode = _Episode(RED)
    show(episode, scene(0.0), scene(2.0))
    episode.retarget(BLUE)
    show(episode, scene(2.1), scene(3.0, blue_z=IN_AIR), scene(4.0, blue_z=IN_AIR))
    assert episode.success and not episode.wrong_object


def test_lifting_the_old_block_after_a_new_instruction_is_wrong() -> None:
    episode = _Episode(RED)
    show(episode, scene(0.0))
    episode.retarget(BLUE)
    show(episode, scene(2.1), scene(3.0, red_z=IN_AIR), scene(4.0, red_z=IN_AIR))
    assert episode.wrong_object and not episode.success


def test_a_block_that_was_in_the_air_already_may_be_put_down_but_not_lifted_again() -> None:
    episode = _Episode(RED)
    show(episode, scene(0.0), scene(1.9, red_z=IN_AIR))
    episode.retarget(BLUE)
    show(episode, scene(2.1, red_z=IN_AIR), scene(3.0), scene(4.0, blue_z=IN_AIR), scene(4.5, blue_z=IN_AIR))
    assert episode.success and not episode.wrong_object

    show(episode, scene(5.0, red_z=IN_AIR))
    assert episode.wrong_object


def test_a_wrong_object_before_a_new_instruction_stays_one() -> None:
    episode = _Episode(RED)
    show(episode, scene(0.0), scene(1.0, blue_z=IN_AIR))
    episode.retarget(BLUE)
    show(episode, scene(2.0))
    assert episode.wrong_object
