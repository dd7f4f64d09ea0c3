"""AsyMoT as a KV cache computes what the joint layer loop of the reference computes, and leaks nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from brain_fixtures import tiny_policy, views
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from twinbrain_ros.brain import decoder
from twinbrain_ros.brain.asymot import is_joint_layer
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.preprocess import patchify, with_frames

RED, PUT = "pick up the red block", "put the green block on the blue plate"


def prepared(policy: TwinBrainPolicy, texts: list[str], seeds: list[int]):
    images = {
        c.name: torch.stack([torch.from_numpy(views(s, policy.config)[c.name]) for s in seeds])
        for c in policy.config.cameras
    }
    pairs = [policy.prompts(t) for t in texts]
    state = torch.stack([torch.linspace(-1, 1, 7) * (s + 1) for s in seeds])
    left, right = policy.collate([p[0] for p in pairs]), policy.collate([p[1] for p in pairs])
    return images, state, policy.model.prepare(left, right), left, right


def plain_attention(q, k, v, mask, scale):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def joint_loop(policy: TwinBrainPolicy, images, state, left_prompts, right_prompts) -> torch.Tensor:
    """Both brains stepped together, layer by layer, the right one attending to [left ; right] keys."""
    model, k = policy.model, policy.config.interaction_interval
    streams = []
    for brain, prompts, cameras, extra in (
        (model.left, left_prompts, policy.config.left_cameras, None),
        (
            model.right,
            right_prompts,
            tuple(c.name for c in policy.config.cameras),
            model.state_encoder(state),
        ),
    ):
        side = decoder.prepare_side(brain, prompts, None)
        embeds = decoder.fill(side, model.image_features(brain, images, cameras)[0], extra)
        text = brain.model.language_model
        streams.append([embeds, text, text.rotary_emb(embeds, prompts.positions)])
    left_length, right_length = left_prompts.ids.shape[1], right_prompts.ids.shape[1]
    causal_left = torch.ones(left_length, left_length, dtype=torch.bool).tril()[None, None]
    causal_right = torch.ones(right_length, right_length, dtype=torch.bool).tril()[None, None]
    sees_left = torch.ones(1, 1, right_length, left_length, dtype=torch.bool)
    for i in range(len(streams[0][1].layers)):
        past = None
        for side, (x, text, (cos, sin)) in enumerate(streams):
            layer = text.layers[i]
            attention = layer.self_attn
            h = layer.input_layernorm(x)
            shape = (*h.shape[:2], -1, attention.head_dim)
            q = attention.q_norm(attention.q_proj(h).view(shape)).transpose(1, 2)
            key = attention.k_norm(attention.k_proj(h).view(shape)).transpose(1, 2)
            value = attention.v_proj(h).view(shape).transpose(1, 2)
            q, key = apply_rotary_pos_emb(q, key, cos, sin)
            mask = causal_left
            if side == 0:
                past = (key, value)
            else:
                mask = causal_right
                if is_joint_layer(i, k):
                    key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
                    mask = torch.cat([sees_left, causal_right], 3)
            x = x + attention.o_proj(plain_attention(q, key, value, mask, attention.scaling))
            streams[side][0] = x + layer.mlp(layer.post_attention_layernorm(x))
    return streams[1][1].norm(streams[1][0])


@pytest.mark.parametrize("interval", [0, 1, 2])
def test_right_states_equal_those_of_a_joint_layer_loop(interval: int) -> None:
    policy = tiny_policy(interaction_interval=interval)
    images, state, words, left, right = prepared(policy, [RED], [3])
    with torch.no_grad():
        ours = policy.model.condition(images, state, words)
        plain = joint_loop(policy, images, state, left, right)
    torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-4)


def test_several_instructions_about_one_observation_are_as_if_asked_one_by_one() -> None:
    policy = tiny_policy()
    images, state, words, _, _ = prepared(policy, [RED, PUT], [0, 0])
    once = {name: image[:1] for name, image in images.items()}
    with torch.no_grad():
        apart = policy.model.condition(images, state[:1].repeat(2, 1), words)
        together = policy.model.condition(once, state[:1], words)
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=1e-4)


def test_layers_between_joint_ones_do_not_see_the_left_brain() -> None:
    assert [is_joint_layer(i, 2) for i in range(7)] == [True, False, False, True, False, False, True]
    assert all(is_joint_layer(i, 0) for i in range(7))


def test_the_right_brain_reads_the_left_one() -> None:
    policy = tiny_policy()
    images, state, words, _, right = prepared(policy, [RED], [0])
    _, _, _, other_left, _ = prepared(policy, ["pick up the blue block"], [0])
    with torch.no_grad():
        before = policy.model.condition(images, state, words)
        after = policy.model.condition(images, state, policy.model.prepare(other_left, right))
    assert (before - after).abs().max() > 1e-3


def test_no_gradient_reaches_the_left_brain_and_all_of_the_rest_gets_one() -> None:
    policy = tiny_policy()
    model = policy.model.train()
    images, state, words, _, _ = prepared(policy, [RED, PUT], [0, 1])
    context = model.context(images, state, words)
    noise = torch.randn(2, 8, 7)
    model.expert.clean(context, noise, torch.tensor([0.2, 0.7])).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in model.left.parameters())
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []


def test_the_left_brain_stays_in_eval_mode_and_never_receives_the_state() -> None:
    policy = tiny_policy()
    model = policy.model.train()
    assert model.right.training and not model.left.training
    images, state, words, _, _ = prepared(policy, [RED], [0])
    seen = []
    handle = model.left.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone())
    )
    model.condition(images, state, words)
    model.condition(images, state + 5.0, words)
    handle.remove()
    assert len(seen) == 2 and torch.equal(seen[0], seen[1])


def test_the_left_brain_is_bit_identical_after_training_steps() -> None:
    policy = tiny_policy()
    model = policy.model.train()
    images, state, _, left, right = prepared(policy, [RED, PUT], [0, 1])
    before = model.prepare(left, right).left
    weights = {k: v.clone() for k, v in model.left.state_dict().items()}
    pairs = {i: kv[0].clone() for i, kv in model.remember_left(images, before).pairs.items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        context = model.context(images, state, model.prepare(left, right))
        loss = model.expert.clean(context, torch.randn(2, 8, 7), torch.rand(2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(v, model.left.state_dict()[k]) for k, v in weights.items())
    after = model.remember_left(images, model.prepare(left, right).left).pairs
    assert all(torch.equal(keys, after[i][0]) for i, keys in pairs.items())


def test_padding_is_never_seen() -> None:
    policy = tiny_policy()
    noise = torch.randn(2, 8, 7, generator=torch.Generator().manual_seed(0)).numpy()
    states = torch.randn(2, 7, generator=torch.Generator().manual_seed(1)).numpy()
    both = {n: torch.stack([torch.from_numpy(views(s)[n]) for s in (0, 1)]).numpy() for n in views()}
    batched = policy.act_batch(both, [RED, PUT], states, noise)
    for i, text in enumerate((RED, PUT)):
        alone = policy.act_batch(
            {n: v[i : i + 1] for n, v in both.items()}, [text], states[i : i + 1], noise[i : i + 1]
        )
        torch.testing.assert_close(
            torch.from_numpy(batched[i]), torch.from_numpy(alone[0]), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("images_first", [True, False])
def test_image_tokens_see_the_words_only_where_the_words_come_first(images_first: bool) -> None:
    policy = tiny_policy(images_first=images_first)
    seen = []
    for text in (RED, "pick up the blue block"):
        images, _, words, left, _ = prepared(policy, [text], [0])
        pairs = policy.model.remember_left(images, words.left).pairs
        seen.append(pairs[3][0][:, :, left.image_slots[0]])
    assert torch.equal(*seen) == images_first


def test_the_left_brain_computes_what_the_stock_vlm_computes() -> None:
    policy = tiny_policy()
    images, _, words, left, _ = prepared(policy, [RED], [5])
    model = policy.model
    with torch.no_grad():
        features, _ = model.image_features(model.left, images, ("front",))
        x = decoder.fill(words.left, features, None)
        hidden = decoder.finish(
            model.left, words.left, decoder.run_layers(model.left, words.left, x, None, range(3)), None, 3, []
        )
        ours = F.linear(hidden, model.left.get_input_embeddings().weight)
        model.left.set_attn_implementation("eager")
        grid = torch.tensor([[1, *model.layout.grid(24, 32)]])
        stock = model.left(
            input_ids=left.ids,
            pixel_values=with_frames(patchify(images["front"], model.layout), model.layout),
            image_grid_thw=grid,
            mm_token_type_ids=(left.ids == model.left.config.image_token_id).int(),
        ).logits
    torch.testing.assert_close(ours, stock, atol=2e-4, rtol=1e-4)
