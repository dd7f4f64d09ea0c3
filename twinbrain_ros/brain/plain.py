"""A twin computed as the public reference computes it: tests compare with it, and `twinbrain bench` does.

Nothing is kept from call to call and nothing is left out. Each brain preprocesses the images itself and runs
its stock vision tower; all layers of both brains run in full, on every row and with eager attention; the
vocabulary projection covers the whole right sequence though no action needs it; the action head repeats in
each Euler step what does not change between them, and in training for each draw of noise. Chunks are made one
at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from twinbrain_ros.brain.asymot import is_joint_layer
from twinbrain_ros.brain.engine import View, scale
from twinbrain_ros.brain.expert import ActionExpert, sinusoid
from twinbrain_ros.brain.preprocess import patchify, with_frames
from twinbrain_ros.brain.prompt import PromptBatch
from twinbrain_ros.brain.twin import TwinBrain


@dataclass
class _Stream:
    """One brain on its way through the layers: hidden states x [1, L, H], rotary tables [1, L, d], its own
    mask [1, 1, L, L], and what is added to the first layers at the image rows."""

    brain: Any
    x: Tensor
    rotary: tuple[Tensor, Tensor]
    mask: Tensor
    images_at: Tensor
    deepstack: list[Tensor]


@torch.no_grad()
def plain_chunk(
    model: TwinBrain,
    images: Mapping[str, Tensor],
    views: Sequence[View],
    state: Tensor | None,
    prompts: tuple[PromptBatch, PromptBatch],
    noise: Tensor,
    head: tuple[nn.Module | None, ActionExpert] | None = None,
) -> Tensor:
    """Actions float32 [1, T, A] in model units, of a model in eval mode.

    images: raw uint8 [1, H, W, 3] per camera; state [1, S] in model units; prompts: left and right, one each
    and without padding; noise [1, T, A]; head: state encoder and expert in float32, default the model's own.
    Raises ValueError for padded prompts or several of them.
    """
    if any(len(p.ids) != 1 or not p.unpadded for p in prompts):
        raise ValueError("prompts: found several or padded ones, expected one without padding per brain")
    encode, expert = head or (model.state_encoder, model.expert)
    read, token = _condition(model, images, views, state, prompts, encode, expert)
    return _denoise(expert, read, token, noise.float())


def plain_flow_loss(
    model: TwinBrain,
    images: Mapping[str, Tensor],
    views: Sequence[View],
    state: Tensor | None,
    prompts: tuple[PromptBatch, PromptBatch],
    actions: Tensor,
    noise: Tensor,
    time: Tensor,
) -> Tensor:
    """The flow-matching loss of B samples as the reference computes it, with gradients.

    images: uint8 [B, H, W, 3] per camera; state [B, S] and actions [B, T, A] in model units; prompts: B, none
    padded; noise [R * B, T, A] and time [R * B]: R draws per sample, tiled b0 b1 .. b0 b1 ... As there, all
    that the head is told is repeated R times, and each of its layers works on all of that. Raises ValueError
    for padded prompts.
    """
    if any(not p.unpadded for p in prompts):
        raise ValueError("prompts: found padded ones, expected none")
    expert = model.expert
    read, token = _condition(model, images, views, state, prompts, model.state_encoder, expert)
    repeats = len(noise) // len(actions)
    read = [states.repeat(repeats, 1, 1) for states in read]
    token = None if token is None else token.repeat(repeats, 1)
    target, at = actions.repeat(repeats, 1, 1), time[:, None, None]
    out = _head(expert, read, token, (1 - at) * noise + at * target, time)
    wanted = target if expert.config.prediction == "clean" else target - noise
    return (out - wanted).square().mean()


def _condition(
    model: TwinBrain,
    images: Mapping[str, Tensor],
    views: Sequence[View],
    state: Tensor | None,
    prompts: tuple[PromptBatch, PromptBatch],
    encode: nn.Module | None,
    expert: ActionExpert,
) -> tuple[list[Tensor], Tensor | None]:
    """What each cross block reads, float32 [B, L or K, H], and the expert's state token [B, width] if any."""
    config = model.config
    encoded = None if state is None or encode is None else encode(state.to(expert.time_in.weight.dtype))
    left = None
    if model.left is not None:
        seen = [v for v in views if v.name in config.left_cameras]
        with model.left_gradients():
            left = _stream(model, model.left, images, seen, prompts[0])
    right = _stream(model, model.right, images, views, prompts[1])
    if encoded is not None and config.state_goes_to == "right":
        rows = torch.arange(len(right.x), device=right.x.device)
        right.x = right.x.index_put((rows, prompts[1].state_slots), encoded.to(right.x.dtype))
    hidden = _joint_layers(model, left, right)
    model.right.lm_head(hidden[-1])  # the reference computes all logits and looks at none
    read = [hidden[layer] for layer in config.expert.layers_read(model.last + 1)]
    if model.asks:
        read = [states[:, prompts[1].query_slots[0]] for states in read]
    token = encoded if config.expert_takes_state else None
    return [states.float() for states in read], token


