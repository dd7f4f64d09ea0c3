"""`twinbrain evaluate`: from the command to results, pictures and datasets, on the embedded simulator and the
small suite."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from benchmark_fixtures import RulePlayer, standing, suite_command
from put_on_suite import pixel

from twinbrain_ros import cli
from twinbrain_ros.benchmarks import evaluation as module
from twinbrain_ros.benchmarks import process, worker
from twinbrain_ros.benchmarks.evaluation import Evaluation, evaluate
from twinbrain_ros.benchmarks.expert import PutOnExpert
from twinbrain_ros.benchmarks.process import WorkerMissing, interpreter
from twinbrain_ros.benchmarks.profile import load_profile
from twinbrain_ros.benchmarks.recording import Recorder, RecordingError
from twinbrain_ros.benchmarks.results import ResultsError
from twinbrain_ros.brain.config import CameraInput
from twinbrain_ros.brain.preprocess import PatchLayout
from twinbrain_ros.data.dataset_file import load_dataset_file
from twinbrain_ros.data.robot_dataset import DatasetChoice, RobotDataset
from twinbrain_ros.demo.checks import check_benchmarks, check_suite
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.training.mixture import MixtureEntry, MixtureSource

TASK = worker.Task("calm", "", 45, 0)


@pytest.fixture
def small_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small suite in the place of simpler-ms3."""
    monkeypatch.setitem(worker.SUITES, "simpler-ms3", {"calm": TASK, "dies": TASK})
    monkeypatch.setattr(
        module, "worker_command", lambda suite, task, limit, python: suite_command(task, limit)
    )


def expert_plan(**more: Any) -> Evaluation:
    expert = PutOnExpert()
    player = RulePlayer(lambda ask: expert.act(ask.observation["state"], ask.observation["truth"]))
    profile = dataclasses.replace(load_profile("own"), steps=1)
    plan = Evaluation("simpler-ms3", ("calm",), player, profile, None, 4, 0, 0, 0)
    return dataclasses.replace(plan, **more)


# Evaluations ----------------------------------------------------------------------------------------


