"""A brain as what it still is: a VLM that answers questions about images.

A policy may run on the same weights in another thread at the same time: nothing is written here that it
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from twinbrain_ros.brain import decoder
from twinbrain_ros.brain.asymot import causal_mask
from twinbrain_ros.brain.decoder import Side
from twinbrain_ros.brain.memory import memory_told
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.prompt import PromptBatch, collate
from twinbrain_ros.brain.query import Query, QueryBuilder

DEFAULT_TOKENS, MAX_TOKENS = 128, 2048
END_TOKENS = ("<|im_end|>", "<|endoftext|>")
UNFINISHED = "\ufffd"  # what a byte-level tokenizer makes of a character whose last bytes are still to come


@dataclass(frozen=True)
class Answer:
    """What was said.

    tokens: its ids, without the one that ended it; finished: False where max_tokens or `cancelled` ended it;
    margins: by how much the logit of each likeliest token, the one that ended it too, was above the next.
    """

    text: str
    tokens: list[int]
    finished: bool
    margins: list[float] = field(default_factory=list)


class Generalist:
    """A brain of a policy as the VLM it is by itself, with whatever training has left of its knowledge. Not
    thread-safe by itself; safe beside a policy that acts.

    brain: "left", or the only one where there is no left one; "right", alone, reading nothing of the left.
    pixel_limits: least and most pixels that images are fitted within, in place of the checkpoint's own rule.
    """

    def __init__(
        self, policy: TwinBrainPolicy, brain: str = "left", pixel_limits: tuple[int, int] | None = None
    ) -> None:
        self.policy = policy
        self._model = policy.model
        self._brain = policy.model.right if brain == "right" else policy.model.brains()[0]
        self._ends = end_ids(policy.tokenizer)
        self.queries = QueryBuilder(policy.config, policy.tokenizer, policy.device, pixel_limits)

    @property
    def cameras(self) -> tuple[str, ...]:
        """The views it was made for, in order."""
        return self.queries.cameras

    def check(self, question: str) -> str:
        """The question without outer blanks. Raises InstructionError for one that cannot be read."""
        return self.queries.check(question)

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
        _check_length(max_tokens)
        said = [_Said(self.policy.tokenizer, on_text)]
        with memory_told(self.policy.device, "answering"):
            self._say(said, [self.queries.build(images, question)], max_tokens, cancelled)
        return said[0].answer()

    @torch.inference_mode()
    def ask_batch(self, queries: Sequence[Query], max_tokens: int = DEFAULT_TOKENS) -> list[Answer]:
        """As `ask`, for queries whose images are of the same sizes, in one forward pass per token.

        No row sees another, nor the padding of shorter ones: each gets the answer that it gets alone, but for
        the rounding of a batched product. Raises ValueError for no queries, images of several sizes, or a
        max_tokens that cannot be used.
        """
        _check_length(max_tokens)
        sizes = sorted({query.sizes for query in queries})
        if len(sizes) != 1:
            raise ValueError(f"queries: found {len(sizes)} sizes of images, expected one: {sizes}")
        said = [_Said(self.policy.tokenizer) for _ in queries]
        with memory_told(self.policy.device, "answering"):
            self._say(said, queries, max_tokens, lambda: False)
        return [one.answer() for one in said]

    def _say(
        self, said: Sequence[_Said], queries: Sequence[Query], max_tokens: int, cancelled: Callable[[], bool]
    ) -> None:
        """Lets each of `said` hear the answer to its query, token by token."""
        prompts = collate([query.prompt for query in queries], 0).to(self.policy.device)
        positions, valid = prompts.positions.amax((0, 2)), prompts.valid
        cache = DynamicCache()
        if cancelled():
            return
        hidden = self._read(queries, prompts, cache)
        while True:
            tokens, margins = self._likeliest(hidden)
            for one, token, margin in zip(said, tokens, margins, strict=True):
                one.hear(token, margin, token in self._ends, max_tokens)
            if not any(one.open for one in said) or cancelled():
                return
            positions, valid = positions + 1, F.pad(valid, (0, 1), value=True)
            hidden = self._step(tokens, positions, None if prompts.unpadded else valid, cache)

    def _read(self, queries: Sequence[Query], prompts: PromptBatch, cache: Cache) -> Tensor:
        """Last hidden states [B, 1, H] of the prompts, whose keys and values go to the cache."""
        brain = self._brain
        images = {
            str(i): torch.stack(same) for i, same in enumerate(zip(*(q.pixels for q in queries), strict=True))
        }
        # Whatever the policy does without them: the stock model has them.
        features, extra = self._model.image_features(brain, images, tuple(images), deepstack=True)
        side = decoder.prepare_side(brain, prompts, None if prompts.unpadded else causal_mask(prompts.valid))
        last = prompts.valid.sum(1) - 1
        return self._run(side, decoder.fill(side, features, None), cache, extra, last)

    def _step(self, tokens: list[int], positions: Tensor, valid: Tensor | None, cache: Cache) -> Tensor:
        """Hidden states [B, 1, H] after one more token each, at positions [B]; valid: which of all tokens so
        far are real, bool [B, L], None where all are."""
        brain, device = self._brain, self.policy.device
        embeds = brain.get_input_embeddings()(torch.tensor(tokens, device=device)[:, None])
        rotary = brain.model.language_model.rotary_emb(embeds, positions[None, :, None].expand(3, -1, -1))
        mask = None if valid is None else decoder.additive(valid[:, None, None], embeds.dtype)
        none = torch.empty((len(tokens), 0), dtype=torch.long, device=device)
        side = Side(embeds, rotary, mask, none, none[:, :1], None, None)
        return self._run(side, embeds, cache, [], torch.zeros_like(positions))

    def _run(self, side: Side, x: Tensor, cache: Cache, deepstack: list[Tensor], last: Tensor) -> Tensor:
        """Final states [B, 1, H] of row `last` [B] of each."""
        text = self._brain.model.language_model
        x = decoder.run_layers(self._brain, side, x, cache, range(len(text.layers)), deepstack)
        final: Tensor = text.norm(x[torch.arange(len(x), device=x.device), last][:, None])
        return final

    def _likeliest(self, hidden: Tensor) -> tuple[list[int], list[float]]:
        logits = self._brain.lm_head(hidden)[:, -1]
        first, second = logits.float().topk(2).values.unbind(-1)
        return logits.argmax(-1).tolist(), (first - second).tolist()


def _check_length(max_tokens: int) -> None:
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise ValueError(f"max_tokens: found {max_tokens}, expected 1 to {MAX_TOKENS}")


class _Said:
    """The answer as it grows, handed on in whole characters; open: more may come."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None] | None = None) -> None:
        self.open = True
        self._tokens: list[int] = []
        self._margins: list[float] = []
        self._finished = False
        self._tokenizer, self._on_text = tokenizer, on_text
        self._told = ""

    def hear(self, token: int, margin: float, ends: bool, max_tokens: int) -> None:
        """The next token; ends: it is none of the answer, but its end. Nothing after the answer was over."""
        if not self.open:
            return
        self._margins.append(margin)
        if ends:
            self._finished, self.open = True, False
            return
        self._tokens.append(token)
        self.open = len(self._tokens) < max_tokens
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
        return str(self._tokenizer.decode(self._tokens, skip_special_tokens=True))

    def answer(self) -> Answer:
        self._tell(whole=True)
        return Answer(self._text(), self._tokens, self._finished, self._margins)


def end_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer, as far as the tokenizer knows them."""
    ids = {tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(t) for t in END_TOKENS)}
    return frozenset(int(i) for i in ids - {None, tokenizer.unk_token_id})
