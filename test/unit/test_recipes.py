"""`twinbrain init` by recipes and options: what each sets, where the state goes, what contradicts what."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot_files import changed_robot
from vlm_folders import FAMILIES, vlm_folder

from twinbrain_ros import cli
from twinbrain_ros.brain import recipes
from twinbrain_ros.brain.config import STATES, TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.recipes import RECIPES
from twinbrain_ros.commands.init import RECIPE_NAMES

ROBOTS = {"paper_libero": "libero_panda"}


@pytest.fixture(scope="module")
def vlms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vlms")
    return {family: vlm_folder(folder / family, family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def small_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts as deep as the paper's, but narrow: 16 blocks of 768 take seconds to be written."""
    for name, expert in recipes.EXPERTS.items():
        narrow = dataclasses.replace(expert, width=32, heads=4, output_width=None, decoder_width=None)
        monkeypatch.setitem(recipes.EXPERTS, name, narrow)


def init(vlm: Path, out: Path, *options: str, robot: str = "wx250s_bridge") -> int:
    return cli.main(["init", "--vlm", str(vlm), "--robot", robot, "--out", str(out), *options])


def refused(capsys: pytest.CaptureFixture[str], vlm: Path, out: Path, *options: str) -> str:
    capsys.readouterr()
    assert init(vlm, out, *options) == 2
    assert not (out / "config.json").exists()
    return capsys.readouterr().err


def test_the_command_offers_every_recipe() -> None:
    assert set(RECIPE_NAMES) == set(RECIPES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_recipe_makes_a_twin_that_acts(
    vlms: dict[str, Path], tmp_path: Path, name: str, family: str
) -> None:
    recipe = RECIPES[name]
    assert init(vlms[family], tmp_path, "--recipe", name, robot=ROBOTS.get(name, "wx250s_bridge")) == 0
    policy = TwinBrainPolicy.from_pretrained(tmp_path)
    config = policy.config
    assert config.conditioning == recipe.conditioning and config.query_tokens == recipe.queries
    assert config.state_goes_to == recipe.states[0] and config.deepstack == recipe.deepstack
    assert recipe.horizon in (None, config.action.horizon)
    assert [(c.width, c.height) for c in config.cameras] == [(224, 224)] * len(config.cameras)
    assert config.expert.layers == 16
    images = {c.name: np.zeros((60, 80, 3), np.uint8) for c in config.cameras}
    state = np.zeros(len(policy.state_names)) if policy.state_names else None
    chunk = policy.act(images, "go", state, normalized=True)
    assert chunk.shape == (config.action.horizon, 7) and np.isfinite(chunk).all()


def test_the_papers_prompts_and_systems_are_those_of_its_appendix(
    vlms: dict[str, Path], tmp_path: Path
) -> None:
    assert init(vlms["qwen2_5_vl"], tmp_path / "sim", "--recipe", "paper_simplerenv") == 0
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "sim")
    left, right = (policy.tokenizer.decode(p.ids) for p in policy.prompts("put carrot on plate"))
    assert left.startswith("<|im_start|>system\nYou are a helpful robot brain that can understand images and")
    assert "Instruction: put carrot on plate\nRobot Type: wx250s\nPredict the next action" in right
    assert "images, texts, and robot states." in right and "<|propri|>" not in right
    assert init(vlms["qwen2_5_vl"], tmp_path / "real", "--recipe", "paper_real") == 0
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "real")
    left_ids, right_prompt = policy.prompts("put carrot on plate")
    assert left_ids.state_slot == -1
    assert "State: <|propri|><|im_end|>" in policy.tokenizer.decode(right_prompt.ids)


def test_the_published_recipe_is_what_importing_a_published_run_gives(
    vlms: dict[str, Path], tmp_path: Path
) -> None:
    assert init(vlms["qwen2_5_vl"], tmp_path, "--recipe", "published") == 0
    config = TwinBrainConfig.load(tmp_path)
    policy = TwinBrainPolicy.from_pretrained(tmp_path)
    left, right = (policy.tokenizer.decode(p.ids) for p in policy.prompts("put carrot on plate"))
    assert "Your task is put carrot on plate. To identify the key objects" in left
    queries = " ".join(["<|action|>"] * 8)
    wanted = f"Your task is Instruction: put carrot on plate\nAction Query: {queries}. To identify"
    assert wanted in right
    assert (config.left_visibility, config.left_system) == ("index_causal", "You are a helpful assistant.")


