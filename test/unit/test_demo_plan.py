from __future__ import annotations

import pytest

from twinbrain_ros.demo.plan import PlanError, plan_episodes
from twinbrain_ros.sim.scene import draw_scene
from twinbrain_ros.sim.tasks import Goal


def test_all_tasks_take_turns_and_seeds_count_up() -> None:
    plans = plan_episodes("all", 4, seed=50, instruction=None, retarget=False)

    assert [plan.goal.task for plan in plans] == ["pick", "put", "pick", "put"]
    assert [plan.seed for plan in plans] == [50, 51, 52, 53]
    assert all(plan.goal == draw_scene(plan.seed, plan.goal.task).goal for plan in plans)
    assert all(plan.final_goal == plan.goal for plan in plans)


def test_the_same_arguments_plan_the_same_run() -> None:
    assert plan_episodes("all", 6, 7, None, True) == plan_episodes("all", 6, 7, None, True)


def test_a_fixed_instruction_decides_the_task_and_passes_over_scenes_without_its_objects() -> None:
    text = "put the red block on the green plate"
    plans = plan_episodes("all", 5, seed=0, instruction=text, retarget=False)

    assert [plan.goal for plan in plans] == [Goal("put", "red", "green")] * 5
    assert [plan.seed for plan in plans] == sorted({plan.seed for plan in plans})
    for plan in plans:
        names = {placement.name for placement in draw_scene(plan.seed, "put").objects}
        assert {"red block", "green plate"} <= names


def test_retargeting_names_another_block_that_is_there_and_the_same_plate() -> None:
    for plan in plan_episodes("put", 20, seed=3, instruction=None, retarget=True):
        assert plan.retarget is not None and plan.final_goal == plan.retarget
        names = {placement.name for placement in draw_scene(plan.seed, "put").objects}
        assert plan.retarget.block in names - {plan.goal.block}
        assert plan.retarget.plate == plan.goal.plate


def test_a_task_that_contradicts_the_instruction_is_refused() -> None:
    with pytest.raises(
        PlanError, match="found 'put', but the instruction 'pick up the red block' is a 'pick'"
    ):
        plan_episodes("put", 1, 0, "pick up the red block", False)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(PlanError, match="found 'push', expected one of pick, put, all"):
        plan_episodes("push", 1, 0, None, False)


@pytest.mark.parametrize("text", ["", "pick up the orange block", "fetch the red block"])
def test_an_instruction_that_names_nothing_known_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(ValueError, match=r"red, green, blue, yellow, purple"):
        plan_episodes("all", 1, 0, text, False)
