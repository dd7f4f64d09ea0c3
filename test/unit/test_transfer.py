"""`twinbrain init --brains`: a checkpoint's brains for another robot, other cameras, more words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import random_policy, tiny_config
from robot_files import changed_robot

from twinbrain_ros import cli
from twinbrain_ros.brain.config import CheckpointError, Embodiment, TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.transfer import transfer
from twinbrain_ros.resources import demo_checkpoint
from twinbrain_ros.robot.robot_file import load_robot
from twinbrain_ros.training.tokenizer import word_tokenizer

WORDS = "put the carrot on the plate"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "twin"
    words = ["init", "--brains", "demo", "--robot", "wx250s_bridge", "--pixels", "128x96", "--words", WORDS]
    assert cli.main([*words, "--out", str(out)]) == 0
    return out


def test_the_brains_stay_and_what_acts_is_fresh(made: Path) -> None:
    old, new = TwinBrainPolicy.from_pretrained(demo_checkpoint()), TwinBrainPolicy.from_pretrained(made)
    added = [new.tokenizer.convert_tokens_to_ids("carrot")]
    assert len(new.tokenizer) == len(old.tokenizer) + 1  # the other words were known
    for side in ("left", "right"):
        theirs, mine = (getattr(p.model, side).state_dict() for p in (old, new))
        for name, tensor in theirs.items():
            kept, fresh = tensor.clone(), mine[name].clone()
            if name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
                assert not torch.equal(kept[added], fresh[added])
                kept[added] = fresh[added] = 0.0
            assert torch.equal(kept, fresh), name
    assert torch.equal(
        *(next(iter(p.model.state_encoder.parameters())) for p in (old, new))  # type: ignore[union-attr]
    )
    assert new.model.expert.horizon == 16 and new.config.action.composition == "previous_target"


def test_it_fits_the_robot_and_knows_the_words_but_has_to_be_trained(made: Path) -> None:
    policy, robot = TwinBrainPolicy.from_pretrained(made), load_robot("wx250s_bridge")
    policy.take_robot(robot, to_act=False)
    with pytest.raises(CheckpointError, match="it was never trained"):
        policy.take_robot(robot)
    assert [(c.name, c.width, c.height) for c in policy.config.cameras] == [("front", 128, 96)]
    image = np.zeros((480, 640, 3), np.uint8)
    chunk = policy.act({"front": image}, WORDS, np.zeros(7), normalized=True)
    assert chunk.shape == (16, 7)


def test_a_part_of_the_picture_is_seen_as_if_it_were_all(made: Path, tmp_path: Path) -> None:
    words = ["init", "--brains", "demo", "--robot", "wx250s_bridge", "--pixels", "128x96", "--words", WORDS]
    cropped = tmp_path / "twin"
    assert cli.main([*words, "--crop", "0.25,0.5,0.75,1", "--out", str(cropped)]) == 0
    whole, part = (TwinBrainPolicy.from_pretrained(checkpoint) for checkpoint in (made, cropped))
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    seen = [
        policy.act({"front": pixels}, WORDS, np.zeros(7), normalized=True)
        for policy, pixels in ((part, image), (whole, image[240:, 160:480]), (whole, image))
    ]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


def test_the_kept_brain_answers_as_before(tmp_path: Path) -> None:
    from twinbrain_ros.brain.generalist import Generalist
    from twinbrain_ros.sim.tabletop import TabletopSim

    robot = load_robot("wx250s_bridge")
    transfer(demo_checkpoint(), robot, ["front"], tmp_path / "twin", words=WORDS.split())
    sim = TabletopSim(load_robot("wx250s"))
    sim.reset(5, "pick")
    image, question = sim.render("front"), "where is the red block"
    answers = [
        Generalist(TwinBrainPolicy.from_pretrained(checkpoint)).ask([image], question).text
        for checkpoint in (demo_checkpoint(), tmp_path / "twin")
    ]
    assert answers[0] == answers[1] and answers[0].startswith(("row", "nowhere"))


def test_the_same_seed_makes_the_same_twin(made: Path, tmp_path: Path) -> None:
    robot = load_robot("wx250s_bridge")
    for name, seed in (("a", 0), ("b", 1)):
        transfer(
            demo_checkpoint(),
            robot,
            ["front"],
            tmp_path / name,
            pixels=(128, 96),
            words=WORDS.split(),
            seed=seed,
        )
    weights = {
        path: (path / "model.safetensors").read_bytes() for path in (made, tmp_path / "a", tmp_path / "b")
    }
    assert weights[made] == weights[tmp_path / "a"] != weights[tmp_path / "b"]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--pixels", "100x96"], "pixels: found 100x96, expected multiples of 16"),
        (["--words", " ".join(f"w{i}" for i in range(40))], "words: 40 new ones .* expected at most 28"),
        (["--camera", "wrist"], "--camera: found"),
        (
            ["--crop", "0.5,0,1"],
            r"camera front: crop is \[0.5, 0.0, 1.0\], expected left, top, right, bottom",
        ),
        (["--crop", "0.5,0,0.5,1"], "camera front: crop is .*, expected left, top, right, bottom with 0 <="),
    ],
)
def test_what_does_not_fit_is_named(
    more: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    words = ["init", "--brains", "demo", "--robot", "wx250s_bridge", "--out", str(tmp_path / "out")]
    assert cli.main([*words, *more]) == 2
    assert re.search(named, capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_options_of_the_other_kind_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--vlm", "x", "--words", "carrot", "--out", str(tmp_path / "out")]) == 2
    assert "expected with --brains" in capsys.readouterr().err


def _twin(folder: Path, **changes: Any) -> Path:
    """A tiny checkpoint whose config is changed."""
    random_policy(
        dataclasses.replace(tiny_config(), **changes), word_tokenizer(WORDS.split())
    ).save_pretrained(folder)
    return folder


def test_brains_of_several_robots_go_to_one(tmp_path: Path) -> None:
    own = tiny_config()
    known = tuple(
        Embodiment(name, own.action, own.action_statistics, own.state_statistics)
        for name in (own.robot, "other")
    )
    source = _twin(tmp_path / "several", embodiments=known)
    config = transfer(source, load_robot("franka"), ["front"], tmp_path / "out")
    assert config.robots == ("franka",)
    assert TwinBrainConfig.load(tmp_path / "out") == config


def test_brains_that_go_without_a_state_still_do(tmp_path: Path) -> None:
    source = _twin(tmp_path / "none", state_names=(), state_statistics=None, right_prompt="{instruction}")
    config = transfer(source, load_robot("wx250s"), ["front"], tmp_path / "out")
    assert config.state_goes_to == "none"


def test_a_right_brain_that_takes_a_state_is_refused_to_a_robot_that_lists_none(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["observation"]["state_names"] = []

    robot = changed_robot(tmp_path, "wx250s", change)
    with pytest.raises(CheckpointError, match="state: robot 'wx250s' lists none, expected some: the right"):
        transfer(_twin(tmp_path / "right"), robot, ["front"], tmp_path / "out")
