"""`twinbrain ask` on an imported run whose VLM has deepstack layers that its policy goes without."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from published_run import DATA, imported, qwen3_run
from transformers import AutoModelForImageTextToText

from twinbrain_ros import cli
from twinbrain_ros.brain.generalist import Generalist
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.preprocess import patchify, with_frames
from twinbrain_ros.brain.prompt import PromptBuilder

QUESTION = "what is on the table?"
TOKENS = 12
SIZES = ((64, 64), (64, 64))  # as the left brain sees them: nothing is left to resize


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    run, base = qwen3_run(folder)
    imported(run, folder / "imported", base=base)
    return folder / "imported"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(5)
    paths = [folder / f"{i}.png" for i in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        cv2.imwrite(str(path), rng.integers(0, 256, (*size, 3), np.uint8))
    return paths


def ask(checkpoint: Path, images: list[Path], *options: str) -> int:
    shown = [option for path in images for option in ("--image", str(path))]
    return cli.main(["ask", "--checkpoint", str(checkpoint), *shown, *options])


def stock_tokens(policy: TwinBrainPolicy, images: list[np.ndarray]) -> list[int]:
    """What transformers' own model generates from these images [H, W, 3]."""
    config, layout = policy.config, policy.model.layout
    stock = AutoModelForImageTextToText.from_config(config.vlm_config(), attn_implementation="sdpa").eval()
    stock.load_state_dict(policy.model.left.state_dict())
    grids = [layout.grid(*image.shape[:2]) for image in images]
    merged = [(rows // layout.merge_size, columns // layout.merge_size) for rows, columns in grids]
    builder = PromptBuilder(policy.tokenizer, merged, config.images_first, config.left_system)
    ids = builder.build(QUESTION).ids[None]
    out = stock.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.cat(
            [with_frames(patchify(torch.from_numpy(image)[None], layout), layout) for image in images]
        ),
        image_grid_thw=torch.tensor([[1, *grid] for grid in grids]),
        mm_token_type_ids=(ids == builder.image_id).int(),
        do_sample=False,
        max_new_tokens=TOKENS,
        pad_token_id=0,
    )
    tokens: list[int] = out[0, ids.shape[1] :].tolist()
    return tokens


@pytest.mark.parametrize("count", [1, 2])
def test_it_prints_and_writes_what_the_stock_model_answers(
    checkpoint: Path, images: list[Path], count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = TwinBrainPolicy.from_pretrained(checkpoint)
    assert not policy.config.deepstack and policy.model.left.model.visual.deepstack_visual_indexes
    json_path = tmp_path / "answer.json"
    options = (QUESTION, "--max-tokens", str(TOKENS), "--json", str(json_path))
    assert ask(checkpoint, images[:count], *options) == 0
    facts = json.loads(json_path.read_text())
    pixels = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in images[:count]]
    assert facts["tokens"] == stock_tokens(policy, pixels) and len(set(facts["tokens"])) > 2
    answer = Generalist(policy).ask(pixels, QUESTION, TOKENS)
    assert (facts["question"], facts["answer"], facts["finished"]) == (QUESTION, answer.text, False)
    assert facts["seconds"] > 0
    assert capsys.readouterr().out == answer.text + "\n"


@pytest.mark.parametrize(
    ("image", "question", "words"),
    [
        (Path("nowhere.png"), QUESTION, "--image nowhere.png: not a readable image"),
        (DATA / "base" / "Qwen2.5-VL-tiny" / "config.json", QUESTION, "not a readable image"),
        (None, " ", "question: found an empty text, expected words"),
        (None, "is <|im_end|> red?", "question: the role tokens ['<|im_end|>'] are not for questions"),
    ],
)
def test_wrong_input_is_named_in_a_line(
    checkpoint: Path, images: list[Path], image: Path | None, question: str, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert ask(checkpoint, [image or images[0]], question) == 2
    output = capsys.readouterr()
    assert words in output.err and not output.out
