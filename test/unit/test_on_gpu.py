"""What only a GPU can show; `make bench-gpu` runs these first."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from brain_fixtures import tiny_policy, views
from torch import Tensor

from twinbrain_ros.brain.devices import find_device
from twinbrain_ros.brain.generalist import Generalist
from twinbrain_ros.brain.graphs import CapturedCall, GraphError, GraphPool
from twinbrain_ros.brain.memory import Needs
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.control.realtime import soft_mask
from twinbrain_ros.robot.chunk import Guide

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.device_count(), reason="a GPU is needed; none is here"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are needed")

RED, BLUE = "pick up the red block", "put the green block on the blue plate"
STATE = np.linspace(-0.5, 0.5, 7)
GUIDE = Guide(np.random.default_rng(1).normal(0.1, 0.5, (8, 7)), soft_mask(8, 3, 6), 3)


def doubled(x: Tensor) -> list[Tensor]:
    return [2 * x, x.sum(0)]


@pytest.fixture(params=["cuda:0", pytest.param("cuda:1", marks=two_gpus)])
def device(request: Any) -> Iterator[torch.device]:
    """Each GPU in turn, while torch's current one is the first."""
    assert torch.cuda.current_device() == 0
    yield torch.device(request.param)
    assert torch.cuda.current_device() == 0


def both(device: torch.device) -> tuple[TwinBrainPolicy, TwinBrainPolicy]:
    """With graphs and without, on the same weights."""
    eager = tiny_policy()
    eager = TwinBrainPolicy(eager.model, eager.tokenizer, str(device), graphs=False)
    return TwinBrainPolicy(eager.model, eager.tokenizer, graphs=True), eager


def test_chunks_with_and_without_a_guide_are_those_of_a_run_without_graphs(device: torch.device) -> None:
    recorded, eager = both(device)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    recorded.warm_up(guided=True)
    for seed, (words, guide) in enumerate(((RED, None), (BLUE, GUIDE), (RED, GUIDE), (BLUE, None)) * 2):
        found, wanted = (p.act(views(seed), words, STATE, seed=seed, guide=guide) for p in (recorded, eager))
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_a_gpu_computes_what_a_cpu_computes(device: torch.device) -> None:
    recorded, _ = both(device)
    for words, guide in ((RED, None), (BLUE, GUIDE)):
        found, wanted = (p.act(views(), words, STATE, guide=guide) for p in (recorded, tiny_policy()))
        np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_what_the_left_brain_remembers_outlives_the_graphs_in_between(device: torch.device) -> None:
    policies = both(device)
    for p in policies:
        p.left_period_s = 1.0
    for stamp_s, seed in ((0.0, 0), (0.4, 1), (0.8, 2)):
        found, wanted = (p.act(views(seed), RED, STATE, stamp_s=stamp_s) for p in policies)
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@two_gpus
def test_a_recording_on_another_device_is_refused() -> None:
    with pytest.raises(GraphError, match="found none of the work in it"):
        CapturedCall(doubled, [torch.ones(2, 3, device="cuda:1")], GraphPool(torch.device("cuda:0")))


def test_a_recording_that_breaks_off_says_why_and_the_next_one_works(device: torch.device) -> None:
    pool, given = GraphPool(device), torch.ones(2, 3, device=device)
    with pytest.raises(RuntimeError, match="captur"):
        CapturedCall(lambda x: [x * float(x.sum())], [given], pool)
    twice, total = CapturedCall(doubled, [given], pool)(given * 3)
    assert twice.tolist() == [[6.0] * 3] * 2 and total.tolist() == [6.0] * 3


def test_memory_that_ends_inside_a_recording_is_said_as_such(device: torch.device) -> None:
    runs: list[int] = []

    def greedy(x: Tensor) -> list[Tensor]:
        runs.append(1)
        return [x + torch.empty(1 << 44 if len(runs) > 4 else 1, device=x.device)[0]]

    with pytest.raises(torch.OutOfMemoryError):
        CapturedCall(greedy, [torch.ones(2, device=device)], GraphPool(device))


def test_graphs_that_leave_give_their_memory_back(device: torch.device) -> None:
    pool = GraphPool(device)

    def wide(x: Tensor) -> list[Tensor]:
        return [(x[:, None] * x).exp().sum(1)]

    def held() -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(device)

    calls = [CapturedCall(wide, [torch.ones(4096, device=device)], pool) for _ in range(2)]
    one = held()
    calls += [CapturedCall(wide, [torch.ones(4096, device=device)], pool) for _ in range(6)]
    assert held() < 1.5 * one, "eight graphs work in the memory of one"
    calls.clear()
    assert held() < 0.5 * one


def test_a_question_is_answered_while_graphs_are_recorded(device: torch.device) -> None:
    recorded, eager = both(device)
    image = [np.asarray(views()["front"])]
    wanted = Generalist(eager).ask(image, RED, 16).tokens
    answers: list[list[int]] = []
    asking = threading.Thread(target=lambda: answers.append(Generalist(recorded).ask(image, RED, 16).tokens))
    asking.start()
    recorded.warm_up(guided=True)
    asking.join()
    assert answers == [wanted]
    np.testing.assert_allclose(*(p.act(views(), RED, STATE) for p in (recorded, eager)), atol=1e-3)


def test_what_is_needed_is_told_with_what_the_gpu_has(device: torch.device) -> None:
    assert find_device(str(device)) == device
    line = Needs.of(tiny_policy().model, device, torch.bfloat16).line()
    assert line.startswith(f"{device} ({torch.cuda.get_device_name(device)}): needs about ")
    assert line.endswith(" are free")
