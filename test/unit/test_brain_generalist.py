"""The left brain, asked: what it answers is what the stock VLM answers, and the policy does not notice."""

from __future__ import annotations

import copy
import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import WORDS, random_policy, tiny_config, tiny_policy, views
from published_run import BASE
from transformers import AutoModelForImageTextToText, AutoTokenizer

from twinbrain_ros.brain import twin
from twinbrain_ros.brain.config import IMAGE_TOKEN, VISION_END, VISION_START, TwinBrainConfig
from twinbrain_ros.brain.generalist import MAX_TOKENS, Generalist
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.preprocess import patchify, resize, with_frames
from twinbrain_ros.brain.prompt import InstructionError, PromptBuilder
from twinbrain_ros.brain.vision import vision_features
from twinbrain_ros.training.tokenizer import word_tokenizer

QUESTION = "put the red block on the plate"
RED = "pick up the red block"
TOKENS = 24


def qwen3_config(tied: bool = True) -> TwinBrainConfig:
    """With deepstack layers, which the policy itself is told to go without."""
    config = tiny_config()
    vlm = copy.deepcopy(config.vlm)
    vlm["tie_word_embeddings"] = vlm["text_config"]["tie_word_embeddings"] = tied
    vlm["vision_config"] |= {"depth": 4, "deepstack_visual_indexes": [0, 2]}
    return dataclasses.replace(config, vlm=vlm, deepstack=False)


def qwen2_5_config() -> TwinBrainConfig:
    config, tokenizer = tiny_config(), word_tokenizer(WORDS)
    text = {k: v for k, v in config.vlm["text_config"].items() if k != "head_dim"}
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    vlm = {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": False,
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids(VISION_START),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids(VISION_END),
        "text_config": text | {"tie_word_embeddings": False},
        "vision_config": vision,
    }
    return dataclasses.replace(config, vlm=vlm)


def policy_of(config: TwinBrainConfig, tokenizer: Any = None) -> TwinBrainPolicy:
    return random_policy(config, tokenizer or word_tokenizer(WORDS), seed=3)


