"""What an import refuses, by the name of what is wrong; and what it reads as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from published_run import BASE, WEIGHTS, case, imported, run_copy
from robot_files import changed_robot
from safetensors.torch import load_file, save_file

from twinbrain_ros import cli
from twinbrain_ros.brain.config import CheckpointError
from twinbrain_ros.brain.policy import TwinBrainPolicy

EMBEDDING = "qwen_vl_interface.{}.model.model.language_model.embed_tokens.weight"


def edit_yaml(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    change(values)
    (run / "config.yaml").write_text(yaml.safe_dump(values))


def edit_weights(run: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(run / WEIGHTS)
    change(tensors)
    save_file(tensors, run / WEIGHTS)


def refused(run: Path, tmp_path: Path, message: str, **options: Any) -> None:
    with pytest.raises(CheckpointError, match=message):
        imported(run, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["framework"].update(name="QwenGR00T"), r"framework\.name: found 'QwenGR00T'"),
        (
            lambda c: c["framework"]["qwenvl"].update(base_vlm="/models/Qwen3-VL-4B"),
            r"framework\.qwenvl\.base_vlm: found '/models/Qwen3-VL-4B', expected Qwen2\.5-VL",
        ),
        (
            lambda c: c["framework"]["action_model"].update(action_dim=29),
            r"action_dim: found 29, expected 7, as robot 'wx250s'",
        ),
        (
            lambda c: c["framework"]["action_model"].update(state_dim=58),
            r"state_dim: found 58, expected 7 or 8",
        ),
        (
            lambda c: c["framework"]["action_model"]["diffusion_model_cfg"].update(norm_type="layer_norm"),
            r"norm_type: found 'layer_norm', expected 'ada_norm'",
        ),
        (
            lambda c: c["framework"]["action_model"]["diffusion_model_cfg"].update(num_layers=16),
            r"num_layers: found 16, expected 4",
        ),
        (
            lambda c: c["doublevla"].update(enable_image_bidir_mask=True),
            r"enable_image_bidir_mask: found True, expected False",
        ),
        (
            lambda c: c["datasets"]["vla_data"].update(image_size=[64, 0]),
            r"image_size: found \[64, 0\], expected \[width, height\]",
        ),
        (
            lambda c: c["datasets"]["vla_data"].update(include_state="false"),
            r"include_state: found 'false', expected true or false",
        ),
        (
            lambda c: c["framework"]["action_model"].pop("action_dim"),
            r"action_dim: found None, expected an integer",
        ),
    ],
)
def test_a_config_that_we_do_not_compute_is_refused_by_its_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    run = run_copy(tmp_path)
    edit_yaml(run, change)
    refused(run, tmp_path, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("action_model.future_tokens.weight"), r"missing tensor for expert\.future"),
        (lambda t: t.update({"llr.weight": torch.zeros(1)}), "unexpected tensor llr.weight"),
        (
            lambda t: t.update({EMBEDDING.format("frozen_vlm"): torch.zeros(300, 64)}),
            r"text_config\.vocab_size: found 300, the base VLM .* has 288",
        ),
        (
            lambda t: t.update({EMBEDDING.format("frozen_vlm"): torch.zeros(288, 32)}),
            r"text_config\.hidden_size: found 32, the base VLM .* has 64",
        ),
        (
            lambda t: t.update({"action_model.action_encoder.layer3.bias": torch.zeros(5)}),
            r"action_encoder\.layer3\.bias: found shape \(5,\), expected \(48,\)",
        ),
        (
            lambda t: t["action_model.model.proj_out_1.bias"].fill_(float("inf")),
            r"action_model\.model\.proj_out_1\.bias: has non-finite values",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    run = run_copy(tmp_path)
    edit_weights(run, change)
    refused(run, tmp_path, message)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    run = run_copy(tmp_path)
    (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:-1000])
    refused(run, tmp_path, "steps_100_model.safetensors: not readable as safetensors")


def test_another_base_vlm_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 6
    config["text_config"]["layer_types"] = ["full_attention"] * 6
    (base / "config.json").write_text(json.dumps(config))
    run = run_copy(tmp_path)
    refused(run, tmp_path, r"num_hidden_layers: found 4, the base VLM .* has 6", base=base)
    config["model_type"] = "qwen2_vl"
    (base / "config.json").write_text(json.dumps(config))
    refused(run, tmp_path, r"model_type: found 'qwen2_vl', expected one of", base=base)
    refused(run, tmp_path, "not readable as a base VLM", base=tmp_path / "nowhere")


def test_a_run_with_a_state_is_refused_to_a_robot_that_lists_none(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["observation"]["state_names"] = []

    robot = changed_robot(tmp_path, "wx250s", change)
    message = "state_dim: found 8, expected 0, as robot 'wx250s' lists no state"
    refused(run_copy(tmp_path), tmp_path, message, robot=robot)


def test_a_chat_format_that_we_do_not_build_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    template = json.loads((base / "chat_template.json").read_text())["chat_template"]
    changed = template.replace("<|im_start|>assistant", "<|im_start|>robot")
    (base / "chat_template.json").write_text(json.dumps({"chat_template": changed}))
    refused(run_copy(tmp_path), tmp_path, "chat template: gives .*robot", base=base)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda s: None,
            {"statistics_key": "fractal"},
            r"found the keys \['oxe_bridge'\], expected 'fractal'",
        ),
        (
            lambda s: s.update(oxe_rt1=s["oxe_bridge"]),
            {},
            r"\['oxe_bridge', 'oxe_rt1'\], expected to be told",
        ),
        (lambda s: s["oxe_bridge"]["action"]["q01"].pop(), {}, r"action\.q01: found 6 values, expected 7"),
        (lambda s: s["oxe_bridge"]["action"].pop("q99"), {}, r"action\.q99: found no values, expected 7"),
        (
            lambda s: s["oxe_bridge"]["action"].update(q01=["a"] * 7),
            {},
            r"action\.q01: found 'a'",
        ),
        (
            lambda s: s["oxe_bridge"]["action"].update(mask=[True]),
            {},
            r"action\.mask: found 1 values",
        ),
        (lambda s: s["oxe_bridge"].update(action=[1]), {}, r"oxe_bridge: action: found \[1\], expected q01"),
        (lambda s: s.update(oxe_bridge=[1]), {}, r"oxe_bridge: found \[1\], expected statistics of action"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], options: dict[str, Any], message: str
) -> None:
    run = run_copy(tmp_path)
    values = json.loads((run / "dataset_statistics.json").read_text())
    change(values)
    (run / "dataset_statistics.json").write_text(json.dumps(values))
    refused(run, tmp_path, message, **options)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    run = run_copy(tmp_path)
    (run / WEIGHTS).unlink()
    sprung = tmp_path / "sprung"
    torch.save({"x": Trap(sprung)}, run / "checkpoints" / "steps_200_pytorch_model.pt")
    refused(run, tmp_path, "holds more than tensors")
    assert not sprung.exists()


def test_a_pt_file_of_tensors_is_read_as_well(tmp_path: Path) -> None:
    run = run_copy(tmp_path)
    torch.save(load_file(run / WEIGHTS), run / "checkpoints" / "steps_200_pytorch_model.pt")
    made = imported(run, tmp_path / "pt")
    assert made.weights.name == "steps_200_pytorch_model.pt", "the one after most steps is taken"
    imported(run_copy(tmp_path / "other"), tmp_path / "st")
    ours, same = (load_file(tmp_path / n / "model.safetensors") for n in ("pt", "st"))
    assert ours.keys() == same.keys() and all(torch.equal(ours[k], same[k]) for k in ours)


def test_the_second_copy_of_the_right_brain_is_not_read(tmp_path: Path) -> None:
    run = run_copy(tmp_path)
    edit_weights(run, lambda t: [v.zero_() for k, v in t.items() if k.startswith("qwen_vl_interface.model.")])
    imported(run, tmp_path / "out")
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "out", views=1)
    facts = case("one_image")
    images = {policy.config.cameras[0].name: facts["images"][0]}
    actions = policy.act(images, facts["instruction"], None, np.load(facts["noise_path"]), normalized=True)
    np.testing.assert_allclose(actions, facts["expected"], atol=2e-4)


def test_the_command_says_what_it_made_and_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_copy(tmp_path)
    edit_yaml(run, lambda c: c["framework"]["action_model"].update(action_horizon=12))
    arguments = ["import-checkpoint", str(run), "--vlm", str(BASE), "--robot", "wx250s"]
    arguments += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "facts.json")]
    assert cli.main(arguments) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["statistics"] == "oxe_bridge" and facts["horizon"] == 12 and facts["cameras"] == ["front"]
    printed = capsys.readouterr().out
    assert "action.horizon 8, this checkpoint 12" in printed and "trained without the state" in printed
    assert cli.main([*arguments[:5], "nobody", *arguments[6:]]) == 2
    assert "shipped robots: franka, google_robot, libero_panda, wx250s" in capsys.readouterr().err


def test_a_thinking_prompt_wraps_the_texts_of_both_brains(tmp_path: Path) -> None:
    run = run_copy(tmp_path)
    edit_yaml(run, lambda c: c["datasets"]["vla_data"].update(CoT_prompt="Your task is {instruction}. Go."))
    config = imported(run, tmp_path / "out").config
    assert config.left_prompt == "Your task is {instruction}. Go."
    assert config.right_prompt.startswith(
        "Your task is Instruction: {instruction}\nAction Query: {queries}. Go"
    )


def test_an_image_without_area_is_refused(tmp_path: Path) -> None:
    imported(run_copy(tmp_path, "run_raw"), tmp_path / "out")
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "out", views=1)
    name = policy.config.cameras[0].name
    with pytest.raises(ValueError, match=r"images\['view_0'\]: found \(0, 64, 3\), expected an area"):
        policy.act({name: np.zeros((0, 64, 3), np.uint8)}, "close", None)
    with pytest.raises(ValueError, match="aspect ratio of at most 200"):
        policy.act({name: np.zeros((1, 640, 3), np.uint8)}, "close", None)
