"""One brain: a stock transformers VLM of the Qwen3-VL or Qwen2.5-VL family."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PretrainedConfig

from twinbrain_ros.brain import asymot
from twinbrain_ros.brain.preprocess import PatchLayout


def patch_layout(
    config: PretrainedConfig,
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
    std: tuple[float, float, float] = (0.5, 0.5, 0.5),
) -> PatchLayout:
    vision: Any = config.vision_config
    return PatchLayout(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, mean, std)


def build_vlm(config: PretrainedConfig) -> Any:
    """A VLM of this configuration with fresh weights, on our registered attention functions."""
    # A copy, because setting the attention writes into the config and a flash name in it cannot be built.
    vlm = AutoModelForImageTextToText.from_config(copy.deepcopy(config))
    vlm.set_attn_implementation(
        {"vision_config": asymot.VISION_ATTENTION, "text_config": asymot.TEXT_ATTENTION}
    )
    return vlm


def materialize(module: torch.nn.Module, fresh: torch.nn.Module, device: torch.device) -> None:
    """Gives a module built on the meta device memory, and its buffers the values of `fresh`.

    fresh: a smaller module of the same kind, whose buffers (rotary frequencies) depend on neither depth nor
    vocabulary. Parameters stay uninitialised.
    """
    module.to_empty(device=device)
    values = dict(fresh.named_buffers())
    for name, buffer in module.named_buffers():
        buffer.copy_(values[name])
