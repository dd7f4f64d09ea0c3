"""Kinematics against lengths of the arm added up by hand, and against themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sim_fixtures import shared_kinematics, shared_robot

from twinbrain_ros.robot.actions import TOOL_DOWN, euler_to_matrix

# Lengths [m]: base to shoulder, upper arm up and ahead, elbow to wrist angle, wrist angle to tool.
SHOULDER_Z = 0.072 + 0.03865
UPPER_Z, UPPER_X = 0.25, 0.04975
FOREARM = 0.175 + 0.075
HAND = 0.065 + 0.043 + 0.023 + 0.027575


def test_stretched_out_the_lengths_add_up() -> None:
    position, rotation = shared_kinematics().forward(np.zeros(6))
    np.testing.assert_allclose(position, [UPPER_X + FOREARM + HAND, 0.0, SHOULDER_Z + UPPER_Z], atol=1e-9)
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-9)


def test_the_waist_turns_the_arm_to_the_left() -> None:
    position, _ = shared_kinematics().forward(np.array([np.pi / 2, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(position, [0.0, UPPER_X + FOREARM + HAND, SHOULDER_Z + UPPER_Z], atol=1e-9)


def test_a_bent_wrist_points_the_tool_down() -> None:
    position, rotation = shared_kinematics().forward(np.array([0, 0, 0, 0, np.pi / 2, 0]))
    np.testing.assert_allclose(position, [UPPER_X + FOREARM, 0.0, SHOULDER_Z + UPPER_Z - HAND], atol=1e-9)
    np.testing.assert_allclose(rotation, TOOL_DOWN, atol=1e-9)


def test_home_is_tool_down_over_the_table() -> None:
    position, rotation = shared_kinematics().forward(shared_robot().home)
    np.testing.assert_allclose(position, [0.24, 0.0, 0.20], atol=1e-5)
    np.testing.assert_allclose(rotation, TOOL_DOWN, atol=1e-5)


def test_inverse_finds_any_tool_down_pose_over_the_table_from_home() -> None:
    kinematics, robot = shared_kinematics(), shared_robot()
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y, z = rng.uniform([0.18, -0.16, 0.015], [0.38, 0.16, 0.16])
        rotation = euler_to_matrix(np.array([*rng.normal(0, 0.05, 2), rng.uniform(-0.8, 0.8)])) @ TOOL_DOWN
        result = kinematics.inverse(np.array([x, y, z]), rotation, robot.home)
        position, found = kinematics.forward(result.q)
        assert np.linalg.norm(position - [x, y, z]) < 2e-4
        assert np.trace(rotation @ found.T) > 1 + 2 * np.cos(2e-3)
        assert np.all(result.q >= robot.lower) and np.all(result.q <= robot.upper)


def test_inverse_of_random_joints_is_a_pose_of_theirs() -> None:
    kinematics, robot = shared_kinematics(), shared_robot()
    rng = np.random.default_rng(1)
    for _ in range(100):
        q = rng.uniform(0.8 * robot.lower, 0.8 * robot.upper)
        position, rotation = kinematics.forward(q)
        result = kinematics.inverse(position, rotation, q + rng.normal(0, 0.05, 6))
        assert result.reached()


def test_an_unreachable_pose_gives_joints_inside_the_limits_and_says_how_far_off() -> None:
    kinematics, robot = shared_kinematics(), shared_robot()
    result = kinematics.inverse(np.array([0.9, 0.0, 0.1]), TOOL_DOWN, robot.home)
    assert not result.reached()
    assert 0.2 < result.position_error_m < 0.8
    position, _ = kinematics.forward(result.q)
    assert np.linalg.norm(position - [0.9, 0.0, 0.1]) == pytest.approx(result.position_error_m, abs=1e-9)
    assert np.all(result.q >= robot.lower) and np.all(result.q <= robot.upper)


def test_a_seed_outside_the_limits_is_no_harm() -> None:
    kinematics, robot = shared_kinematics(), shared_robot()
    result = kinematics.inverse(
        np.array([0.3, 0.05, 0.1]), TOOL_DOWN, robot.home + np.array([0, 0, 9, 0, 0, 0])
    )
    assert np.all(result.q >= robot.lower) and np.all(result.q <= robot.upper)