def test_results_pictures_and_videos_are_where_they_are_said_to_be(small_suite: None, tmp_path: Path) -> None:
    values = evaluate(expert_plan(), tmp_path / "r.json", 2, tmp_path / "videos")
    assert (values["k"], values["n"], values["tasks"]["calm"]["grasp_rate"]) == (4, 4, 1.0)
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == values
    assert "limit=45/placements=0-3/trials=4/" in values["protocol"]
    sheet = cv2.imread(str(tmp_path / "r_calm.png"))
    assert sheet is not None and sheet.shape[1] > 1500
    videos = sorted((tmp_path / "videos" / "calm").glob("*"))
    assert [path.name for path in videos] == [f"calm_{p:03d}_00_success.mp4" for p in range(4)]
    with av.open(str(videos[0])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 46


def test_what_is_there_is_not_played_again(small_suite: None, tmp_path: Path) -> None:
    first = evaluate(expert_plan(trials=2), tmp_path / "r.json", 1)
    player = standing()
    player.name = "rule"
    more = evaluate(expert_plan(player=player), tmp_path / "r.json", 1)
    assert sum(player.batches) == 2 * 45
    assert (
        more["trials"][:2] == first["trials"]
        and [t["success_last"] for t in more["trials"]] == [True] * 2 + [False] * 2
    )
    with pytest.raises(ResultsError, match="seed: 0 and 1"):
        evaluate(expert_plan(seed=1), tmp_path / "r.json", 1)


def test_repeats_of_a_placement_differ_in_their_noise_alone(small_suite: None, tmp_path: Path) -> None:
    seeds: dict[tuple[int, int], set[int]] = {}

    def rule(ask: Any) -> Any:
        placement = int(ask.observation["images"]["3rd_view_camera"][0, 0, 0])
        seeds.setdefault((placement, int(ask.observation["images"]["3rd_view_camera"][0, 1, 0])), set()).add(
            ask.seed
        )
        return np.array([[0.0] * 6 + [1.0]])

    listed = {"calm": TASK._replace(placements=2, limit=3)}
    worker.SUITES["simpler-ms3"] = listed
    values = evaluate(expert_plan(player=RulePlayer(rule), trials=6), tmp_path / "r.json", 1)
    assert [(t["placement"], t["repeat"]) for t in values["trials"]] == [
        (p, r) for p in range(2) for r in range(3)
    ]
    assert {key: len(found) for key, found in seeds.items()} == {
        (p, s): 3 for p in range(2) for s in range(3)
    }


def test_trials_that_could_not_be_played_are_told_and_the_rest_is_kept(
    small_suite: None, tmp_path: Path
) -> None:
    values = evaluate(expert_plan(tasks=("dies",), trials=3), tmp_path / "r.json", 1)
    assert values["n"] == 2 and list(values["not_played"]) == ["dies 1 0"]
    assert "died in act (exit status 7)" in values["not_played"]["dies 1 0"]


# Datasets -------------------------------------------------------------------------------------------


def test_what_the_expert_did_becomes_a_dataset_that_training_reads(small_suite: None, tmp_path: Path) -> None:
    values = evaluate(expert_plan(trials=3), tmp_path / "r.json", 2, dataset=tmp_path / "data")
    assert values["k"] == 3 and not (tmp_path / "data.partial").exists()
    choice = DatasetChoice(tmp_path / "data", load_dataset_file("benchmark"))
    dataset = RobotDataset(choice, load_robot("wx250s_bridge"), ("front",))
    rows = dataset.rows(False)
    # Of each episode: until shortly after its success.
    ends = [trial["steps_to_success"] + 12 for trial in values["trials"]]
    assert len(rows) == sum(ends) and [trial["steps"] for trial in values["trials"]] == ends
    assert values["protocol"].endswith("/stop=12")
    assert dataset.instruction(0) == "put the thing on the mat"
    # The tool of the small suite goes exactly where it is told: the next state is the state and the action.
    states, (chunks, _) = dataset.states, dataset.labels.chunks(np.arange(2), 16)
    np.testing.assert_allclose(states[1, :3], states[0, :3] + chunks[0, 0, :3], atol=1e-5)
    np.testing.assert_allclose(chunks[0, 1:], chunks[1, :-1], atol=1e-6)
    episode, frame = dataset.place(30)
    assert (episode, frame) != (0, 30) and abs(int(dataset.image("front", 30)[24, 32, 0]) - frame) <= 2


def test_targets_of_a_recording_are_what_its_deltas_lead_to_also_where_it_was_disturbed(
    small_suite: None, tmp_path: Path
) -> None:
    evaluate(expert_plan(trials=3, kick_m=0.02), tmp_path / "r.json", 1, dataset=tmp_path / "data")
    robot = load_robot("wx250s")  # composes on its observation
    deltas, targets = (
        RobotDataset(DatasetChoice(tmp_path / "data", load_dataset_file(name)), robot, ("front",))
        for name in ("benchmark", "benchmark_targets")
    )
    rows = np.arange(len(deltas.states))
    first, second = (one.labels.chunks(rows, 2)[0] for one in (deltas, targets))
    # The tool of the small suite is at its target before: one step is the same either way, two are not.
    np.testing.assert_allclose(second[:, 0], first[:, 0], atol=1e-5)
    assert np.abs(second[:-1, 1] - first[:-1, 1])[:, :3].max() > 0.005


def test_a_recording_tells_where_things_are_and_training_reads_it(small_suite: None, tmp_path: Path) -> None:
    evaluate(expert_plan(trials=2), tmp_path / "r.json", 1, dataset=tmp_path / "data")
    robot = load_robot("wx250s_bridge")
    # The lower right quarter of the picture, of which the brains see 2 x 2 tokens of 16 pixels.
    camera = CameraInput("front", 32, 32, (0.5, 0.5, 1.0, 1.0))
    entry = MixtureEntry(str(tmp_path / "data"), 1.0, "benchmark")
    source = MixtureSource([entry], robot, [camera], 16, layout=PatchLayout(8, 2, 1))
    batch = source.batch(0, 0, 40)
    assert batch.grounding is not None and batch.images["front"].shape == (40, 32, 32, 3)
    dataset, seen = source.datasets[0], 0
    cells, offsets = batch.grounding.cells["front"], batch.grounding.offsets["front"]
    for i in range(40):
        row = int(np.argmin(np.abs(dataset.states - batch.state[i].numpy()).sum(1)))
        for k, (u, v, *place, yaw) in enumerate(dataset.things(np.array([row]))[0]):
            np.testing.assert_allclose([64 * u, 48 * v], pixel(np.array(place)), atol=1e-3)
            across, down = (64 * u - 32) * 32 / 32, (48 * v - 24) * 32 / 24
            inside = 0 <= across < 32 and 0 <= down < 32
            seen += inside
            assert cells[i, k] == (int(down // 16) * 2 + int(across // 16) if inside else -1)
            if inside:
                np.testing.assert_allclose(offsets[i, k], [across % 16 / 16, down % 16 / 16], atol=1e-4)
            away = (np.array(place) - batch.state[i, :3].numpy()) / 0.1
            turned = 2 * (yaw - float(batch.state[i, 5]))
            wanted = [*away, np.cos(turned), np.sin(turned)]
            np.testing.assert_allclose(batch.grounding.aims[i, k], wanted, atol=1e-5)
    assert 5 < seen < 75


def test_what_an_expert_shows_after_a_lead_is_recorded_and_the_lead_is_not(
    small_suite: None, tmp_path: Path
) -> None:
    lead = RulePlayer(lambda ask: np.array([[0.01, 0.01, -0.01, 0.0, 0.0, 0.0, 0.0]] * 4), 4)
    plan = expert_plan(trials=3, lead=lead, lead_profile=load_profile("own"))
    values = evaluate(plan, tmp_path / "r.json", 2, dataset=tmp_path / "data")
    assert values["k"] == 3 and "/lead=rule/" in values["protocol"] and lead.batches
    choice = DatasetChoice(tmp_path / "data", load_dataset_file("benchmark_targets"))
    dataset = RobotDataset(choice, load_robot("wx250s_tasks"), ("front",))
    assert 0 < len(dataset.states) < sum(trial["steps"] for trial in values["trials"])
    # Every episode begins where the gripper was closed already, and opens it.
    starts = dataset.tables.starts
    np.testing.assert_array_equal(dataset.states[starts, 6], np.zeros(3))
    np.testing.assert_array_equal(dataset.labels.values[starts, 6], np.ones(3))


def test_a_dataset_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    described = {"action": {"kind": "ee_delta", "relative_to": "target"}}
    with pytest.raises(RecordingError, match="is there already"):
        Recorder(tmp_path / "data", described)
    with pytest.raises(RecordingError, match="expected tool deltas on the target"):
        Recorder(tmp_path / "other", {"action": {"kind": "joint_groups", "groups": {}}})


# The command ----------------------------------------------------------------------------------------


def test_the_command_plays_the_shipped_checkpoint_on_the_embedded_simulator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "tabletop", "--tasks", "pick", "--trials", "1", "--limit", "20", "--seed", "3"]
    assert cli.main([*words, "--json", str(tmp_path / "r.json")]) == 0
    out = capsys.readouterr().out
    values = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert values["n"] == 1 and values["protocol"] in out and values["policy"].startswith("demo@")
    assert values["trials"][0]["chunks"] == 5 and values["trials"][0]["instruction"].startswith("pick up the")
    assert (tmp_path / "r_pick.png").is_file()
    assert cli.main([*words, "--json", str(tmp_path / "r.json"), "--against", str(tmp_path / "r.json")]) == 0
    assert "McNemar's exact test on 1 matched scenes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["tabletop", "--tasks", "fly"], "--tasks: found fly, expected some of pick, put"),
        (["tabletop", "--policy", "expert", "--checkpoint", "x"], "expected one of them"),
        (["tabletop", "--lead", "x"], "expected with --policy expert"),
        (["tabletop", "--strategy", "realtime"], "--strategy: found realtime, expected one of open_loop"),
        (["tabletop", "--delay-steps", "-1"], "found a number below 0"),
        (["tabletop", "--delay-steps", "9"], "delay_steps is 9, expected 0 to the horizon - 1, 7"),
        (["tabletop", "--python", "/bin/sh"], "suite tabletop runs in this package's own interpreter"),
        (["libero", "--python", "/no/such"], "--python /no/such: no such file"),
        (["libero"], "suite libero: no interpreter with its packages"),
        (["tabletop", "--profile", "mine"], "neither a file nor a shipped profile"),
        (["tabletop", "--policy", "expert", "--trials", "1"], "tells no poses of objects"),
    ],
)
def test_what_cannot_be_is_named_in_a_line(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *words]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--delay-steps=8", "delay_steps is 8, expected 0 to the horizon - 1, 7"),
        ("--execution-steps=9", "execution_steps is 9, expected 1 to the horizon 8"),
    ],
)
def test_steps_beyond_the_chunk_are_refused_before_a_simulator_is_started(
    option: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(*_: object) -> None:
        raise AssertionError("a simulator was started")

    monkeypatch.setattr(module, "WorkerProcess", started)
    assert cli.main(["evaluate", "tabletop", option]) == 2
    assert named in capsys.readouterr().err


def test_the_doctor_tells_what_is_missing_of_a_suite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_suite("tabletop", None).status == "ok"
    missing = check_suite("libero", Path(sys.executable))
    assert missing.status == "fail" and "No module named '" in missing.mend
    monkeypatch.setattr(process, "share_dir", lambda: tmp_path)
    assert "`make evaluation` brings ManiSkill3" in check_benchmarks().found
    (tmp_path / process.MADE_PYTHON).parent.mkdir(parents=True)
    (tmp_path / process.MADE_PYTHON).touch()
    monkeypatch.setenv("MS_ASSET_DIR", str(tmp_path))
    without = check_benchmarks()
    assert without.status == "warn" and "bridge_v2_real2sim_dataset: not there" in without.mend


def test_without_an_interpreter_the_mend_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "share_dir", lambda: tmp_path)
    with pytest.raises(WorkerMissing, match="`make evaluation` makes one"):
        interpreter("simpler-ms3", None)
