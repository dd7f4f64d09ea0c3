"""`twinbrain train`: what it refuses before the first step, and the files that ship."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from lerobot_fixtures import Layout, arm_episode, write_dataset

from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.cli import main
from twinbrain_ros.resources import demo_checkpoint, share_dir
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.training.config import build_train_config
from twinbrain_ros.training.policy import Drawn, PolicyTrainer
from twinbrain_ros.training.sources import losses_of

TRAIN = share_dir() / "config" / "train"
LOOP = {"steps": 1, "batch_size": 4, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = Layout("v3.0", height=96, width=96)
    episodes = [arm_episode(9, seed=i, base=20 * i) for i in range(3)]
    return write_dataset(tmp_path_factory.mktemp("lerobot") / "recorded", episodes, layout)


def refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str, data: Path | None = None) -> str:
    """What the command says of something it does not take; nothing was trained."""
    given = ["--data", str(data)] if data is not None else []
    assert main(["train", "--config", "finetune", "--out", str(out), *given, *arguments]) == 2
    assert not list(out.glob("*.state.pt"))
    return capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(TRAIN.glob("*.yaml")), ids=lambda path: path.stem)
def test_files_that_ship_are_sound(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    if values.get("datasets") == []:
        values["datasets"] = [{"path": "given with --data"}]
    if values.get("start") == "":
        values["start"] = "given with --start"
    values["robot"] = values["robot"] or "wx250s"  # given with --set robot=
    config = build_train_config(values, path.name)
    horizon = load_robot(config.robot).action.horizon
    assert len(config.losses.step_weights) in (0, horizon)


def test_a_checkpoint_of_another_horizon_is_named_with_both(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = load_robot("wx250s")
    path = tmp_path / "longer.yaml"
    path.write_text(robot.path.read_text().replace("horizon: 8 ", "horizon: 12 "))
    (tmp_path / "wx250s.urdf").write_text(robot.urdf())
    said = refused(capsys, tmp_path / "out", "--set", f"robot={path}", data=dataset)
    assert "action horizon: checkpoint 8, robot file 12" in said


def test_a_dataset_without_its_videos_is_refused_by_file(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(dataset, tmp_path / "broken"))
    gone = next(broken.glob("videos/*wrist*/**/*.mp4"))
    gone.unlink()
    assert str(gone.relative_to(broken)) in refused(capsys, tmp_path / "out", data=broken)


def test_asking_where_things_are_of_data_that_does_not_tell_is_refused(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, tmp_path / "out", "--set", "losses.grounding_weight=0.5", data=dataset)
    assert "grounding_weight: found 0.5, expected 0: it takes two `things` in every dataset file" in said


def test_no_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "data, datasets: found neither, expected one of them" in refused(capsys, tmp_path / "out")


def test_a_checkpoint_that_is_not_there_is_refused(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, tmp_path / "out", "--start", str(tmp_path / "none"), data=dataset)
    assert "none: not a directory, expected a TwinBrain checkpoint" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("policy.steps", "--set: found 'policy.steps', expected KEY=VALUE"),
        ("policy.steps=0", "policy: steps: found 0, expected a number of at least 1"),
        ("policy.learning_rate=-1", "policy: learning_rate: found -1, expected a number of at least 0"),
        ("policy.learning_rate=.nan", "policy: learning_rate: found nan"),
        ("policy.ema_decay=2.0", "policy: ema_decay: found 2, expected a number of at least 0 and at most"),
        ("policy.save_every_steps=0", "policy: save_every_steps: found 0"),
        ("losses.noise_repeats=0", "losses: noise_repeats: found 0"),
        ("evaluation.every_steps=-1", "evaluation: every_steps: found -1"),
        ("left_cache_gb=-1.0", "left_cache_gb: found -1"),
        ("policy.stepz=1", "unknown key 'stepz'"),
        ("robot.name=1", "--set: robot.name: 'robot' is no mapping"),
        ("policy.steps=many", "policy: steps: found 'many', expected int"),
    ],
)
def test_a_change_that_cannot_be_made_is_named(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    assert said in refused(capsys, tmp_path / "out", "--set", change, data=dataset)


def test_a_new_start_takes_units_from_the_data_where_it_has_none(tmp_path: Path, dataset: Path) -> None:
    """As a checkpoint that `twinbrain init` has made."""
    start = Path(shutil.copytree(demo_checkpoint(), tmp_path / "start"))
    values = json.loads((start / "config.json").read_text())
    values.update(action_statistics=None, state_statistics=None)
    (start / "config.json").write_text(json.dumps(values))
    small = ["policy.steps=1", "policy.batch_size=2", "policy.workers=0", "evaluation.every_steps=0"]
    small += ["dataset_options.held_out_episodes=0", "losses.prefix_steps=3"]
    changes = [f"--set={change}" for change in small]
    train = ["train", "--config", "finetune", "--data", str(dataset), "--start", str(start)]
    assert main([*train, "--out", str(tmp_path / "out"), *changes]) == 0
    config = TwinBrainConfig.load(tmp_path / "out" / "checkpoint")
    assert config.action_statistics is not None and config.action_statistics.clip
    assert config.expert.prefix_trained
    report = json.loads((tmp_path / "out" / "checkpoint" / "training.json").read_text())
    # The weights that the checkpoint was trained with were meant for the units that it no longer has.
    assert report["losses"]["action_weights"] == report["losses"]["step_weights"] == []


def test_in_the_simulator_the_most_successful_policy_is_kept(tmp_path: Path) -> None:
    """From the shipped checkpoint, on demonstrations that are generated; interrupted and resumed."""
    values = {
        "robot": "wx250s",
        "start": "demo",
        "data": {"frames": 40, "frames_per_shard": 40, "workers": 1},
        "policy": {"steps": 4, "batch_size": 4, "learning_rate": 1e-6, "save_every_steps": 2},
        "losses": {"grounding_weight": 0.5, "noise_repeats": 1},
        "evaluation": {"episodes": 1, "every_steps": 2, "trial_episodes": 1, "max_seconds": 8.0},
    }
    path, out = tmp_path / "train.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(values))
    assert main(["train", "--config", str(path), "--out", str(out), "--json", str(tmp_path / "r.json")]) == 0
    best = json.loads((out / "best.json").read_text())
    report = json.loads((tmp_path / "r.json").read_text())
    assert best["step"] == 2 and best["score"] == 1.0  # what succeeds already still does
    assert report["evaluation"]["pick"]["successes"] == report["evaluation"]["put"]["successes"] == 1
    taught = json.loads((demo_checkpoint() / "training.json").read_text())["config"]["losses"]
    assert report["losses"]["action_weights"] == taught["action_weights"] != []
    assert (
        report["losses"]["step_weights"] == taught["step_weights"] and report["losses"]["noise_repeats"] == 1
    )
    assert (out / "best" / "model.safetensors").is_file() and (out / "loss.png").is_file()
    assert report == json.loads((out / "checkpoint" / "training.json").read_text())
    assert main(["train", "--config", str(path), "--out", str(out)]) == 2  # holds a run
    assert main(["train", "--config", str(path), "--out", str(out), "--resume"]) == 0


def test_weights_of_the_losses_go_from_checkpoint_to_checkpoint_unless_given(tmp_path: Path) -> None:
    policy = TwinBrainPolicy.from_pretrained(demo_checkpoint())
    values = {"robot": "wx250s", "start": "demo", "data": {}, "policy": LOOP, "losses": {"noise_repeats": 2}}
    config = build_train_config(values, "file")
    # What training from a checkpoint writes names the weights that counted, in whichever file they stood.
    own = {"losses": {"step_weights": [2.0] * 8, "action_weights": []}, "config": {"losses": {}}}
    (tmp_path / "training.json").write_text(json.dumps(own))
    found = losses_of(policy, config, tmp_path)
    assert (found.step_weights, found.action_weights, found.noise_repeats) == ((2.0,) * 8, (), 2)
    given = {**values, "losses": {"step_weights": [1.0] * 8}}
    assert losses_of(policy, build_train_config(given, "file"), tmp_path).step_weights == (1.0,) * 8
    assert losses_of(policy, config, tmp_path / "nothing there") == config.losses


def test_the_same_command_trains_the_same_also_where_it_was_stopped_between(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is drawn anew follows from the seed: adapters here, heads in the simulator."""
    small = ["policy.steps=2", "policy.batch_size=2", "policy.workers=0", "evaluation.every_steps=0"]
    small += ["dataset_options.held_out_episodes=0", "lora.rank=2", "policy.warmup_steps=1"]
    train = [
        "train",
        "--config",
        "finetune",
        "--data",
        str(dataset),
        *[f"--set={change}" for change in small],
    ]
    assert main([*train, "--out", str(tmp_path / "whole")]) == 0

    losses = PolicyTrainer.losses

    def told_to_end(trainer: PolicyTrainer, drawn: Drawn, step: int) -> dict[str, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGTERM)
        return losses(trainer, drawn, step)

    stopped = ["--out", str(tmp_path / "stopped")]
    with monkeypatch.context() as patch:
        patch.setattr(PolicyTrainer, "losses", told_to_end)
        assert main([*train, *stopped]) == 143
    assert "twinbrain train: policy: stopped after step 1 of 2 (SIGTERM); the" in capsys.readouterr().err
    assert main([*train, *stopped, "--resume"]) == 0
    found = [torch.load(tmp_path / name / "policy.state.pt")["trained"] for name in ("whole", "stopped")]
    assert any("lora_A" in name for name in found[0])
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_twin_whose_state_goes_elsewhere_than_the_file_says_is_refused(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, tmp_path / "out", "--set", "state=none", data=dataset)
    assert "state: found 'right', the training file has 'none'" in said
    assert "`twinbrain init --state none`" in said
    assert "expected one of" in refused(capsys, tmp_path / "odd", "--set", "state=left", data=dataset)
