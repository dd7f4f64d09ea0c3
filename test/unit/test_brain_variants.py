"""Variants of the twin: a left brain trained or absent, who takes the state, what the expert reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import WORDS, random_policy, tiny_config, views

from twinbrain_ros.brain import checkpoint
from twinbrain_ros.brain.config import CheckpointError, ExpertConfig, TwinBrainConfig
from twinbrain_ros.brain.expert import ActionExpert
from twinbrain_ros.brain.generalist import Generalist
from twinbrain_ros.brain.plain import plain_chunk
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.commands.info import describe_config, rows
from twinbrain_ros.training.tokenizer import word_tokenizer

INSTRUCTION = "put the red block on the blue plate"
STATE = np.linspace(-1.0, 1.0, 7, dtype=np.float32)
TO_EXPERT: dict[str, Any] = {"right_prompt": "{instruction}"}
QUERIES: dict[str, Any] = {
    "conditioning": "action_queries",
    "query_tokens": 3,
    "right_prompt": "{instruction} {queries}",
}
LAYER_WISE = dataclasses.replace(tiny_config().expert, layers=5, reads="layer_wise")
VARIANTS: dict[str, dict[str, Any]] = {
    "the right brain alone": {"left_brain": "none"},
    "a single brain, the state to the expert": {"left_brain": "none", **TO_EXPERT},
    "a trained left brain": {"left_brain": "trained"},
    "a twin whose expert takes the state": TO_EXPERT,
    "a twin read layer by layer": {"expert": LAYER_WISE},
    "alone, read layer by layer": {"left_brain": "none", "expert": LAYER_WISE},
    "every second layer joint, read layer by layer": {"interaction_interval": 1, "expert": LAYER_WISE},
}


def config_of(**changes: Any) -> TwinBrainConfig:
    return dataclasses.replace(tiny_config(), **changes)


def policy_of(**changes: Any) -> TwinBrainPolicy:
    words = [*WORDS, "<|action|>"] if changes.get("query_tokens") else WORDS
    return random_policy(config_of(**changes), word_tokenizer(words))


def flow_loss(policy: TwinBrainPolicy) -> torch.Tensor:
    """Something that every output has a part in, in training mode."""
    model = policy.model.train()
    left, right = (policy.collate([p]) for p in policy.prompts(INSTRUCTION))
    images = {n: torch.from_numpy(i)[None] for n, i in views().items()}
    prepared = model.prepare(left, right)
    context = model.context(images, torch.from_numpy(STATE)[None], prepared)
    noise = torch.randn(1, 8, 7, generator=torch.Generator().manual_seed(0))
    return model.expert.velocity(context, noise, torch.full((1,), 0.4)).square().sum()


def gradients(policy: TwinBrainPolicy, part: str) -> list[str]:
    """Names of a part's parameters that a loss reaches with more than nothing."""
    flow_loss(policy).backward()
    module = policy.model.parts()[part]
    return [n for n, p in module.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]


# -- the left brain


def test_no_gradient_reaches_a_frozen_left_brain() -> None:
    policy = policy_of()
    assert gradients(policy, "left") == []
    assert not any(p.requires_grad for p in policy.model.left.parameters())
    assert not policy.model.left.training


def test_gradients_reach_a_trained_left_brain_up_to_its_last_joint_layer() -> None:
    policy = policy_of(left_brain="trained")
    reached = gradients(policy, "left")
    assert policy.model.left.training
    assert any(name.startswith("model.visual.patch_embed") for name in reached)
    assert "model.language_model.embed_tokens.weight" in reached
    assert any("layers.3.self_attn.k_proj" in name for name in reached)
    assert not any("layers.3.mlp" in name for name in reached)  # nobody reads it


def test_training_of_the_left_brain_changes_no_action_by_itself() -> None:
    frozen, trained = policy_of(), policy_of(left_brain="trained")
    for policy in (frozen, trained):
        policy.model.eval()
    actions = [p.act(views(), INSTRUCTION, STATE, seed=1) for p in (frozen, trained)]
    np.testing.assert_array_equal(*actions)


