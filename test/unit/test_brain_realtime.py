"""Chunks that agree with what the arm is doing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import random_policy, tiny_config, tiny_policy, views
from torch import Tensor

from twinbrain_ros.brain.config import ExpertConfig, TwinBrainConfig
from twinbrain_ros.brain.expert import ActionExpert, Context
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.realtime import MOST_GUIDANCE, Target, guidance_weight, guided, prefixed
from twinbrain_ros.control.realtime import soft_mask
from twinbrain_ros.resources import demo_checkpoint
from twinbrain_ros.robot.chunk import Guide
from twinbrain_ros.training.tokenizer import word_tokenizer

WORDS = "pick up the red block"
STATE = np.linspace(-0.5, 0.5, 7)


def make_guide(seed: int = 1, frozen: int = 3, overlap: int = 6) -> Guide:
    actions = np.random.default_rng(seed).normal(0.1, 0.5, (8, 7))
    return Guide(actions, soft_mask(8, frozen, overlap), frozen)


def act(policy: TwinBrainPolicy, **options: Any) -> np.ndarray:
    return policy.act(views(), WORDS, STATE, seed=3, **options)


def prefix_policy() -> TwinBrainPolicy:
    config = tiny_config()
    expert = dataclasses.replace(config.expert, prefix_trained=True)
    words = ["pick", "up", "the", "red", "block", "state"]
    return random_policy(dataclasses.replace(config, expert=expert), word_tokenizer(words))


# Guidance ---------------------------------------------------------------------------------------------


class Linear:
    """An expert whose velocity is x @ matrix, so that everything can be computed by hand."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def velocity(self, context: Any, noisy: Tensor, time: Tensor, at: Any) -> Tensor:
        return noisy @ self.matrix


def test_a_guided_step_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    matrix, noise = torch.randn(2, 2) * 0.3, torch.randn(1, 3, 2)
    wanted, weights = torch.randn(1, 3, 2), torch.tensor([1.0, 0.5, 0.0])
    times = [torch.tensor([0.0]), torch.tensor([0.5])]
    found = guided(
        Linear(matrix),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        noise,
        Target(wanted, weights, 1),
        [(t, None) for t in times],  # type: ignore[misc]
    )
    x = noise[0].double().numpy()
    for t, strength in ((0.0, MOST_GUIDANCE), (0.5, 2.0)):
        # d(x + (1 - t) x M) / dx, transposed, applied to each step's weighted gap
        transposed = (np.eye(2) + (1 - t) * matrix.double().numpy()).T
        expected = x + (1 - t) * x @ matrix.double().numpy()
        gap = weights.double().numpy()[:, None] * (wanted[0].double().numpy() - expected)
        x = x + (x @ matrix.double().numpy() + strength * gap @ transposed) / 2
    np.testing.assert_allclose(found[0].numpy(), x, atol=1e-5)


@pytest.mark.parametrize(
    ("t", "expected"), [(0.0, 5.0), (0.1, 5.0), (0.5, 2.0), (0.8, 0.8 / 0.2 + 0.2 / 0.8)]
)
def test_guidance_is_clipped_where_it_would_be_unbounded(t: float, expected: float) -> None:
    # (1 - t) / (t r^2) = (t^2 + (1 - t)^2) / (t (1 - t))
    assert guidance_weight(torch.tensor([t])).item() == pytest.approx(min(expected, 5.0), rel=1e-5)


def test_without_a_guide_and_with_weights_of_zero_a_chunk_is_the_same() -> None:
    policy = tiny_policy()
    plain = act(policy)
    free = act(policy, guide=Guide(np.ones((8, 7)), np.zeros(8), 0))
    np.testing.assert_allclose(free, plain, atol=1e-5)
    np.testing.assert_array_equal(act(policy), plain)  # and nothing is left behind


