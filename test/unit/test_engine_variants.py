"""The engine computes what the plain way computes, for both families and whatever config can change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import random_policy
from published_run import case, imported, imported_families, run_copy

from twinbrain_ros.brain.checkpoint import load_tokenizer
from twinbrain_ros.brain.config import CameraInput, TwinBrainConfig
from twinbrain_ros.brain.plain import plain_chunk
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.presets import STATE_PROMPT

WORDS = "stack the green block on the yellow block"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return imported_families(tmp_path_factory.mktemp("plain"))


def fresh_policy(checkpoint: Path, **changes: Any) -> TwinBrainPolicy:
    """A random twin on the config of a checkpoint with changes."""
    config = dataclasses.replace(TwinBrainConfig.load(checkpoint).with_views(2), **changes)
    return random_policy(config, load_tokenizer(checkpoint))


def both_ways(
    policy: TwinBrainPolicy, images: list[np.ndarray], words: str, state: np.ndarray | None, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    config = policy.config
    named = {c.name: image for c, image in zip(config.cameras, images, strict=True)}
    ours = policy.act(named, words, state, noise, normalized=True)
    views = [policy._view(c, *named[c.name].shape[:2]) for c in config.cameras]
    left, right = policy.prompts(words, tuple(v.steps[-1] for v in views))
    plain = plain_chunk(
        policy.model,
        {n: torch.from_numpy(i)[None] for n, i in named.items()},
        views,
        None if state is None else torch.from_numpy(state).float()[None],
        (policy.collate([left]), policy.collate([right])),
        torch.from_numpy(noise)[None],
    )[0]
    return ours, plain.double().numpy()


QUERIES: dict[str, Any] = {}
STATES: dict[str, Any] = {
    "conditioning": "hidden_states",
    "query_tokens": 0,
    "right_prompt": STATE_PROMPT,
    "send_state": True,
}
VARIANTS = {
    "queries": QUERIES,
    "queries, deepstack": {"deepstack": True},
    "queries, all of the left seen": {"left_visibility": "full"},
    "queries, every second layer joint": {"interaction_interval": 1},
    "queries, every third layer joint": {"interaction_interval": 2},
    "queries after one layer": {"condition_layers": 1},
    "queries after two layers, deepstack": {"condition_layers": 2, "deepstack": True},
    "states": STATES,
    "states, deepstack, every second layer": STATES | {"deepstack": True, "interaction_interval": 1},
    "states, words first, no system": STATES
    | {"images_first": False, "left_system": None, "right_system": None},
    "states, the left brain sees one view": STATES | {"left_cameras": ("view_1",)},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_the_engine_equals_the_plain_way(family: str, variant: str, checkpoints: dict[str, Path]) -> None:
    policy = fresh_policy(checkpoints[family], **VARIANTS[variant])
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (96, 64, 3), dtype=np.uint8) for _ in range(2)]
    state, noise = rng.standard_normal(8), rng.standard_normal((8, 7)).astype(np.float32)
    ours, plain = both_ways(policy, images, WORDS, state, noise)
    np.testing.assert_allclose(ours, plain, atol=1e-4, rtol=1e-4)
    assert np.abs(ours).max() > 0.1


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_views_of_different_sizes_and_cut_windows_are_equal_too(
    family: str, checkpoints: dict[str, Path]
) -> None:
    changes = {"cameras": (CameraInput("view_0", 0, 0), CameraInput("view_1", 160, 128))}
    policy = fresh_policy(checkpoints[family], **changes)
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((90, 150, 3), (48, 64, 3))]
    noise = rng.standard_normal((8, 7)).astype(np.float32)
    ours, plain = both_ways(policy, images, WORDS, None, noise)
    np.testing.assert_allclose(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"deepstack": True},
        {"left_visibility": "full"},
        {"interaction_interval": 1},
        {"condition_layers": 3},
        {"images_first": False},
        {"query_separator": ""},
        {"left_system": "You are a robot."},
        {"image_mean": (0.4, 0.5, 0.5)},
    ],
)
def test_everything_that_config_can_change_changes_the_actions(
    changes: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    chunks = []
    for applied in ({}, changes):
        policy = fresh_policy(checkpoints["qwen3_vl"], **applied)
        named = {c.name: image for c, image in zip(policy.config.cameras, images, strict=True)}
        chunks.append(policy.act(named, WORDS, None, normalized=True))
    assert np.abs(chunks[0] - chunks[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["one_image", "raw_size_with_state"])
def test_the_plain_way_gives_the_numbers_of_the_reference(
    name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    facts = case(name)
    imported(run_copy(tmp_path, facts["run"]), tmp_path / "out")
    policy = TwinBrainPolicy.from_pretrained(tmp_path / "out", views=1)
    _, plain = both_ways(
        policy, facts["images"], facts["instruction"], facts["state"], np.load(facts["noise_path"])
    )
    np.testing.assert_allclose(plain, facts["expected"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("state", [None, np.linspace(-1, 1, 8)])
def test_a_published_qwen3_run_is_imported_and_predicted(
    state: np.ndarray | None, checkpoints: dict[str, Path]
) -> None:
    policy = TwinBrainPolicy.from_pretrained(checkpoints["qwen3_vl"], views=2)
    assert policy.config.left_system is None and policy.config.right_vocab_size == 290
    assert policy.config.pixel_limits == (4096, 65536) and not policy.config.deepstack
    facts = case("two_images_with_state")
    noise = np.load(facts["noise_path"])
    ours, plain = both_ways(policy, facts["images"], facts["instruction"], state, noise)
    np.testing.assert_allclose(ours, plain, atol=1e-4, rtol=1e-4)


def test_the_prompt_of_a_qwen3_run_is_as_published(checkpoints: dict[str, Path]) -> None:
    policy = TwinBrainPolicy.from_pretrained(checkpoints["qwen3_vl"], views=1)
    left, right = policy.prompts("close", ((64, 64),))
    image = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    user, answer = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert policy.tokenizer.decode(left.ids) == f"{user}{image}close{answer}"
    queries = " ".join(["<|action|>"] * 4)
    text = f"Instruction: close\nAction Query: {queries}"
    assert policy.tokenizer.decode(right.ids) == f"{user}{image}{text}{answer}"
    assert right.query_slots.diff().tolist() == [2, 2, 2], "the spaces between are tokens"


def test_config_json_of_an_import_survives_json(checkpoints: dict[str, Path]) -> None:
    config = TwinBrainConfig.load(checkpoints["qwen3_vl"])
    assert TwinBrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
