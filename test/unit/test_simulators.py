"""Adapters on the real simulators. `make evaluation` brings ManiSkill3, whose WidowX tasks need data that
MS_ASSET_DIR names; the others are tried where an interpreter with their packages is named (OTHERS)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from vlm_folders import vlm_folder
from whole_path import narrow_expert, run, taught

from twinbrain_ros.benchmarks import worker
from twinbrain_ros.benchmarks.actions import codec_for
from twinbrain_ros.benchmarks.expert import PutOnExpert
from twinbrain_ros.benchmarks.players import TOOL_RULE
from twinbrain_ros.benchmarks.process import MADE_PYTHON, WorkerProcess, worker_command
from twinbrain_ros.benchmarks.trial import TrialKey, play
from twinbrain_ros.control.steps import StepExecutor
from twinbrain_ros.control.strategies import ChunkSettings
from twinbrain_ros.robot.actions import euler_to_matrix
from twinbrain_ros.robot.robot_file import load_robot

PYTHON = Path(__file__).resolve().parents[2] / MADE_PYTHON
LIMIT = 60
OPEN, CLOSED = 1.0, 0.0
# One test process draws at a time what these tests need; more threads than that slow each other down.
ENVIRONMENT = {**os.environ, "LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
WIDOWX = [name for name in worker.SUITES["simpler-ms3"] if name not in worker.EXTRA]


def assets_missing() -> str:
    try:
        worker.ManiSkill3.find_assets()
    except worker.Missing as error:
        return str(error)
    return ""


@pytest.fixture(scope="module", params=["pick_cube", *WIDOWX])
def simulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A worker of each task, with its name."""
    if not PYTHON.is_file():
        pytest.skip("no ManiSkill3: make evaluation")
    if request.param in WIDOWX and (missing := assets_missing()):
        pytest.skip(missing)
    command = worker_command("simpler-ms3", request.param, LIMIT, PYTHON)
    with WorkerProcess(command, tmp_path_factory.mktemp("log") / "log", ENVIRONMENT) as process:
        yield request.param, process


def step(process: WorkerProcess, move: Any = (0, 0, 0), turn: Any = None, gripper: float = OPEN) -> Any:
    rotation = np.eye(3) if turn is None else turn
    return process.act({"translation": np.array(move, float), "rotation": rotation, "gripper": gripper})


def degrees(turn: np.ndarray) -> float:
    return float(np.degrees(np.linalg.norm(worker.matrix_to_rotation_vector(turn))))


def test_doing_nothing_keeps_the_pose(simulator: Any) -> None:
    _, process = simulator
    before = process.reset(3, 0)["state"]
    for _ in range(3):
        after = step(process)[0]["state"]
    assert np.linalg.norm(after["position"] - before["position"]) < 1e-3
    assert degrees(after["rotation"] @ before["rotation"].T) < 0.5


@pytest.mark.parametrize("axis", range(3))
def test_a_centimetre_along_an_axis_of_the_base_is_one(simulator: Any, axis: int) -> None:
    _, process = simulator
    before = process.reset(3, 0)["state"]
    moved = step(process, 0.01 * np.eye(3)[axis])[0]["state"]
    np.testing.assert_allclose(
        moved["target_position"] - before["target_position"], 0.01 * np.eye(3)[axis], atol=1e-6
    )
    for _ in range(4):
        moved = step(process)[0]["state"]
    way = moved["position"] - before["position"]
    assert way[axis] > 0.007 and np.linalg.norm(np.delete(way, axis)) < 0.003


@pytest.mark.parametrize("angles", [[0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3], [0.2, -0.15, 0.16]])
def test_a_turn_is_that_turn_about_the_axes_of_the_base(simulator: Any, angles: list[float]) -> None:
    name, process = simulator
    before = process.reset(3, 0)["state"]
    wanted = euler_to_matrix(np.array(angles))
    if name == "pick_cube":
        # This controller turns by 0.1 rad per step at most: a quarter, four times.
        quarter = cv2.Rodrigues(worker.matrix_to_rotation_vector(wanted) / 4)[0]
        for _ in range(4):
            after = step(process, turn=quarter)[0]["state"]
    else:
        after = step(process, turn=wanted)[0]["state"]
    assert degrees(after["target_rotation"] @ before["target_rotation"].T @ wanted.T) < 0.05
    for _ in range(8):
        after = step(process)[0]["state"]
    assert degrees(after["rotation"] @ before["rotation"].T @ wanted.T) < 0.5


