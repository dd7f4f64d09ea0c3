"""Training a twin: the left brain stays, what is saved acts the same, options change only what they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from brain_fixtures import STATE, tiny_policy, views
from training_fixtures import RandomSource

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.training.loop import LoopConfig, Rehearsal
from twinbrain_ros.training.lora import LoraConfig, add_adapters, merged_tensors
from twinbrain_ros.training.policy import PolicyLosses, PolicyOptions, PolicyTrainer, train_policy

LOOP = LoopConfig(
    steps=4, batch_size=4, learning_rate=1e-3, warmup_steps=1, save_every_steps=2, ema_decay=0.0, seed=3
)


def trainer_of(policy: TwinBrainPolicy, options: PolicyOptions | None = None) -> PolicyTrainer:
    return PolicyTrainer(policy, RandomSource(policy.config), options or PolicyOptions(), seed=3)


def gradients(policy: TwinBrainPolicy, options: PolicyOptions) -> dict[str, torch.Tensor]:
    trainer = trainer_of(policy, options)
    policy.model.train()
    trainer.losses(trainer.draw(0, 4), 0)["flow"].backward()
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


def act(policy: TwinBrainPolicy) -> np.ndarray:
    return policy.act(views(5), "pick up the red block", np.full(len(STATE), 0.1), seed=1)


def test_the_left_brain_stays_as_it_was_and_all_else_moves(tmp_path: Path) -> None:
    policy = tiny_policy()
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    train_policy(policy, RandomSource(policy.config), PolicyOptions(), LOOP, tmp_path)
    moved = {n for n, p in policy.model.named_parameters() if not torch.equal(p, before[n])}
    assert not [n for n in moved if n.startswith("left.")]
    for part in ("right.model.visual", "right.model.language_model", "state_encoder", "expert"):
        assert any(n.startswith(part) for n in moved)


def test_a_killed_training_goes_on_bit_for_bit_with_batches_made_in_other_processes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    loop = dataclasses.replace(LOOP, steps=6, ema_decay=0.9, workers=1)
    whole, resumed = tiny_policy(), tiny_policy()
    options = PolicyOptions(PolicyLosses(prefix_steps=3))
    train_policy(whole, RandomSource(whole.config), options, loop, tmp_path / "a")

    class Killed(Exception):
        pass

    def kill(step: int) -> dict[str, float]:
        raise Killed

    with pytest.raises(Killed):  # at step 5, one after the last save
        train_policy(
            tiny_policy(), RandomSource(whole.config), options, loop, tmp_path / "b", Rehearsal(5, kill)
        )
    train_policy(resumed, RandomSource(whole.config), options, loop, tmp_path / "b")
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_trial_in_between_changes_nothing_of_what_follows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    loop = dataclasses.replace(LOOP, ema_decay=0.9)
    undisturbed, tried = tiny_policy(), tiny_policy()
    train_policy(undisturbed, RandomSource(tried.config), PolicyOptions(), loop, tmp_path / "a")
    scores = []

    def trial(step: int) -> dict[str, float]:
        scores.append(float(np.abs(act(tried)).sum()))
        return {"score": scores[-1]}

    train_policy(
        tried, RandomSource(tried.config), PolicyOptions(), loop, tmp_path / "b", Rehearsal(1, trial)
    )
    assert len(scores) == 4 and len(set(scores)) == 4
    for a, b in zip(undisturbed.model.parameters(), tried.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_remembering_what_the_left_brain_thinks_changes_no_gradient() -> None:
    plain = gradients(tiny_policy(), PolicyOptions())
    policy = tiny_policy()
    trainer = trainer_of(policy, PolicyOptions(left_cache_gb=1.0))
    policy.model.train()
    assert trainer.cache is not None
    for _ in range(2):  # the second time everything is remembered
        policy.model.zero_grad()
        trainer.losses(trainer.draw(0, 4), 0)["flow"].backward()
    assert trainer.cache.hits == 4 and trainer.cache.asked == 8
    for name, parameter in policy.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, plain[name], atol=1e-5, rtol=1e-4)


def test_the_left_cache_keeps_to_its_size() -> None:
    policy = tiny_policy()
    trainer = trainer_of(policy, PolicyOptions(left_cache_gb=60e-6))
    for step in range(6):
        trainer.losses(trainer.draw(step, 4), step)
    assert trainer.cache is not None and 0 < trainer.cache.bytes <= 60_000


def test_recomputing_activations_changes_no_gradient() -> None:
    plain = gradients(tiny_policy(), PolicyOptions())
    again = gradients(tiny_policy(), PolicyOptions(recompute=True))
    assert plain.keys() == again.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], again[name], atol=1e-6, rtol=1e-5)


def test_adapters_alone_are_trained_and_are_multiplied_in_when_saved(tmp_path: Path) -> None:
    policy = tiny_policy()
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    (tmp_path / "run").mkdir()
    options = PolicyOptions(lora=LoraConfig(rank=2, alpha=64.0))
    train_policy(policy, RandomSource(policy.config), options, LOOP, tmp_path / "run")
    policy.save_pretrained(tmp_path / "checkpoint", merged_tensors(policy.model))
    loaded = TwinBrainPolicy.from_pretrained(tmp_path / "checkpoint")
    np.testing.assert_allclose(act(loaded), act(policy), atol=1e-4)
    changed = {n for n, p in loaded.model.named_parameters() if not torch.equal(p, before[n])}
    right = {n for n in changed if n.startswith("right.")}
    assert right and all(n.endswith("proj.weight") for n in right)
    assert not [n for n in changed if n.startswith("left.")]


def test_adapters_for_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="nowhere_proj"):
        add_adapters(tiny_policy().model.right, LoraConfig(rank=2, targets=("nowhere_proj",)))


def test_each_part_has_its_own_rate(tmp_path: Path) -> None:
    policy = tiny_policy()
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    loop = dataclasses.replace(LOOP, learning_rates={"vlm": 0.0, "expert": 1e-2}, weight_decay=0.0)
    train_policy(policy, RandomSource(policy.config), PolicyOptions(), loop, tmp_path)
    moved = {n.split(".")[0] for n, p in policy.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"expert", "state_encoder"}


def test_a_rate_for_an_unknown_part_is_refused(tmp_path: Path) -> None:
    policy = tiny_policy()
    loop = dataclasses.replace(LOOP, learning_rates={"qwen": 1e-5})
    with pytest.raises(ValueError, match=r"learning_rates: found \['qwen'\], expected some of"):
        train_policy(policy, RandomSource(policy.config), PolicyOptions(), loop, tmp_path)


def test_steps_past_an_episodes_end_do_not_count() -> None:
    policy = tiny_policy()
    trainer = trainer_of(policy)
    drawn = trainer.draw(0, 4)
    loss = trainer.losses(drawn, 0)["flow"]
    assert not drawn.batch.known[0, -2:].any()
    weights = trainer._sample_weights(drawn.batch)
    assert not weights[0, -2:].any() and weights[0, :-2].all() and weights[1:].all()
    everything = dataclasses.replace(drawn.batch, known=torch.ones_like(drawn.batch.known))
    assert trainer.losses(dataclasses.replace(drawn, batch=everything), 0)["flow"] != loss


def test_a_sample_without_weight_teaches_nothing() -> None:
    policy = tiny_policy()
    trainer = trainer_of(policy)
    drawn = trainer.draw(0, 4)
    silent = dataclasses.replace(drawn.batch, weights=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    changed = silent.actions.clone()
    changed[1] += 5.0
    other = dataclasses.replace(silent, actions=changed)
    losses = [trainer.losses(dataclasses.replace(drawn, batch=b), 0)["flow"] for b in (silent, other)]
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (PolicyLosses(step_weights=(1.0,)), "step_weights: found 1 entries, expected 8"),
        (PolicyLosses(action_weights=(1.0,) * 3), "action_weights: found 3 entries, expected 7"),
        (PolicyLosses(prefix_steps=8), "prefix_steps: found 8, expected 0 to 7"),
    ],
)
def test_weights_that_do_not_fit_the_chunk_are_refused(losses: PolicyLosses, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(tiny_policy(), PolicyOptions(losses))


def test_bfloat16_trains_what_float32_trains_roughly(tmp_path: Path) -> None:
    logs = []
    for precision in ("float32", "bfloat16"):
        (tmp_path / precision).mkdir()
        loop = dataclasses.replace(LOOP, steps=20, precision=precision)
        policy = tiny_policy()
        train_policy(policy, RandomSource(policy.config), PolicyOptions(), loop, tmp_path / precision)
        logs.append(next(tmp_path.joinpath(precision).glob("policy.jsonl")).read_text())
        assert next(policy.model.right.parameters()).dtype == torch.float32
    first, second = (float(log.split('"flow": ')[1].split(",")[0]) for log in logs)
    assert first == pytest.approx(second, rel=0.05) and first != second