def test_a_right_brain_alone_equals_a_twin_whose_left_brain_is_never_seen() -> None:
    alone, twin = policy_of(left_brain="none"), policy_of()
    twin.model.load_state_dict(
        {**twin.model.state_dict(), **alone.model.state_dict()}, strict=True
    )  # the same right brain, encoder and expert
    left, right = (twin.collate([p]) for p in twin.prompts(INSTRUCTION))
    unseen = dataclasses.replace(left, valid=torch.zeros_like(left.valid), unpadded=False)
    images = {n: torch.from_numpy(i)[None] for n, i in views().items()}
    state = torch.from_numpy(STATE)[None]
    with torch.no_grad():
        masked = twin.model.condition(images, state, twin.model.prepare(unseen, right))
        seen = twin.model.condition(images, state, twin.model.prepare(left, right))
        own = alone.model.condition(images, state, alone.model.prepare(left, right))
    torch.testing.assert_close(own, masked)
    assert (own - seen).abs().max() > 1e-3


def test_a_right_brain_alone_has_no_left_weights_in_memory_or_file(tmp_path: Path) -> None:
    policy = policy_of(left_brain="none")
    assert set(policy.model.parts()) == {"right", "state_encoder", "expert"}
    policy.save_pretrained(tmp_path)
    names = [n for n, _ in checkpoint.stream_tensors(checkpoint.weight_files(tmp_path))]
    assert names and not any(n.startswith("left.") for n in names)


def test_a_right_brain_alone_seeds_from_a_vlm_and_answers_questions_itself() -> None:
    policy, twin = policy_of(left_brain="none"), policy_of()
    policy.model.seed_from(twin.model.left)
    images = [views()["front"]]
    alone = Generalist(policy).ask(images, "the red block", max_tokens=5)
    assert alone.tokens == Generalist(twin).ask(images, "the red block", max_tokens=5).tokens


# -- the state


def test_a_state_that_goes_to_the_expert_is_in_no_prompt_and_still_matters() -> None:
    policy = policy_of(left_brain="none", **TO_EXPERT)
    _, right = policy.prompts(INSTRUCTION)
    assert right.state_slot == -1
    one, other = (policy.act(views(), INSTRUCTION, s, seed=1) for s in (STATE, -STATE))
    assert np.abs(one - other).max() > 1e-3
    with pytest.raises(ValueError, match="state: found none"):
        policy.act(views(), INSTRUCTION, None)


def test_the_right_prompt_says_where_the_state_goes() -> None:
    assert config_of().state_goes_to == "right"
    assert config_of(**TO_EXPERT).state_goes_to == "expert"
    assert config_of(state_names=(), state_statistics=None, **TO_EXPERT).state_goes_to == "none"


def test_a_prompt_that_contradicts_the_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"right_prompt: .* nowhere, as there is no state"):
        config_of(state_names=(), state_statistics=None)
    with pytest.raises(CheckpointError, match=r"right_prompt: .* at most once"):
        config_of(right_prompt="<|propri|> {instruction} <|propri|>")
    with pytest.raises(CheckpointError, match=r"send_state: found false, expected true: <\|propri\|>"):
        config_of(send_state=False)


def test_a_config_that_says_twice_where_the_state_goes_is_still_read() -> None:
    """As checkpoints of earlier versions do."""
    for goes_to, changes in (("right_brain", {}), ("expert", TO_EXPERT)):
        config = config_of(**changes)
        assert TwinBrainConfig.from_dict(config.to_dict() | {"state_goes_to": goes_to}) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"left_brain": "asleep"}, "left_brain: found 'asleep'"), ({"conditioning": "moods"}, "conditioning")],
)
def test_unknown_variants_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        config_of(**changes)


# -- what the expert reads


def test_cross_blocks_read_layers_spread_evenly_up_to_the_last() -> None:
    def read(blocks: int, layers: int) -> tuple[int, ...]:
        return ExpertConfig(layers=blocks, reads="layer_wise").layers_read(layers)

    assert read(6, 4) == (1, 2, 3)
    assert read(16, 36) == (4, 8, 13, 17, 22, 26, 31, 35)
    assert read(5, 3) == (0, 1, 2)
    assert read(6, 2) == (0, 1, 1)  # fewer layers than cross blocks
    assert ExpertConfig(layers=6).layers_read(4) == (3, 3, 3)
    with pytest.raises(CheckpointError, match=r"expert\.reads"):
        ExpertConfig(reads="some")


def test_reading_equal_states_layer_by_layer_is_reading_the_final_ones() -> None:
    torch.manual_seed(0)
    spread = ActionExpert(ExpertConfig(width=16, heads=2, layers=5, reads="layer_wise"), 8, 4, 3)
    last = ActionExpert(ExpertConfig(width=16, heads=2, layers=5), 8, 4, 3)
    last.load_state_dict(spread.state_dict())
    states, noise, time = torch.randn(2, 6, 8), torch.randn(2, 4, 3), torch.rand(2)
    valid = torch.arange(6)[None] < torch.tensor([[6], [4]])
    same = spread.velocity(spread.context(states.repeat(1, 3, 1), valid), noise, time)
    torch.testing.assert_close(same, last.velocity(last.context(states, valid), noise, time))
    other = spread.velocity(spread.context(torch.randn(2, 18, 8), valid), noise, time)
    assert (other - same).abs().max() > 1e-4


