"""The worker's file: rotations as simulators read them, messages, and adapters to simulators of others."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from benchmark_fixtures import open_worker, suite_command

from twinbrain_ros.benchmarks import worker
from twinbrain_ros.benchmarks.process import WorkerError, WorkerMissing, WorkerProcess
from twinbrain_ros.robot.actions import euler_to_matrix

TURNS = [np.zeros(3), np.array([0.3, 0.4, -0.5]), np.array([0.0, 0.0, 3.0]), np.array([-1.2, 0.1, 2.0])]


# Rotations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", [*TURNS, np.array([np.pi, 0, 0]), np.array([1e-9, 0, 0])])
def test_a_rotation_vector_comes_back(vector: np.ndarray) -> None:
    matrix = cv2.Rodrigues(vector)[0]
    found = worker.matrix_to_rotation_vector(matrix)
    np.testing.assert_allclose(cv2.Rodrigues(found)[0], matrix, atol=1e-7)
    assert np.linalg.norm(found) <= np.pi + 1e-9


@pytest.mark.parametrize("angles", [*TURNS[:2], np.array([1.0, -1.2, 2.0])])
def test_xyz_euler_angles_are_turns_about_the_moving_axes(angles: np.ndarray) -> None:
    about = [euler_to_matrix(np.eye(3)[i] * angles[i]) for i in range(3)]
    np.testing.assert_allclose(worker.matrix_to_xyz_euler(about[0] @ about[1] @ about[2]), angles, atol=1e-12)


def test_the_two_simulators_read_the_same_numbers_eight_degrees_apart() -> None:
    numbers = np.array([0.3, 0.4, -0.5])
    about = [euler_to_matrix(np.eye(3)[i] * numbers[i]) for i in range(3)]
    apart = worker.matrix_to_rotation_vector(about[0] @ about[1] @ about[2] @ cv2.Rodrigues(numbers)[0].T)
    assert np.degrees(np.linalg.norm(apart)) == pytest.approx(8.1, abs=0.05)


def test_a_quaternion_is_turned_into_its_rotation() -> None:
    vector = np.array([0.2, -0.7, 0.4])
    angle = np.linalg.norm(vector)
    quaternion = np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * vector / angle])
    np.testing.assert_allclose(worker.quaternion_to_matrix(quaternion), cv2.Rodrigues(vector)[0], atol=1e-12)


# Messages -------------------------------------------------------------------------------------------


def test_a_message_arrives_as_it_was_sent() -> None:
    sent = {
        "do": "act",
        "images": {"a": np.arange(24, dtype=np.uint8).reshape(2, 4, 3), "b": np.zeros((0, 3), np.float32)},
        "deep": [{"x": np.float64(1.5)}, np.array([[1.0, 2.0]]).T],
        "words": "hé",
        "none": None,
    }
    one, other = socket.socketpair()
    with one, other:
        worker.send(one, sent)
        found = worker.receive(other)
    assert (found["do"], found["words"], found["none"], found["deep"][0]["x"]) == ("act", "hé", None, 1.5)
    for got, expected in (
        (found["images"]["a"], sent["images"]["a"]),
        (found["images"]["b"], sent["images"]["b"]),
        (found["deep"][1], sent["deep"][1]),
    ):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)


def test_a_connection_that_ends_amid_a_message_is_an_error() -> None:
    one, other = socket.socketpair()
    with other:
        with one:
            one.sendall(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
        with pytest.raises(ConnectionError, match="gone"):
            worker.receive(other)


def test_what_is_no_message_is_refused_before_it_is_read() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"\xff" * 8)
        with pytest.raises(ConnectionError, match="expected at most"):
            worker.receive(other)


def test_the_file_needs_numpy_and_nothing_of_this_package(tmp_path: Path) -> None:
    source = Path(worker.__file__)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in top} - set(sys.stdlib_module_names) == {"numpy"}
    alone = tmp_path / "worker.py"
    alone.write_bytes(source.read_bytes())
    done = subprocess.run(
        [sys.executable, str(alone), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--connect" in done.stdout


def test_the_suites_have_the_tasks_of_the_papers() -> None:
    assert len(worker.SUITES["robocasa-gr1"]) == 24
    assert len(worker.SUITES["libero"]) == 40
    published = worker.SUITES["simpler-ms2"]
    assert [task.limit for task in published.values()] == [60, 60, 60, 120]
    assert all(task.placements == 24 and task.id.endswith("-v0") for task in published.values())


# A process ------------------------------------------------------------------------------------------


def test_a_worker_tells_resets_and_steps(tmp_path: Path) -> None:
    with open_worker("calm", tmp_path) as process:
        assert process.described["simulator"] == "put-on-1"
        first = process.reset(5, 0)
        action = {"translation": np.array([0.01, 0, 0]), "rotation": np.eye(3), "gripper": 1.0}
        after, info = process.act(action)
        moved = after["state"]["position"] - first["state"]["position"]
        np.testing.assert_allclose(moved, [0.01, 0, 0], atol=1e-12)
        assert info["success"] is False and info["seconds"] >= 0.0
        np.testing.assert_array_equal(
            process.reset(5, 1)["images"]["3rd_view_camera"], first["images"]["3rd_view_camera"]
        )
    assert process.process.returncode == 0


def test_a_worker_says_truncated_exactly_at_its_limit(tmp_path: Path) -> None:
    still = {"translation": np.zeros(3), "rotation": np.eye(3), "gripper": 1.0}
    with open_worker("calm", tmp_path, limit=4) as process:
        process.reset(0, 0)
        assert [process.act(still)[1]["truncated"] for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ("dies", r"put-on dies died in act \(exit status 7\)"),
        ("hangs", "gave no answer to act within 0.5 s"),
        ("fails", "failed in act: RuntimeError: the thing broke"),
    ],
)
def test_what_became_of_a_worker_is_named_with_its_log(task: str, named: str, tmp_path: Path) -> None:
    still = {"translation": np.zeros(3), "rotation": np.eye(3), "gripper": 1.0}
    with open_worker(task, tmp_path, step_s=0.5) as process:
        process.reset(1, 0)
        for _ in range(2):
            process.act(still)
        with pytest.raises(WorkerError, match=named) as error:
            process.act(still)
        assert str(tmp_path / f"{task}.log") in str(error.value)
        process.end(gently=False)
    assert process.process.returncode is not None


def test_a_missing_part_is_told_apart_from_a_failure(tmp_path: Path) -> None:
    with pytest.raises(WorkerMissing, match="put-on missing: a part: install it"):
        open_worker("missing", tmp_path)


def test_a_worker_that_never_comes_is_named(tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "print('cannot find my data'); raise SystemExit(3)"]
    with pytest.raises(WorkerError, match=r"ended with 3 before it was there[\s\S]*cannot find my data"):
        WorkerProcess([*silent, "--suite", "s", "--task", "t"], tmp_path / "log")


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = [str(tmp_path / "python"), *suite_command("calm")[1:]]
    with pytest.raises(WorkerMissing, match=r"python: cannot be started: No such file"):
        WorkerProcess(command, tmp_path / "log")


# Adapters, on simulators of the real ones' shapes ------------------------------------------------------


class FakeEnvironment:
    """Takes steps and remembers their actions."""

    def __init__(self, observation: Any, info: dict[str, Any]) -> None:
        self.observation, self.info = observation, info
        self.actions: list[Any] = []
        self.resets: list[Any] = []
        self.unwrapped = self

    def reset(self, **given: Any) -> Any:
        self.resets.append(given)
        return self.observation, {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return self.observation, 0.0, False, False, self.info

    def get_language_instruction(self) -> str:
        return "put carrot on plate"

    def close(self) -> None:
        """Nothing to end."""


def module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    made = types.ModuleType(name)
    made.__dict__.update(attributes)
    monkeypatch.setitem(sys.modules, name, made)


ACTION = {
    "translation": np.array([0.01, -0.02, 0.03]),
    "rotation": euler_to_matrix(np.array([0.1, -0.2, 0.3])),
    "gripper": 0.0,
}


def test_simplerenv_on_maniskill2_reads_a_rotation_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    half = np.sqrt(0.5)
    observation = {
        "agent": {
            "base_pose": np.array([0.147, 0.028, 0.87, 0, 0, 0, 1]),
            "qpos": np.array([0.0] * 6 + [0.026, 0.026]),
            "controller": {"arm": {"target_pose": np.array([0.3, 0.0, 0.1, half, 0, half, 0])}},
        },
        "extra": {"tcp_pose": np.array([-0.153, 0.028, 1.0, half, 0, half, 0])},
        "image": {"3rd_view_camera": {"rgb": np.zeros((480, 640, 3), np.uint8)}},
    }
    environment = FakeEnvironment(observation, {"is_src_obj_grasped": True})
    made: dict[str, Any] = {}

    def make(name: str, **given: Any) -> FakeEnvironment:
        made.update(given, name=name)
        return environment

    module(monkeypatch, "simpler_env", make=make)
    adapter = worker.ManiSkill2(worker.SUITES["simpler-ms2"]["widowx_carrot_on_plate"], 120)
    first = adapter.reset(7, 0)
    assert made == {"name": "widowx_carrot_on_plate", "max_episode_steps": 120}
    options = environment.resets[0]["options"]
    assert options["obj_init_options"] == {"episode_id": 7}
    assert options["robot_init_options"] == {"init_xy": [0.147, 0.028], "init_rot_quat": [0, 0, 0, 1]}
    # The base stands turned by half a turn in the world.
    np.testing.assert_allclose(first["state"]["position"], [0.3, 0.0, 0.13], atol=1e-12)
    np.testing.assert_allclose(first["state"]["target_position"], [0.3, 0.0, 0.1], atol=1e-12)
    assert first["state"]["gripper"] == pytest.approx(0.5)
    _, info = adapter.act(ACTION)
    (row,) = environment.actions
    np.testing.assert_allclose(row[:3], ACTION["translation"])
    np.testing.assert_allclose(cv2.Rodrigues(row[3:6])[0], ACTION["rotation"], atol=1e-12)
    assert row[6] == -1.0 and info["grasped"] is True


def test_robocasa_is_given_groups_and_cropped_views(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = {
        f"state.{name}": np.full(n, 0.1, np.float32) for name, n in worker.RoboCasaGR1.GROUPS.items()
    }
    observation |= {f"video.{name}": np.zeros((256, 256, 3), np.uint8) for name in worker.RoboCasaGR1.CAMERAS}
    observation["annotation.human.coarse_action"] = "unlocked_waist: pick the cup from the tray"
    environment = FakeEnvironment(observation, {"success": True})
    module(monkeypatch, "gymnasium", make=lambda name, **given: environment)
    module(monkeypatch, "robocasa")
    module(monkeypatch, "robocasa.utils")
    module(monkeypatch, "robocasa.utils.gym_utils", GrootRoboCasaEnv=object)
    adapter = worker.RoboCasaGR1(next(iter(worker.SUITES["robocasa-gr1"].values())), 2)
    first = adapter.reset(3, 0)
    assert first["instruction"] == "pick the cup from the tray"
    assert environment.resets == [{"seed": 3}]
    groups = {name: np.arange(n) / 10 for name, n in adapter.GROUPS.items()}
    found = [adapter.act({"groups": groups})[1] for _ in range(2)]
    assert [info["truncated"] for info in found] == [False, True] and found[0]["success"]
    assert set(environment.actions[0]) == {f"action.{name}" for name in groups}
    np.testing.assert_allclose(environment.actions[0]["action.waist"], [0.0, 0.1, 0.2], atol=1e-7)


class FakeLibero(FakeEnvironment):
    """LIBERO's environments have an older interface."""

    def __init__(self, **given: Any) -> None:
        picture = np.arange(256 * 256 * 3, dtype=np.uint32).reshape(256, 256, 3).astype(np.uint8)
        observation = {
            "agentview_image": picture,
            "robot0_eye_in_hand_image": picture,
            "robot0_eef_pos": np.array([0.1, 0.2, 0.3]),
            "robot0_eef_quat": np.array([0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)]),
            "robot0_gripper_qpos": np.array([0.02, -0.02]),
        }
        super().__init__(observation, {})

    def seed(self, seed: int) -> None:
        """As asked."""

    def set_init_state(self, state: Any) -> Any:
        self.start = state
        return self.observation

    def step(self, action: Any) -> Any:
        self.actions.append(np.asarray(action))
        return self.observation, 0.0, True, {}


