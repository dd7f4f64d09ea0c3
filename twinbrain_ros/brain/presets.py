"""Named sizes of twins. A preset is a whole `TwinBrainConfig` for a robot; only weights are missing.

Dimensions are those of the published config.json files of Qwen3-VL and Qwen2.5-VL (Instruct) and of the
published action head (DiT-B).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from twinbrain_ros.brain.config import (
    QUERIES,
    STATE_TOKEN,
    ActionConfig,
    CameraInput,
    CheckpointError,
    ExpertConfig,
    TwinBrainConfig,
)
from twinbrain_ros.resources import demo_checkpoint

QWEN3_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
DIT_B = ExpertConfig(
    width=768,
    heads=12,
    layers=16,
    ff_mult=4,
    future_tokens=32,
    denoise_steps=4,
    prediction="velocity",
    output_width=2560,
    decoder_width=1024,
    time_frequency_shift=1,
)
EXPERTS = {
    "dit_b": DIT_B,
    "dit_l": dataclasses.replace(DIT_B, width=1536, heads=32),
    "small": ExpertConfig(prediction="velocity"),
}
# Means and deviations of CLIP, which Qwen2.5-VL's tower is used to.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Prompts of the published code.
QUERY_PROMPT = "Instruction: {instruction}\nAction Query: " + QUERIES
STATE_PROMPT = "state " + STATE_TOKEN + " {instruction}"
QWEN2_5_SYSTEM = "You are a helpful assistant."


def _qwen3(
    text: dict[str, Any], vision: dict[str, Any], tied: bool = True, vocabulary: int = 151936
) -> dict[str, Any]:
    text = {
        "vocab_size": vocabulary,
        "head_dim": 128,
        "num_key_value_heads": 8,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    } | text
    vision = {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": text["hidden_size"],
        "deepstack_visual_indexes": [5, 11, 17],
    } | vision
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": text,
        "vision_config": vision,
        **QWEN3_TOKENS,
    }


def _qwen3_text(hidden: int, layers: int, heads: int, ff: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": ff,
    }


QWEN2_5_VL_3B: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": True,
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": 2048,
    },
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}

VLMS: dict[str, dict[str, Any]] = {
    "qwen3_vl_2b": _qwen3(_qwen3_text(2048, 28, 16, 6144), {}),
    "qwen3_vl_4b": _qwen3(_qwen3_text(2560, 36, 32, 9728), {}),
    "qwen3_vl_8b": _qwen3(
        _qwen3_text(4096, 36, 32, 12288),
        {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        tied=False,
    ),
    "qwen2_5_vl_3b": QWEN2_5_VL_3B,
    # Large enough to time on a CPU, small enough to wait for.
    "mid": _qwen3(
        _qwen3_text(1024, 12, 16, 3072)
        | {
            "head_dim": 64,
            "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        {
            "depth": 8,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_heads": 8,
            "deepstack_visual_indexes": [2, 4, 6],
        },
        vocabulary=32000,
    )
    | {"image_token_id": 31655, "video_token_id": 31656}
    | {"vision_start_token_id": 31652, "vision_end_token_id": 31653},
}
DEMO = "demo"
NAMES = (*VLMS, DEMO)

# The actions and the state of an arm that is driven by its tool, as the shipped robot file has them.
STATE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
ACTION = ActionConfig(
    "ee_delta", "observation", ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"), 16, 0.2
)


def preset(
    name: str, cameras: tuple[str, ...] = ("front",), conditioning: str = "hidden_states"
) -> TwinBrainConfig:
    """The config of a preset, for the named cameras. Raises CheckpointError for an unknown name."""
    if name == DEMO:
        return TwinBrainConfig.load(demo_checkpoint())
    if name not in VLMS:
        raise CheckpointError(f"preset: found {name!r}, expected one of {list(NAMES)}")
    return twin_config(VLMS[name], "wx250s", cameras, STATE, ACTION, conditioning)


def config_of(preset_or_file: str) -> TwinBrainConfig:
    """The config of a preset's name, of a config.json or of the folder that holds one.

    Raises CheckpointError if it is neither.
    """
    path = Path(preset_or_file)
    if preset_or_file in NAMES:
        return preset(preset_or_file)
    if path.is_dir():
        return TwinBrainConfig.load(path)
    if path.is_file():
        return TwinBrainConfig.read(path)
    raise CheckpointError(f"config: found {preset_or_file!r}, expected a file or one of {list(NAMES)}")


def twin_config(
    vlm: dict[str, Any],
    robot: str,
    cameras: tuple[str, ...],
    state_names: tuple[str, ...],
    action: ActionConfig,
    conditioning: str = "hidden_states",
) -> TwinBrainConfig:
    """A twin of a VLM: views of 256 pixels (252 for patches of 14), published prompts, all layers joint."""
    vision = vlm["vision_config"]
    factor = vision["patch_size"] * vision["spatial_merge_size"]
    side = 256 // factor * factor
    asks = conditioning == "action_queries"
    qwen2_5 = vlm["model_type"] == "qwen2_5_vl"
    system = QWEN2_5_SYSTEM if qwen2_5 else None
    return TwinBrainConfig(
        vlm=vlm,
        robot=robot,
        cameras=tuple(CameraInput(n, side, side) for n in cameras),
        left_cameras=cameras,
        state_names=state_names,
        action=action,
        expert=DIT_B,
        state_hidden=1024,
        conditioning=conditioning,
        query_tokens=8 if asks else 0,
        right_prompt=QUERY_PROMPT if asks else STATE_PROMPT if state_names else "{instruction}",
        left_system=system,
        right_system=system,
        image_mean=CLIP_MEAN if qwen2_5 else (0.5, 0.5, 0.5),
        image_std=CLIP_STD if qwen2_5 else (0.5, 0.5, 0.5),
    )
