"""A base VLM as transformers runs it: what a brain that has forgotten nothing answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig

from twinbrain_ros.brain import backbone
from twinbrain_ros.brain.checkpoint import (
    is_stored,
    open_weights,
    weight_files,
)
from twinbrain_ros.brain.config import CheckpointError, CheckpointMismatch, TwinBrainConfig
from twinbrain_ros.brain.devices import find_device, settle
from twinbrain_ros.brain.generalist import Answer, end_ids
from twinbrain_ros.brain.initial import in_module
from twinbrain_ros.brain.memory import Needs, memory_of
from twinbrain_ros.brain.policy import DTYPES
from twinbrain_ros.brain.preprocess import patchify, with_frames
from twinbrain_ros.brain.pretrained import BaseVlm, weights_folder
from twinbrain_ros.brain.query import Query

LEFT = "left."


class StockVlm:
    """transformers' own model and generation loop on a base VLM's folder; nothing of our decoder runs.

    It always says its likeliest token, whatever the folder's generation_config.json says. Raises
    CheckpointError for weights that transformers cannot load, or that do not fit.
    """

    def __init__(self, path_or_hub_id: str, base: BaseVlm, device: str, dtype: str) -> None:
        files, place = weight_files(weights_folder(path_or_hub_id)), find_device(device)
        settle(place)
        Needs(place, DTYPES[dtype], _parameters(files)).check(memory_of(place)[0])
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(
                weights_folder(path_or_hub_id), dtype=DTYPES[dtype], attn_implementation="sdpa"
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path_or_hub_id}: transformers cannot load it: {error}") from error
        self._model = model.to(place).eval()
        # In place of the folder's: it would fill in what is not said here, as penalties on repeated words.
        self._model.generation_config = GenerationConfig()
        self._tokenizer = base.tokenizer
        self._layout = backbone.patch_layout(self._model.config, base.images.mean, base.images.std)
        self._image_id = int(base.vlm["image_token_id"])
        self._ends = end_ids(base.tokenizer)

    @torch.inference_mode()
    def ask_batch(self, queries: Sequence[Query], max_tokens: int) -> list[Answer]:
        """What it answers to each, without margins; prompts are padded at their start, as transformers wants
        them."""
        device = self._model.device
        images = [image for query in queries for image in query.pixels]
        ids, mask = self._padded([query.prompt.ids for query in queries])
        said = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            pixel_values=torch.cat([self._patches(image) for image in images]).to(device),
            image_grid_thw=torch.tensor(
                [[1, *self._layout.grid(*i.shape[:2])] for i in images], device=device
            ),
            mm_token_type_ids=(ids == self._image_id).long().to(device),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=sorted(self._ends),
            pad_token_id=self._tokenizer.pad_token_id or 0,
        )
        return [self._answer(row) for row in said[:, ids.shape[1] :].tolist()]

    def _padded(self, prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, L]."""
        length = max(len(ids) for ids in prompts)
        pad = self._tokenizer.pad_token_id or 0
        ids = torch.stack([F.pad(one, (length - len(one), 0), value=pad) for one in prompts])
        mask = torch.stack([F.pad(torch.ones_like(one), (length - len(one), 0)) for one in prompts])
        return ids, mask

    def _patches(self, image: Tensor) -> Tensor:
        return with_frames(patchify(image[None], self._layout), self._layout)

    def _answer(self, tokens: list[int]) -> Answer:
        ended = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        said = tokens[:ended]
        return Answer(str(self._tokenizer.decode(said, skip_special_tokens=True)), said, ended is not None)


def check_same_vlm(config: TwinBrainConfig, base: BaseVlm, name: str) -> None:
    """Refuses a base VLM that this twin's left brain was not made from: its architecture, how it sees images,
    or what is said before the user speaks. Raises CheckpointMismatch naming every difference."""
    pairs: list[tuple[str, Any, Any]] = [
        ("model_type", config.vlm.get("model_type"), base.vlm["model_type"]),
        ("image_token_id", config.vlm.get("image_token_id"), base.vlm["image_token_id"]),
        ("image_mean", list(config.image_mean), list(base.images.mean)),
        ("image_std", list(config.image_std), list(base.images.std)),
        ("system", config.left_system, base.system),
    ]
    for part in ("text_config", "vision_config"):
        mine, theirs = config.vlm.get(part) or {}, base.vlm[part]
        # Other versions of transformers write other keys; what both say has to agree.
        pairs += [(f"{part}.{key}", mine[key], theirs[key]) for key in sorted(mine.keys() & theirs.keys())]
    wrong = [f"{what}: checkpoint {a!r}, VLM {b!r}" for what, a, b in pairs if a != b]
    if wrong:
        raise CheckpointMismatch(
            f"{name}: not the VLM that this checkpoint was made from: {'; '.join(wrong)}"
        )


def equal_weights(checkpoint: Path, config: TwinBrainConfig, path_or_hub_id: str) -> tuple[list[str], int]:
    """Which of a base VLM's tensors a checkpoint's left brain does not have bit for bit, and their number.

    The checkpoint may hold them in a wider type. One tensor of each is read at a time.
    """
    mine = {name: tensor for name, tensor in _lazy(weight_files(checkpoint)) if name.startswith(LEFT)}
    differing, count = [], 0
    for name, read in _lazy(weight_files(weights_folder(path_or_hub_id))):
        name = in_module(name)
        if not is_stored(name, config):
            continue
        count += 1
        own = mine.get(LEFT + name)
        if own is None or not torch.equal(own().float(), read().float()):
            differing.append(name)
    return differing, count


def _parameters(files: list[Path]) -> int:
    """How many numbers files hold, from their headers."""
    count = 0
    for path in files:
        with open_weights(path) as weights:
            names = list(weights.keys())
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    return count


def _lazy(files: list[Path]) -> Iterator[tuple[str, Any]]:
    """Names of tensors, and for each a function that reads it."""
    for path in files:
        weights = open_weights(path)
        for name in weights.keys():  # noqa: SIM118 - not a mapping
            yield name, lambda weights=weights, name=name: weights.get_tensor(name)