def test_libero_scales_clips_turns_pictures_and_flips_the_gripper(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    task = types.SimpleNamespace(
        language="open the drawer", problem_folder="p", init_states_file="i", bddl_file="b"
    )
    (tmp_path / "p").mkdir()
    torch.save(np.arange(150.0).reshape(50, 3), tmp_path / "p" / "i")
    suite = types.SimpleNamespace(get_task=lambda number: task)
    module(monkeypatch, "robosuite", __version__="1.4.0")
    module(monkeypatch, "libero")
    benchmark = types.SimpleNamespace(get_benchmark_dict=lambda: {"libero_goal": lambda: suite})
    module(monkeypatch, "libero.libero", benchmark=benchmark, get_libero_path=lambda name: str(tmp_path))
    module(monkeypatch, "libero.libero.envs", OffScreenRenderEnv=FakeLibero)
    adapter = worker.Libero(worker.SUITES["libero"]["libero_goal/3"], 300)
    assert adapter.describe()["simulator"] == "libero/robosuite-1.4.0"
    first = adapter.reset(4, 0)
    environment: Any = adapter.env
    np.testing.assert_array_equal(environment.start, [12.0, 13.0, 14.0])
    assert len(environment.actions) == 10 and environment.actions[0].tolist() == [0.0] * 6 + [-1.0]
    np.testing.assert_array_equal(
        first["images"]["agentview"], environment.observation["agentview_image"][::-1, ::-1]
    )
    np.testing.assert_allclose(first["state"]["rotation"] @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    assert first["state"]["gripper"] == pytest.approx(0.5)
    _, info = adapter.act({**ACTION, "translation": np.array([0.01, -0.2, 0.05]), "gripper": 1.0})
    row = environment.actions[-1]
    np.testing.assert_allclose(row[:3], [0.2, -1.0, 1.0])
    np.testing.assert_allclose(cv2.Rodrigues(row[3:6] * 0.5)[0], ACTION["rotation"], atol=1e-12)
    assert row[6] == -1.0 and info["success"] is True


@pytest.mark.parametrize("suite", ["simpler-ms2", "robocasa-gr1", "libero"])
def test_a_suite_that_is_not_installed_is_missing(suite: str) -> None:
    task = next(iter(worker.SUITES[suite].values()))
    with pytest.raises(worker.Missing, match="No module named"):
        worker.ADAPTERS[suite](task, 10)


def test_missing_data_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MS_ASSET_DIR", str(tmp_path))
    with pytest.raises(worker.Missing, match=r"bridge_v2_real2sim_dataset: not there; .*MS_ASSET_DIR"):
        worker.ManiSkill3(worker.SUITES["simpler-ms3"]["widowx_carrot_on_plate"], 60)
