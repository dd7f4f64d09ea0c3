"""Prompts as token sequences: the Qwen chat template, image slots, and their three-axis positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from twinbrain_ros.brain.config import IMAGE_TOKEN, QUERY_TOKEN, STATE_TOKEN, VISION_END, VISION_START

MAX_INSTRUCTION_CHARACTERS = 2000


class InstructionError(ValueError):
    """An instruction that the policy cannot take; the message says what was found and what is expected."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    ids [L]; positions [3, L] (time, row, column); image_slots [n]; query_slots [K]; state_slot or -1.
    """

    ids: Tensor
    positions: Tensor
    image_slots: Tensor
    query_slots: Tensor
    state_slot: int


@dataclass(frozen=True)
class PromptBatch:
    """Prompts padded at their end.

    ids [B, L], positions [3, B, L], valid [B, L], image_slots [B, n], query_slots [B, K], state_slots [B];
    unpadded: all of `valid` is true.
    """

    ids: Tensor
    positions: Tensor
    valid: Tensor
    image_slots: Tensor
    query_slots: Tensor
    state_slots: Tensor
    unpadded: bool

    def to(self, device: torch.device) -> PromptBatch:
        moved: dict[str, Any] = {
            n: v.to(device) if isinstance(v, Tensor) else v for n, v in vars(self).items()
        }
        return PromptBatch(**moved)


def check_instruction(
    text: str,
    field: str = "instruction",
    such_as: str = "pick up the red block",
    most: int = MAX_INSTRUCTION_CHARACTERS,
) -> str:
    """The instruction without outer blanks; refuses empty and overlong ones, calling them `field`."""
    stripped = text.strip()
    if not stripped:
        raise InstructionError(f"{field}: found an empty text, expected words such as {such_as!r}")
    if len(stripped) > most:
        raise InstructionError(f"{field}: found {len(stripped)} characters, expected at most {most}")
    return stripped


def role_tokens(tokenizer: Any) -> list[str]:
    """The texts of a tokenizer's special tokens, which nobody may say in words of his own."""
    added = tokenizer.added_tokens_decoder.values()
    return sorted({*tokenizer.all_special_tokens, *(t.content for t in added if t.special)})


def token_id(tokenizer: Any, token: str) -> int:
    """The id of a special token; raises InstructionError if the tokenizer lacks it."""
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise InstructionError(f"tokenizer: the special token {token} is missing")
    return int(found)


class PromptBuilder:
    """Builds prompts in the Qwen chat format: images and text of the user, then the assistant's turn."""

    def __init__(
        self,
        tokenizer: Any,
        image_grids: Sequence[tuple[int, int]] = (),
        images_first: bool = True,
        system: str | None = None,
    ) -> None:
        """image_grids: rows and columns of *merged* tokens, one per image slot, in prompt order; system: what
        the system's turn says, None for no such turn."""
        self.tokenizer = tokenizer
        self.images_first = images_first
        self.grids = tuple(image_grids)
        self.system = system
        self.image_id = token_id(tokenizer, IMAGE_TOKEN)
        # A tokenizer that lacks these has no prompt with them either.
        self.state_id = tokenizer.convert_tokens_to_ids(STATE_TOKEN)
        self.query_id = tokenizer.convert_tokens_to_ids(QUERY_TOKEN)

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that the tokenizer has no token for (none for byte-level tokenizers)."""
        unk = self.tokenizer.unk_token_id
        if unk is None:
            return []
        return [w for w in text.split() if unk in self.tokenizer(w, add_special_tokens=False)["input_ids"]]

    def check_words(self, text: str, roles: Sequence[str], field: str = "instruction") -> None:
        """Refuses a text that holds role tokens or words that the tokenizer does not know."""
        found = [t for t in roles if t in text]
        if found:
            raise InstructionError(f"{field}: the role tokens {found} are not for {field}s")
        unknown = self.unknown_words(text)
        if unknown:
            raise InstructionError(
                f"{field}: the words {unknown[:5]} are not in this checkpoint's vocabulary; "
                f"found {text[:80]!r}"
            )

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def build(self, text: str, answer: str | None = None) -> Prompt:
        """The user's turn with this text, then the assistant's header and, for teaching, its answer."""
        head = "" if self.system is None else f"<|im_start|>system\n{self.system}<|im_end|>\n"
        head += "<|im_start|>user\n"
        images = "".join(VISION_START + IMAGE_TOKEN * (rows * cols) + VISION_END for rows, cols in self.grids)
        tail = "<|im_end|>\n<|im_start|>assistant\n" + ("" if answer is None else f"{answer}<|im_end|>")
        content = images + text if self.images_first else text + images
        ids = torch.tensor(self.ids(head + content + tail))
        images_at, queries_at, state_at = (
            self._slots(ids, i) for i in (self.image_id, self.query_id, self.state_id)
        )
        state = int(state_at[0]) if len(state_at) else -1
        positions = token_positions(ids, self.image_id, self.grids)
        return Prompt(ids, positions, images_at, queries_at, state)

    def _slots(self, ids: Tensor, token: int | None) -> Tensor:
        if token is None or token == self.tokenizer.unk_token_id:
            return torch.empty(0, dtype=torch.long)
        return (ids == token).nonzero()[:, 0]


def token_positions(ids: Tensor, image_id: int, image_grids: Sequence[tuple[int, int]]) -> Tensor:
    """Positions [3, L] (time, row, column) of tokens [L]; image_grids as of `PromptBuilder`.

    Text advances all axes by one; an image of (rows, cols) advances by max(rows, cols).
    """
    columns: list[Tensor] = []
    grids = iter(image_grids)
    position, i = 0, 0
    while i < len(ids):
        if ids[i] == image_id:
            rows, cols = next(grids)
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
            grid = torch.stack([torch.zeros_like(y), y, x]).reshape(3, -1) + position
            columns.append(grid)
            position += max(rows, cols)
            i += rows * cols
        else:
            columns.append(torch.full((3, 1), position))
            position += 1
            i += 1
    return torch.cat(columns, dim=1)


def collate(prompts: Sequence[Prompt], pad_id: int, multiple: int = 1) -> PromptBatch:
    """Pads prompts at their end to a common length; pads are marked invalid and never seen.

    `multiple`: the length is brought up to a multiple of this, so that other words keep the shapes.
    """
    length = -(-max(len(p.ids) for p in prompts) // multiple) * multiple
    count = len(prompts)
    ids = torch.full((count, length), pad_id)
    positions = torch.zeros((3, count, length), dtype=torch.long)
    valid = torch.zeros((count, length), dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        size = len(prompt.ids)
        ids[i, :size] = prompt.ids
        positions[:, i, :size] = prompt.positions
        valid[i, :size] = True
    return PromptBatch(
        ids,
        positions,
        valid,
        torch.stack([p.image_slots for p in prompts]),
        torch.stack([p.query_slots for p in prompts]),
        torch.tensor([p.state_slot for p in prompts]),
        # With buckets also a prompt that fills its own is treated as padded: they all share one shape.
        unpadded=multiple == 1 and bool(valid.all()),
    )
