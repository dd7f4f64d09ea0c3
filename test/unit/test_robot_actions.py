"""Action space, proprioceptive state and chunk validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sim_fixtures import shared_robot

from twinbrain_ros.robot.actions import (
    TOOL_DOWN,
    compose_ee_deltas,
    euler_to_matrix,
    matrix_to_euler,
    relative_ee_deltas,
    state_pose,
    tool_state,
    wrap_angle,
)
from twinbrain_ros.robot.chunk import ActionChunk


def test_euler_angles_are_about_fixed_axes_x_then_y_then_z() -> None:
    roll, pitch, yaw = (
        euler_to_matrix(np.eye(3)[axis] * angle) for axis, angle in enumerate((0.3, -0.4, 0.7))
    )
    np.testing.assert_allclose(euler_to_matrix(np.array([0.3, -0.4, 0.7])), yaw @ pitch @ roll, atol=1e-12)
    np.testing.assert_allclose(yaw @ [1, 0, 0], [np.cos(0.7), np.sin(0.7), 0.0], atol=1e-12)


def test_euler_angles_round_trip() -> None:
    angles = np.random.default_rng(0).uniform([-3, -1.5, -3], [3, 1.5, 3], (200, 3))
    np.testing.assert_allclose(matrix_to_euler(euler_to_matrix(angles)), angles, atol=1e-9)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
def test_euler_angles_at_the_singularity_still_give_the_rotation(pitch: float) -> None:
    matrix = euler_to_matrix(np.array([0.4, pitch, -0.7]))
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(matrix)), matrix, atol=1e-9)


def test_the_state_of_a_tool_that_points_down_has_no_rotation() -> None:
    state = tool_state(np.array([0.3, 0.1, 0.05]), TOOL_DOWN, 0.25)
    np.testing.assert_allclose(state, [0.3, 0.1, 0.05, 0, 0, 0, 0.25], atol=1e-12)
    position, rotation = state_pose(state)
    np.testing.assert_allclose(position, [0.3, 0.1, 0.05])
    np.testing.assert_allclose(rotation, TOOL_DOWN, atol=1e-12)


def test_deltas_are_in_base_axes_and_turn_the_tool_in_place() -> None:
    deltas = np.zeros((2, 7))
    deltas[:, 0] = 0.01
    deltas[0, 5] = np.pi / 2
    positions, rotations = compose_ee_deltas(np.array([0.3, 0.0, 0.1]), TOOL_DOWN, deltas)
    np.testing.assert_allclose(positions, [[0.31, 0, 0.1], [0.32, 0, 0.1]])  # the turn does not bend the path
    np.testing.assert_allclose(
        rotations[0], euler_to_matrix(np.array([0, 0, np.pi / 2])) @ TOOL_DOWN, atol=1e-12
    )
    np.testing.assert_allclose(rotations[1], rotations[0])


def test_composing_and_taking_relative_are_inverse() -> None:
    rng = np.random.default_rng(1)
    deltas = np.concatenate([rng.normal(0, 0.03, (8, 3)), rng.normal(0, 0.3, (8, 3))], axis=1)
    start, rotation = np.array([0.3, -0.1, 0.2]), euler_to_matrix(np.array([0.1, 0.2, 0.3])) @ TOOL_DOWN
    positions, rotations = compose_ee_deltas(start, rotation, deltas)
    np.testing.assert_allclose(relative_ee_deltas(start, rotation, positions, rotations), deltas, atol=1e-9)


def test_wrap_angle() -> None:
    assert wrap_angle(np.pi) == pytest.approx(np.pi)
    assert wrap_angle(-np.pi) == pytest.approx(np.pi)
    assert wrap_angle(7.0) == pytest.approx(7.0 - 2 * np.pi)


def _chunk() -> ActionChunk:
    robot = shared_robot()
    return ActionChunk(
        sequence=1,
        observation_ns=10,
        due_ns=10,
        period_s=0.2,
        instruction="pick up the red block",
        robot="wx250s",
        action_space="ee_delta",
        composition="observation",
        names=robot.action.names,
        data=np.zeros((8, 7)),
        observation_positions=np.zeros(6),
    )


def test_a_good_chunk_passes() -> None:
    _chunk().validate(shared_robot())


_NAN = np.zeros((8, 7))
_NAN[3, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"robot": "so101"}, "robot is 'so101', expected 'wx250s'"),
        ({"action_space": "twist"}, "action_space is 'twist', expected 'ee_delta'"),
        ({"composition": "previous_target"}, "composition is 'previous_target', expected 'observation'"),
        ({"names": ("dx",)}, "names is"),
        ({"period_s": 0.1}, "period_s is 0.1, expected 0.2"),
        ({"period_s": float("nan")}, "period_s is nan, expected 0.2"),
        ({"data": np.zeros((5, 7))}, r"data shape is \(5, 7\), expected \(8, 7\)"),
        ({"data": _NAN}, r"data\[3, 2\] is nan, expected a finite number"),
        ({"observation_positions": np.zeros(5)}, "observation_positions shape"),
        ({"observation_positions": np.full(6, np.inf)}, r"observation_positions\[0\] is inf"),
        ({"due_ns": 5}, "due_ns is 5, expected observation_ns, 10, or later"),
        ({"observation_ns": -1}, "observation_ns is -1"),
    ],
)
def test_a_bad_chunk_is_named_by_field_found_and_expected(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(_chunk(), **change).validate(shared_robot())  # type: ignore[arg-type]
