"""A base VLM's folder (or hub id): architecture, tokenizer, chat format and image processing of a brain."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer

from twinbrain_ros.brain.config import (
    FAMILIES,
    IMAGE_TOKEN,
    QUERY_TOKEN,
    STATE_TOKEN,
    VISION_END,
    VISION_START,
    CheckpointError,
)
from twinbrain_ros.brain.presets import CLIP_MEAN, CLIP_STD, QWEN2_5_SYSTEM

# Of a transformers config, what a brain is built from; the rest is where it came from and how it is served.
VLM_KEYS = (
    "model_type",
    "tie_word_embeddings",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)
# Of its parts, what says nothing about the computation.
DROPPED = (
    *("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path", "use_cache"),
    *("output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward"),
    *("is_encoder_decoder", "id2label", "label2id", "problem_type"),
)
PROBE = "twinbrain"  # stands for the user's words when a chat template is looked at
USER, ANSWER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
SYSTEM, SYSTEM_END = "<|im_start|>system\n", "<|im_end|>\n"


@dataclass(frozen=True)
class ImageRules:
    """How a Qwen processor brings images to patches: means, deviations, least and most pixels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pixel_limits: tuple[int, int]


# What the published processors say; used where a folder has no preprocessor_config.json.
IMAGE_RULES = {
    "qwen3_vl": ImageRules((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (65536, 16777216)),
    "qwen2_5_vl": ImageRules(CLIP_MEAN, CLIP_STD, (3136, 12845056)),
}


@dataclass(frozen=True)
class BaseVlm:
    """A base VLM without its weights.

    vlm: the transformers config as plain data; tokenizer: with the special tokens of the right brain; added:
    those that it did not have; system: what the chat format says before the user does, None for nothing.
    """

    folder: Path | None
    vlm: dict[str, Any]
    tokenizer: Any
    added: tuple[str, ...]
    system: str | None
    images: ImageRules

    @property
    def family(self) -> str:
        return str(self.vlm["model_type"])

    @property
    def vocab_size(self) -> int:
        return int(self.vlm["text_config"]["vocab_size"])


def load_base(path_or_hub_id: str) -> BaseVlm:
    """Everything about a base VLM but its weights.

    Raises CheckpointError if it is no Qwen3-VL or Qwen2.5-VL, or its chat format is not the one we build.
    """
    folder = Path(path_or_hub_id) if Path(path_or_hub_id).is_dir() else None
    try:
        config = AutoConfig.from_pretrained(path_or_hub_id)
        if config.model_type not in FAMILIES:
            raise CheckpointError(
                f"{path_or_hub_id}: config.json: model_type: found {config.model_type!r}, "
                f"expected one of {list(FAMILIES)}"
            )
        tokenizer = AutoTokenizer.from_pretrained(path_or_hub_id)
    except (StrictDataclassError, OSError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path_or_hub_id}: not readable as a base VLM: {error}") from error
    vlm = plain_config(config)
    found = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if found != vlm["image_token_id"]:
        raise CheckpointError(
            f"{path_or_hub_id}: tokenizer: {IMAGE_TOKEN} is {found}, config.json's image_token_id is "
            f"{vlm['image_token_id']}"
        )
    template = tokenizer.chat_template or _template_beside(folder)
    tokenizer.chat_template = template
    system = _system(tokenizer, path_or_hub_id) if template else _usual(config.model_type)
    added = tuple(t for t in (STATE_TOKEN, QUERY_TOKEN) if t not in tokenizer.get_vocab())
    tokenizer.add_tokens(list(added), special_tokens=True)
    return BaseVlm(folder, vlm, tokenizer, added, system, _image_rules(path_or_hub_id, folder, vlm))


def plain_config(config: Any) -> dict[str, Any]:
    """A transformers config as the plain data that `TwinBrainConfig.vlm` holds."""
    values = config.to_dict()
    plain = {k: values[k] for k in VLM_KEYS if values.get(k) is not None}
    for part in ("text_config", "vision_config"):
        # A token id of None is a statement: the defaults are the published vocabulary's.
        plain[part] = {
            k: v
            for k, v in values[part].items()
            if k not in DROPPED and (v is not None or k.endswith("token_id"))
        }
    return plain


def _usual(family: str) -> str | None:
    return QWEN2_5_SYSTEM if family == "qwen2_5_vl" else None


def _template_beside(folder: Path | None) -> str | None:
    """The chat template where older folders keep it."""
    if folder is None or not (folder / "chat_template.json").is_file():
        return None
    return str(_json(folder / "chat_template.json").get("chat_template") or "") or None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: found {type(values).__name__}, expected an object")
    return values


def _system(tokenizer: Any, where: str) -> str | None:
    """What the template says as the system; refuses a format that our prompts would not equal."""
    content = [{"type": "image"}, {"type": "text", "text": PROBE}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    turn = f"{USER}{VISION_START}{IMAGE_TOKEN}{VISION_END}{PROBE}{ANSWER}"
    before = text.removesuffix(turn)
    if before == "":
        return None
    if before != text and before.startswith(SYSTEM) and before.endswith(SYSTEM_END):
        return str(before.removeprefix(SYSTEM).removesuffix(SYSTEM_END))
    raise CheckpointError(f"{where}: chat template: gives {text!r}, expected it to end with {turn!r}")


def _image_rules(where: str, folder: Path | None, vlm: dict[str, Any]) -> ImageRules:
    """The processor's rules, from preprocessor_config.json where there is one."""
    usual = IMAGE_RULES[vlm["model_type"]]
    path = folder / "preprocessor_config.json" if folder else _from_hub(where)
    if path is None or not path.is_file():
        return usual
    values = _json(path)
    vision = vlm["vision_config"]
    for key, theirs in (
        ("patch_size", vision["patch_size"]),
        ("merge_size", vision["spatial_merge_size"]),
        ("temporal_patch_size", vision["temporal_patch_size"]),
    ):
        if values.get(key, theirs) != theirs:
            raise CheckpointError(f"{path}: {key}: found {values[key]}, the vision tower has {theirs}")
    size = values.get("size") or {}
    # The older names win where a file has both, as in the processors.
    least = values.get("min_pixels") or size.get("shortest_edge") or usual.pixel_limits[0]
    most = values.get("max_pixels") or size.get("longest_edge") or usual.pixel_limits[1]
    mean, std = values.get("image_mean", usual.mean), values.get("image_std", usual.std)
    return ImageRules(tuple(mean), tuple(std), (int(least), int(most)))


def _from_hub(repository: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(repository, "preprocessor_config.json"))
    except (EntryNotFoundError, OSError):
        return None


def weights_folder(path_or_hub_id: str) -> Path:
    """The folder with a base VLM's safetensors, fetched from the hub if it is not on this disk."""
    if Path(path_or_hub_id).is_dir():
        return Path(path_or_hub_id)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path_or_hub_id, allow_patterns=["*.safetensors", "*.json"]))