@pytest.mark.parametrize("conditioning", ["hidden_states", "action_queries"])
@pytest.mark.parametrize("state", STATES)
def test_the_state_goes_where_it_is_told_to(
    vlms: dict[str, Path], tmp_path: Path, conditioning: str, state: str
) -> None:
    options = ["--conditioning", conditioning, "--state", state, "--expert", "small"]
    assert init(vlms["qwen3_vl"], tmp_path / "twin", *options, "--json", str(tmp_path / "facts.json")) == 0
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "twin")
    assert policy.config.state_goes_to == state
    assert json.loads((tmp_path / "facts.json").read_text())["brain"]["state_goes_to"] == state
    _, right = policy.prompts("go")
    assert (right.state_slot >= 0) == (state == "right")
    assert (policy.model.state_encoder is None) == (state == "none")
    images = {"front": np.zeros((60, 80, 3), np.uint8)}

    def chunk(given: Any) -> np.ndarray:
        return policy.act(images, "go", given, normalized=True)

    if state == "none":
        assert policy.state_names == () and chunk(None).shape == (16, 7)
        with pytest.raises(ValueError, match=r"state: found .*, expected none: the checkpoint goes without"):
            chunk(np.zeros(7))
        return
    assert policy.state_names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert np.abs(chunk(np.full(7, -1.0)) - chunk(np.full(7, 1.0))).max() > 1e-6
    with pytest.raises(ValueError, match=r"state: found .*, expected 7 finite values"):
        chunk(np.zeros(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "paper_simplerenv", "--state", "right"), "--state: found right, --recipe paper_simpl"),
        (("--recipe", "published", "--queries", "4"), "--queries: found 4, --recipe published has 8"),
        (("--recipe", "paper_real", "--conditioning", "action_queries"), "--conditioning: found action_quer"),
        (("--recipe", "paper_libero"), "action.horizon: robot 'wx250s' has 16, the recipe 8"),
        (("--queries", "4"), "--queries: found 4, expected --conditioning action_queries too"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_written(
    vlms: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert message in refused(capsys, vlms["qwen3_vl"], tmp_path / "twin", *options)


def test_an_option_that_agrees_with_the_recipe_is_taken(vlms: dict[str, Path], tmp_path: Path) -> None:
    options = ("--recipe", "published", "--state", "none", "--queries", "8")
    assert init(vlms["qwen3_vl"], tmp_path, *options) == 0
    assert TwinBrainConfig.load(tmp_path).state_goes_to == "none"


def test_options_of_a_fresh_twin_are_refused_with_brains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["init", "--brains", "demo", "--state", "none", "--out", str(tmp_path / "twin")]
    assert cli.main(command) == 2
    assert "--state: found with --brains, expected with --vlm" in capsys.readouterr().err


@pytest.mark.parametrize("conditioning", ["hidden_states", "action_queries"])
def test_a_robot_that_lists_no_state_has_twins_without_one(
    vlms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], conditioning: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["observation"]["state_names"] = []

    robot = str(changed_robot(tmp_path, "wx250s_bridge", change).path)
    options = ["--conditioning", conditioning, "--expert", "small"]
    for name, more in (("usual", []), ("none", ["--state", "none"])):
        assert init(vlms["qwen3_vl"], tmp_path / name, *options, *more, robot=robot) == 0
        assert TwinBrainConfig.load(tmp_path / name).state_goes_to == "none"
    for state in ("right", "expert"):
        capsys.readouterr()
        assert init(vlms["qwen3_vl"], tmp_path / "x", *options, "--state", state, robot=robot) == 2
        assert f"state: found {state!r}, robot 'wx250s' lists no state: expected" in capsys.readouterr().err


def test_a_camera_that_is_named_twice_is_refused(
    vlms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ("--camera", "front", "--camera", "front")
    message = refused(capsys, vlms["qwen3_vl"], tmp_path / "twin", *twice)
    assert "cameras: found ['front', 'front'], expected different names" in message
