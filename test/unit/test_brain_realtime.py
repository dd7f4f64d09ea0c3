"""Chunks that agree with what the arm is doing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import random_policy, tiny_config, tiny_policy, views
from torch import Tensor

from twinbrain_ros.brain import engine
from twinbrain_ros.brain.config import ExpertConfig, TwinBrainConfig
from twinbrain_ros.brain.expert import ActionExpert, Context
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.realtime import (
    Target,
    guidance_weight,
    guided,
    prefixed,
    with_ends,
)
from twinbrain_ros.brain.sampling import noise_for
from twinbrain_ros.control.realtime import soft_mask
from twinbrain_ros.resources import demo_checkpoint
from twinbrain_ros.robot.chunk import Guide
from twinbrain_ros.training.losses import flow_matching_loss
from twinbrain_ros.training.tokenizer import word_tokenizer

STRONG = 5.0  # beta of the paper
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
        Target(wanted, weights, 1, STRONG),
        [(t, None) for t in times],  # type: ignore[misc]
    )
    x = noise[0].double().numpy()
    for t, strength in ((0.0, STRONG), (0.5, 2.0)):
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
    assert guidance_weight(torch.tensor([t]), STRONG).item() == pytest.approx(min(expected, 5.0), rel=1e-5)


def test_without_a_guide_and_with_weights_of_zero_a_chunk_is_the_same() -> None:
    policy = tiny_policy()
    plain = act(policy)
    free = act(policy, guide=Guide(np.ones((8, 7)), np.zeros(8), 0))
    np.testing.assert_allclose(free, plain, atol=1e-6)


def test_a_guided_chunk_leaves_nothing_behind() -> None:
    policy = tiny_policy()
    plain = act(policy)
    assert np.abs(act(policy, guide=make_guide()) - plain).max() > 1e-3
    np.testing.assert_array_equal(act(policy), plain)
    np.testing.assert_array_equal(act(tiny_policy()), plain)


def test_each_of_several_chunks_is_guided_as_if_alone() -> None:
    """Words of different lengths: the shorter prompt is padded, and masked where gradients pass."""
    policy, guide = tiny_policy(), make_guide()
    words = ["put the block on the red plate", "pick up"]
    pictures, states = [views(0), views(1)], np.stack([STATE, -STATE])
    noise = np.stack([noise_for(seed, 8, 7) for seed in (0, 1)])
    both = {name: np.stack([p[name] for p in pictures]) for name in pictures[0]}
    batch = policy.act_batch(both, words, states, noise, guide=guide)
    for i in range(2):
        alone = policy.act(pictures[i], words[i], states[i], noise[i], guide=guide)
        np.testing.assert_allclose(batch[i], alone, atol=5e-3)
        assert np.abs(alone - policy.act(pictures[i], words[i], states[i], noise[i])).max() > 0.5


def test_gradients_stop_at_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Context] = []

    def watched(expert: ActionExpert, context: Context, *rest: Any) -> Tensor:
        seen.append(context)
        return guided(expert, context, *rest)

    monkeypatch.setattr(engine, "guided", watched)
    policy = tiny_policy()
    assert any(parameter.requires_grad for parameter in policy.model.parameters())
    act(policy, guide=make_guide())
    (context,) = seen
    tensors = [*context.keys, *context.values]
    assert tensors and not any(t.requires_grad or t.is_inference() for t in tensors)


def test_a_trained_policy_goes_on_with_what_it_had_begun_the_nearer_the_more_steps_it_takes() -> None:
    """The shipped one, asked about the same picture with other noise."""
    policy = TwinBrainPolicy.from_pretrained(demo_checkpoint())
    policy.guidance = STRONG
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for c in policy.config.cameras}
    state = np.array([0.24, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0])
    raw = policy.act(images, WORDS, state, seed=1)
    guide = Guide(raw, soft_mask(8, 3, 6), 3)
    units = policy.action_units()

    def distance(**options: Any) -> float:
        """Mean over noise of how far the frozen steps are from the guide, model units."""
        chunks = [policy.act(images, WORDS, state, seed=seed, **options) for seed in range(2, 8)]
        found, wanted = (units.to_model(torch.from_numpy(c).float()) for c in (np.stack(chunks), raw))
        return (found - wanted)[:, :3].abs().mean().item()

    free, bound = distance(), {}
    for steps in (2, 5, 20):
        policy.engine._schedule = policy.model.expert.schedule(steps)
        bound[steps] = distance(guide=guide)
    assert bound[2] > bound[5] > bound[20] and bound[5] < 0.5 * free and bound[20] < 0.2 * free


def test_no_gradient_is_left_anywhere() -> None:
    policy = tiny_policy()
    for parameter in policy.model.parameters():
        parameter.requires_grad_(True)
    act(policy, guide=make_guide())
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def small_expert(**options: Any) -> tuple[ActionExpert, Context]:
    """With weights large enough for everything to matter, and a condition."""
    torch.manual_seed(0)
    config = ExpertConfig(width=32, heads=2, layers=2, denoise_steps=1, **options)
    expert = ActionExpert(config, 32, 8, 7)
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    with torch.no_grad():
        return expert, expert.context(torch.randn(1, 5, 32), None)


@torch.no_grad()
def loss_of(expert: ActionExpert, context: Context, actions: Tensor, prefix: list[int] | None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    steps = None if prefix is None else torch.tensor(prefix)
    weights = torch.linspace(0.5, 1.5, 8)[:, None].expand(8, 7)
    return flow_matching_loss(expert, context.repeat(2), actions, weights, 3, generator, steps)


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
    expert, context = small_expert()
    noise, wanted = torch.randn(1, 8, 7), torch.randn(1, 8, 7)
    with torch.no_grad():
        frozen = prefixed(expert, context, noise, Target(wanted, torch.ones(8), 4), expert.schedule())
        ordinary = expert.integrate(context, torch.cat([wanted[:, :4], noise[:, 4:]], dim=1))
    # One Euler step: the free rows differ only because the frozen tokens are told that they are clean.
    assert (frozen[:, 4:] - ordinary[:, 4:]).abs().max() > 1e-4
    assert torch.equal(frozen[:, :4], wanted[:, :4])


@torch.no_grad()
def test_tokens_that_are_all_given_and_none_that_is_have_one_time_each() -> None:
    expert, context = small_expert(future_tokens=0)
    noisy = torch.randn(2, 8, 7)
    now, end = (expert.flow_time(torch.tensor([t])) for t in (0.3, 1.0))
    given = torch.tensor([[True] * 8, [False] * 8])
    found = expert._network(context.repeat(2), noisy, with_ends(expert, context, now, end, given))
    for i, at in enumerate((end, now)):
        torch.testing.assert_close(found[i : i + 1], expert._network(context, noisy[i : i + 1], at))


@torch.no_grad()
def test_state_and_future_tokens_keep_the_time_of_the_chunk() -> None:
    expert, context = small_expert(future_tokens=2)
    context = dataclasses.replace(context, state=torch.zeros(1, 1, 32))
    now, end = (expert.flow_time(torch.tensor([t])) for t in (0.3, 1.0))
    found = with_ends(expert, context, now, end, torch.arange(8)[None] < 3)
    for rows, a, b in zip(found.modulations, now.modulations, end.modulations, strict=True):
        assert torch.equal(rows, torch.cat([a] * 3 + [b] * 3 + [a] * 5, dim=1))


@pytest.mark.parametrize("prediction", ["clean", "velocity"])
def test_the_loss_without_a_prefix_is_that_of_empty_ones(prediction: str) -> None:
    expert, context = small_expert(prediction=prediction)
    plain = loss_of(expert, context, torch.ones(2, 8, 7), None)
    torch.testing.assert_close(loss_of(expert, context, torch.ones(2, 8, 7), [0, 0]), plain)
    assert abs(loss_of(expert, context, torch.ones(2, 8, 7), [3, 5]) - plain) > 1e-3


@pytest.mark.parametrize("prediction", ["clean", "velocity"])
def test_the_loss_gives_prefixes_as_they_are_and_does_not_count_them(
    prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert, context = small_expert(prediction=prediction)
    actions, given = torch.randn(2, 8, 7), torch.arange(8) < torch.tensor([[3], [0]])

    def right_but_for_prefixes(context: Context, noisy: Tensor, time: Tensor, at: Any) -> Tensor:
        target = actions.repeat(3, 1, 1)
        prefixes = given.repeat(3, 1)
        assert torch.equal(noisy[prefixes], target[prefixes])
        one = expert.flow_time(torch.ones(1)).encoder[0]
        assert torch.equal(at.encoder[prefixes], one.expand(9, -1))
        torch.testing.assert_close(at.encoder[:, 7:], expert.flow_time(time).encoder)
        noise = (noisy - time[:, None, None] * target) / (1 - time)[:, None, None]
        out = target if prediction == "clean" else target - noise
        return torch.where(prefixes[..., None], 100.0, out + 0.5)

    monkeypatch.setattr(expert, prediction, right_but_for_prefixes)
    assert loss_of(expert, context, actions, [3, 0]).item() == pytest.approx(0.25, rel=1e-3)


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