def _stream(
    model: TwinBrain, brain: Any, images: Mapping[str, Tensor], views: Sequence[View], prompt: PromptBatch
) -> _Stream:
    """Pixels and tokens of one brain as the input of its first layer."""
    # One image after the other, those of a sample in a row.
    sized = [scale(images[v.name][i : i + 1], v) for i in range(len(prompt.ids)) for v in views]
    grids = torch.tensor([[1, *model.layout.grid(*i.shape[1:3])] for i in sized], device=prompt.ids.device)
    patches = torch.cat([with_frames(patchify(i, model.layout), model.layout) for i in sized])
    visual = brain.model.visual
    with _stock_attention(visual):
        seen = visual(patches.to(visual.dtype), grid_thw=grids)
    features, deepstack = seen.pooler_output, getattr(seen, "deepstack_features", [])
    images_at = prompt.ids == brain.config.image_token_id
    x = brain.get_input_embeddings()(prompt.ids)
    x = x.masked_scatter(images_at[..., None].expand_as(x), features.to(x.dtype))
    positions, _ = brain.model.get_rope_index(prompt.ids, images_at.int(), image_grid_thw=grids)
    rotary = brain.model.language_model.rotary_emb(x, positions)
    length = prompt.ids.shape[1]
    mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)[None, None]
    return _Stream(brain, x, rotary, mask, images_at, list(deepstack) if model.config.deepstack else [])


@contextmanager
def _stock_attention(visual: Any) -> Iterator[None]:
    """The tower's own way to attend: image by image (or window by window), split on the host."""
    ours = visual.config._attn_implementation
    visual.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        visual.config._attn_implementation = ours


def _joint_layers(model: TwinBrain, left: _Stream | None, right: _Stream) -> list[Tensor]:
    """The right brain's states [1, Lr, H] after each layer, past the final norm where they are looked at."""
    joint = right.mask
    if left is not None:
        joint = _joint_mask(left.mask, right.mask, model.config.left_visibility)
    states = []
    for i in range(len(right.brain.model.language_model.layers)):
        theirs: list[Tensor] = []
        if left is not None:
            with model.left_gradients():
                queries, *theirs = _project(left, i)
                _finish_layer(left, i, _attention(queries, theirs[0], theirs[1], left.mask))
        queries, keys, values = _project(right, i)
        mask = right.mask
        if theirs and is_joint_layer(i, model.config.interaction_interval):
            keys, values = torch.cat([theirs[0], keys], 2), torch.cat([theirs[1], values], 2)
            mask = joint
        _finish_layer(right, i, _attention(queries, keys, values, mask))
        states.append(right.x)
    if left is not None:
        left.brain.model.language_model.norm(left.x)
    norm = right.brain.model.language_model.norm
    # The final norm of the last layer and, where others are selected, of those.
    looked_at = {len(states) - 1, *model.config.expert.layers_read(model.last + 1)}
    return [norm(x) if i in looked_at else x for i, x in enumerate(states)]


def _joint_mask(left: Tensor, right: Tensor, visibility: str) -> Tensor:
    """[1, 1, Lr, Ll + Lr]: the left mask's rows one by one and everything after them, or everything."""
    seen = torch.zeros(1, 1, right.shape[2], left.shape[2], dtype=right.dtype, device=right.device)
    if visibility == "index_causal":
        rows = min(left.shape[2], right.shape[2])
        seen[:, :, :rows] = left[:, :, :rows]
    return torch.cat([seen, right], dim=3)


