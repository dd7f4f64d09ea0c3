"""The published layout of TwinBrainVLA runs: its config.yaml, its statistics and the names of its tensors.

A run is a folder with config.yaml, dataset_statistics.json and checkpoints/steps_N_model.safetensors (or
steps_N_pytorch_model.pt, or final_model/). Nothing here executes what a file says.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from twinbrain_ros.brain.checkpoint import open_weights
from twinbrain_ros.brain.config import CheckpointError, Normalizer

CONFIG, STATISTICS = "config.yaml", "dataset_statistics.json"
FRAMEWORK = "PhysBrainVLA"
ALIAS = "qwen_vl_interface.model."  # the right brain a second time
BRAINS = {
    "qwen_vl_interface.frozen_vlm.model.": "left.",
    "qwen_vl_interface.trainable_vlm.model.": "right.",
}
HEAD = {
    "action_encoder.layer1": "expert.action_in",
    "action_encoder.layer2": "expert.action_time",
    "action_encoder.layer3": "expert.action_out",
    "action_decoder.layer1": "expert.decoder.0",
    "action_decoder.layer2": "expert.decoder.2",
    "state_encoder.layer1": "state_encoder.0",
    "state_encoder.layer2": "state_encoder.2",
    "model.proj_out_1": "expert.final_modulation",
    "model.proj_out_2": "expert.output",
    "model.timestep_encoder.timestep_embedder.linear_1": "expert.time_in",
    "model.timestep_encoder.timestep_embedder.linear_2": "expert.time_out",
}
BLOCK = {
    "norm1.linear": "modulation",
    "attn1.to_q": "query",
    "attn1.to_k": "key",
    "attn1.to_v": "value",
    "attn1.to_out.0": "out",
    "ff.net.0.proj": "ff_in",
    "ff.net.2": "ff_out",
}
TABLES = {"future_tokens.weight": "expert.future", "position_embedding.weight": "expert.position"}
BLOCK_NAME = re.compile(r"model\.transformer_blocks\.(\d+)\.(.+)\.(weight|bias)")


def our_name(name: str) -> str | None:
    """Our name of a published tensor; None for the alias. Raises CheckpointError for one without a place."""
    if name.startswith(ALIAS):
        return None
    for theirs, ours in BRAINS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    head = name.removeprefix("action_model.")
    if head != name:
        if head in TABLES:
            return TABLES[head]
        block = BLOCK_NAME.fullmatch(head)
        if block and block[2] in BLOCK:
            return f"expert.blocks.{block[1]}.{BLOCK[block[2]]}.{block[3]}"
        module, _, kind = head.rpartition(".")
        if module in HEAD:
            return f"{HEAD[module]}.{kind}"
    raise CheckpointError(f"unexpected tensor {name}, which has no place in a twin")


def our_tensor(name: str, tensor: Tensor, horizon: int) -> Tensor:
    """A tensor under our name, in our order."""
    if name == "expert.position":
        return tensor[:horizon]  # later rows are never reached
    if name == "expert.action_time.weight":
        # It reads [action | time]; their time features are [sin | cos], ours [cos | sin].
        action, sine, cosine = tensor.tensor_split((len(tensor), len(tensor) * 3 // 2), dim=1)
        return torch.cat([action, cosine, sine], dim=1)
    return tensor


class Weights:
    """The tensors of a published weights file by name, read one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._get: Callable[[str], Tensor]
        if path.suffix == ".safetensors":
            weights = open_weights(path)
            self.shapes = {n: tuple(weights.get_slice(n).get_shape()) for n in weights.keys()}  # noqa: SIM118
            self._get = weights.get_tensor
            return
        tensors = _load_pt(path)
        self.shapes = {n: tuple(t.shape) for n, t in tensors.items()}
        self._get = tensors.__getitem__

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._get(name)
        except Exception as error:  # whatever safetensors raises of a damaged file
            raise CheckpointError(f"{self.path}: tensor {name} cannot be read: {error}") from error


def _load_pt(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors ({str(error).splitlines()[0]}), which would have to be "
            "unpickled and could run any code; expected plain tensors, or a .safetensors file"
        ) from error
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        raise CheckpointError(f"{path}: not readable as a PyTorch file: {error}") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path}: found {type(tensors).__name__}, expected tensors by name")
    return tensors


