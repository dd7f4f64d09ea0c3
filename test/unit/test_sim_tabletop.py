"""The simulator: physics, servos and cameras."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sim_fixtures import shared_kinematics, shared_robot, shared_sim, tool_down_joints

from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.sim.tabletop import COLOUR_RGB, TabletopSim


def _hashes(sim: TabletopSim) -> list[str]:
    return [hashlib.sha256(sim.render(camera.name).tobytes()).hexdigest() for camera in sim.robot.cameras]


def test_two_fresh_simulators_with_one_seed_give_the_same_bytes() -> None:
    found = []
    for _ in range(2):
        sim = TabletopSim(shared_robot())
        sim.reset(11, "put")
        start = _hashes(sim)
        sim.set_arm_target(tool_down_joints(0.3, 0.05, 0.05))
        sim.set_gripper_target(0.02)
        sim.step(0.5)
        found.append((start, _hashes(sim), sim.arm_positions.tobytes()))
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_a_reset_forgets_what_happened() -> None:
    sim = shared_sim()
    sim.reset(4, "pick")
    fresh = _hashes(sim), sim.data.qpos.tobytes()
    sim.set_arm_target(tool_down_joints(0.3, 0.0, 0.03))
    sim.step(0.3)
    sim.reset(5, "pick")
    sim.reset(4, "pick")
    assert (_hashes(sim), sim.data.qpos.tobytes()) == fresh
    assert sim.time_ns == 0


def test_images_are_rgb_of_the_size_the_robot_file_says() -> None:
    sim = shared_sim()
    sim.reset(0, "put")
    for camera in sim.robot.cameras:
        image = sim.render(camera.name)
        assert image.shape == (camera.height, camera.width, 3) and image.dtype == np.uint8
    with pytest.raises(KeyError):
        sim.render("rear")


def test_every_object_is_seen_by_the_front_camera_in_its_own_colour() -> None:
    sim = shared_sim()
    for seed in range(10):
        scene = sim.reset(seed, "put")
        image, shown = sim.render("front").astype(float), sim.segment("front")
        for index, entry in enumerate(scene.objects):
            pixels = image[shown == index]
            assert len(pixels) >= (30 if entry.kind == "block" else 150), (seed, entry)
            for pixel in pixels:  # in light and in shade it is nearest to its own hue
                unit = pixel / np.linalg.norm(pixel)
                hues = {name: np.dot(unit, rgb) / np.linalg.norm(rgb) for name, rgb in COLOUR_RGB.items()}
                assert max(hues, key=lambda name: hues[name]) == entry.colour


def test_the_front_camera_has_the_robot_on_the_far_side() -> None:
    sim = shared_sim()
    scene = sim.reset(1, "pick")
    block = scene.objects[0].name
    places = {}
    for name, (x, y) in {"near": (0.38, 0.0), "far": (0.2, 0.0), "left": (0.3, 0.15)}.items():
        for index, other in enumerate(scene.objects[1:]):
            sim.place(other.name, (0.25, -0.05 - 0.01 * index, -0.2))
        sim.place(block, (x, y, 0.0))
        places[name] = np.argwhere(sim.segment("front") == 0).mean(axis=0)
    assert places["near"][0] > places["far"][0]  # further down in the image
    assert places["left"][1] > 48  # the robot's left is on the right of a camera that faces it


def test_servos_reach_their_targets_and_follow_a_moving_one_within_60_ms() -> None:
    sim = shared_sim()
    sim.reset(2, "pick")
    start, end = sim.arm_positions, tool_down_joints(0.34, 0.08, 0.10)
    late = []
    for tick in range(1, 101):  # 1 s
        sim.set_arm_target(start + (end - start) * tick / 100)
        sim.step(0.01)
        if tick > 30:
            late.append((tick / 100 - (sim.arm_positions - start)[0] / (end - start)[0]) * 1.0)
    assert max(late) < 0.06
    sim.step(0.5)
    np.testing.assert_allclose(sim.arm_positions, end, atol=2e-3)
    np.testing.assert_allclose(sim.arm_velocities, 0.0, atol=1e-2)


def test_the_arm_does_not_sag() -> None:
    sim = shared_sim()
    sim.reset(2, "pick")
    sim.step(2.0)
    position, _ = shared_kinematics().forward(sim.arm_positions)
    np.testing.assert_allclose(position, [0.24, 0.0, 0.20], atol=2e-4)


def test_targets_outside_the_limits_are_clipped() -> None:
    sim = shared_sim()
    sim.reset(2, "pick")
    sim.set_arm_target(np.full(6, 50.0))
    np.testing.assert_allclose(sim.data.ctrl[:6], sim.robot.upper)
    sim.set_arm_target(sim.robot.home)
    sim.set_gripper_target(1.0)
    sim.step(0.5)
    assert sim.finger_position == pytest.approx(sim.robot.gripper.open_m, abs=5e-4)


def test_closed_and_open_fingers_leave_the_gaps_they_were_built_for() -> None:
    sim = shared_sim()
    sim.reset(2, "pick")
    for target, gap in ((sim.robot.gripper.closed_m, 0.004), (sim.robot.gripper.open_m, 0.048)):
        sim.set_gripper_target(target)
        sim.step(1.0)
        assert 2 * (sim.finger_position - 0.013) == pytest.approx(gap, abs=1e-3)


def test_steps_shorter_than_a_timestep_add_up() -> None:
    sim = shared_sim()
    sim.reset(2, "pick")
    for _ in range(10):
        sim.step(0.0007)
    assert sim.time_ns == 6_000_000


def test_objects_rest_where_they_were_put() -> None:
    sim = shared_sim()
    for seed in range(5):
        scene = sim.reset(seed, "put")
        sim.step(1.0)
        state = sim.scene_state()
        for entry in scene.objects:
            found = state.object(entry.name)
            height = 0.015 if entry.kind == "block" else 0.0
            np.testing.assert_allclose(found.position, [entry.x, entry.y, height], atol=5e-4)
            assert found.speed < 1e-2
        assert state.held == "" and not state.touching


def test_a_closed_gripper_holds_a_block_and_the_scene_says_so() -> None:
    sim = shared_sim()
    scene = sim.reset(3, "pick")
    for index, other in enumerate(scene.objects[1:]):
        sim.place(other.name, (0.2, -0.15 + 0.1 * index, 0.0))
    block = scene.objects[0].name
    sim.place(block, (0.32, 0.02, 0.0), yaw=0.1)
    low, high = tool_down_joints(0.322, 0.023, 0.02), tool_down_joints(0.30, 0.0, 0.15)
    sim.teleport(low, sim.robot.gripper.open_m)
    sim.set_gripper_target(sim.robot.gripper.closed_m)
    sim.step(0.6)
    assert sim.scene_state().held == block and sim.scene_state().touching == {block}
    for tick in range(50):
        sim.set_arm_target(low + (high - low) * (tick + 1) / 50)
        sim.step(0.02)
    sim.step(1.0)
    state = sim.scene_state()
    assert state.held == block
    np.testing.assert_allclose(state.object(block).position, [0.30, 0.0, 0.145], atol=4e-3)
    assert 0.5 < state.gripper_opening < 0.65


def test_an_arm_whose_servos_are_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="robot is 'franka' with 7 joints, expected the WidowX 250 with 6"):
        TabletopSim(load_robot("franka"))


def test_a_knocked_camera_sees_the_same_scene_from_elsewhere_for_good() -> None:
    sim, other = TabletopSim(shared_robot()), shared_sim()
    sim.knock_camera("front", (0.0, 0.04, 0.02), 0.05)
    for seed in (1, 2):
        sim.reset(seed, "put")
        other.reset(seed, "put")
        assert (sim.render("front") != other.render("front")).any()
        np.testing.assert_array_equal(sim.render("wrist"), other.render("wrist"))
        shown = (other.segment("front") >= 0).sum()
        assert (sim.segment("front") >= 0).sum() > 0.8 * shown  # all of it is still in view
    with pytest.raises(ValueError, match=r"'wrist' is mounted on the arm"):
        sim.knock_camera("wrist", (0.0, 0.0, 0.0), 0.1)
    with pytest.raises(KeyError):
        sim.knock_camera("rear", (0.0, 0.0, 0.0), 0.1)
