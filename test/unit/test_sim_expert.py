"""The scripted expert, and the lock-step loop it runs in with the real chunk executor."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sim_fixtures import shared_robot, shared_sim, tool_down_joints

from twinbrain_ros.robot.actions import compose_ee_deltas
from twinbrain_ros.sim.expert import Expert
from twinbrain_ros.sim.rollout import Policy, Rollout, SimObservation, expert_policy
from twinbrain_ros.sim.tasks import Goal


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return Rollout(shared_robot(), shared_sim(), images=False)


@pytest.fixture(scope="module")
def expert() -> Policy:
    return expert_policy(shared_robot())


@pytest.mark.parametrize("task", ["pick", "put"])
@pytest.mark.parametrize("latency_s", [0.0, 0.08])
def test_it_succeeds(expert: Policy, task: str, latency_s: float) -> None:
    loop = Rollout(shared_robot(), shared_sim(), images=False, latency_s=latency_s)
    for seed in range(100, 106):
        record = loop.run(expert, seed, task)
        assert record.success and not record.wrong_object, record
        assert record.rejected == 0, record
        assert record.time_s < 7.0


def test_an_episode_is_a_function_of_its_seed(rollout: Rollout, expert: Policy) -> None:
    first = rollout.run(expert, 42, "put")
    rollout.run(expert, 43, "pick")
    assert rollout.run(expert, 42, "put") == first


def test_it_puts_down_a_block_it_was_not_asked_for(rollout: Rollout, expert: Policy) -> None:
    sim = shared_sim()
    scene = sim.reset(7, "pick")
    other = next(entry for entry in scene.objects if entry.kind == "block" and entry.name != scene.goal.block)
    quarter = np.pi / 2
    yaw = other.yaw - quarter * round(other.yaw / quarter)
    low, high = tool_down_joints(other.x, other.y, 0.02, yaw), tool_down_joints(other.x, other.y, 0.12, yaw)
    sim.teleport(low, sim.robot.gripper.open_m)
    sim.set_gripper_target(sim.robot.gripper.closed_m)
    sim.step(0.6)
    for tick in range(50):
        sim.set_arm_target(low + (high - low) * (tick + 1) / 50)
        sim.step(0.02)
    assert sim.scene_state().held == other.name
    record = rollout.continue_from_here(expert, scene, scene.instruction)
    assert record.success and not record.wrong_object  # it began with the wrong block, which is excused


def test_another_instruction_on_the_way_changes_what_it_goes_for(rollout: Rollout) -> None:
    sim = shared_sim()
    scene = sim.reset(9, "pick")
    other = next(entry for entry in scene.objects if entry.kind == "block" and entry.name != scene.goal.block)
    expert = Expert(shared_robot())

    def policy(observation: SimObservation, _: str) -> np.ndarray:
        colour = scene.goal.block_colour if observation.stamp_ns < 1_000_000_000 else other.colour
        return expert.chunk(observation.scene, Goal("pick", colour))

    record = rollout.continue_from_here(policy, scene, f"pick up the {other.name}")
    assert record.success


def test_going_for_another_block_is_seen_as_the_wrong_object(rollout: Rollout) -> None:
    sim = shared_sim()
    scene = sim.reset(10, "pick")
    other = next(entry for entry in scene.objects if entry.kind == "block" and entry.name != scene.goal.block)
    expert = Expert(shared_robot())

    def policy(observation: SimObservation, _: str) -> np.ndarray:
        return expert.chunk(observation.scene, Goal("pick", other.colour))

    loop = Rollout(shared_robot(), sim, images=False, max_time_s=4.0)
    record = loop.continue_from_here(policy, scene, scene.instruction)
    assert record.wrong_object and not record.success


def test_a_chunk_is_within_its_limits_and_the_workspace() -> None:
    robot, sim = shared_robot(), shared_sim()
    planner = Expert(robot)
    rng = np.random.default_rng(0)
    for seed in range(30):
        scene = sim.reset(seed, "put")
        x, y, z = rng.uniform([0.2, -0.14, 0.02], [0.36, 0.14, 0.2])
        sim.teleport(tool_down_joints(x, y, z, rng.uniform(-0.7, 0.7)), robot.gripper.finger(rng.uniform()))
        state = sim.scene_state()
        data = planner.chunk(state, scene.goal)
        assert data.shape == (8, 7) and np.all(np.isfinite(data))
        assert np.all(np.abs(data[:, :3]) <= 0.0401) and np.all(np.abs(data[:, 3:6]) <= 0.3001)
        assert set(np.unique(data[:, 6])) <= {0.0, 1.0}
        positions, _ = compose_ee_deltas(state.tool_position, state.tool_rotation, data)
        assert np.all(positions >= robot.workspace.lower - 1e-9)
        assert np.all(positions <= robot.workspace.upper + 1e-9)
        again = planner.chunk(state, scene.goal)
        np.testing.assert_array_equal(again, data)  # no memory, no chance


def test_it_keeps_the_fingertips_off_the_table() -> None:
    sim = shared_sim()
    planner = Expert(shared_robot())
    for seed in range(20):
        scene = sim.reset(seed, "pick")
        block = sim.scene_state().object(scene.goal.block)
        sim.teleport(tool_down_joints(*block.position[:2], 0.06), sim.robot.gripper.open_m)
        state = sim.scene_state()
        heights = state.tool_position[2] + np.cumsum(planner.chunk(state, scene.goal)[:, 2])
        assert heights.min() - 0.015 >= 0.004  # the tips are 15 mm below the tool


def test_a_chunk_takes_less_than_half_a_millisecond() -> None:
    sim = shared_sim()
    scene, planner = sim.reset(0, "put"), Expert(shared_robot())
    state = sim.scene_state()
    durations = []
    for _ in range(50):
        start = time.perf_counter()
        planner.chunk(state, scene.goal)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.5e-3  # the least: other processes only ever add


def test_a_goal_that_is_not_there_is_an_error() -> None:
    sim = shared_sim()
    scene = sim.reset(0, "pick")
    missing = next(
        c for c in ("red", "green", "blue", "yellow") if f"{c} block" not in [o.name for o in scene.objects]
    )
    with pytest.raises(KeyError, match=f"{missing} block"):
        Expert(shared_robot()).chunk(sim.scene_state(), Goal("pick", missing))
