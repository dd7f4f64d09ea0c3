"""From pixels to a chunk nothing is read back by the host, and CUDA graphs compute the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from brain_fixtures import random_policy, tiny_policy, views
from published_run import case, imported_families

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.realtime import Target
from twinbrain_ros.brain.twin import TwinBrain
from twinbrain_ros.evaluation.host_reads import HostReads

WORDS = "stack the green block on the yellow block"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return imported_families(tmp_path_factory.mktemp("hot"))


def hot_path(policy: TwinBrainPolicy, images: list[np.ndarray], state: torch.Tensor | None):
    """The call from images on the device to actions on the device, everything else done before."""
    config = policy.config
    raw = {
        c.name: torch.from_numpy(image)[None].to(policy.device)
        for c, image in zip(config.cameras, images, strict=True)
    }
    seen = [policy._view(c, *raw[c.name].shape[1:3]) for c in config.cameras]
    sizes = tuple(v.steps[-1] for v in seen)
    prepared = policy.engine.prepare(("words", sizes), lambda: policy._collated([WORDS], sizes))
    noise = torch.randn(1, 8, 7, generator=torch.Generator().manual_seed(0)).to(policy.device)

    def run() -> torch.Tensor:
        pixels = policy.engine.see(raw, seen)
        memory = policy.engine.remember(pixels, prepared)
        return policy.engine.chunk(pixels, prepared, memory, state, noise)

    return run


@pytest.mark.parametrize("size", [(96, 64, 3), (480, 640, 3)])
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_the_host_reads_nothing_in_the_hot_path(
    family: str, size: tuple[int, int, int], checkpoints: dict[str, Path]
) -> None:
    policy = TwinBrainPolicy.from_pretrained(checkpoints[family], views=2)
    images = list(np.random.default_rng(0).integers(0, 256, (2, *size), dtype=np.uint8))
    run = hot_path(policy, images, torch.linspace(-1, 1, 8)[None])
    before = run()
    with HostReads() as counted:
        after = run()
    assert not counted.reads, dict(counted.reads)
    assert counted.operations > 100
    assert torch.equal(before, after)


@pytest.mark.parametrize("prefix_trained", [False, True])
def test_the_host_reads_nothing_where_a_chunk_is_guided(prefix_trained: bool) -> None:
    """Neither on the way back of the gradient: all of it can be recorded."""
    policy = tiny_policy()
    expert = dataclasses.replace(policy.config.expert, prefix_trained=prefix_trained)
    policy = random_policy(dataclasses.replace(policy.config, expert=expert), policy.tokenizer)
    policy.act(views(), "pick up the red block", np.zeros(7))  # prepares the words
    (prepared,) = policy.engine._prepared.values()
    raw = {name: torch.from_numpy(image)[None] for name, image in views().items()}
    pixels = policy.engine.see(
        raw, [policy._view(c, *views()[c.name].shape[:2]) for c in policy.config.cameras]
    )
    memory, noise = policy.engine.remember(pixels, prepared), torch.randn(1, 8, 7)
    target = Target(torch.randn(1, 8, 7), torch.linspace(1, 0, 8), torch.tensor(1))
    with HostReads() as counted:
        policy.engine.chunk_towards(pixels, prepared, memory, torch.zeros(1, 7), noise, target)
    assert not counted.reads and counted.operations > 300, dict(counted.reads)


def test_reads_are_noticed() -> None:
    x = torch.arange(6.0)
    with HostReads() as counted:
        bool(x[0] > 1)
        x.max().item()
        x.tolist()
        x[x > 2]
        x.numpy()
        torch.arange(3).repeat_interleave(torch.tensor([1, 2, 1]))
    assert sum(counted.reads.values()) >= 6 and {"tolist", "numpy", "aten::index.Tensor"} <= set(
        counted.reads
    )
    with HostReads() as counted:
        x * 2 + x[None].sum()
    assert not counted.reads and counted.operations == 3


def test_a_stock_vision_tower_would_be_noticed(checkpoints: dict[str, Path]) -> None:
    model = TwinBrainPolicy.from_pretrained(checkpoints["qwen3_vl"], views=1).model
    with HostReads() as counted, torch.no_grad():
        model.left.model.visual(torch.zeros(16, 3 * 2 * 16 * 16), torch.tensor([[1, 4, 4]]))
    assert counted.reads


def test_the_engine_follows_weights_that_change() -> None:
    policy = tiny_policy()
    before = policy.act(views(), "pick up the red block", np.zeros(7))
    with torch.no_grad():
        policy.model.expert.time_in.weight.add_(0.1)
        policy.model.right.get_input_embeddings().weight.mul_(1.5)
    after = policy.act(views(), "pick up the red block", np.zeros(7))
    fresh = TwinBrain(policy.config)
    fresh.load_state_dict(policy.model.state_dict())
    expected = TwinBrainPolicy(fresh, policy.tokenizer).act(views(), "pick up the red block", np.zeros(7))
    np.testing.assert_array_equal(after, expected)
    assert np.abs(after - before).max() > 1e-4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU; none is here")
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_cuda_graphs_compute_what_runs_without_them(family: str, checkpoints: dict[str, Path]) -> None:
    facts = case("two_images_with_state")
    chunks = {}
    for graphs in (False, True):
        policy = TwinBrainPolicy.from_pretrained(checkpoints[family], "cuda", "float32", views=2)
        policy = TwinBrainPolicy(policy.model, policy.tokenizer, graphs=graphs)
        images = {c.name: i for c, i in zip(policy.config.cameras, facts["images"], strict=True)}
        chunks[graphs] = [
            policy.act(images, words, facts["state"], np.load(facts["noise_path"]), normalized=True)
            for words in (facts["instruction"], "close", facts["instruction"])
        ]
    np.testing.assert_allclose(chunks[True], chunks[False], atol=1e-4)
