"""`twinbrain init` builds a twin from a pretrained VLM; `twinbrain info` counts without weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import tiny_config
from published_run import BASE
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from twinbrain_ros import cli
from twinbrain_ros.brain import checkpoint
from twinbrain_ros.brain.config import CheckpointError, TwinBrainConfig
from twinbrain_ros.brain.initial import in_module
from twinbrain_ros.brain.memory import Needs
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.presets import NAMES, preset

EMBEDDING = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained VLM as it lies in a folder: config, tokenizer, weights in shards."""
    folder = tmp_path_factory.mktemp("vlm") / "Qwen2.5-VL-tiny"
    shutil.copytree(BASE, folder)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(BASE))
    model.save_pretrained(folder / "weights", max_shard_size="200KB")
    for path in (folder / "weights").glob("*.safetensors*"):
        path.rename(folder / path.name)
    assert (folder / "model.safetensors.index.json").is_file(), "several shards"
    return folder


def init(vlm: Path, out: Path, *options: str) -> int:
    return cli.main(["init", "--vlm", str(vlm), "--out", str(out), "--expert", "small", *options])


def base_tensors(vlm: Path) -> dict[str, torch.Tensor]:
    """The VLM's tensors under the names of its modules; files keep older ones."""
    return {in_module(n): t for n, t in checkpoint.stream_tensors(checkpoint.weight_files(vlm))}


def test_both_brains_start_from_the_vlms_weights(vlm: Path, tmp_path: Path) -> None:
    assert init(vlm, tmp_path / "twin", "--json", str(tmp_path / "facts.json")) == 0
    base = base_tensors(vlm)
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "twin")
    left, right = policy.model.left.state_dict(), policy.model.right.state_dict()
    for name, tensor in base.items():
        assert torch.equal(left[name], tensor), name
        assert name == EMBEDDING or name == "lm_head.weight" or torch.equal(right[name], tensor), name
    assert policy.config.left_system == "You are a helpful assistant."
    assert json.loads((tmp_path / "facts.json").read_text())["parameters"]["frozen_parts"] == ["left"]


def test_special_tokens_of_the_right_brain_start_from_the_mean_of_all_words(
    vlm: Path, tmp_path: Path
) -> None:
    assert init(vlm, tmp_path / "twin") == 0
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "twin")
    left, right = (b.get_input_embeddings().weight for b in (policy.model.left, policy.model.right))
    ids = policy.tokenizer.convert_tokens_to_ids(["<|propri|>", "<|action|>"])
    assert ids == [270, 271] and len(right) == len(left) == 288, "they fit into the padded vocabulary"
    for i in ids:
        torch.testing.assert_close(right[i], left[:270].mean(0))
    assert torch.equal(right[:270], left[:270])


def test_a_vocabulary_without_room_is_extended(vlm: Path, tmp_path: Path) -> None:
    small = tmp_path / "Qwen2.5-VL-small"
    small.mkdir()
    for path in vlm.iterdir():
        if path.is_file() and "safetensors" not in path.name:
            shutil.copy(path, small)
    config = json.loads((small / "config.json").read_text())
    config["text_config"]["vocab_size"] = 270
    (small / "config.json").write_text(json.dumps(config))
    tensors = base_tensors(vlm)
    tensors[EMBEDDING] = tensors[EMBEDDING][:270].clone()
    save_file({n: t for n, t in tensors.items() if n != "lm_head.weight"}, small / "model.safetensors")
    assert init(small, tmp_path / "twin", "--conditioning", "action_queries", "--queries", "4") == 0
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "twin")
    assert len(policy.model.left.get_input_embeddings().weight) == 270
    assert len(policy.model.right.get_input_embeddings().weight) == 272
    assert policy.model.right.lm_head.weight is policy.model.right.get_input_embeddings().weight


@pytest.mark.parametrize("conditioning", ["hidden_states", "action_queries"])
def test_a_fresh_twin_acts_in_its_own_units_and_says_that_it_knows_no_others(
    vlm: Path, tmp_path: Path, conditioning: str
) -> None:
    assert init(vlm, tmp_path / "twin", "--conditioning", conditioning, "--interaction-interval", "1") == 0
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "twin")
    images = {c.name: np.zeros((90, 120, 3), np.uint8) for c in policy.config.cameras}
    chunk = policy.act(images, "close", np.zeros(7), normalized=True)
    assert chunk.shape == (8, 7) and np.isfinite(chunk).all()
    with pytest.raises(CheckpointError, match="normalised units only"):
        policy.act(images, "close", np.zeros(7))


