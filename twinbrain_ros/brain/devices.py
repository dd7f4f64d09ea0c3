"""Which devices there are, and what is set where a policy or a trainer lands on one."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor


class DeviceError(ValueError):
    """A device that is not there; names what was found and what there is."""


def find_device(name: str, option: str = "device") -> torch.device:
    """The device of this name, cpu, cuda or cuda:N, on this machine; "cuda" is the first GPU.

    option: what the name was given as. Raises DeviceError for any other name, and for a GPU that is not here.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted in there:
        return torch.device(wanted)
    expected = there[0] if len(there) == 1 else f"one of {', '.join(there)}"
    raise DeviceError(f"{option}: found {name!r}, expected {expected}{_why_no_gpu()}")


def _why_no_gpu() -> str:
    if torch.cuda.device_count():
        return ""
    if not torch.backends.cuda.is_built():
        return f" (torch {torch.__version__} is built without CUDA)"
    return " (torch finds no GPU here)"


def describe(device: torch.device) -> str:
    """Its name, with a GPU's model."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def usual_dtype(device: torch.device | str) -> str:
    """What the brains compute in on a device, by its name, where nothing else is asked for."""
    return "bfloat16" if str(device).startswith("cuda") else "float32"


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on a device. To a GPU it goes through pinned memory: from other memory the driver
    copies while this thread waits."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def settle(device: torch.device) -> None:
    """What holds for all that runs on a device, whoever brings it there.

    cuDNN's attention is torch's first choice on Hopper and later (aten/src/ATen/native/transformers/cuda/
    sdp_utils.cpp, check_prefer_cudnn_attention). It builds a plan for each shape, a good part of a second
    each, and keeps it for one thread (cudnn/MHA.cpp): an answer, whose keys grow with every token, would wait
    for a plan per token. The other kernels have no plans.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def check_processes() -> None:
    """Refuses more processes of a launcher on this machine than there are GPUs, where there are any.

    Accelerate would give several of them the same one (state.py, set_device). Raises DeviceError.
    """
    started, gpus = os.environ.get("LOCAL_WORLD_SIZE", "1"), torch.cuda.device_count()
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")
    if gpus and not on_cpu and started.isdigit() and int(started) > gpus:
        raise DeviceError(
            f"LOCAL_WORLD_SIZE: found {started} processes on this machine, expected at most {gpus}, one for "
            "each of its GPUs"
        )
