"""A vision tower driven block by block, with all that follows from the images' size computed once.

The stock forward pass reads sizes back from the device several times per block. Here the stock blocks,
mergers and embeddings run on constants of the grid (`VisionPlan`), so that nothing is read in the hot path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

MASK_ALIGNMENT = 8  # values, as of aten/src/ATen/native/transformers/attention.cpp, preprocess_mask


@dataclass(frozen=True)
class Segments:
    """Which patches see each other: runs of `length`, inside of which `mask` [length, length], in the tower's
    type, is added to the scores."""

    length: int
    mask: Tensor | None = None


@dataclass(frozen=True)
class VisionPlan:
    """What follows from the grids of N equal images alone.

    rotary: cos and sin [N * patches, head width]; interpolation: indices and weights [patches, taps] of one
    image into the learned position table (Qwen3-VL); order, restore: merged tokens of one image into windows
    and back (Qwen2.5-VL); bounds: where images begin, int32 [N + 1].
    """

    images: int
    bounds: Tensor
    rotary: tuple[Tensor, Tensor]
    whole: Segments
    window: Segments
    interpolation: tuple[Tensor, Tensor] | None = None
    order: Tensor | None = None
    restore: Tensor | None = None


def plan_vision(visual: Any, rows: int, columns: int, images: int, device: torch.device) -> VisionPlan:
    """The plan of a tower for `images` images of rows x columns patches."""
    with torch.inference_mode(False), torch.no_grad():
        config, merge = visual.config, visual.config.spatial_merge_size
        grid, patches = torch.tensor([[1, rows, columns]]), rows * columns
        positions = get_vision_position_ids(grid, merge).to(device)
        rotary = visual.rotary_pos_emb(torch.empty(0, device=device), positions)
        whole = window = Segments(patches)
        interpolation = order = restore = None
        if hasattr(visual, "pos_embed"):
            taps = get_vision_interpolation_indices_and_weights(
                grid,
                num_grid_per_side=visual.num_grid_per_side,
                mode="bilinear",
                align_corners=True,
                spatial_merge_size=merge,
            )
            interpolation = tuple(t.to(device) for t in taps)
        if hasattr(config, "window_size"):
            index, bounds = get_vision_window_index(grid, merge, config.window_size, config.patch_size)
            order, restore = index.to(device), index.argsort().to(device)
            rotary = tuple(_reorder(x, order, 1, merge) for x in rotary)
            window = _segments(bounds.diff().tolist(), device, visual.dtype)
        return VisionPlan(
            images,
            (torch.arange(images + 1, dtype=torch.int32) * patches).to(device),
            tuple(x.repeat(images, 1) for x in rotary),
            whole,
            window,
            interpolation,  # type: ignore[arg-type]
            order,
            restore,
        )


class VisionPlans:
    """Plans of towers of one architecture, each made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, int, torch.device, torch.dtype], VisionPlan] = {}

    def __call__(self, visual: Any, rows: int, columns: int, images: int, device: torch.device) -> VisionPlan:
        """As `plan_vision`."""
        key = (rows, columns, images, device, visual.dtype)
        if key not in self._made:
            plan = plan_vision(visual, rows, columns, images, device)
            # The first one stays: another thread may come here too, and graphs read from it.
            self._made.setdefault(key, plan)
        return self._made[key]


def _segments(lengths: list[int], device: torch.device, dtype: torch.dtype) -> Segments:
    """Equal runs as such; unequal ones (windows at an image's edge) as a mask over the whole image."""
    if len(set(lengths)) == 1:
        return Segments(lengths[0])
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    whole = sum(lengths)
    # CUDA's kernels take rows that begin at multiples of 8; of others each call would make a copy.
    rows = torch.zeros(whole, -(-whole // MASK_ALIGNMENT) * MASK_ALIGNMENT, dtype=dtype)
    rows[:, :whole].masked_fill_(owner[:, None] != owner[None, :], float("-inf"))
    return Segments(whole, rows.to(device)[:, :whole])


def _reorder(x: Tensor, order: Tensor, images: int, merge: int) -> Tensor:
    """Patches [N * patches, C] with the merged tokens of each image in the given order."""
    return x.view(images, len(order), merge * merge, -1).index_select(1, order).view(x.shape)


def vision_features(
    visual: Any, patches: Tensor, plan: VisionPlan, deepstack: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Merged image features [N, tokens, H], and the deepstack features (one [N, tokens, H] per layer).

    patches: [N * patches, 3 * patch * patch] as of `patchify`. Without `deepstack`, or where the tower has
    none, the list is empty and the mergers do not run.
    """
    merge = visual.config.spatial_merge_size
    x = _embed_patches(visual, patches)
    if plan.interpolation is not None:
        indices, weights = plan.interpolation
        table = (weights[:, None].to(x.dtype) @ visual.pos_embed(indices))[:, 0]  # the same for each image
        x = (x.view(plan.images, *table.shape) + table).view(x.shape)
    if plan.order is not None:
        x = _reorder(x, plan.order, plan.images, merge)
    tapped = list(getattr(visual, "deepstack_visual_indexes", ())) if deepstack else []
    full = getattr(visual, "fullatt_block_indexes", None)
    extra = []
    for i, block in enumerate(visual.blocks):
        segments = plan.whole if full is None or i in full else plan.window
        x = block(
            x,
            cu_seqlens=plan.bounds,
            max_seqlen=segments.length,
            position_embeddings=plan.rotary,
            segment_mask=segments.mask,
        )
        if i in tapped:
            extra.append(visual.deepstack_merger_list[tapped.index(i)](x))
    features = visual.merger(x).view(plan.images, -1, visual.config.out_hidden_size)
    if plan.restore is not None:
        features = features.index_select(1, plan.restore)
    return features, [e.view(features.shape) for e in extra]


def _embed_patches(visual: Any, patches: Tensor) -> Tensor:
    """The stock 3-D convolution as one product; a still image's frames are equal, so their weights add up."""
    projection = visual.patch_embed.proj
    weight = projection.weight
    if weight.shape[2] > 1:
        weight = weight.sum(2, dtype=torch.float32)
    weight = weight.reshape(weight.shape[0], -1).to(projection.weight.dtype)
    return F.linear(patches.to(weight.dtype), weight, projection.bias)
