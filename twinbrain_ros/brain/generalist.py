"""The left brain as what it still is: a VLM that answers questions about images.

A policy may run on the same weights in another thread at the same time: nothing is written here that it
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from twinbrain_ros.brain import decoder
from twinbrain_ros.brain.decoder import Side
from twinbrain_ros.brain.engine import scale
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.prompt import PromptBatch, PromptBuilder, check_instruction, collate

DEFAULT_TOKENS, MAX_TOKENS = 128, 2048
END_TOKENS = ("<|im_end|>", "<|endoftext|>")
UNFINISHED = "\ufffd"  # what a byte-level tokenizer makes of a character whose last bytes are still to come


@dataclass(frozen=True)
class Answer:
    """What was said.

    tokens: its ids, without the one that ended it; finished: False where max_tokens or `cancelled` ended it.
    """

    text: str
    tokens: list[int]
    finished: bool


class Generalist:
    """The left brain of a policy, or its only brain, with whatever training has left of its knowledge. Not
    thread-safe by itself; safe beside a policy that acts."""

    def __init__(self, policy: TwinBrainPolicy) -> None:
        self.policy = policy
        self._model = policy.model
        self._brain = policy.model.brains()[0]
        self._ends = _end_ids(policy.tokenizer)

    @property
    def cameras(self) -> tuple[str, ...]:
        """The views it was made for, in order."""
        config = self.policy.config
        return config.left_cameras or (config.cameras[0].name,)

    def check(self, question: str) -> str:
        """The question without outer blanks. Raises InstructionError for one that cannot be read."""
        text = check_instruction(question, "question", "what is on the table?")
        PromptBuilder(self.policy.tokenizer).check_words(text, self.policy._roles, "question")
        return text

    @torch.inference_mode()
    def ask(
        self,
        images: Sequence[np.ndarray],
        question: str,
        max_tokens: int = DEFAULT_TOKENS,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """What the stock VLM answers when it always says its likeliest next token.

        images: one or more, uint8 [H, W, 3] RGB, fitted within the checkpoint's pixel limits or, without,
        sized as the left brain's cameras (as the first one, where there are more images); on_text: called
        with each piece of the answer as it comes; cancelled: asked before each token. Raises InstructionError
        for a question that cannot be read, ValueError for images or a max_tokens that cannot be used.
        """
        if not 1 <= max_tokens <= MAX_TOKENS:
            raise ValueError(f"max_tokens: found {max_tokens}, expected 1 to {MAX_TOKENS}")
        text = self.check(question)
        pixels = self._seen(images)
        prompts = self._prompts(list(pixels.values()), text)
        said = _Said(self.policy.tokenizer, on_text)
        cache = DynamicCache()
        position = int(prompts.positions.max())
        if cancelled():
            return said.answer(False)
        hidden = self._read(pixels, prompts, cache)
        while (token := self._likeliest(hidden)) not in self._ends:
            said.add(token)
            if len(said.tokens) == max_tokens or cancelled():
                return said.answer(False)
            position += 1
            hidden = self._step(token, position, cache)
        return said.answer(True)

    def _seen(self, images: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Images by a name of their own, in order, uint8 [1, H, W, 3] as the left brain sees them."""
        if not images:
            raise ValueError("images: found none, expected at least one")
        config, seen = self.policy.config, {}
        names = self.cameras
        cameras = {camera.name: camera for camera in config.cameras}
        for i, image in enumerate(images):
            name = f"image {i + 1}"
            image = self.policy._image({name: image}, name)
            camera = cameras[names[i] if i < len(names) else names[0]]
            if config.pixel_limits is not None:  # the stock processor knows of no camera's size
                camera = replace(camera, width=0, height=0)
            view = self.policy._view(camera, *image.shape[:2])
            # A copy: images in messages are read-only, which torch does not take.
            seen[name] = scale(torch.from_numpy(image[None].copy()).to(self.policy.device), view)
        return seen

    def _prompts(self, images: Sequence[Tensor], question: str) -> PromptBatch:
        config, layout = self.policy.config, self._model.layout
        grids = [layout.merged_grid(*image.shape[1:3]) for image in images]
        builder = PromptBuilder(self.policy.tokenizer, grids, config.images_first, config.left_system)
        return collate([builder.build(question)], 0).to(self.policy.device)

    def _read(self, images: dict[str, Tensor], prompts: PromptBatch, cache: Cache) -> Tensor:
        """The last hidden state [1, 1, H] of the prompt, whose keys and values go to the cache."""
        brain = self._brain
        # Whatever the policy does without them: the stock model has them.
        features, extra = self._model.image_features(brain, images, tuple(images), deepstack=True)
        side = decoder.prepare_side(brain, prompts, None)
        return self._run(side, decoder.fill(side, features, None), cache, extra)

    def _step(self, token: int, position: int, cache: Cache) -> Tensor:
        """The last hidden state [1, 1, H] after one more token."""
        brain, device = self._brain, self.policy.device
        embeds = brain.get_input_embeddings()(torch.tensor([[token]], device=device))
        positions = torch.full((3, 1, 1), position, device=device)
        rotary = brain.model.language_model.rotary_emb(embeds, positions)
        none = torch.empty((1, 0), dtype=torch.long, device=device)
        return self._run(Side(embeds, rotary, None, none, none[:, :1], None, None), embeds, cache, [])

    def _run(self, side: Side, x: Tensor, cache: Cache, deepstack: list[Tensor]) -> Tensor:
        text = self._brain.model.language_model
        x = decoder.run_layers(self._brain, side, x, cache, range(len(text.layers)), deepstack)
        return text.norm(x[:, -1:])

    def _likeliest(self, hidden: Tensor) -> int:
        return int(self._brain.lm_head(hidden)[0, -1].argmax())


class _Said:
    """The answer as it grows, handed on in whole characters."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None] | None) -> None:
        self.tokens: list[int] = []
        self._tokenizer, self._on_text = tokenizer, on_text
        self._told = ""

    def add(self, token: int) -> None:
        self.tokens.append(token)
        if self._on_text is not None:
            self._tell(whole=False)

    def _tell(self, whole: bool) -> None:
        text = self._text()
        if not whole:
            text = text.rstrip(UNFINISHED)
        if self._on_text is not None and len(text) > len(self._told):
            self._on_text(text[len(self._told) :])
            self._told = text

    def _text(self) -> str:
        return str(self._tokenizer.decode(self.tokens, skip_special_tokens=True))

    def answer(self, finished: bool) -> Answer:
        self._tell(whole=True)
        return Answer(self._text(), self.tokens, finished)


def _end_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer, as far as the tokenizer knows them."""
    ids = {tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(t) for t in END_TOKENS)}
    return frozenset(int(i) for i in ids - {None, tokenizer.unk_token_id})
