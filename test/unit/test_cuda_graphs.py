"""What a CUDA graph must not do in silence, on the CPU by `graph_stand_in`."""

from __future__ import annotations

import dataclasses
import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import random_policy, tiny_policy, views
from graph_stand_in import Cuda
from published_run import case, imported_families
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from twinbrain_ros.brain import engine, graphs, policy
from twinbrain_ros.brain.config import CheckpointError
from twinbrain_ros.brain.graphs import CapturedCall, GraphError, GraphPool
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.control.realtime import soft_mask
from twinbrain_ros.robot.chunk import Guide

CPU = torch.device("cpu")
RED, BLUE = "pick up the red block", "put the green block on the blue plate"
STATE = np.linspace(-0.5, 0.5, 7)
GUIDE = Guide(np.random.default_rng(1).normal(0.1, 0.5, (8, 7)), soft_mask(8, 3, 6), 3)


@pytest.fixture(autouse=True)
def own_filters() -> Any:
    """What a pool makes of torch's warning ends with the test."""
    with warnings.catch_warnings():
        yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Two GPUs, with all tensors on the second; torch's current device is the first."""
    return Cuda(tensors_on=1).patch(monkeypatch)


def doubled(x: Tensor) -> list[Tensor]:
    return [2 * x, x.sum(0)]