def test_a_trained_policy_goes_on_with_what_it_had_begun() -> None:
    """The shipped one, asked twice about the same picture with other noise."""
    policy = TwinBrainPolicy.from_pretrained(demo_checkpoint())
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for c in policy.config.cameras}
    state = np.array([0.24, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0])

    def chunk(seed: int, guide: Guide | None = None) -> np.ndarray:
        out = policy.act(images, WORDS, state, seed=seed, guide=guide)
        units = policy._action_units
        assert units is not None
        return units.to_model(torch.from_numpy(out).float()).numpy()

    raw = policy.act(images, WORDS, state, seed=1)
    guide = Guide(raw, soft_mask(8, 3, 6), 3)
    wanted, others = chunk(1), range(2, 12)
    free = np.mean([np.abs(chunk(seed) - wanted)[:3].mean() for seed in others])
    bound = np.mean([np.abs(chunk(seed, guide) - wanted)[:3].mean() for seed in others])
    assert bound < 0.5 * free


def test_no_gradient_is_left_anywhere() -> None:
    policy = tiny_policy()
    for parameter in policy.model.parameters():
        parameter.requires_grad_(True)
    act(policy, guide=make_guide())
    assert all(parameter.grad is None for parameter in policy.model.parameters())


# Prefixes ---------------------------------------------------------------------------------------------


def test_a_prefix_trained_expert_returns_frozen_steps_as_given() -> None:
    policy, guide = prefix_policy(), make_guide(frozen=3)
    plain, chunk = act(policy), act(policy, guide=guide)
    np.testing.assert_allclose(chunk[:3], guide.actions[:3], atol=1e-5)
    assert np.abs(chunk[3:] - plain[3:]).max() > 1e-3  # what follows depends on them


def test_an_empty_prefix_changes_nothing() -> None:
    policy = prefix_policy()
    np.testing.assert_allclose(
        act(policy, guide=Guide(np.ones((8, 7)), np.zeros(8), 0)), act(policy), atol=1e-6
    )


def test_frozen_tokens_have_a_flow_time_of_their_own() -> None:
    """As if each token were asked with its own time: held to an expert that computes it token by token."""
    torch.manual_seed(0)
    expert = ActionExpert(ExpertConfig(width=32, heads=2, layers=2, denoise_steps=1), 32, 8, 7)
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    with torch.no_grad():
        context: Context = expert.context(torch.randn(1, 5, 32), None)
        noise, wanted = torch.randn(1, 8, 7), torch.randn(1, 8, 7)
        frozen = prefixed(expert, context, noise, Target(wanted, torch.ones(8), 4), expert.schedule())
        ordinary = expert.integrate(context, torch.cat([wanted[:, :4], noise[:, 4:]], dim=1))
    # One Euler step: the free rows differ only because the frozen tokens are told that they are clean.
    assert (frozen[:, 4:] - ordinary[:, 4:]).abs().max() > 1e-4
    torch.testing.assert_close(frozen[:, :4], wanted[:, :4])


def test_a_config_without_the_key_still_loads(tmp_path: Any) -> None:
    config = tiny_config()
    config.save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert '"prefix_trained": false' in text
    (tmp_path / "config.json").write_text(text.replace('"prefix_trained": false', '"layers": 4'))
    assert TwinBrainConfig.load(tmp_path).expert.prefix_trained is False


# Bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions": np.zeros((7, 7))}, r"guide.actions shape is \(7, 7\), expected \(8, 7\)"),
        ({"weights": np.zeros(7)}, r"guide.weights shape is \(7,\), expected \(8,\)"),
        ({"weights": np.full(8, 1.5)}, r"guide.weights are .*, expected values within \[0, 1\]"),
        ({"actions": np.full((8, 7), np.nan)}, r"guide.actions\[0, 0\] is nan, expected a finite number"),
        ({"frozen": 5}, "guide.frozen is 5, expected as many leading weights of 1"),
        ({"frozen": -1}, "guide.frozen is -1, expected"),
    ],
)
def test_a_wrong_guide_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        act(tiny_policy(), guide=dataclasses.replace(make_guide(), **changes))