def test_the_gripper_closes_and_opens(simulator: Any) -> None:
    _, process = simulator
    process.reset(3, 0)
    for gripper, expected in ((CLOSED, 0.0), (OPEN, 1.0)):
        for _ in range(6):
            state = step(process, gripper=gripper)[0]["state"]
        assert state["gripper"][0] == pytest.approx(expected, abs=0.15)


def test_a_placement_looks_the_same_every_time_and_others_do_not(simulator: Any) -> None:
    _, process = simulator
    first, other = (next(iter(process.reset(p, 0)["images"].values())) for p in (3, 4))
    again = next(iter(process.reset(3, 7)["images"].values()))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and np.any(first != other)


def test_the_simulator_says_truncated_exactly_at_the_limit(simulator: Any) -> None:
    _, process = simulator
    process.reset(0, 0)
    said = [step(process)[1]["truncated"] for _ in range(LIMIT)]
    assert said == [False] * (LIMIT - 1) + [True]


def test_instructions_and_rates_are_told(simulator: Any) -> None:
    name, process = simulator
    words = process.reset(0, 0)["instruction"]
    assert process.described["control_hz"] == (20.0 if name == "pick_cube" else 5.0)
    assert (
        words
        == {
            "pick_cube": "pick up the red cube and move it to the green ball",
            "widowx_spoon_on_towel": "put the spoon on the towel",
            "widowx_carrot_on_plate": "put carrot on plate",
            "widowx_stack_cube": "stack the green block on the yellow block",
            "widowx_put_eggplant_in_basket": "put eggplant into yellow basket",
        }[name]
    )


def test_the_expert_shows_that_success_is_reachable(simulator: Any) -> None:
    name, process = simulator
    if name not in WIDOWX:
        pytest.skip("not a task of the expert's")
    expert = PutOnExpert()
    for placement in (1, 20, 1000):  # the last one is moved about, for demonstrations
        result = play(
            process,
            TrialKey(name, placement, 0),
            StepExecutor(ChunkSettings(execution_steps=1), 1),
            codec_for(TOOL_RULE, "observation"),
            lambda ask: expert.act(ask.observation["state"], ask.observation["truth"]),
            limit=LIMIT,
            horizon=1,
        )
        assert result.success_last and result.grasped, placement


def test_things_are_drawn_where_they_are_said_to_be_seen(simulator: Any) -> None:
    _, process = simulator
    first = process.reset(0, 0)
    start, image = first["truth"]["source_pixel"], next(iter(first["images"].values())).astype(int)
    away = image.shape[1] / 16
    for placement in range(1, 24):
        other = process.reset(placement, 0)
        pixel = other["truth"]["source_pixel"]
        if np.hypot(*(pixel - start)) > away:
            break
    else:
        pytest.skip("the placements of this task lie close together")
    moved = next(iter(other["images"].values())).astype(int)
    changed = np.abs(moved - image).sum(2) > 8  # a stand-in is pale
    for column, row in (start.astype(int), pixel.astype(int)):
        around = changed[row - 2 : row + 3, column - 2 : column + 3]
        assert around.mean() > 0.5
    assert changed.mean() < 0.2


def test_scenes_that_are_moved_about_repeat_and_keep_their_things_apart(simulator: Any) -> None:
    name, process = simulator
    if name not in WIDOWX:
        pytest.skip("any number is a placement of this task")
    starts = []
    for placement in (1000, 1001, 1002, 1000):
        truth = process.reset(placement, 0)["truth"]
        starts.append(truth["source_position"])
        apart = (truth["source_position"] - truth["target_position"])[:2]
        assert np.hypot(*apart) > worker.APART_M - 0.02  # they may roll while they settle
        listed = process.reset(placement % worker.SUITES["simpler-ms3"][name].placements, 0)["truth"]
        assert 0.001 < np.hypot(*(listed["source_position"] - starts[-1])[:2]) < 1.5 * worker.SCATTER_M + 0.02
    # To the last bit on a table; in a sink, with its many contacts, to micrometres.
    np.testing.assert_allclose(starts[0], starts[3], atol=1e-5)
    assert np.linalg.norm(starts[0] - starts[1]) > 0.001


def test_what_is_part_of_the_photograph_stays_where_scenes_are_moved_about(simulator: Any) -> None:
    name, process = simulator
    if name != "widowx_put_eggplant_in_basket":
        pytest.skip("everything of this task is drawn")
    listed = process.reset(1000 % 64, 0)["truth"]
    for placement in range(1000, 1008):
        truth = process.reset(placement, 0)["truth"]
        np.testing.assert_allclose(truth["target_position"], listed["target_position"], atol=1e-3)
        # In the sink, on its bottom: nothing has been thrown out or stands on the edge.
        assert abs(truth["source_position"][2] - listed["source_position"][2]) < 0.02