class Copies(TorchDispatchMode):
    """How many tensors are written over."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name() == "aten::copy_"
        return func(*args, **(kwargs or {}))


# A recording ------------------------------------------------------------------------------------------


def test_a_replay_computes_from_what_is_given_now(cuda: Cuda) -> None:
    call = CapturedCall(doubled, [torch.ones(2, 3)], GraphPool(CPU))
    for value in (1.0, 5.0, -2.0):
        twice, total = call(torch.full((2, 3), value))
        assert torch.equal(twice, torch.full((2, 3), 2 * value)) and total.tolist() == [2 * value] * 3


def test_streams_recording_and_replays_are_on_the_policys_own_device(cuda: Cuda) -> None:
    streams = []

    def watched(x: Tensor) -> list[Tensor]:
        streams.append(torch.cuda.current_stream())
        return doubled(x)

    pool = GraphPool(CPU)
    CapturedCall(watched, [torch.ones(2, 3)], pool)(torch.ones(2, 3))
    assert cuda.index == 0, "torch's current device is what it was"
    assert cuda.captures == [(1, pool.stream)] and {index for index, _ in cuda.replays} == {1}
    assert pool.stream.device == 1 and cuda.replays[-1][1] is not pool.stream
    assert set(streams) == {pool.stream}, "it is warmed up where it is recorded"


def test_a_recording_on_another_device_is_refused_not_replayed(cuda: Cuda) -> None:
    with pytest.raises(GraphError, match=r"found none of the work in it, expected all: The CUDA Graph is em"):
        CapturedCall(doubled, [torch.ones(2, 3)], GraphPool(torch.device("cuda:0")))


def test_a_recording_that_replays_nothing_is_refused_even_without_torchs_warning(cuda: Cuda) -> None:
    cuda.deaf = True
    with pytest.raises(GraphError, match=r"output \(0 of 2, \[2, 3\]\) that is not computed again"):
        CapturedCall(doubled, [torch.ones(2, 3)], GraphPool(CPU))


def test_a_recording_of_what_the_host_computed_is_refused(cuda: Cuda) -> None:
    def by_the_host(x: Tensor) -> list[Tensor]:
        return [x + torch.from_numpy(x.numpy() * 2)]

    with pytest.raises(GraphError, match=r"output \(0 of 1"):
        CapturedCall(by_the_host, [torch.ones(2, 3)], GraphPool(CPU))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64])
def test_outputs_of_every_type_are_held_against_a_run_without_a_graph(cuda: Cuda, dtype: torch.dtype) -> None:
    given = torch.tensor([0, 1, 127, 128, 255]).to(dtype)
    pool = GraphPool(CPU)
    assert torch.equal(CapturedCall(lambda x: [x.flip(0)], [given], pool)(given)[0], given.flip(0))
    cuda.deaf = True
    with pytest.raises(GraphError):
        CapturedCall(lambda x: [x.flip(0)], [given], pool)


def test_inputs_hold_their_values_again_after_the_recording(cuda: Cuda) -> None:
    pool, lent = GraphPool(CPU), torch.full((2, 3), 3.0)
    CapturedCall(lambda x: [x * 2], [lent], pool, lent=[0])
    assert torch.equal(lent, torch.full((2, 3), 3.0))
    cuda.deaf = True
    with pytest.raises(GraphError):
        CapturedCall(lambda x: [x * 2], [lent], pool, lent=[0])
    assert torch.equal(lent, torch.full((2, 3), 3.0))


def test_an_error_inside_a_recording_is_raised_as_itself(cuda: Cuda) -> None:
    pool, runs = GraphPool(CPU), []
    before = pool.handle

    def short_of_memory(x: Tensor) -> list[Tensor]:
        runs.append(x)
        if len(runs) > graphs.WARM_UP_RUNS + 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [x * 2]

    cuda.fails = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        CapturedCall(short_of_memory, [torch.ones(2)], pool)
    cuda.fails = None
    assert pool.handle != before and not cuda.recording, "the allocator knows that nothing is recorded"
    assert CapturedCall(doubled, [torch.ones(2, 3)], pool)(torch.ones(2, 3))[0].tolist() == [[2.0] * 3] * 2
    assert cuda.current_stream() is cuda.streams[0], "nobody is left on the stream of recordings"


def test_graphs_share_their_memory_and_leave_each_others_results_alone(cuda: Cuda) -> None:
    pool = GraphPool(CPU)
    made = [CapturedCall(lambda x, k=k: [(x * k).exp().log()], [torch.ones(4)], pool) for k in (2, 3, 4)]
    assert list(cuda.pools) == [pool.handle]
    found = {k: made[k](torch.ones(4))[0] for k in (2, 0, 1)}
    for k, result in found.items():
        torch.testing.assert_close(result, torch.full((4,), k + 2.0))


def test_fixed_inputs_are_copied_only_when_others_come(cuda: Cuda) -> None:
    words, other = torch.ones(3), torch.full((3,), 2.0)
    call = CapturedCall(lambda x, w: [x + w], [torch.zeros(3), words], GraphPool(CPU), fixed=[1])
    for given, copies, total in ((words, 1, 2.0), (words, 1, 2.0), (other, 2, 3.0), (other, 1, 3.0)):
        with Copies() as counted:
            (found,) = call(torch.ones(3), given)
        assert counted.count == copies and found.tolist() == [total] * 3


# A policy's graphs ------------------------------------------------------------------------------------


def with_graphs(eager: TwinBrainPolicy) -> TwinBrainPolicy:
    return TwinBrainPolicy(eager.model, eager.tokenizer, graphs=True)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer lengths to record, and fewer runs for each."""
    monkeypatch.setattr(policy, "WARM_UP_WORDS", 8)
    monkeypatch.setattr(graphs, "WARM_UP_RUNS", 1)


