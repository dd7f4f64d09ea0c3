"""`twinbrain bench train`: both ways compute the same loss, and what is measured is all there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from brain_fixtures import tiny_config
from lerobot_fixtures import Layout, arm_episode, write_dataset

from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.commands.bench_train import rows
from twinbrain_ros.evaluation.train_bench import (
    RandomScenes,
    TrainBenchOptions,
    _Contest,
    bench_config,
    bench_train,
    dataset,
)
from twinbrain_ros.evaluation.workload import random_twin

OPTIONS = TrainBenchOptions(batch=2, repeats=2, rounds=1, data_steps=2)


def contest(config: TwinBrainConfig, out: Path) -> _Contest:
    own, tokenizer = bench_config(config)
    policy = TwinBrainPolicy(random_twin(own, torch.device("cpu"), torch.float32), tokenizer)
    return _Contest(policy, RandomScenes(policy.config), OPTIONS, out)


@pytest.mark.parametrize("changes", [{}, {"interaction_interval": 1}, {"prediction": "velocity"}])
def test_the_plain_way_has_the_same_loss_and_gradients(tmp_path: Path, changes: dict[str, object]) -> None:
    both = contest(tiny_config(**changes), tmp_path)  # type: ignore[arg-type]
    gradients = []
    for way in (both.trainer.losses, both.plain_losses):
        both.model.zero_grad(set_to_none=True)
        way(both.drawn, 0)["flow"].backward()
        found = {n: p.grad.clone() for n, p in both.model.named_parameters() if p.grad is not None}
        gradients.append(found)
    ours, plain = gradients
    assert not any(name.startswith("left.") for name in (*ours, *plain))
    for name in ours.keys() & plain.keys():
        torch.testing.assert_close(ours[name], plain[name], atol=1e-4, rtol=1e-3)
    assert {"expert.action_in.weight", "right.model.visual.patch_embed.proj.weight"} <= ours.keys()


def test_every_way_and_every_part_of_a_step_is_timed(tmp_path: Path) -> None:
    layout = Layout("v3.0", height=48, width=48)
    root = write_dataset(tmp_path / "set", [arm_episode(9, seed=i, base=20 * i) for i in range(2)], layout)
    config = dataclasses.replace(tiny_config(), action=dataclasses.replace(tiny_config().action, horizon=8))
    source, words = dataset(str(root), config)
    facts = bench_train(config, OPTIONS, source, words)
    assert facts["agrees"] and facts["loss"] > 0
    assert set(facts["steps_ms"]) == {"ours", "plain", "left remembered", "recomputed"}
    assert {"left brain", "right brain", "expert and loss", "backward", "optimiser"} <= set(facts["parts_ms"])
    assert facts["data"]["steps"] == 2 and 0 <= facts["data"]["waited_share"] <= 1
    assert any("waited" in text for _, text in rows({"config": "tiny", **facts}))
