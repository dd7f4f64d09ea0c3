"""Checkpoints on disk: config.json, safetensors (one file or shards) and the tokenizer.

Weights are streamed, one tensor at a time: the twins of a 4B model load without a second copy of them in
host memory.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from twinbrain_ros.brain import backbone
from twinbrain_ros.brain.config import CheckpointError, TwinBrainConfig, transformers_config
from twinbrain_ros.brain.memory import Needs, memory_of
from twinbrain_ros.brain.twin import TwinBrain

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4_000_000_000
PROBLEMS_SHOWN = 5


class WeightsWriter:
    """Writes tensors as they come into model.safetensors, or into shards with an index as they get large.

    A context manager: the files appear under their names only when it ends without an error.
    """

    def __init__(self, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.directory, self.shard_bytes = directory, shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = self.total_bytes = 0
        self._shards: list[tuple[Path, list[str]]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self._pending and self._pending_bytes + size > self.shard_bytes:
            self._flush()
        # Tensors that share memory cannot be stored beside each other, and a view would be stored whole.
        self._pending[name] = tensor.detach().cpu().contiguous()
        self._pending_bytes += size
        self.total_bytes += size

    def _flush(self) -> None:
        path = self.directory / f".shard-{len(self._shards)}.part"
        save_file(self._pending, path, metadata={"format": "pt"})
        self._shards.append((path, list(self._pending)))
        self._pending, self._pending_bytes = {}, 0

    def __enter__(self) -> WeightsWriter:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._flush()
                self._publish()
        finally:
            for path, _ in self._shards:
                path.unlink(missing_ok=True)

    def _publish(self) -> None:
        for old in (*self.directory.glob("model*.safetensors"), self.directory / INDEX_FILE):
            old.unlink(missing_ok=True)
        if len(self._shards) == 1:
            self._shards[0][0].rename(self.directory / WEIGHTS_FILE)
            return
        places: dict[str, str] = {}
        for i, (path, names) in enumerate(self._shards):
            name = f"model-{i + 1:05d}-of-{len(self._shards):05d}.safetensors"
            path.rename(self.directory / name)
            places.update(dict.fromkeys(names, name))
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": places}
        (self.directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint or of a base VLM; raises CheckpointError if one is missing."""
    index = directory / INDEX_FILE
    if not index.is_file():
        if not (directory / WEIGHTS_FILE).is_file():
            raise CheckpointError(f"{directory}: no {WEIGHTS_FILE} here, expected the weights of the policy")
        return [directory / WEIGHTS_FILE]
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index}: not readable as an index of safetensors: {error!r}") from error
    missing = [n for n in names if not (directory / n).is_file()]
    if missing:
        raise CheckpointError(f"{index}: found no {missing}, expected them beside it")
    return [directory / n for n in names]


