"""A word-level tokenizer in the Qwen chat format, for VLMs small enough to be taught from nothing."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from twinbrain_ros.brain.config import IMAGE_TOKEN, STATE_TOKEN, VISION_END, VISION_START

PAD, UNKNOWN, TURN_START, TURN_END = "<|endoftext|>", "<|unknown|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, UNKNOWN, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_TOKEN, STATE_TOKEN)


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token per lower-case word, plus the role tokens of the chat format. Order decides the ids."""
    vocabulary: dict[str, int] = {}
    for word in (*SPECIAL, "user", "assistant", *words):
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN)
    fast.add_special_tokens({"additional_special_tokens": [t for t in SPECIAL if t not in (PAD, UNKNOWN)]})
    return fast
