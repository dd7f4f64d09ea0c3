"""The two prompts of an instruction: what each brain of a twin is told."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from twinbrain_ros.brain.config import QUERIES, QUERY_TOKEN, ROBOT, TwinBrainConfig
from twinbrain_ros.brain.preprocess import PatchLayout
from twinbrain_ros.brain.prompt import Prompt, PromptBuilder, role_tokens

KEPT_PROMPTS = 64
Sizes = tuple[tuple[int, int], ...]  # height and width of each camera's image as the brains see it, pixels


class TwinPrompts:
    """Builds prompts from a checkpoint's templates; the last ones are kept, as an instruction stands for many
    chunks."""

    def __init__(self, config: TwinBrainConfig, tokenizer: Any, layout: PatchLayout) -> None:
        self._config, self._tokenizer, self._layout = config, tokenizer, layout
        self._roles = role_tokens(tokenizer)
        self._grids = lru_cache(maxsize=KEPT_PROMPTS)(self._builders)
        self.build = lru_cache(maxsize=KEPT_PROMPTS)(self._build)

    def _build(self, text: str, sizes: Sizes, robot: str) -> tuple[Prompt, Prompt]:
        """Left and right prompt. Raises InstructionError for words that are not for instructions, or not
        known."""
        self._grids(sizes)[0].check_words(text, self._roles)
        return self.unchecked(text, sizes, robot)

    def unchecked(self, text: str, sizes: Sizes, robot: str) -> tuple[Prompt, Prompt]:
        """As `build`, of a text that need not be an instruction."""
        left, right = self._grids(sizes)
        config = self._config
        return (
            left.build(self._text(config.left_prompt, text, robot)),
            right.build(self._text(config.right_prompt, text, robot)),
        )

    def _builders(self, sizes: Sizes) -> tuple[PromptBuilder, PromptBuilder]:
        config, layout = self._config, self._layout
        grids = {
            camera.name: layout.merged_grid(*size) for camera, size in zip(config.cameras, sizes, strict=True)
        }
        first = config.images_first
        left = [grids[n] for n in config.left_cameras]
        return (
            PromptBuilder(self._tokenizer, left, first, config.left_system),
            PromptBuilder(self._tokenizer, list(grids.values()), first, config.right_system),
        )

    def _text(self, template: str, instruction: str, robot: str) -> str:
        queries = self._config.query_separator.join([QUERY_TOKEN] * self._config.query_tokens)
        template = template.replace(QUERIES, queries).replace(ROBOT, robot).strip()
        # The instruction last: what it holds is not for us to replace.
        return template.replace("{instruction}", instruction)
