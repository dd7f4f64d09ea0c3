"""Which device is taken, what it must have, and what is set there; without one at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brain_fixtures import tiny_policy

from twinbrain_ros import cli
from twinbrain_ros.brain import checkpoint, engine, memory
from twinbrain_ros.brain.asymot import masked_attention
from twinbrain_ros.brain.checkpoint import meta_twin
from twinbrain_ros.brain.config import CheckpointError
from twinbrain_ros.brain.devices import DeviceError, check_processes, find_device, send, settle
from twinbrain_ros.brain.memory import Needs
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.presets import preset
from twinbrain_ros.nodes.policy_loading import load_policy
from twinbrain_ros.resources import demo_checkpoint
from twinbrain_ros.training import processes

CUDA = torch.device("cuda", 1)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (18_500_000_000, 24_000_000_000))


# Devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "index"), [("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_device_that_is_here_is_found(two_gpus: None, name: str, index: int | None) -> None:
    assert find_device(name) == torch.device(name.split(":")[0], index)


@pytest.mark.parametrize("name", ["cuda:7", "cuad", "cuda:", "cuda:-1", "mps", "", "cuda:01", "CPU"])
def test_a_device_that_is_not_here_is_named_with_those_that_are(two_gpus: None, name: str) -> None:
    with pytest.raises(DeviceError) as refused:
        find_device(name)
    assert str(refused.value) == f"device: found {name!r}, expected one of cpu, cuda:0, cuda:1"


def test_without_a_gpu_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for built, why in ((True, "torch finds no GPU here"), (False, "is built without CUDA")):
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda built=built: built)
        with pytest.raises(DeviceError, match=rf"device: found 'cuda', expected cpu \(.*{why}\)$"):
            find_device("cuda")


def absent(*_: Any, **__: Any) -> Any:
    pytest.fail("something long began before the device was looked at")


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "--image", "a.png", "--instruction", "go", "--out", "a.npy"],
        ["ask", "what is it?", "--image", "a.png"],
        ["evaluate", "tabletop"],
        ["judge", "bags", "--question", "is it on the plate?"],
        ["replay", "bag"],
        ["questions", "a.jsonl"],
        ["bench", "policy"],
        ["bench", "train"],
    ],
)
def test_every_command_that_takes_a_device_refuses_it_before_all_else(
    command: list[str],
    two_gpus: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TwinBrainPolicy, "from_pretrained", absent)
    assert cli.main([*command, "--device", "cuda:7"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    name = command[0]
    assert line == f"twinbrain {name}: error: --device: found 'cuda:7', expected one of cpu, cuda:0, cuda:1"
    assert not list(tmp_path.iterdir())


def test_the_node_refuses_it_before_anything_is_read(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TwinBrainPolicy, "from_pretrained", absent)
    with pytest.raises(DeviceError, match="found 'cuda:7', expected one of cpu, cuda:0, cuda:1"):
        load_policy("", "cuda:7", 1, "", lambda share: None, print)


def test_training_refuses_more_processes_than_gpus(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_processes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(
        DeviceError, match=r"^LOCAL_WORLD_SIZE: found 3 processes .*, expected at most 2, one"
    ):
        processes.accelerator()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    check_processes()
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_processes()


# Memory -----------------------------------------------------------------------------------------------


def test_what_a_4b_twin_needs_is_known_without_its_weights(two_gpus: None) -> None:
    model = meta_twin(preset("qwen3_vl_4b", ("front", "wrist"), "action_queries"))
    needs = Needs.of(model, CUDA, torch.bfloat16)
    assert needs.weights == 2 * sum(p.numel() for p in model.parameters())
    assert 17.5e9 < needs.weights < 18.5e9 and 0.5e9 < needs.work < 2e9
    total = (needs.weights + needs.work) / 1e9
    assert needs.line() == (
        f"cuda:1 (GPU of cuda:1): needs about {total:.1f} GB ({needs.weights / 1e9:.1f} GB of weights in "
        f"bfloat16, {needs.work / 1e9:.1f} GB to work in); 18.5 GB of 24.0 GB are free"
    )
    with pytest.raises(
        CheckpointError, match=r"^cuda:1: 9,\d+,\d+,\d+ parameters need 18.* 18.5 GB are free"
    ):
        needs.check(18_500_000_000)
    needs.check(19_500_000_000)
    assert Needs.of(model, torch.device("cpu"), torch.bfloat16).work < 0.5e9, "no graphs, no GPU's libraries"


def test_what_is_needed_is_told_before_weights_are_read_and_refused_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    free = 8_000_000_000
    monkeypatch.setattr(checkpoint, "memory_of", lambda device: (free, free))
    monkeypatch.setattr(memory, "memory_of", lambda device: (free, free))
    policy = TwinBrainPolicy.from_pretrained(demo_checkpoint(), tell=told.append)
    (line,) = told
    assert line.startswith("cpu: needs about ") and line.endswith("; 8.0 GB of 8.0 GB are free")
    weights = sum(p.numel() for p in policy.model.parameters()) * 4
    assert f"{weights / 1e6:.0f} MB of weights in float32" in line
    free = 10_000_000
    monkeypatch.setattr(checkpoint, "stream_tensors", absent)
    with pytest.raises(CheckpointError, match=r"^cpu: 3,\d+,\d+ parameters need 15 MB in float32 and .* are"):
        TwinBrainPolicy.from_pretrained(demo_checkpoint(), tell=told.append)
    assert len(told) == 2


@pytest.mark.parametrize("command", ["predict", "ask"])
def test_commands_say_what_is_needed_beside_their_results(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((96, 96, 3), np.uint8))
    if command == "predict":
        words = [
            "--instruction",
            "pick up the red block",
            "--image",
            str(image),
            "--out",
            str(tmp_path / "a"),
        ]
    else:
        words = ["pick up the red block", "--max-tokens", "1"]
    assert cli.main([command, *words, "--image", str(image)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("cpu: needs about ") and "needs about" not in said.out


def test_memory_that_ends_while_weights_are_loaded_or_a_question_is_answered_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from twinbrain_ros.brain.generalist import Generalist

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    policy = tiny_policy()
    generalist = Generalist(policy)
    monkeypatch.setattr(policy.model, "image_features", full)
    with pytest.raises(CheckpointError, match=r"^cpu: out of memory while answering: CUDA out of memory"):
        generalist.ask([np.zeros((24, 32, 3), np.uint8)], "pick up the red block")
    monkeypatch.setattr(checkpoint, "with_memory", full)
    with pytest.raises(CheckpointError, match=r"^cpu: out of memory while loading: CUDA out of memory"):
        TwinBrainPolicy.from_pretrained(demo_checkpoint())


# What is set on a GPU ---------------------------------------------------------------------------------


@pytest.fixture
def cudnn_allowed() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_what_goes_to_a_gpu_goes_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    array, went = np.arange(3.0), []

    class Pinned:
        def to(self, device: torch.device, non_blocking: bool) -> str:
            went.append((device, non_blocking))
            return "there"

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: Pinned())
    assert torch.equal(send(array, torch.device("cpu")), torch.from_numpy(array)) and not went
    assert send(array, CUDA) == "there" and went == [(CUDA, True)]


def test_attention_with_a_plan_per_shape_is_off_on_a_gpu_alone(cudnn_allowed: None) -> None:
    settle(torch.device("cpu"))
    assert torch.backends.cuda.cudnn_sdp_enabled()
    settle(CUDA)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_it_is_set_for_whatever_device_a_policy_lands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[torch.device] = []
    monkeypatch.setattr(engine, "settle", settled.append)
    policy = tiny_policy()
    assert settled == [policy.device]
    monkeypatch.setattr(processes, "settle", settled.append)
    assert processes.accelerator().device in settled, "a trainer's too"


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("kernel_shares", [True, False])
def test_keys_and_values_are_repeated_only_where_the_kernel_needs_it(
    kernel_shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch says of its kernel is believed, and the numbers are the same either way."""
    asked: list[Any] = []
    seen: list[tuple[int, bool]] = []
    attend = F.scaled_dot_product_attention

    def can(given: Any) -> bool:
        asked.append(given)
        return kernel_shares

    def watched(query: Any, key: Any, value: Any, **options: Any) -> Any:
        assert key.shape == value.shape
        seen.append((key.shape[1], options["enable_gqa"]))
        return attend(query, key, value, **options)

    monkeypatch.setattr(torch.backends.cuda, "can_use_efficient_attention", can)
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    torch.manual_seed(0)
    query, (key, value) = torch.randn(1, 4, 8, 16), torch.randn(2, 1, 2, 8, 16)
    mask = torch.randn(1, 1, 8, 8)
    wanted, _ = masked_attention(torch.nn.Identity(), query, key, value, mask)
    assert seen.pop() == (2, True) and not asked, "on a CPU nobody is asked"
    query, key, value, mask = (t.as_subclass(OnGpu) for t in (query, key, value, mask))
    found, _ = masked_attention(torch.nn.Identity(), query, key, value, mask)
    torch.testing.assert_close(found.as_subclass(torch.Tensor), wanted)
    assert seen.pop() == ((2, True) if kernel_shares else (4, False)) and asked.pop().enable_gqa
    masked_attention(torch.nn.Identity(), query, query, query, mask)
    masked_attention(torch.nn.Identity(), query, key, value, None)
    assert seen == [(4, False), (2, True)] and not asked, "nothing is repeated without a mask, or of equals"