def test_the_same_seed_gives_the_same_expert(vlm: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert init(vlm, tmp_path / name, "--seed", seed) == 0
    a, b, c = (load_file(tmp_path / n / "model.safetensors")["expert.position"] for n in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_weights_that_are_not_the_configs_are_refused(
    vlm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(vlm, broken)
    (broken / "model.safetensors.index.json").unlink()
    for path in broken.glob("model*.safetensors"):
        path.unlink()
    assert init(broken, tmp_path / "twin") == 2
    assert "no model.safetensors here" in capsys.readouterr().err
    tensors = base_tensors(vlm)
    save_file({n: t.clone() for n, t in tensors.items() if "layers.3" not in n}, broken / "model.safetensors")
    assert init(broken, tmp_path / "twin") == 2
    assert "missing tensor model.language_model.layers.3" in capsys.readouterr().err
    assert not (tmp_path / "twin" / "config.json").exists()


# -- shards


def test_shards_and_one_file_hold_the_same(vlm: Path, tmp_path: Path) -> None:
    assert init(vlm, tmp_path / "one") == 0
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    shutil.copytree(tmp_path / "one", tmp_path / "many")
    with checkpoint.WeightsWriter(tmp_path / "many", shard_bytes=100_000) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    assert not (tmp_path / "many" / "model.safetensors").exists()
    assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 3
    one, many = (TwinBrainPolicy.from_pretrained(tmp_path / n).model.state_dict() for n in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)
    lost = sorted((tmp_path / "many").glob("model-*"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"found no .*{lost.name}"):
        TwinBrainPolicy.from_pretrained(tmp_path / "many")


def test_writing_that_fails_leaves_the_old_weights(vlm: Path, tmp_path: Path) -> None:
    assert init(vlm, tmp_path / "twin") == 0
    before = (tmp_path / "twin" / "model.safetensors").read_bytes()
    with pytest.raises(RuntimeError, match="no more"), checkpoint.WeightsWriter(tmp_path / "twin") as writer:
        writer.add("x", torch.zeros(3))
        raise RuntimeError("no more")
    assert (tmp_path / "twin" / "model.safetensors").read_bytes() == before
    assert not list((tmp_path / "twin").glob(".shard*"))


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (3_000_000_000, "in bfloat16 they need 2.0 GB, which would fit"),
        (1_000_000_000, "500,000,000 parameters in bfloat16 would fit"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_would(free: int, message: str) -> None:
    needs = Needs(torch.device("cpu"), torch.float32, 1_000_000_000)
    with pytest.raises(
        CheckpointError, match=f"need 4.0 GB in float32, {free / 1e9:.1f} GB are free; {message}"
    ):
        needs.check(free)
    needs.check(4_000_000_000)
    needs.check(None)


# -- info


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_counted_without_their_weights(name: str, tmp_path: Path) -> None:
    assert cli.main(["info", "--config", name, "--json", str(tmp_path / "info.json")]) == 0
    parameters = json.loads((tmp_path / "info.json").read_text())["parameters"]
    assert parameters["total"] == parameters["trainable"] + parameters["frozen"]
    assert parameters["frozen"] == parameters["parts"]["left"]
    published = {  # as the published weights count them
        "qwen3_vl_2b": 2_127_532_032,
        "qwen3_vl_4b": 4_437_815_808,
        "qwen3_vl_8b": 8_767_123_696,
        "qwen2_5_vl_3b": 3_754_622_976,
    }
    assert parameters["frozen"] == published.get(name, parameters["frozen"])
    assert parameters["bytes"]["bfloat16"] == 2 * parameters["total"]


def test_a_config_file_is_counted_like_its_preset(tmp_path: Path) -> None:
    config = preset("mid")
    config.save(tmp_path)
    for place in (tmp_path, tmp_path / "config.json"):
        assert cli.main(["info", "--config", str(place), "--json", str(tmp_path / "info.json")]) == 0
        facts = json.loads((tmp_path / "info.json").read_text())
        assert facts["parameters"]["parts"]["expert"] > 100_000_000 and facts["robot"] == "wx250s"


def test_what_is_neither_a_preset_nor_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["info", "--config", "qwen9"]) == 2
    assert "found 'qwen9', expected a file or one of ['qwen3_vl_2b'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning": "queries"}, "conditioning: found 'queries'"),
        ({"left_visibility": "half"}, "left_visibility: found 'half'"),
        ({"query_tokens": 4}, "query_tokens: found 4 with conditioning 'hidden_states'"),
        ({"conditioning": "action_queries"}, "right_prompt: found .*expected {queries} exactly once"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        dataclasses.replace(tiny_config(), **changes)


def test_an_unknown_family_is_refused() -> None:
    config = tiny_config()
    other = {**config.vlm, "model_type": "llava"}
    with pytest.raises(CheckpointError, match=r"vlm\.model_type: found 'llava'"):
        checkpoint.meta_twin(TwinBrainConfig.from_dict({**config.to_dict(), "vlm": other}))
