"""A twin small enough for tests, of the same classes as every other one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from twinbrain_ros.brain.config import (
    IMAGE_TOKEN,
    ActionConfig,
    CameraInput,
    ExpertConfig,
    Normalizer,
    TwinBrainConfig,
)
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.twin import TwinBrain
from twinbrain_ros.training.tokenizer import word_tokenizer

WORDS = ["pick", "up", "put", "the", "on", "block", "plate", "state", "red", "green", "blue", "yellow"]
STATE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
ACTION = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")


def tiny_config(
    interaction_interval: int = 0, prediction: str = "clean", images_first: bool = True
) -> TwinBrainConfig:
    tokenizer = word_tokenizer(WORDS)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    return TwinBrainConfig(
        vlm={
            "model_type": "qwen3_vl",
            "tie_word_embeddings": True,
            "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            "text_config": {
                "vocab_size": 64,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "max_position_embeddings": 256,
                "tie_word_embeddings": True,
                "rope_parameters": rope,
            },
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "patch_size": 4,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "out_hidden_size": 32,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [],
            },
        },
        robot="wx250s",
        cameras=(CameraInput("front", 32, 24), CameraInput("wrist", 16, 16)),
        left_cameras=("front",),
        state_names=STATE,
        action=ActionConfig("ee_delta", "observation", ACTION, 8, 0.2),
        expert=ExpertConfig(width=32, heads=2, layers=4, denoise_steps=3, prediction=prediction),
        state_hidden=16,
        interaction_interval=interaction_interval,
        images_first=images_first,
        action_statistics=Normalizer((0.1,) * 7, (0.5,) * 7),
        state_statistics=Normalizer((0.2,) * 7, (2.0,) * 7),
    )


def tiny_policy(seed: int = 0, **options: object) -> TwinBrainPolicy:
    return random_policy(tiny_config(**options), word_tokenizer(WORDS), seed)  # type: ignore[arg-type]


def random_policy(config: TwinBrainConfig, tokenizer: Any, seed: int = 0) -> TwinBrainPolicy:
    """A policy whose random weights are large enough for everything to matter."""
    torch.manual_seed(seed)
    model = TwinBrain(config)
    with torch.no_grad():  # transformers' default init is so small that brains would hardly matter
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.2)
    return TwinBrainPolicy(model, tokenizer)


def views(seed: int = 0, config: TwinBrainConfig | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    cameras = (config or tiny_config()).cameras
    return {c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in cameras}
