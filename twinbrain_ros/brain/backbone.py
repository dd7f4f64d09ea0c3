"""One brain: a stock transformers VLM, driven through its vision tower and its decoder layers."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PretrainedConfig
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from twinbrain_ros.brain import asymot
from twinbrain_ros.brain.preprocess import PatchLayout
from twinbrain_ros.brain.prompt import PromptBatch


def patch_layout(config: PretrainedConfig) -> PatchLayout:
    vision: Any = config.vision_config
    return PatchLayout(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)


def build_vlm(config: PretrainedConfig) -> Any:
    """A VLM of this configuration with fresh weights, on our registered attention functions."""
    # A copy, because setting the attention writes into the config and a flash name in it cannot be built.
    vlm = AutoModelForImageTextToText.from_config(copy.deepcopy(config))
    vlm.set_attn_implementation(
        {"vision_config": asymot.VISION_ATTENTION, "text_config": asymot.TEXT_ATTENTION}
    )
    return vlm


@lru_cache(maxsize=16)
def _vision_constants(rows: int, columns: int, side: int, merge: int) -> dict[str, Tensor]:
    """What the tower derives from an image's grid alone; fixed cameras make it a constant."""
    grid = torch.tensor([[1, rows, columns]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=side, mode="bilinear", align_corners=True, spatial_merge_size=merge
    )
    return {
        "interp_indices": indices,
        "interp_weights": weights,
        "position_ids": get_vision_position_ids(grid, merge),
    }


def vision_features(vlm: Any, patches: Tensor, rows: int, columns: int) -> Tensor:
    """Merged image features [N, tokens, H] of N equal images given as patches [N*rows*columns, features]."""
    visual = vlm.model.visual
    count = patches.shape[0] // (rows * columns)
    device = patches.device
    constants = _vision_constants(rows, columns, visual.num_grid_per_side, visual.spatial_merge_size)
    out = visual(
        patches,
        grid_thw=torch.tensor([[1, rows, columns]], device=device).expand(count, 3),
        cu_seqlens=torch.arange(count + 1, device=device, dtype=torch.int32) * (rows * columns),
        max_seqlen=rows * columns,
        **{k: v.to(device).repeat(count, *([1] * (v.dim() - 1))) for k, v in constants.items()},
    )
    return out.pooler_output.view(count, -1, out.pooler_output.shape[-1])


def embed_prompts(vlm: Any, prompts: PromptBatch, image_features: Tensor, state: Tensor | None) -> Tensor:
    """Input embeddings [B, L, H]: tokens, with image features [B, n, H] and state [B, H] in their slots."""
    embeds = vlm.get_input_embeddings()(prompts.ids).to(image_features.dtype)
    slots = prompts.image_slots[..., None].expand(-1, -1, embeds.shape[-1])
    embeds = embeds.scatter(1, slots, image_features)
    if state is not None:
        slot = prompts.state_slots[:, None, None].expand(-1, 1, embeds.shape[-1])
        embeds = embeds.scatter(1, slot, state[:, None].to(embeds.dtype))
    return embeds


def decode(vlm: Any, embeds: Tensor, positions: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
    """Final hidden states [B, L, H] of the decoder, given everything that could be data-dependent."""
    return _run_decoder(vlm, embeds, positions, mask, cache).last_hidden_state


def decode_layers(vlm: Any, embeds: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Hidden states [B, L, H] after the embedding and after each decoder layer, the final ones last."""
    return _run_decoder(vlm, embeds, positions, mask, None, output_hidden_states=True).hidden_states


def _run_decoder(vlm: Any, embeds: Tensor, positions: Tensor, mask: Tensor, cache: Any, **more: Any) -> Any:
    return vlm.model.language_model(
        inputs_embeds=embeds,
        position_ids=positions,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
        **more,
    )