def _project(stream: _Stream, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [1, heads, L, d] of one layer, rotated."""
    layer = stream.brain.model.language_model.layers[index]
    attention, h = layer.self_attn, layer.input_layernorm(stream.x)
    shape = (*h.shape[:2], -1, attention.head_dim)
    queries, keys = attention.q_proj(h).view(shape), attention.k_proj(h).view(shape)
    if hasattr(attention, "q_norm"):
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    values = attention.v_proj(h).view(shape).transpose(1, 2)
    queries, keys = apply_rotary_pos_emb(queries.transpose(1, 2), keys.transpose(1, 2), *stream.rotary)
    return queries, keys, values


def _attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Eager attention [1, L, heads * d]: repeated keys and values, a softmax in float32."""
    times = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(times, dim=1), values.repeat_interleave(times, dim=1)
    scores = queries @ keys.transpose(2, 3) * queries.shape[-1] ** -0.5 + mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(queries.dtype)
    return (weights @ values).transpose(1, 2).flatten(2)


def _finish_layer(stream: _Stream, index: int, attended: Tensor) -> None:
    """The rest of a layer, and the deepstack features where they are in use."""
    layer = stream.brain.model.language_model.layers[index]
    x = stream.x + layer.self_attn.o_proj(attended)
    x = x + layer.mlp(layer.post_attention_layernorm(x))
    if index < len(stream.deepstack):
        x = x.clone()
        x[stream.images_at] += stream.deepstack[index].to(x.dtype)
    stream.x = x


def _denoise(expert: ActionExpert, condition: list[Tensor], state: Tensor | None, noise: Tensor) -> Tensor:
    """Euler steps from noise to actions, each on its own from each cross block's condition [1, K, H] on."""
    steps, x = expert.config.denoise_steps, noise
    for k in range(steps):
        time = torch.full((1,), k / steps, device=x.device)
        out = _head(expert, condition, state, x, time)
        if expert.config.prediction == "clean":
            out = (out - x) / (1 - time)[:, None, None]
        x = x + out / steps
    return x


def _head(
    e: ActionExpert, condition: list[Tensor], state: Tensor | None, noisy: Tensor, time: Tensor
) -> Tensor:
    """The action head's output [1, T, A] at a flow time, with nothing known beforehand."""
    width, bucket = e.config.width, (time * e.config.time_buckets).floor()
    wave = sinusoid(bucket, 256, e.config.time_frequency_shift)
    embedded = F.silu(e.time_out(F.silu(e.time_in(wave))))[:, None]
    tau = sinusoid(bucket, width)[:, None].expand(-1, noisy.shape[1], -1)
    actions = e.action_out(F.silu(e.action_time(torch.cat([e.action_in(noisy), tau], dim=-1)))) + e.position
    tokens = [e.future.expand(len(noisy), -1, -1), actions]
    x = torch.cat(tokens if state is None else [state[:, None], *tokens], dim=1)
    reads = iter(condition)
    for block in e.blocks:
        scale_by, shift_by = block.modulation(embedded).chunk(2, dim=-1)  # type: ignore[operator]
        h = F.layer_norm(x, (width,), eps=1e-5) * (1 + scale_by) + shift_by
        keys, values = block.keys_values(next(reads) if block.is_cross else h)  # type: ignore[operator]
        queries = block.split_heads(block.query(h))  # type: ignore[operator]
        attended = F.scaled_dot_product_attention(queries, keys, values)
        x = x + block.out(attended.transpose(1, 2).flatten(2))  # type: ignore[operator]
        h = block.ff_in(F.layer_norm(x, (width,), eps=1e-5))  # type: ignore[operator]
        x = x + block.ff_out(F.gelu(h, approximate="tanh"))  # type: ignore[operator]
    shift_by, scale_by = e.final_modulation(embedded).chunk(2, dim=-1)
    x = F.layer_norm(x, (width,), eps=1e-6) * (1 + scale_by) + shift_by
    return e.decoder(e.output(x))[:, -noisy.shape[1] :]
