"""What a twin needs of a device's memory, told before its weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from twinbrain_ros.brain.config import CheckpointError
from twinbrain_ros.brain.devices import describe
from twinbrain_ros.brain.twin import TwinBrain

# Kernels and the libraries' workspaces on a GPU, beside what torch allocates [bytes].
LIBRARIES = 500_000_000
# Tokens of both prompts beside those of the images, generously.
WORDS = 2 * 128
OPEN_SIDE = (480, 640)  # height and width [pixels] taken where a checkpoint leaves it open
# Tensors as wide as the stream, and as wide as the MLP, that live at once inside a layer.
STREAMS, WIDES = 10, 3
# Prompt lengths whose keys and values are kept for graphs: as many as a warm-up records.
KEPT_LENGTHS = 5


@dataclass(frozen=True)
class Needs:
    """What a twin of so many parameters takes on a device [bytes]: weights, and an estimate of what a chunk
    for one observation works in."""

    device: torch.device
    dtype: torch.dtype
    parameters: int
    work: int = 0

    @classmethod
    def of(cls, model: TwinBrain, device: torch.device, dtype: torch.dtype) -> Needs:
        """Of a model, which may be on the meta device."""
        return cls(device, dtype, sum(p.numel() for p in model.parameters()), _work(model, device, dtype))

    @property
    def weights(self) -> int:
        return self.parameters * self.dtype.itemsize

    def line(self) -> str:
        """For a person, with what the device has."""
        parts = (
            f"{size_text(self.weights)} of weights in {_name(self.dtype)}, {size_text(self.work)} to work in"
        )
        free, total = memory_of(self.device)
        has = (
            f"; {size_text(free)} of {size_text(total)} are free"
            if free is not None and total is not None
            else ""
        )
        return f"{describe(self.device)}: needs about {size_text(self.weights + self.work)} ({parts}){has}"

    def check(self, free: int | None) -> None:
        """Raises CheckpointError where it does not fit into so many bytes: what is needed, and what would
        fit. None: not known."""
        if free is None or self.weights + self.work <= free:
            return
        working = f" and {size_text(self.work)} to work in" if self.work else ""
        message = (
            f"{self.device}: {self.parameters:,} parameters need {size_text(self.weights)} in "
            f"{_name(self.dtype)}{working}, {size_text(free)} are free"
        )
        if self.dtype.itemsize > 2 and self.parameters * 2 + self.work <= free:
            raise CheckpointError(
                f"{message}; in bfloat16 they need {size_text(self.parameters * 2)}, which would fit"
            )
        fitting = max(0, free - self.work) // 2
        raise CheckpointError(f"{message}; {fitting:,} parameters in bfloat16 would fit")


def memory_of(device: torch.device) -> tuple[int | None, int | None]:
    """Bytes that weights may still take on a device, and those it has; None where it is not known."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None, None
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return (found.get("MemAvailable"), found.get("MemTotal")) if device.type == "cpu" else (None, None)


@contextmanager
def memory_told(device: torch.device, doing: str) -> Iterator[None]:
    """A device's memory that runs out inside is a CheckpointError, which says at what."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CheckpointError(f"{device}: out of memory while {doing}: {error}") from error


def _work(model: TwinBrain, device: torch.device, dtype: torch.dtype) -> int:
    """Activations of the largest layer, and keys and values of the left brain as often as they are kept."""
    vlm: Any = model.config.vlm_config()
    text, vision = vlm.get_text_config(), vlm.vision_config
    layout = model.layout
    open_side = [max(layout.factor, side // layout.factor * layout.factor) for side in OPEN_SIDE]
    sizes = [(c.height or open_side[0], c.width or open_side[1]) for c in model.config.cameras]
    patches = sum(-(-h // layout.patch_size) * -(-w // layout.patch_size) for h, w in sizes)
    tokens = patches // layout.merge_size**2 + WORDS
    seeing = patches * (STREAMS * vision.hidden_size + WIDES * vision.intermediate_size)
    reading = tokens * (STREAMS * text.hidden_size + WIDES * text.intermediate_size)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    pairs = 0 if model.left is None else 2 * tokens * (model.last_joint + 1) * text.num_key_value_heads * head
    on_gpu = device.type == "cuda"
    values = max(seeing, reading) + pairs * (KEPT_LENGTHS if on_gpu else 1)
    return values * dtype.itemsize + (LIBRARIES if on_gpu else 0)


def size_text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
