"""Dataset files: what features mean, and the states and chunks that come of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lerobot_fixtures import Episode, Layout, arm_episode, write_dataset

from twinbrain_ros.data.chunk_labels import (
    ChunkLabels,
    axis_angle_to_matrix,
    quaternion_to_matrix,
    tool_states,
)
from twinbrain_ros.data.dataset_file import (
    GripperMap,
    PoseMap,
    check_fits,
    dataset_file_path,
    load_dataset_file,
    recorded,
)
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.data.robot_dataset import DatasetChoice, RobotDataset
from twinbrain_ros.robot.actions import (
    compose_ee_deltas,
    euler_to_matrix,
    relative_ee_deltas,
    state_pose,
    tool_state,
)
from twinbrain_ros.robot.robot_file import RobotFile, load_robot

T = 6


@pytest.fixture(scope="module")
def robot() -> RobotFile:
    return load_robot("wx250s")


def with_action(robot: RobotFile, **changes: Any) -> RobotFile:
    return dataclasses.replace(robot, action=dataclasses.replace(robot.action, **changes))


def opened(root: Path, robot: RobotFile, mapping: str = "", **more: Any) -> RobotDataset:
    file = load_dataset_file(mapping) if mapping else recorded(root, robot)
    return RobotDataset(DatasetChoice(root, file, **more), robot, ("front",))


BRIDGE = Layout("v2.0", cameras=("observation.images.image_0",), twinbrain=None)


def bridge_episode(length: int, seed: int = 0) -> Episode:
    """As the public form has it: 8 state dims, actions the differences of states, gripper absolute."""
    poses = arm_episode(length + 1, seed).state
    state = np.insert(poses[:-1], 6, 0.0, axis=1)
    action = np.concatenate([np.diff(poses[:, :6], axis=0), (poses[1:, 6:] > 0.5)], axis=1)
    return Episode(state.astype(np.float32), action.astype(np.float32))


@pytest.mark.parametrize("composition", ["observation", "previous_target"])
def test_chunks_of_targets_are_the_deltas_between_them(
    tmp_path: Path, robot: RobotFile, composition: str
) -> None:
    robot = with_action(robot, composition=composition)
    written = arm_episode(9)
    dataset = opened(write_dataset(tmp_path / "set", [written, arm_episode(5, 1)]), robot)
    for row in (0, 2, 5, 8):
        actions, known = dataset.labels.chunks(np.array([row]), T)
        steps = min(T, 9 - row)
        begun = composition == "previous_target" and row > 0
        start = state_pose(written.action[row - 1] if begun else written.state[row])
        targets = [state_pose(a) for a in written.action[row : row + steps]]
        deltas = relative_ee_deltas(
            *start, np.array([p for p, _ in targets]), np.array([r for _, r in targets])
        )
        assert known[0].tolist() == [True] * steps + [False] * (T - steps)
        np.testing.assert_allclose(actions[0, :steps, :6], deltas, atol=1e-6)
        assert np.array_equal(actions[0, :steps, 6], written.action[row : row + steps, 6])
        np.testing.assert_allclose(actions[0, steps:, :6], 0.0, atol=1e-6)
        assert (actions[0, steps:, 6] == written.action[-1, 6]).all()


def test_chunks_do_not_depend_on_what_else_is_asked_for(tmp_path: Path, robot: RobotFile) -> None:
    dataset = opened(write_dataset(tmp_path / "set", [arm_episode(7), arm_episode(6, 1)]), robot)
    together, _ = dataset.labels.chunks(np.arange(13), T)
    for row in range(13):
        assert np.array_equal(dataset.labels.chunks(np.array([row]), T)[0][0], together[row])


def test_a_faster_dataset_is_strided_to_targets_at_the_ends_of_steps(
    tmp_path: Path, robot: RobotFile
) -> None:
    written = arm_episode(12)
    dataset = opened(write_dataset(tmp_path / "set", [written], Layout(fps=15)), robot)
    actions, known = dataset.labels.chunks(np.array([1]), T)
    targets = written.action[[3, 6, 9]]
    deltas = np.diff(np.concatenate([written.state[1:2, :3], targets[:, :3]]), axis=0)
    assert known[0].tolist() == [True, True, True, False, False, False]
    np.testing.assert_allclose(actions[0, :3, :3], deltas, atol=1e-6)
    assert np.array_equal(actions[0, :3, 6], targets[:, 6])


def test_the_public_form_of_bridge_data_leads_through_its_own_states(
    tmp_path: Path, robot: RobotFile
) -> None:
    written = bridge_episode(10)
    root = write_dataset(tmp_path / "bridge_orig_lerobot", [written], BRIDGE)
    dataset = opened(root, robot, "bridge")
    state = np.delete(written.state, 6, axis=1)
    assert np.array_equal(dataset.states, state)
    actions, _ = dataset.labels.chunks(np.array([0]), T)
    positions, rotations = compose_ee_deltas(*state_pose(state[0]), actions[0])
    for step in range(T):
        reached = tool_state(positions[step], rotations[step], 0.0)
        np.testing.assert_allclose(reached[:6], state[step + 1, :6], atol=1e-5)
    # Read as turns, the differences of angles would lead elsewhere.
    wrong, _ = _turned(dataset, "euler").chunks(np.array([0]), T)
    assert np.abs(wrong - actions).max() > 1e-3
    assert set(np.unique(actions[..., 6])) <= {0.0, 1.0}


def _turned(dataset: RobotDataset, turn: str) -> Any:
    from twinbrain_ros.data.chunk_labels import ChunkLabels

    file = dataset.file
    other = dataclasses.replace(file, action=dataclasses.replace(file.action, turn=turn))
    raw = dataset.tables.columns
    first = dataset.tables.starts[dataset.episode_of]
    last = first + dataset.tables.lengths[dataset.episode_of] - 1
    robot = load_robot("wx250s")
    return ChunkLabels(other, robot, dataset.states, raw[file.state_key], raw[file.action.key], first, last)


@pytest.mark.parametrize("turn", ["euler", "axis_angle", "euler_difference"])
def test_deltas_of_frames_that_are_skipped_are_composed(tmp_path: Path, robot: RobotFile, turn: str) -> None:
    layout = dataclasses.replace(BRIDGE, fps=10)
    root = write_dataset(tmp_path / "set", [bridge_episode(11)], layout)
    document = yaml.safe_load(dataset_file_path("bridge").read_text())
    document["fps"] = None
    document["action"]["turn"] = turn
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    dataset = opened(root, robot, str(tmp_path / "mine.yaml"))
    single = _turned(dataset, turn)
    assert dataset.stride == 2
    for row in (0, 3, 8):
        fine, _ = single.chunks(np.array([row]), 2 * T)
        coarse, known = dataset.labels.chunks(np.array([row]), T)
        steps = int(known.sum())
        assert steps == min(T, (11 - row) // 2)
        start = state_pose(dataset.states[row])
        fine_poses = compose_ee_deltas(*start, fine[0])
        coarse_poses = compose_ee_deltas(*start, coarse[0])
        for ours, theirs in zip(coarse_poses, fine_poses, strict=True):
            np.testing.assert_allclose(ours[:steps], theirs[1::2][:steps], atol=1e-6)
        assert np.array_equal(coarse[0, :steps, 6], fine[0, 1::2, 6][:steps])


def test_past_the_end_deltas_are_no_motion_and_the_gripper_stays(tmp_path: Path, robot: RobotFile) -> None:
    written = bridge_episode(4)
    root = write_dataset(tmp_path / "set", [written, bridge_episode(5, 1)], BRIDGE)
    actions, known = opened(root, robot, "bridge").labels.chunks(np.array([2]), T)
    assert known[0].tolist() == [True, True, False, False, False, False]
    assert not actions[0, 2:, :6].any()
    assert (actions[0, 2:, 6] == written.action[-1, 6]).all()


def test_joint_targets_are_taken_as_they_are_in_the_robots_order(tmp_path: Path, robot: RobotFile) -> None:
    names = (*robot.arm_joints, "gripper")
    robot = with_action(robot, space="joint_position", names=names)
    layout = Layout(twinbrain={"action_kind": "joint_target", "robot": "wx250s"})
    written = arm_episode(6)
    dataset = opened(write_dataset(tmp_path / "set", [written], layout), robot)
    actions, known = dataset.labels.chunks(np.array([4]), 3)
    assert np.array_equal(actions[0], written.action[[4, 5, 5]])
    assert known[0].tolist() == [True, True, False]


@pytest.mark.parametrize("names", [("roll", "pitch", "yaw"), ("qx", "qy", "qz", "qw"), ("rx", "ry", "rz")])
def test_states_are_the_same_from_whatever_rotation_they_are_recorded_as(names: tuple[str, ...]) -> None:
    import cv2

    rng = np.random.default_rng(3)
    for _ in range(20):
        rotation = euler_to_matrix(rng.uniform(-1.2, 1.2, 3))
        vector = cv2.Rodrigues(rotation)[0].ravel()
        angle = np.linalg.norm(vector)
        quaternion = [*(np.sin(angle / 2) * vector / angle), np.cos(angle / 2)]
        np.testing.assert_allclose(quaternion_to_matrix(np.array(quaternion)), rotation, atol=1e-9)
        np.testing.assert_allclose(axis_angle_to_matrix(vector), rotation, atol=1e-9)
        angles = np.arctan2(rotation[2, 1], rotation[2, 2]), -np.arcsin(rotation[2, 0])
        euler = [*angles, np.arctan2(rotation[1, 0], rotation[0, 0])]
        given = {3: {"roll": euler, "rx": vector}, 4: {"qx": quaternion}}[len(names)][names[0]]
        values = np.array([[0.1, 0.2, 0.3, *given, 0.25]], dtype=np.float32)
        pose = PoseMap(("x", "y", "z", *names, "gripper"), "base", gripper=GripperMap(invert=True))
        np.testing.assert_allclose(
            tool_states(values, pose)[0], tool_state(np.array([0.1, 0.2, 0.3]), rotation, 0.75), atol=1e-5
        )


def test_a_tool_frame_that_points_otherwise_is_turned(robot: RobotFile) -> None:
    """Recorded with z out of the gripper and pointing down: our state of a tool that points down is 0."""
    fractal = load_dataset_file("fractal")
    down = [0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0, 1.0]  # half a turn about x: z down
    state = tool_states(np.array([down], dtype=np.float32), fractal.state)[0]
    pointing = euler_to_matrix(state[3:6].astype(np.float64)) @ np.array(
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    )
    np.testing.assert_allclose(pointing[:, 0], [0, 0, -1], atol=1e-6)
    assert state[6] == 0.0  # gripper_closed 1


def test_fractal_fits_its_robot_and_another_only_where_that_is_allowed(
    tmp_path: Path, robot: RobotFile
) -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(6, 8)).astype(np.float32)
    written = Episode(states, rng.normal(0, 0.02, (6, 7)).astype(np.float32))
    layout = Layout("v2.0", fps=3, cameras=("observation.images.image",), twinbrain=None)
    root = write_dataset(tmp_path / "fractal", [written], layout)
    with pytest.raises(DatasetError, match=r"robot is 'google_robot', expected 'wx250s'"):
        opened(root, robot, "fractal")
    with pytest.raises(DatasetError, match="fps is 3, expected a multiple of 5 Hz"):
        opened(root, robot, "fractal", other_robot=True)
    native = tmp_path / "native.yaml"
    text = Path(load_dataset_file("fractal").source).read_text()
    native.write_text(text.replace("rate: robot ", "rate: native "))
    mixed = opened(root, robot, str(native), other_robot=True)
    assert "a frame per step though the robot's period is 0.2 s" in mixed.report()[0]
    for dataset in (mixed, opened(root, load_robot("google_robot"), "fractal")):
        actions, _ = dataset.labels.chunks(np.array([0]), 3)
        np.testing.assert_array_equal(actions[0, :, :6], written.action[:3, :6])


@pytest.mark.parametrize("name", ["bridge", "fractal", "libero", "benchmark"])
def test_shipped_dataset_files_are_sound(name: str) -> None:
    assert load_dataset_file(name).name == name


def test_a_dataset_file_that_is_not_there_is_named_with_those_shipped() -> None:
    with pytest.raises(
        DatasetError,
        match=r"'brigde': neither a file .* shipped: benchmark, benchmark_targets, bridge, fractal",
    ):
        load_dataset_file("brigde")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, r"unknown key 'colour'"),
        ({"fps": "fast"}, r"'fps' is 'fast', expected a finite number"),
        ({"rate": "any"}, r"'rate' is 'any', expected one of robot, native"),
        ({"cameras": {}}, r"'cameras' is {}, expected a mapping"),
        ({"action": {"kind": "velocity"}}, r"'action' is .*expected a mapping with kind, one of tool_target"),
        (
            {"state.dims": ["x", "y", "z", "gripper"]},
            r"'state\.dims' is .*expected x, y, z, gripper and one of",
        ),
        ({"state.tool_turn": [0, 1, 0]}, r"'state\.tool_turn' is .*expected \[0, 0, 0\]"),
        (
            {"state.gripper": {"invert": 1, "threshold": None}},
            r"'state\.gripper\.invert' is 1, expected true",
        ),
        ({"action.dims": ["dx", "dy"]}, r"'action\.dims' is .*expected dx, dy, dz"),
        ({"things": ["a", 3]}, r"'things' is \['a', 3\], expected"),
        ({"action.turn": "quaternion"}, r"'action\.turn' is 'quaternion', expected one of euler"),
    ],
)
def test_unsound_dataset_files_are_refused_with_their_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    document = yaml.safe_load(dataset_file_path("bridge").read_text())
    for key, value in change.items():
        *way, last = key.split(".")
        place = document
        for part in way:
            place = place[part]
        place[last] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset_file(str(path))
    assert str(path) in str(caught.value)


def test_a_dataset_of_another_action_space_is_refused(tmp_path: Path, robot: RobotFile) -> None:
    layout = Layout(twinbrain={"action_kind": "joint_target", "robot": "wx250s"})
    root = write_dataset(tmp_path / "set", [arm_episode(5)], layout)
    with pytest.raises(
        DatasetError, match=r"kind joint_target, expected tool_target or tool_delta .* ee_delta"
    ):
        opened(root, robot)


def test_cameras_that_a_side_does_not_know_are_refused(tmp_path: Path, robot: RobotFile) -> None:
    file = load_dataset_file("bridge")
    other = dataclasses.replace(file, cameras={"top": "observation.images.image_1"})
    with pytest.raises(DatasetError, match=r"cameras \['top'\], expected some of \['front', 'wrist'\]"):
        check_fits(other, robot)
    root = write_dataset(tmp_path / "set", [bridge_episode(5)], BRIDGE)
    with pytest.raises(DatasetError, match=r"no camera \['wrist'\], expected all of \['front', 'wrist'\]"):
        RobotDataset(DatasetChoice(root, file), robot, ("front", "wrist"))


def test_features_of_other_sizes_and_rates_than_the_file_says_are_refused(
    tmp_path: Path, robot: RobotFile
) -> None:
    short = bridge_episode(5)
    short.state = short.state[:, :7]
    root = write_dataset(tmp_path / "set", [short], BRIDGE)
    with pytest.raises(DatasetError, match=r"'observation\.state' has 7 numbers .*expected 8 as in .*bridge"):
        opened(root, robot, "bridge")
    root = write_dataset(tmp_path / "fast", [bridge_episode(5)], dataclasses.replace(BRIDGE, fps=10))
    with pytest.raises(DatasetError, match=r"info\.json: fps is 10, expected 5 as in .*bridge\.yaml"):
        opened(root, robot, "bridge")


def test_columns_that_contradict_info_are_refused(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "set", [bridge_episode(5)], BRIDGE)
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"]["action"]["shape"] = [9]
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"column 'action' has 35 numbers in 5 frames, expected 9 in each"):
        opened(root, robot, "bridge")


def test_without_a_dataset_file_the_dataset_must_be_one_of_ours(tmp_path: Path, robot: RobotFile) -> None:
    root = write_dataset(tmp_path / "set", [bridge_episode(5)], BRIDGE)
    with pytest.raises(DatasetError, match=r"no meta/twinbrain\.json, .*expected a dataset file"):
        recorded(root, robot)
    for values, message in (
        ({"robot": "wx250s"}, r"key 'action_kind' is missing"),
        ({"robot": "wx250s", "action_kind": "torque"}, r"action_kind is 'torque', expected tool_target or"),
    ):
        (root / "meta" / "twinbrain.json").write_text(json.dumps(values))
        with pytest.raises(DatasetError, match=message):
            recorded(root, robot)
    (root / "meta" / "twinbrain.json").write_text('{"robot": "franka", "action_kind": "tool_target"}')
    with pytest.raises(DatasetError, match=r"robot is 'franka', expected 'wx250s'"):
        check_fits(recorded(root, robot), robot)


def test_numbers_of_a_simulators_inputs_become_metres_radians_and_openings() -> None:
    """LIBERO's: 0.05 m and half a radian per unit, a finger in metres."""
    libero = load_dataset_file("libero")
    raw = np.array([[1.0, 0.0, -0.5, 0.0, 0.0, 0.6, 1.0]], dtype=np.float32)
    state = np.array([[0.4, 0.0, 0.3, 3.1415927, 0.0, 0.0, 0.01, -0.01]], dtype=np.float32)
    first = np.zeros(1, dtype=np.int64)
    labels = ChunkLabels(
        libero, load_robot("libero_panda"), tool_states(state, libero.state), state, raw, first, first
    )
    np.testing.assert_allclose(labels.values[0], [0.05, 0.0, -0.025, 0.0, 0.0, 0.3, 1.0], atol=1e-6)
    assert tool_states(state, libero.state)[0, 6] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gripper": {"invert": False, "threshold": None, "ends": [1.0, 1.0]}}, r"ends.* two different num"),
        ({"translation_scale": 0.0}, "translation_scale"),
        ({"turn": "euler_difference"}, "rotation_scale.* none with turn euler_difference"),
    ],
)
def test_units_that_cannot_be_are_refused_by_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    document = yaml.safe_load(Path(load_dataset_file("libero").source).read_text())
    document["action"].update(change)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(DatasetError, match=message):
        load_dataset_file(str(tmp_path / "mine.yaml"))