@pytest.mark.parametrize("prefix_trained", [False, True])
def test_recorded_chunks_serve_other_words_images_and_guides_without_another_recording(
    cuda: Cuda, short: None, prefix_trained: bool
) -> None:
    """With and without a guide, in any order: also the way that a gradient takes is in a graph."""
    eager = tiny_policy()
    expert = dataclasses.replace(
        eager.config.expert, prefix_trained=prefix_trained, layers=2, denoise_steps=2
    )
    config = dataclasses.replace(eager.config, expert=expert, condition_layers=2)
    eager = random_policy(config, eager.tokenizer)
    recorded = with_graphs(eager)
    recorded.warm_up({"front": (48, 64), "wrist": (16, 16)}, guided=True)
    ready, rng = len(cuda.captures), np.random.default_rng(0)
    told: list[str] = []
    recorded.engine.tell = told.append
    later = Guide(GUIDE.actions[::-1].copy(), soft_mask(8, 1, 4), 1)
    for words, guide in ((RED, None), (BLUE, GUIDE), (RED, later), (BLUE, None)):
        sizes = {"front": (48, 64, 3), "wrist": (16, 16, 3)}
        images = {name: rng.integers(0, 256, size, dtype=np.uint8) for name, size in sizes.items()}
        state = rng.standard_normal(7)
        found, wanted = (p.act(images, words, state, seed=3, guide=guide) for p in (recorded, eager))
        np.testing.assert_allclose(found, wanted, atol=5e-4)
    assert len(cuda.captures) == ready > 4 and not told
    recorded.act(images, " ".join([BLUE] * 4), state)
    assert {line.split("'")[1] for line in told} >= {"left", "right"}, "lengths beyond the warm-up are told"
    assert "is recorded, this chunk comes late" in told[0]
    assert {index for index, _ in (*cuda.captures, *cuda.replays)} == {1} and len(cuda.pools) == 1


def test_a_published_run_is_recorded_too(cuda: Cuda, short: None, tmp_path: Path) -> None:
    """Its head is told a state, and no mask; its tower has windows."""
    facts = case("two_images_with_state")
    checkpoint = imported_families(tmp_path)["qwen2_5_vl"]
    eager = TwinBrainPolicy.from_pretrained(checkpoint, dtype="float32", views=2)
    recorded = with_graphs(eager)
    images = {c.name: image for c, image in zip(eager.config.cameras, facts["images"], strict=True)}
    noise = np.load(facts["noise_path"])
    for guide in (None, GUIDE):
        found, wanted = (
            p.act(images, facts["instruction"], facts["state"], noise, normalized=True, guide=guide)
            for p in (recorded, eager)
        )
        np.testing.assert_allclose(found, wanted, atol=5e-5)


def test_what_the_left_brain_remembers_outlives_the_graphs_in_between(cuda: Cuda, short: None) -> None:
    eager = tiny_policy()
    recorded = with_graphs(eager)
    for p in (eager, recorded):
        p.left_period_s = 1.0
    for stamp_s, seed in ((0.0, 0), (0.4, 1), (0.8, 2)):
        found, wanted = (p.act(views(seed), RED, STATE, stamp_s=stamp_s) for p in (recorded, eager))
        assert recorded.left_age_s == pytest.approx(stamp_s)
        np.testing.assert_allclose(found, wanted, atol=5e-5)


def test_graphs_that_leave_are_freed(cuda: Cuda, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "KEPT_GRAPHS", 4)
    recorded = with_graphs(tiny_policy())
    recorded.act(views(), RED, STATE)
    gc.disable()
    try:
        first = weakref.ref(next(iter(recorded.engine._calls.values())))
        wrist = np.zeros((32, 32, 3), np.uint8)
        recorded.act(views() | {"wrist": wrist}, RED, STATE)
        assert first() is None and len(recorded.engine._calls) == 4
    finally:
        gc.enable()


def test_memory_that_ends_during_a_recording_is_one_line(
    cuda: Cuda, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = with_graphs(tiny_policy())

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    with monkeypatch.context() as patched:
        patched.setattr(recorded.model.expert, "integrate", full)
        with pytest.raises(CheckpointError, match=r"^cpu: out of memory while acting: CUDA out of memory"):
            recorded.act(views(), RED, STATE)
    assert not any(key[0] == "head" for key in recorded.engine._calls)
    np.testing.assert_allclose(
        recorded.act(views(), RED, STATE), tiny_policy().act(views(), RED, STATE), atol=5e-5
    )
