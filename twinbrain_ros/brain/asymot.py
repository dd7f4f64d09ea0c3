"""AsyMoT as a KV cache (TwinBrainVLA, section 3: asymmetric mixture of transformers).

The left brain runs first and every layer's keys and values are kept. The right brain then runs with them
as its past: at a joint layer its queries see [left ; right], at other layers only the right brain's own
tokens. Nothing of transformers is patched: the attention layers only ever call `cache.update(...)`, and
the attention itself is a registered function. The left brain runs without gradients, so none can flow
past the seam (unless a config wants it trained).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache

TEXT_ATTENTION = "twinbrain_masked"
# The vision towers of transformers hand over whole batches only to functions with "flash" in their name;
# with any other name they split by image on the host, which costs a loop per layer.
VISION_ATTENTION = "twinbrain_flash_segments"


def is_joint_layer(layer: int, interaction_interval: int) -> bool:
    """Every (k+1)-th layer is joint, counted so that layer 0 is one."""
    return layer % (interaction_interval + 1) == 0


class LeftMemory(Cache):
    """Records the left brain's keys and values, one pair [B, heads, L_left, d] per layer."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.pairs[layer_idx] = (key_states, value_states)
        return key_states, value_states


class JointCache(Cache):
    """The left brain's memory as the right brain's past: [left ; right] at joint layers; None: no past."""

    def __init__(self, left: LeftMemory | None, interaction_interval: int = 0) -> None:
        super().__init__(layers=[])
        self.left = left
        self.interaction_interval = interaction_interval

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.left is None or not is_joint_layer(layer_idx, self.interaction_interval):
            return key_states, value_states
        left_keys, left_values = self.left.pairs[layer_idx]
        return torch.cat([left_keys, key_states], dim=2), torch.cat([left_values, value_states], dim=2)


def last_joint_layer(layers: int, interaction_interval: int) -> int:
    """The last joint one of the first `layers` layers: beyond it the left brain has nothing to tell."""
    return (layers - 1) // (interaction_interval + 1) * (interaction_interval + 1)


def causal_mask(valid: Tensor) -> Tensor:
    """Causal mask over a padded sequence. valid: bool [B, L]; returns bool [B, 1, L, L].

    The diagonal stays visible, so that rows of padding have something to attend to and stay finite.
    """
    length = valid.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    eye = torch.eye(length, dtype=torch.bool, device=valid.device)
    return ((causal & valid[:, None, :]) | eye)[:, None]


def joint_mask(left_valid: Tensor, right_valid: Tensor, visibility: str = "full") -> Tensor:
    """What right queries see: left tokens as `TwinBrainConfig.left_visibility` says, and the own past.

    left_valid: bool [B, Ll], right_valid: bool [B, Lr]; returns bool [B, 1, Lr, Ll + Lr].
    """
    length = right_valid.shape[1]
    left = left_valid[:, None, None, :].expand(-1, 1, length, -1)
    if visibility == "index_causal":
        row = torch.arange(length, device=left.device)[:, None]
        column = torch.arange(left_valid.shape[1], device=left.device)[None, :]
        beyond = row >= left_valid.sum(1)[:, None, None]
        left = left & ((column <= row) | beyond)[:, None]
    return torch.cat([left, causal_mask(right_valid)], dim=3)


def masked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA with a mask whose last columns belong to the keys given.

    One mask serves all layers: where a layer is not joint its keys are the right brain's alone, and the
    mask's left part is dropped here.
    """
    mask = None if attention_mask is None else attention_mask[..., -key.shape[2] :]
    if mask is not None and query.is_cuda and not _shares_heads(query, key, value, mask, dropout):
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None and query.shape[2] > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous(), None


def _shares_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> bool:
    """Whether the GPU kernel that takes a mask takes these heads too: where several queries share keys and
    values not every version's does, and SDPA would fall back to its slowest."""
    if query.shape[1] == key.shape[1]:
        return True
    asked = torch.backends.cuda.SDPAParams(query, key, value, mask, dropout, False, True)
    return torch.backends.cuda.can_use_efficient_attention(asked)


def _segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    max_length_q: int | None = None,
    segment_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention inside equal segments (images, windows) of a packed sequence [1, heads, N, d].

    segment_mask: [length, length], added to the scores inside each segment; None: everything is seen.
    """
    _, heads, total, dim = query.shape
    length = total if max_length_q is None else int(max_length_q)
    if total % length:
        raise ValueError(f"vision segments must be of equal size: {total} patches, segments of {length}")

    def split(x: Tensor) -> Tensor:
        return x.view(heads, total // length, length, dim).transpose(0, 1)

    out = F.scaled_dot_product_attention(
        split(query), split(key), split(value), segment_mask, dropout_p=dropout, scale=scaling
    )
    return out.transpose(1, 2).reshape(1, total, heads, dim), None


AttentionInterface.register(TEXT_ATTENTION, masked_attention)
AttentionInterface.register(VISION_ATTENTION, _segment_attention)