def open_weights(path: Path, device: str = "cpu") -> Any:
    """A safetensors file, nothing of it read yet; raises CheckpointError if it is none, or truncated."""
    try:
        return safe_open(path, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error


def stream_tensors(files: list[Path], device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, one at a time."""
    for path in files:
        with open_weights(path, device) as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                yield name, weights.get_tensor(name)


def is_stored(name: str, config: TwinBrainConfig) -> bool:
    """A tied output head is left out: it is the input embedding again."""
    return not (name.endswith("lm_head.weight") and ties_head(config.vlm))


def ties_head(vlm: dict[str, Any]) -> bool:
    """Whether a transformers config says that the output head is the input embedding."""
    text = vlm.get("text_config") or {}
    return bool(vlm.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))


def save_weights(
    model: TwinBrain, directory: Path, tensors: Iterable[tuple[str, Tensor]] | None = None
) -> None:
    """Writes a model's tensors, or others in their place."""
    with WeightsWriter(directory) as writer:
        for name, tensor in model.state_dict().items() if tensors is None else tensors:
            if is_stored(name, model.config):
                writer.add(name, tensor)


def meta_twin(config: TwinBrainConfig) -> TwinBrain:
    """The model without memory for its weights: shapes and counts only."""
    with torch.device("meta"):
        return TwinBrain(config)


def load_model(
    directory: Path,
    config: TwinBrainConfig,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[float], None] = lambda share: None,
    tell: Callable[[str], None] = lambda line: None,
) -> TwinBrain:
    """A checkpoint's model; every tensor of the model, in its shape, and no other.

    progress: called with the share of the weights that is there; tell: called once, before they are read,
    with a line that says what they need and what the device has.

    Raises CheckpointError that names what is missing, extra, misshapen or not finite, or how much memory is
    needed where it does not fit.
    """
    files = weight_files(directory)
    model = meta_twin(config)
    check_shapes(model, files, directory)
    tell(Needs.of(model, device, dtype).line())
    with_memory(model, device, dtype)
    parameters = dict(model.named_parameters())
    problems, there, whole = [], 0, sum(parameter.numel() for parameter in parameters.values())
    for name, tensor in stream_tensors(files, str(device)):
        if not torch.isfinite(tensor).all():
            problems.append(f"tensor {name}: has non-finite values")
        with torch.no_grad():
            parameters[name].copy_(tensor)
        there += tensor.numel()
        progress(there / whole)
    refuse(directory, problems)
    return model


def with_memory(model: TwinBrain, device: torch.device, dtype: torch.dtype) -> None:
    """Uninitialised weights of this type on this device for a model from `meta_twin`."""
    with torch.no_grad():
        for parameter in model.parameters():  # rotary buffers must stay float32
            parameter.data = parameter.data.to(dtype)
    Needs.of(model, device, dtype).check(memory_of(device)[0])
    fresh = backbone.build_vlm(_shallow(model.config))
    for brain in model.brains():
        backbone.materialize(brain, fresh, device)
        brain.tie_weights()
    for part in (model.state_encoder, model.expert):
        if part is not None:
            part.to_empty(device=device)


def _shallow(config: TwinBrainConfig) -> Any:
    """A config of the same family and head widths, with as little as possible in it."""
    values = copy.deepcopy(config.vlm)
    text, vision = values["text_config"], values["vision_config"]
    text.update(num_hidden_layers=1, vocab_size=8, intermediate_size=8, pad_token_id=None)
    text.pop("layer_types", None)
    vision.update(depth=1, intermediate_size=8, deepstack_visual_indexes=[])
    values.pop("pad_token_id", None)
    return transformers_config(values)


def stored_bytes(files: list[Path]) -> dict[str, int]:
    """Bytes of the stored tensors by their type, from the files' headers."""
    sizes = {"F32": ("float32", 4), "BF16": ("bfloat16", 2), "F16": ("float16", 2)}
    found: dict[str, int] = {}
    for path in files:
        with open_weights(path) as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                part = weights.get_slice(name)
                dtype, size = sizes.get(part.get_dtype(), (part.get_dtype().lower(), 1))
                found[dtype] = found.get(dtype, 0) + math.prod(part.get_shape()) * size
    return found


def check_shapes(model: TwinBrain, files: list[Path], directory: Path) -> None:
    """Compares the files' headers with the model; raises CheckpointError naming each difference."""
    expected = {n: tuple(p.shape) for n, p in model.named_parameters() if is_stored(n, model.config)}
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        with open_weights(path) as weights:
            found.update({n: tuple(weights.get_slice(n).get_shape()) for n in weights.keys()})  # noqa: SIM118
    problems = [f"missing tensor {n}" for n in expected if n not in found]
    problems += [f"unexpected tensor {n}" for n in found if n not in expected]
    problems += [
        f"tensor {n}: found shape {found[n]}, expected {shape}"
        for n, shape in expected.items()
        if n in found and found[n] != shape
    ]
    refuse(files[0] if len(files) == 1 else directory, problems)


def refuse(where: Path, problems: list[str]) -> None:
    """Raises CheckpointError with the first few problems, if there are any."""
    if problems:
        more = f" and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
        raise CheckpointError(f"{where}: " + "; ".join(problems[:PROBLEMS_SHOWN]) + more)


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a folder; raises CheckpointError if it cannot be loaded. Runs no code from it."""
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{directory}: its tokenizer cannot be loaded: {error}") from error