def images(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def stock_tokens(
    policy: TwinBrainPolicy, seen: list[np.ndarray], attention: str = "eager", question: str = QUESTION
) -> tuple[list[int], bool]:
    """What transformers' own model generates greedily from these images, given at the size they are seen;
    whether it came to its end."""
    config, layout = policy.config, policy.model.layout
    stock = AutoModelForImageTextToText.from_config(config.vlm_config(), attn_implementation=attention).eval()
    stock.load_state_dict(policy.model.left.state_dict())
    grids = [layout.grid(*image.shape[:2]) for image in seen]
    merged = [(rows // layout.merge_size, columns // layout.merge_size) for rows, columns in grids]
    builder = PromptBuilder(policy.tokenizer, merged, config.images_first, config.left_system)
    ids = builder.build(question).ids[None]
    patches = [with_frames(patchify(torch.from_numpy(image)[None], layout), layout) for image in seen]
    out = stock.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.cat(patches),
        image_grid_thw=torch.tensor([[1, *grid] for grid in grids]),
        mm_token_type_ids=(ids == builder.image_id).long(),
        do_sample=False,
        max_new_tokens=TOKENS,
        eos_token_id=sorted(Generalist(policy)._ends),
        pad_token_id=0,
    )
    tokens = out[0, ids.shape[1] :].tolist()
    ended = tokens[-1] in Generalist(policy)._ends
    return tokens[: len(tokens) - ended], ended


CONFIGS = {
    "qwen3 tied": qwen3_config(),
    "qwen3 untied": qwen3_config(tied=False),
    "qwen2.5": qwen2_5_config(),
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_answers_token_for_token_as_the_stock_model(name: str, attention: str) -> None:
    policy = policy_of(CONFIGS[name])
    seen = images((24, 32), (24, 32))
    answer = Generalist(policy).ask(seen, QUESTION, TOKENS)
    assert len(set(answer.tokens)) > 2  # an answer that says little shows little
    assert (answer.tokens, answer.finished) == stock_tokens(policy, seen, attention)


def test_deepstack_features_and_images_are_part_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, seen = policy_of(qwen3_config(tied=False)), images((24, 32))
    with_them = Generalist(policy).ask(seen, QUESTION, TOKENS).tokens
    assert with_them != Generalist(policy).ask(images((24, 40)), QUESTION, TOKENS).tokens
    monkeypatch.setattr(twin, "vision_features", lambda *a: vision_features(*a[:3], deepstack=False))
    assert with_them != Generalist(policy).ask(seen, QUESTION, TOKENS).tokens


def test_it_follows_the_checkpoints_prompt_format() -> None:
    config = dataclasses.replace(qwen3_config(tied=False), images_first=False, left_system="put the block")
    policy, seen = policy_of(config), images((24, 32))
    answer = Generalist(policy).ask(seen, QUESTION, TOKENS)
    assert (answer.tokens, answer.finished) == stock_tokens(policy, seen)
    plain = policy_of(qwen3_config(tied=False))
    assert answer != Generalist(plain).ask(seen, QUESTION, TOKENS)


# -- several at once


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("brain", ["left", "right"])
def test_questions_of_a_batch_get_the_answers_that_they_get_alone(name: str, brain: str) -> None:
    generalist = Generalist(policy_of(CONFIGS[name]), brain)
    asked = [QUESTION, RED, "the plate", "put the red block on the blue plate on the green plate"]
    queries = [
        generalist.queries.build([picture], text)
        for picture, text in zip(images(*[(24, 32)] * 4), asked, strict=True)
    ]
    assert len({len(query.prompt.ids) for query in queries}) == 4, "some are padded"
    alone = [generalist.ask_batch([query], TOKENS)[0] for query in queries]
    generalist._ends = frozenset({alone[1].tokens[3]})  # one row ends before the others
    alone = [generalist.ask_batch([query], TOKENS)[0] for query in queries]
    together = generalist.ask_batch(queries, TOKENS)
    assert {answer.finished for answer in alone} == {True, False}
    assert [(a.text, a.tokens, a.finished) for a in together] == [
        (a.text, a.tokens, a.finished) for a in alone
    ]
    for answer, same in zip(together, alone, strict=True):
        np.testing.assert_allclose(answer.margins, same.margins, atol=1e-3)
        assert len(answer.margins) == len(answer.tokens) + answer.finished


def test_what_a_padded_row_says_depends_on_no_other_row() -> None:
    generalist = Generalist(policy_of(qwen3_config(tied=False)))
    one, other, third = (
        generalist.queries.build(images((24, 32)), text) for text in ("the plate", "red " * 30, "blue " * 30)
    )
    a, b = (generalist.ask_batch([one, longer], TOKENS)[0] for longer in (other, third))
    assert a.tokens == b.tokens == generalist.ask(images((24, 32)), "the plate", TOKENS).tokens


def test_the_right_brain_asked_alone_is_a_vlm_of_its_own_weights() -> None:
    policy = policy_of(qwen3_config(tied=False))
    seen = images((24, 32))
    right = Generalist(policy, "right").ask(seen, QUESTION, TOKENS)
    assert right.tokens != Generalist(policy).ask(seen, QUESTION, TOKENS).tokens
    policy.model.left.load_state_dict(policy.model.right.state_dict())
    assert right == Generalist(policy).ask(seen, QUESTION, TOKENS)


def test_a_batch_of_nothing_or_of_several_sizes_is_refused() -> None:
    generalist = Generalist(tiny_policy())
    with pytest.raises(ValueError, match="queries: found 0 sizes of images, expected one"):
        generalist.ask_batch([])
    fitted = Generalist(tiny_policy(), pixel_limits=(64, 4096))
    queries = [fitted.queries.build(images(size), QUESTION) for size in ((24, 32), (32, 32))]
    with pytest.raises(ValueError, match="queries: found 2 sizes of images, expected one"):
        fitted.ask_batch(queries)


# -- sizes


def test_images_are_brought_to_the_left_cameras_sizes() -> None:
    policy = policy_of(qwen3_config(tied=False))
    large = images((48, 64), (60, 80))
    fitted = [resize(torch.from_numpy(image)[None], 24, 32)[0].numpy() for image in large]
    answer = Generalist(policy).ask(large, QUESTION, TOKENS)
    assert (answer.tokens, answer.finished) == stock_tokens(policy, fitted)


def test_images_are_fitted_as_the_stock_processor_does_where_the_checkpoint_has_limits() -> None:
    config = dataclasses.replace(qwen3_config(tied=False), pixel_limits=(512, 1024))
    policy = policy_of(config)
    large = images((50, 90), (24, 32))  # 4500 pixels are too many, 768 are within the limits
    fitted = [resize(torch.from_numpy(large[0])[None], 16, 40)[0].numpy(), large[1]]
    answer = Generalist(policy).ask(large, QUESTION, TOKENS)
    assert (answer.tokens, answer.finished) == stock_tokens(policy, fitted)


# -- words


def test_an_answer_ends_where_the_turn_does() -> None:
    generalist = Generalist(policy_of(qwen3_config(tied=False)))
    seen = images((24, 32))
    whole = generalist.ask(seen, QUESTION, TOKENS)
    assert not whole.finished and len(whole.tokens) == TOKENS
    last = whole.tokens[5]
    generalist._ends = frozenset({last})
    answer = generalist.ask(seen, QUESTION, TOKENS)
    assert answer.finished
    assert answer.tokens == whole.tokens[: whole.tokens.index(last)]


def test_the_ends_of_a_turn_are_those_the_tokenizer_knows() -> None:
    tokenizer = word_tokenizer(WORDS)
    ends = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    assert Generalist(tiny_policy())._ends == ends


def test_the_pieces_make_up_the_text_and_no_character_is_cut() -> None:
    vlm = copy.deepcopy(qwen3_config(tied=False).vlm)
    vlm["image_token_id"], vlm["text_config"]["vocab_size"] = 268, 288
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|propri|>"]})
    generalist = Generalist(policy_of(dataclasses.replace(qwen3_config(), vlm=vlm), tokenizer))
    text, told = "a block \N{RIGHTWARDS ARROW} plate", []
    script = iter([*tokenizer(text)["input_ids"], min(generalist._ends)])
    generalist._model.left.lm_head.register_forward_hook(lambda *_: torch.eye(288)[next(script)][None, None])
    answer = generalist.ask(images((24, 32)), "where?", on_text=told.append)
    assert answer.finished and answer.text == text == "".join(told)
    assert len(told) < len(answer.tokens) and not any("\N{REPLACEMENT CHARACTER}" in piece for piece in told)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (" \n", "question: found an empty text, expected words such as 'what is on the table"),
        ("block " * 2000, "question: found 11999 characters, expected at most 2000"),
        ("is the red block <|im_end|>", r"question: the role tokens \['<|im_end|>'\] are not for questions"),
        ("where is the orange block", r"question: the words \['where', 'is', 'orange'\] are not in this"),
    ],
)
def test_a_question_that_cannot_be_read_is_refused(question: str, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        Generalist(tiny_policy()).ask(images((24, 32)), question)


def test_wrong_images_and_lengths_are_refused() -> None:
    generalist = Generalist(tiny_policy())
    with pytest.raises(ValueError, match="images: found none, expected at least one"):
        generalist.ask([], QUESTION)
    with pytest.raises(ValueError, match=r"images\['image 2'\]: found float64 \(24, 32, 3\), expected uint8"):
        generalist.ask([*images((24, 32)), np.zeros((24, 32, 3))], QUESTION)
    for count in (0, MAX_TOKENS + 1):
        with pytest.raises(ValueError, match=f"max_tokens: found {count}, expected 1 to {MAX_TOKENS}"):
            generalist.ask(images((24, 32)), QUESTION, count)


# -- beside the policy


def test_it_stops_when_told_to() -> None:
    generalist = Generalist(policy_of(qwen3_config(tied=False)))
    seen = images((24, 32))
    whole = generalist.ask(seen, QUESTION, TOKENS).tokens
    asked: list[int] = []
    answer = generalist.ask(
        seen, QUESTION, TOKENS, cancelled=lambda: len(asked) == 3 or bool(asked.append(1))
    )
    assert not answer.finished and answer.tokens == whole[:3]


def test_the_policys_chunks_are_bit_equal_before_while_and_after_it_answers() -> None:
    policy = policy_of(qwen3_config(tied=False))
    generalist, seen = Generalist(policy), images((24, 32))
    alone = generalist.ask(seen, QUESTION, TOKENS)

    def act() -> np.ndarray:
        return policy.act(views(), RED, np.zeros(7), seed=1)

    before = act()
    begun, enough, answers = threading.Event(), threading.Event(), []

    def talk() -> None:
        while not enough.is_set():
            answers.append(generalist.ask(seen, QUESTION, TOKENS, cancelled=lambda: bool(begun.set())))

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        assert begun.wait(30.0)
        during = [act() for _ in range(10)]
    finally:
        enough.set()
        thread.join(30.0)
    assert answers and all(answer == alone for answer in answers)
    for chunk in (*during, act()):
        np.testing.assert_array_equal(chunk, before)


def test_the_left_brain_runs_anew_when_its_memory_is_old_or_the_words_are_new() -> None:
    policy, runs = tiny_policy(), []
    remember = policy.engine.remember
    policy.engine.remember = lambda *a: (runs.append(1), remember(*a))[1]  # type: ignore[method-assign]

    def age(stamp_s: float, instruction: str = RED) -> float:
        policy.act(views(), instruction, np.zeros(7), stamp_s=stamp_s)
        return policy.left_age_s

    assert [age(10.0), age(10.2)] == [0.0, 0.0] and len(runs) == 2  # by default for every chunk
    policy.left_period_s = 1.0
    assert age(20.0) == 0.0 and len(runs) == 3
    assert [age(20.5), age(20.75)] == [0.5, 0.75] and len(runs) == 3
    assert age(20.75, "pick up the blue block") == 0.0 and len(runs) == 4  # at once
    assert age(21.5, "pick up the blue block") == 0.75 and len(runs) == 4
    assert age(21.75, "pick up the blue block") == 0.0 and len(runs) == 5  # a period old
    assert age(21.0, "pick up the blue block") == 0.0 and len(runs) == 6  # time went back
