"""The plain way leaves out nothing of what the reference computes, and leaves the model as it was.

That it gives the reference's numbers, and the engine gives its, is in test_engine_variants.py.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from brain_fixtures import tiny_config
from torch import nn

from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.plain import plain_chunk
from twinbrain_ros.brain.prompt import collate
from twinbrain_ros.evaluation.workload import random_twin, random_workload


def counted(module: nn.Module) -> list[int]:
    """The rows of each of a module's calls, as they come."""
    rows: list[int] = []
    module.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[-2]))
    return rows


def with_deepstack_layers(config: TwinBrainConfig) -> TwinBrainConfig:
    vision = config.vlm["vision_config"] | {"deepstack_visual_indexes": [0]}
    return dataclasses.replace(config, vlm=config.vlm | {"vision_config": vision}, deepstack=False)


def test_all_that_the_reference_computes_is_computed() -> None:
    model = random_twin(with_deepstack_layers(tiny_config()), torch.device("cpu"), torch.float32)
    load = random_workload(model)
    left, right = (collate([p], 0) for p in load.prompts)
    layers = model.left.model.language_model.layers
    logits, last = counted(model.right.lm_head), counted(layers[-1].mlp)
    merger = counted(model.right.model.visual.deepstack_merger_list[0])
    keys = counted(model.expert.blocks[0].key)
    plain_chunk(model, load.images, load.views, load.state, (left, right), load.noise)
    assert logits == [right.ids.shape[1]], "the vocabulary, for the whole right sequence"
    assert last == [left.ids.shape[1]], "the left brain's last layer in full"
    assert len(merger) == 1, "deepstack features that nobody uses"
    assert keys == [right.ids.shape[1]] * model.config.expert.denoise_steps, "keys anew in each step"


def test_the_models_attention_and_weights_stay_as_they_are() -> None:
    model = random_twin(tiny_config(), torch.device("cpu"), torch.float32)
    load = random_workload(model)
    before = {n: p._version for n, p in model.named_parameters()}
    attention = model.left.model.visual.config._attn_implementation
    prompts = tuple(collate([p], 0) for p in load.prompts)
    plain_chunk(model, load.images, load.views, load.state, prompts, load.noise)
    assert model.left.model.visual.config._attn_implementation == attention != "sdpa"
    assert {n: p._version for n, p in model.named_parameters()} == before


def test_padded_prompts_and_several_are_refused() -> None:
    model = random_twin(tiny_config(), torch.device("cpu"), torch.float32)
    load = random_workload(model)
    left, right = load.prompts
    for wrong in (collate([right], 0, multiple=64), collate([right, right], 0)):
        with pytest.raises(ValueError, match="one without padding per brain"):
            plain_chunk(model, load.images, load.views, load.state, (collate([left], 0), wrong), load.noise)
