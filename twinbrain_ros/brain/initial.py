"""A twin from a pretrained VLM: both brains the same weights, everything else fresh."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from twinbrain_ros.brain.checkpoint import (
    WeightsWriter,
    is_stored,
    meta_twin,
    refuse,
    stream_tensors,
    weight_files,
)
from twinbrain_ros.brain.config import QUERY_TOKEN, STATE_TOKEN, TwinBrainConfig
from twinbrain_ros.brain.expert import ActionExpert
from twinbrain_ros.brain.pretrained import BaseVlm, weights_folder
from twinbrain_ros.brain.twin import state_encoder

EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"
# How files of Qwen2.5-VL name their parts.
OLD_NAMES = {
    "visual.": "model.visual.",
    "model.layers.": "model.language_model.layers.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.norm.": "model.language_model.norm.",
}


def with_vocabulary(config: TwinBrainConfig, base: BaseVlm) -> TwinBrainConfig:
    """The config with as many rows in the right vocabulary as its special tokens need.

    Published vocabularies are padded, and the special tokens usually fit in.
    """
    rows = max(base.vocab_size, len(base.tokenizer))
    return dataclasses.replace(config, right_vocab_size=None if rows == base.vocab_size else rows)


def initialize(base: str, vlm: BaseVlm, config: TwinBrainConfig, out: Path, seed: int = 0) -> None:
    """Writes the checkpoint of a fresh twin; it has no statistics until it is trained.

    The base VLM's tensors are streamed, once for each brain. The state encoder and the expert are drawn from
    the seed. Raises CheckpointError if the base VLM's tensors are not those of its config.
    """
    files = weight_files(weights_folder(base))
    twin = dataclasses.replace(config, left_brain="frozen")  # whose left brain is the base VLM as it is
    sides = ("right.",) if config.left_brain == "none" else ("left.", "right.")
    expected = {
        n.removeprefix("left."): tuple(p.shape)
        for n, p in meta_twin(twin).named_parameters()
        if n.startswith("left.") and is_stored(n, config)
    }
    out.mkdir(parents=True, exist_ok=True)
    with WeightsWriter(out) as writer:
        for side in sides:
            found = set()
            for name, tensor in _base_tensors(files, config):
                if name in expected and tuple(tensor.shape) != expected[name]:
                    refuse(files[0].parent, [_misshapen(name, tensor, expected[name])])
                found.add(name)
                writer.add(side + name, _extended(name, tensor, vlm, config) if side == "right." else tensor)
            refuse(
                files[0].parent,
                [f"missing tensor {n}" for n in expected if n not in found]
                + [f"unexpected tensor {n}" for n in sorted(found) if n not in expected],
            )
        for name, tensor in _fresh(config, seed):
            writer.add(name, tensor)
    config.save(out)
    vlm.tokenizer.save_pretrained(out)


def _misshapen(name: str, tensor: Tensor, expected: tuple[int, ...]) -> str:
    return f"tensor {name}: found shape {tuple(tensor.shape)}, expected {expected}"


def _base_tensors(files: list[Path], config: TwinBrainConfig) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in stream_tensors(files):
        name = in_module(name)
        if is_stored(name, config):
            yield name, tensor


def in_module(name: str) -> str:
    """The name that a tensor of a base VLM's file has in the module."""
    for old, new in OLD_NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _extended(name: str, tensor: Tensor, vlm: BaseVlm, config: TwinBrainConfig) -> Tensor:
    """The right vocabulary: new rows at its end, and the special tokens start from the mean of all words."""
    if name not in (EMBEDDING, HEAD):
        return tensor
    rows = config.right_vocab_size or len(tensor)
    mean = tensor[: len(vlm.tokenizer) - 2].float().mean(0).to(tensor.dtype)
    tensor = torch.cat([tensor, mean.expand(rows - len(tensor), -1)])
    for token in (STATE_TOKEN, QUERY_TOKEN):
        if token in vlm.added:
            tensor[vlm.tokenizer.convert_tokens_to_ids(token)] = mean
    return tensor


def _fresh(config: TwinBrainConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    hidden = config.vlm["text_config"]["hidden_size"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = state_encoder(config, hidden)
        expert = ActionExpert(config.expert, hidden, config.action.horizon, len(config.action.names))
    for prefix, module in (("state_encoder.", encoder), ("expert.", expert)):
        for name, tensor in () if module is None else module.state_dict().items():
            yield prefix + name, tensor
