"""One twin of several robots: mixed in training, each in units of its own, acting as the one it is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from brain_fixtures import tiny_config, tiny_policy, views
from lerobot_fixtures import decoded_number
from oxe_fixtures import bridge, fractal

from twinbrain_ros.brain.config import (
    CameraInput,
    CheckpointError,
    CheckpointMismatch,
    Embodiment,
    Normalizer,
)
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.cli import main
from twinbrain_ros.data.dataset_findings import DatasetError
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.training.mixture import MixtureEntry, MixtureSource

T = 16
FRONT = (CameraInput("front", 32, 32),)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("oxe")
    return str(bridge(folder / "bridge_orig_lerobot")), str(fractal(folder / "fractal20220817_data_lerobot"))


def mixed(roots: tuple[str, str], weight: float = 1.0) -> MixtureSource:
    entries = [
        MixtureEntry(roots[0], 1.0, "bridge"),
        MixtureEntry(roots[1], weight, "fractal", robot="google_robot"),
    ]
    return MixtureSource(entries, load_robot("wx250s_bridge"), FRONT, T)


def two_robots(**changes: Any) -> Any:
    """A tiny config that knows wx250s and another robot, whose units are ten times as large."""
    own = tiny_config()
    slow = dataclasses.replace(own.action, period_s=0.5)
    ten = Normalizer((1.0,) * 7, (5.0,) * 7)
    known = (
        Embodiment(own.robot, own.action, own.action_statistics, own.state_statistics),
        Embodiment("other", slow, ten, own.state_statistics),
    )
    return dataclasses.replace(own, embodiments=known, **changes)


# -- in training


def test_each_sample_has_the_actions_the_rate_and_the_words_of_its_robot(roots: tuple[str, str]) -> None:
    batch = mixed(roots).batch(0, 0, 40)
    assert batch.robots is not None and set(batch.robots) == {"wx250s", "google_robot"}
    for robot, root, mapping, base, words in (
        ("wx250s", roots[0], "bridge", 0, "put carrot on plate"),
        ("google_robot", roots[1], "fractal", 1000, "pick coke can"),
    ):
        mine = [i for i, name in enumerate(batch.robots) if name == robot]
        file = "wx250s_bridge" if robot == "wx250s" else robot
        alone = MixtureSource([MixtureEntry(root, 1.0, mapping)], load_robot(file), FRONT, T)
        labels = alone.datasets[0].labels
        for i in mine:
            number = decoded_number(batch.images["front"][i].numpy()) - base
            row = number // 100 * 12 + number % 100
            assert batch.instructions[i] == words
            np.testing.assert_array_equal(batch.actions[i], labels.chunks(np.array([row]), T)[0][0])


def test_units_are_those_of_each_robots_data_alone(roots: tuple[str, str]) -> None:
    source = mixed(roots)
    near, far = source.statistics()[0], source.statistics("google_robot")[0]
    assert 0.01 < near.std[0] < 0.05 < 0.1 < far.std[0]
    alone = MixtureSource([MixtureEntry(roots[1], 1.0, "fractal")], load_robot("google_robot"), FRONT, T)
    assert alone.statistics() == source.statistics("google_robot")
    keys = set(source.units.to_json())
    assert keys == {"mixture_wx250s", "mixture_google_robot", "bridge", "fractal"}


def test_weights_say_how_often_each_dataset_is_drawn(roots: tuple[str, str]) -> None:
    robots = mixed(roots, weight=3.0).batch(0, 0, 400).robots
    assert robots is not None and 0.7 < robots.count("google_robot") / 400 < 0.8


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"mapping": "fractal"}, "robot is 'google_robot', expected 'wx250s'"),
        ({"mapping": "fractal", "other_robot": True}, "fps is 3, expected a multiple of 5 Hz"),
        ({"mapping": "fractal", "robot": "libero_panda"}, "action.horizon is 8, expected 16 as of 'wx250s'"),
        ({"mapping": "bridge", "robot": "google_robot"}, "robot is 'wx250s', expected 'google_robot'"),
    ],
)
def test_datasets_that_disagree_in_robot_rate_or_columns_are_refused(
    roots: tuple[str, str], entry: dict[str, Any], message: str
) -> None:
    entries = [MixtureEntry(roots[0], 1.0, "bridge"), MixtureEntry(roots[1], 1.0, **entry)]
    with pytest.raises(DatasetError, match=message):
        MixtureSource(entries, load_robot("wx250s_bridge"), FRONT, T)


def test_a_robot_of_a_mixture_that_is_never_drawn_is_refused(roots: tuple[str, str]) -> None:
    with pytest.raises(DatasetError, match="weights of 'google_robot' are all 0, expected one above 0"):
        mixed(roots, weight=0.0)


def test_a_mixture_without_the_robot_that_is_trained_for_is_refused(roots: tuple[str, str]) -> None:
    entries = [MixtureEntry(roots[1], 1.0, "fractal", robot="google_robot")]
    with pytest.raises(DatasetError, match=r"found those of \['google_robot'\], expected one of 'wx250s'"):
        MixtureSource(entries, load_robot("wx250s_bridge"), FRONT, T)


def test_a_checkpoint_of_a_mixture_acts_as_the_robot_of_the_robot_file(
    roots: tuple[str, str], tmp_path: Path
) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    robot = load_robot("wx250s_bridge")
    config = tiny_config()
    action = dataclasses.replace(
        config.action, horizon=T, composition=robot.action.composition, period_s=robot.action.period_s
    )
    policy = tiny_policy()
    config = dataclasses.replace(
        config, cameras=FRONT, action=action, action_statistics=None, state_statistics=None
    )
    wider = type(policy.model)(config)
    TwinBrainPolicy(wider, _words(policy)).save_pretrained(start)
    values = {
        "robot": "wx250s_bridge",
        "datasets": [
            {"path": roots[0], "mapping": "bridge"},
            {"path": roots[1], "mapping": "fractal", "robot": "google_robot"},
        ],
        "policy": {"steps": 2, "batch_size": 8, "learning_rate": 1e-3},
        "evaluation": {"episodes": 0},
    }
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(values))
    train = ["train", "--config", str(tmp_path / "mix.yaml"), "--start", str(start), "--out", str(out)]
    assert main(train) == 0

    statistics = json.loads((out / "checkpoint" / "dataset_statistics.json").read_text())
    assert "mixture_google_robot" in statistics
    trained = TwinBrainPolicy.from_pretrained(out / "checkpoint")
    assert trained.config.robots == ("wx250s", "google_robot")
    images, state = {"front": np.zeros((48, 64, 3), np.uint8)}, np.zeros(7)
    said = trained.act(images, "put the block on the plate", state)
    trained.take_robot(load_robot("google_robot"))
    assert trained.config.action.period_s == pytest.approx(1 / 3)
    chunk = trained.act(images, "put the block on the plate", state)
    reach = np.abs(chunk[:, :3]).max()
    assert reach > 2 * np.abs(said[:, :3]).max(), "its units are about ten times as large"
    assert np.array_equal(chunk, _predicted(tmp_path, out / "checkpoint", "google_robot"))
    with pytest.raises(
        CheckpointMismatch, match=r"checkpoint knows \['wx250s', 'google_robot'\], .* 'franka'"
    ):
        trained.take_robot(load_robot("franka"))


def _predicted(folder: Path, checkpoint: Path, robot: str) -> np.ndarray:
    """What `twinbrain predict` says for a black picture and a state of zeros."""
    cv2.imwrite(str(folder / "black.png"), np.zeros((48, 64, 3), np.uint8))
    (folder / "state.json").write_text(json.dumps([0.0] * 7))
    given = ["--checkpoint", str(checkpoint), "--robot", robot, "--image", str(folder / "black.png")]
    given += ["--instruction", "put the block on the plate", "--state", str(folder / "state.json")]
    assert main(["predict", *given, "--out", str(folder / "chunk.npy")]) == 0
    return np.asarray(np.load(folder / "chunk.npy"))


def _words(policy: TwinBrainPolicy) -> Any:
    """Its tokenizer, with the words of the datasets."""
    policy.tokenizer.add_tokens(["carrot", "coke", "can"])
    return policy.tokenizer


# -- in configs


def test_a_config_round_trips_with_its_robots() -> None:
    config = two_robots()
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    other = config.as_robot("other")
    assert (other.robot, other.action.period_s) == ("other", 0.5)
    assert other.as_robot(config.robot) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robot": "third"}, r"embodiments: found \['wx250s', 'other'\], expected 'third' and others"),
        ({"state_names": ("x",), "state_statistics": None}, "wx250s: state_statistics: found 7 entries"),
    ],
)
def test_robots_that_contradict_the_config_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        two_robots(**changes)


def test_robots_of_other_chunks_are_refused() -> None:
    own = tiny_config()
    longer = dataclasses.replace(own.action, horizon=9)
    known = (Embodiment(own.robot, own.action), Embodiment("other", longer))
    with pytest.raises(CheckpointError, match=r"embodiments: other: action\.horizon: found 9, expected 8"):
        dataclasses.replace(own, embodiments=known)


# -- in the prompt


def test_the_robot_is_named_where_the_prompt_says_so() -> None:
    policy = tiny_policy()
    policy.tokenizer.add_tokens(["wx250s", "other"])
    config = two_robots(right_prompt="{robot} state <|propri|> {instruction}")
    model = type(policy.model)(config)
    policy = TwinBrainPolicy(model, policy.tokenizer)
    own, other = (policy.prompts("pick up the block", robot=name)[1].ids for name in ("wx250s", "other"))
    differing = (own != other).nonzero()[:, 0].tolist()
    assert policy.tokenizer.decode(own[differing]) == "wx250s"
    assert torch.equal(policy.prompts("pick up the block")[1].ids, own)
    first = policy.act(views(), "pick up the block", np.zeros(7), normalized=True)
    policy.act_as("other")
    assert torch.equal(policy.prompts("pick up the block")[1].ids, other)
    second = policy.act(views(), "pick up the block", np.zeros(7), normalized=True)
    assert np.abs(first - second).max() > 1e-6, "prompts that were prepared are forgotten"


def test_samples_are_brought_into_the_units_of_their_robots() -> None:
    policy = tiny_policy()
    policy = TwinBrainPolicy(type(policy.model)(two_robots()), policy.tokenizer)
    actions = torch.full((4, 8, 7), 1.0)
    state, found = policy.standardize(torch.ones(2, 7), actions, ["wx250s", "wx250s", "other", "other"])
    np.testing.assert_allclose(found[:2], (1.0 - 0.1) / 0.5, rtol=1e-6)
    np.testing.assert_allclose(found[2:], 0.0, atol=1e-6)
    assert state is not None and state.shape == (2, 7)
