"""A VLM's decoder, stock layer by stock layer, on positions, masks and slots that were computed before.

Only the ends are our own: of the left brain's last joint layer nothing but keys and values is needed, and of
the right brain's last layer only the rows that condition the expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twinbrain_ros.brain.asymot import masked_attention
from twinbrain_ros.brain.prompt import PromptBatch


@dataclass(frozen=True)
class Side:
    """One brain's prompts, ready to be decoded: whatever does not depend on the observation.

    embeds [B, L, H] with holes for images and state; rotary: cos and sin [B, L, d]; mask: additive
    [B or 1, 1, L, keys], or None for plainly causal; image_slots [B, n]; state_slots [B]; rows: slots [B, K]
    of the final states that are wanted, None for all; valid: which of these are real, bool [B, K or L], None
    where all are.
    """

    embeds: Tensor
    rotary: tuple[Tensor, Tensor]
    mask: Tensor | None
    image_slots: Tensor
    state_slots: Tensor
    rows: Tensor | None
    valid: Tensor | None


def prepare_side(vlm: Any, prompts: PromptBatch, mask: Tensor | None) -> Side:
    """Token embeddings, rotary tables and slots of prompts; `mask` as of `asymot`."""
    embeds = vlm.get_input_embeddings()(prompts.ids)
    rotary = vlm.model.language_model.rotary_emb(embeds, prompts.positions)
    queries = prompts.query_slots.shape[1] > 0
    if mask is not None:
        mask = additive(mask, embeds.dtype)
    return Side(
        embeds,
        rotary,
        mask,
        prompts.image_slots,
        prompts.state_slots,
        prompts.query_slots if queries else None,
        None if queries or prompts.unpadded else prompts.valid,
    )


def no_words(like: Side) -> Side:
    """Prompts without a token, as many as of `like`: what a brain that is not there is told."""
    cos, sin = like.rotary
    slots = like.image_slots[:, :0]
    return Side(like.embeds[:, :0], (cos[:, :0], sin[:, :0]), None, slots, like.state_slots, None, None)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as what is added to scores: SDPA would convert it in every layer."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))


def fill(side: Side, images: Tensor, state: Tensor | None) -> Tensor:
    """Input embeddings [B, L, H]: image features [B, n, H] and state [B, H] put into their slots."""
    embeds = side.embeds.scatter(1, _index(side.image_slots, images), images.to(side.embeds.dtype))
    if state is not None:
        state = state[:, None].to(embeds.dtype)
        embeds = embeds.scatter(1, _index(side.state_slots[:, None], state), state)
    return embeds


def _index(slots: Tensor, like: Tensor) -> Tensor:
    return slots[..., None].expand(-1, -1, like.shape[-1])


def run_layers(
    vlm: Any,
    side: Side,
    x: Tensor,
    cache: Any,
    layers: range,
    deepstack: list[Tensor] | None = None,
    recompute: bool = False,
) -> Tensor:
    """Hidden states [B, L, H] after the given layers. deepstack: features [B, n, H], one per first layer;
    recompute: what is inside a layer is computed again for the backward pass, not kept."""
    decoder = vlm.model.language_model.layers
    for i in layers:

        def layer(x: Tensor, at: Any = decoder[i]) -> Tensor:
            out: Tensor = at(
                x, attention_mask=side.mask, position_embeddings=side.rotary, past_key_values=cache
            )
            return out

        x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
        if deepstack and i < len(deepstack):
            added = deepstack[i].to(x.dtype)
            x = x.scatter_add(1, _index(side.image_slots, added), added)
    return x


def wanted(vlm: Any, side: Side, x: Tensor) -> Tensor:
    """States after any layer past the final norm, for the rows that are wanted: [B, K or L, H]."""
    if side.rows is not None:
        x = x.gather(1, _index(side.rows, x))
    normed: Tensor = vlm.model.language_model.norm(x)
    return normed


def finish(vlm: Any, side: Side, x: Tensor, cache: Any, last: int, deepstack: list[Tensor]) -> Tensor:
    """Layer `last` and the final norm, for the rows that are wanted: [B, K or L, H]."""
    text = vlm.model.language_model
    if side.rows is None or last < len(deepstack):
        return wanted(vlm, side, run_layers(vlm, side, x, cache, range(last, last + 1), deepstack))
    normed: Tensor = text.norm(_layer_at_rows(text.layers[last], side, x, cache))
    return normed


def remember_keys_values(layer: Any, side: Side, x: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
    """Only what a layer tells its cache; its attention and MLP would be thrown away."""
    attention = layer.self_attn
    keys, values = _keys_values(attention, layer.input_layernorm(x), side.rotary)
    return cache.update(keys, values, attention.layer_idx)


def _keys_values(attention: Any, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    keys = _heads(attention, attention.k_proj(x), "k_norm")
    return _rotate(keys, *rotary), _heads(attention, attention.v_proj(x), "")


def _heads(attention: Any, x: Tensor, norm: str) -> Tensor:
    """[B, L, heads * d] -> [B, heads, L, d], normalised per head where the family does so (Qwen3)."""
    x = x.view(*x.shape[:2], -1, attention.head_dim)
    if norm and hasattr(attention, norm):
        x = getattr(attention, norm)(x)
    return x.transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the rotate-half convention; cos and sin [B, L, d]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


def _layer_at_rows(layer: Any, side: Side, x: Tensor, cache: Any) -> Tensor:
    """A decoder layer with queries, MLP and output for `side.rows` only; keys and values for all rows."""
    assert side.rows is not None and side.mask is not None
    attention = layer.self_attn
    h = layer.input_layernorm(x)
    keys, values = cache.update(*_keys_values(attention, h, side.rotary), attention.layer_idx)
    cos, sin = (t.gather(1, _index(side.rows, t)) for t in side.rotary)
    picked = h.gather(1, _index(side.rows, h))
    queries = _rotate(_heads(attention, attention.q_proj(picked), "q_norm"), cos, sin)
    mask = side.mask.expand(len(x), -1, -1, -1)
    mask = mask.gather(2, side.rows[:, None, :, None].expand(-1, 1, -1, mask.shape[3]))
    attended, _ = masked_attention(attention, queries, keys, values, mask, scaling=attention.scaling)
    x = x.gather(1, _index(side.rows, x)) + attention.o_proj(attended.flatten(2))
    return x + layer.mlp(layer.post_attention_layernorm(x))
