"""A question about images as the tokens and pixels that a VLM reads; no weights are needed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twinbrain_ros.brain import backbone
from twinbrain_ros.brain.config import CameraInput, TwinBrainConfig
from twinbrain_ros.brain.engine import Size, View, scale, view_of
from twinbrain_ros.brain.preprocess import check_image
from twinbrain_ros.brain.prompt import (
    MAX_INSTRUCTION_CHARACTERS,
    Prompt,
    PromptBuilder,
    check_instruction,
    role_tokens,
)


@dataclass(frozen=True)
class Query:
    """One question as a VLM reads it.

    pixels: its images as they are seen, uint8 [H, W, 3] RGB; prompt: all its tokens.
    """

    pixels: tuple[Tensor, ...]
    prompt: Prompt

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Height and width of each image as it is seen; queries of one batch have the same."""
        return tuple((int(image.shape[0]), int(image.shape[1])) for image in self.pixels)


class QueryBuilder:
    """Makes queries for the brains of a checkpoint, in its prompt format.

    device: where the pixels go; pixel_limits: least and most pixels that images are fitted within, whole, as
    the stock processor does it, in place of the checkpoint's own rule; most_characters: of a question.
    """

    def __init__(
        self,
        config: TwinBrainConfig,
        tokenizer: Any,
        device: torch.device | str = "cpu",
        pixel_limits: tuple[int, int] | None = None,
        most_characters: int = MAX_INSTRUCTION_CHARACTERS,
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._device = torch.device(device)
        self._limits = pixel_limits
        self._most = most_characters
        self._layout = backbone.patch_layout(config.vlm_config(), config.image_mean, config.image_std)
        self._roles = role_tokens(tokenizer)

    @property
    def cameras(self) -> tuple[str, ...]:
        """The views that the left brain was made for, in order."""
        return self.config.left_cameras or (self.config.cameras[0].name,)

    def check(self, question: str) -> str:
        """The question without outer blanks. Raises InstructionError for one that cannot be read."""
        text = check_instruction(question, "question", "what is on the table?", self._most)
        PromptBuilder(self.tokenizer).check_words(text, self._roles, "question")
        return text

    def build(self, images: Sequence[np.ndarray], question: str) -> Query:
        """images: one or more, uint8 [H, W, 3] RGB. Raises InstructionError for a question that cannot be
        read, ValueError for images that cannot be seen."""
        text = self.check(question)
        if not images:
            raise ValueError("images: found none, expected at least one")
        seen = []
        for i, image in enumerate(images):
            check_image(image, f"image {i + 1}")
            # A copy: images in messages are read-only, which torch does not take.
            pixels = torch.from_numpy(image[None].copy()).to(self._device)
            seen.append(scale(pixels, self._view(i, *image.shape[:2]))[0])
        return Query(tuple(seen), self.prompt([i.shape[:2] for i in seen], text))

    def prompt(self, sizes: Sequence[Sequence[int]], text: str) -> Prompt:
        """The tokens of a question about images that are seen at these heights and widths [pixels]."""
        grids = [self._layout.merged_grid(*size) for size in sizes]
        config = self.config
        return PromptBuilder(self.tokenizer, grids, config.images_first, config.left_system).build(text)

    def sizes(self, images: Sequence[Size]) -> tuple[Size, ...]:
        """Height and width at which images of these are seen. Raises ValueError for what cannot be seen."""
        return tuple(self._view(i, *size).steps[-1] for i, size in enumerate(images))

    def _view(self, index: int, height: int, width: int) -> View:
        """Of the image number `index`: sized as the camera of that number, or as the first one."""
        config, names = self.config, self.cameras
        name = names[index] if index < len(names) else names[0]
        if self._limits is not None:
            return view_of(CameraInput(name, 0, 0), height, width, self._layout, self._limits)
        camera = {camera.name: camera for camera in config.cameras}[name]
        if config.pixel_limits is not None:  # the stock processor knows of no camera's size
            camera = replace(camera, width=0, height=0)
        return view_of(camera, height, width, self._layout, config.pixel_limits)