def find_weights(run: Path) -> Path:
    """The final model of a run, else the one after most steps; safetensors before .pt."""

    def rank(path: Path) -> tuple[bool, int, bool]:
        steps = re.search(r"steps_(\d+)_", path.name)
        return path.parent.name == "final_model", int(steps[1]) if steps else 0, path.suffix == ".safetensors"

    found = [
        path
        for folder in (run / "checkpoints", run / "final_model")
        for path in sorted(folder.glob("*model*"))
        if path.suffix in (".safetensors", ".pt")
    ]
    if not found:
        raise CheckpointError(
            f"{run}: found no weights, expected checkpoints/steps_N_model.safetensors, "
            "checkpoints/steps_N_pytorch_model.pt or final_model/"
        )
    return max(found, key=rank)


class RunConfig:
    """A run's config.yaml; every value is asked for by its dotted name, which errors repeat."""

    def __init__(self, run: Path) -> None:
        self.path = run / CONFIG
        if not self.path.is_file():
            raise CheckpointError(f"{run}: no {CONFIG} here, expected the folder of a training run")
        try:
            self._values = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self.path}: not valid YAML: {error}") from error
        self.expect("framework.name", FRAMEWORK)

    def get(self, name: str, default: Any = None) -> Any:
        value: Any = self._values
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(name, value, "an integer")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false where it is not there."""
        value = self.get(name, False)
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def expect(self, name: str, *allowed: Any, default: Any = None) -> None:
        """Refuses a value that we do not compute."""
        value = self.get(name, default)
        if value not in allowed:
            raise self.error(name, value, " or ".join(map(repr, allowed)))

    def error(self, name: str, found: Any, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {name}: found {found!r}, expected {expected}")


def load_statistics(run: Path, key: str | None) -> tuple[str, dict[str, Any]]:
    """The statistics of one data set of a run, and its key; `key` may be left out where there is only one."""
    path = run / STATISTICS
    if not path.is_file():
        raise CheckpointError(f"{run}: no {STATISTICS} here, expected the statistics of the training data")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict) or not values:
        raise CheckpointError(f"{path}: found {type(values).__name__}, expected statistics by data set")
    if key is None and len(values) > 1:
        raise CheckpointError(f"{path}: found the keys {sorted(values)}, expected to be told which")
    key = next(iter(values)) if key is None else key
    if key not in values:
        raise CheckpointError(f"{path}: found the keys {sorted(values)}, expected {key!r}")
    return key, values[key]


def normalizer(
    statistics: dict[str, Any], kind: str, names: tuple[str, ...], mode: str, where: str
) -> Normalizer | None:
    """Our form of a data set's statistics of `kind` ("action" or "state"); None where it has none.

    mode: "q99" maps [q01, q99] to [-1, 1], as for BridgeData; "min_max" maps [min, max], as for RoboCasa.
    Grippers of q99 data are binary. Raises CheckpointError where lengths differ from `names`.
    """
    if not isinstance(statistics, dict):
        raise CheckpointError(f"{where}: found {statistics!r}, expected statistics of action and state")
    values = statistics.get(kind)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: {kind}: found {values!r}, expected q01, q99, min, max")
    low_key, high_key = ("q01", "q99") if mode == "q99" else ("min", "max")
    low, high = (
        _entries(values, key, (int, float), names, f"{where}: {kind}") for key in (low_key, high_key)
    )
    grippers = {i for i, name in enumerate(names) if "gripper" in name and mode == "q99"}
    mask = [i not in grippers for i in range(len(names))]
    if values.get("mask"):
        mask = _entries(values, "mask", (bool,), names, f"{where}: {kind}")
    mean, std = [], []
    for scaled, least, most in zip(mask, low, high, strict=True):
        mean.append((most + least) / 2 if scaled else 0.0)
        std.append((most - least) / 2 if scaled else 1.0)
    return Normalizer(
        tuple(mean),
        tuple(std),
        clip=True,
        binary=tuple(sorted(i for i in grippers if kind == "state" or not mask[i])),
        zero_constants=mode == "min_max",
    )


def _entries(
    values: dict[str, Any], key: str, kinds: tuple[type, ...], names: tuple[str, ...], where: str
) -> list[Any]:
    """A list with one entry of a kind for each name."""
    found = values.get(key)
    if not isinstance(found, list) or len(found) != len(names):
        size = len(found) if isinstance(found, list) else "no"
        raise CheckpointError(f"{where}.{key}: found {size} values, expected {len(names)}: {names}")
    wrong = [value for value in found if not isinstance(value, kinds)]
    if wrong:
        raise CheckpointError(f"{where}.{key}: found {wrong[0]!r}, expected {kinds[-1].__name__}s")
    return found