def test_a_twin_of_a_vlm_is_measured_on_the_real_task_as_published_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not PYTHON.is_file():
        pytest.skip("no ManiSkill3: make evaluation")
    if missing := assets_missing():
        pytest.skip(missing)
    narrow_expert(monkeypatch)
    vlm, twin, out = vlm_folder(tmp_path / "qwen3_vl", "qwen3_vl"), tmp_path / "twin", tmp_path / "r.json"
    robot = load_robot("wx250s_bridge")
    run("init", "--vlm", vlm, "--recipe", "paper_simplerenv", "--robot", "wx250s_bridge", "--out", twin)
    checkpoint = taught(tmp_path, twin, "simplerenv", robot)
    plan = ["--tasks", "widowx_carrot_on_plate", "--trials", "1", "--limit", "8", "--python", PYTHON]
    profile = ["--profile", "simpler_starvla", "--json", out]
    run("evaluate", "simpler-ms3", "--checkpoint", checkpoint, *plan, *profile)
    values = json.loads(out.read_text())
    assert values["n"] == 1 and "mani-skill-3.0.1/cpu/5Hz/limit=8" in values["protocol"]


# Suites of others' interpreters ------------------------------------------------------------------------

# The variable that names the interpreter, and a task to try.
OTHERS = {
    "simpler-ms2": ("TWINBRAIN_SIMPLER_MS2_PYTHON", "widowx_carrot_on_plate"),
    "robocasa-gr1": ("TWINBRAIN_ROBOCASA_GR1_PYTHON", "PnPCupToDrawerClose"),
    "libero": ("TWINBRAIN_LIBERO_PYTHON", "libero_object/0"),
}


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    variable, task = OTHERS[request.param]
    if variable not in os.environ:
        pytest.skip(f"{variable} names no Python with the packages of {request.param}")
    command = worker_command(request.param, task, 12, Path(os.environ[variable]))
    with WorkerProcess(command, tmp_path_factory.mktemp("log") / "log", ENVIRONMENT) as process:
        yield request.param, process


def staying(suite: str, state: Any, **more: Any) -> dict[str, Any]:
    if suite == "robocasa-gr1":
        return {"groups": {name: state[name] for name in worker.RoboCasaGR1.GROUPS}}
    return {"translation": np.zeros(3), "rotation": np.eye(3), "gripper": OPEN, **more}


def test_another_simulator_starts_alike_stays_and_stops_at_its_limit(other: Any) -> None:
    suite, process = other
    first = process.reset(1, 0)
    again = process.reset(1, 0)
    for name, image in first["images"].items():
        assert image.dtype == np.uint8 and list(image.shape[:2]) == process.described["cameras"][name]
        assert np.abs(image.astype(int) - again["images"][name]).mean() < 2.0
    assert len(first["instruction"].split()) > 2
    observation, said = again, []
    for _ in range(12):
        observation, info = process.act(staying(suite, again["state"]))
        said.append(info["truncated"])
    assert said == [False] * 11 + [True]
    for name, values in again["state"].items():
        assert np.abs(values - observation["state"][name]).max() < 0.05, name


def test_another_simulators_arm_goes_where_it_is_told(other: Any) -> None:
    suite, process = other
    if suite == "robocasa-gr1":
        pytest.skip("joint targets")
    before = process.reset(1, 0)["state"]
    for _ in range(5):
        after = process.act(staying(suite, before, translation=np.array([0.01, 0.0, 0.0])))[0]["state"]
    way = after["position"] - before["position"]
    assert way[0] > 0.005 and np.abs(way[1:]).max() < 0.5 * way[0]
    small = euler_to_matrix(np.array([0.0, 0.0, 0.1]))
    for _ in range(3):
        turned = process.act(staying(suite, before, rotation=small, gripper=CLOSED))[0]["state"]
    vector = worker.matrix_to_rotation_vector(turned["rotation"] @ after["rotation"].T)
    assert vector[2] > 0.05 and np.abs(vector[:2]).max() < 0.5 * vector[2]
    for _ in range(4):
        closed = process.act(staying(suite, before, gripper=CLOSED))[0]["state"]
    assert closed["gripper"][0] < after["gripper"][0] - 0.2