def test_each_cross_block_gets_the_states_after_its_layer() -> None:
    policy = policy_of(expert=LAYER_WISE, left_brain="none")
    model = policy.model.eval()
    left, right = (policy.collate([p]) for p in policy.prompts(INSTRUCTION))
    images = {n: torch.from_numpy(i)[None] for n, i in views().items()}
    state = torch.from_numpy(STATE)[None]
    seen: list[torch.Tensor] = []
    layers = model.right.model.language_model.layers
    hooks = [layer.register_forward_hook(lambda *a: seen.append(a[2])) for layer in layers]
    with torch.no_grad():
        prepared = model.prepare(left, right)
        hidden = model.condition(images, state, prepared)
    for hook in hooks:
        hook.remove()
    final, *others = hidden.chunk(3, dim=1)
    norm = model.right.model.language_model.norm
    expected = [norm(seen[i]) for i in (3, 1, 2)]
    for found, wanted in zip((final, *others), expected, strict=True):
        torch.testing.assert_close(found, wanted)


# -- all of them


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_engine_computes_what_the_plain_way_computes(variant: str) -> None:
    policy = policy_of(**VARIANTS[variant])
    policy.model.eval()
    config, images = policy.config, views()
    noise = np.random.default_rng(3).normal(size=(8, 7)).astype(np.float32)
    ours = policy.act(images, INSTRUCTION, STATE, noise, normalized=True)
    cameras = [policy._view(c, *images[c.name].shape[:2]) for c in config.cameras]
    left, right = (policy.collate([p]) for p in policy.prompts(INSTRUCTION))
    raw = {n: torch.from_numpy(i)[None] for n, i in images.items()}
    state = torch.from_numpy(STATE)[None]
    plain = plain_chunk(policy.model, raw, cameras, state, (left, right), torch.from_numpy(noise)[None])
    np.testing.assert_allclose(ours, plain[0].double().numpy(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_variant_acts_as_before(variant: str, tmp_path: Path) -> None:
    policy = policy_of(**VARIANTS[variant])
    policy.save_pretrained(tmp_path)
    loaded = TwinBrainPolicy.from_pretrained(tmp_path)
    assert loaded.config == policy.config
    policy.model.eval()
    actions = [p.act(views(), INSTRUCTION, STATE, seed=5) for p in (policy, loaded)]
    np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize("variant", ["a trained left brain", "alone, read layer by layer"])
def test_a_policy_in_training_acts_on_its_newest_weights(variant: str) -> None:
    policy = policy_of(**VARIANTS[variant])
    before = policy.act(views(), INSTRUCTION, STATE, seed=5)
    optimizer = torch.optim.SGD([p for p in policy.model.parameters() if p.requires_grad], 1e-3)
    flow_loss(policy).backward()
    optimizer.step()
    policy.model.eval()
    assert np.abs(policy.act(views(), INSTRUCTION, STATE, seed=5) - before).max() > 1e-6


def test_queries_can_be_read_layer_by_layer_too() -> None:
    policy = policy_of(**QUERIES, expert=LAYER_WISE)
    left, right = (policy.collate([p]) for p in policy.prompts(INSTRUCTION))
    images = {n: torch.from_numpy(i)[None] for n, i in views().items()}
    with torch.no_grad():
        hidden = policy.model.condition(images, None, policy.model.prepare(left, right))
    assert hidden.shape == (1, 3 * 3, 32)
    assert policy.act(views(), INSTRUCTION, STATE).shape == (8, 7)


def test_info_says_which_variant_it_is() -> None:
    facts = describe_config(
        config_of(**VARIANTS["a single brain, the state to the expert"], expert=LAYER_WISE)
    )
    shown = dict(rows({**facts, "checkpoint": "here"}))
    assert "alone" in shown["brains"] and "no left brain" in shown["cameras"]
    assert "to the expert" in shown["state"] and "another layer" in shown["condition"]
    assert facts["parameters"]["frozen"] == 0
    trained = describe_config(config_of(left_brain="trained"))
    assert trained["parameters"]["frozen"] == 0 and "left" in trained["parameters"]["parts"]
