"""What an interrupted stage goes on from: whole files, whatever moment it was killed at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


class DiskFull(OSError):
    """A place that cannot hold what a run will write; names it, what is needed and what is free."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there, so that a kill leaves the old or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    try:
        write(partial)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # or a power cut could leave the new name on an empty file
        finally:
            os.close(descriptor)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def replace_folder(path: Path, write: Callable[[Path], object]) -> None:
    """As `write_whole`, for a folder. A kill between its two renames leaves the new one as PATH.partial and
    the old one as PATH.old, both whole."""
    partial, old = path.with_name(path.name + ".partial"), path.with_name(path.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(partial, path)
    shutil.rmtree(old, ignore_errors=True)


def trainable_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes: a frozen brain is not written again and again."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def load_trainable(module: nn.Module, values: dict[str, torch.Tensor], where: Path) -> None:
    """Puts back what `trainable_state` gave; raises ValueError where the model is another one."""
    own = trainable_state(module)
    if own.keys() != values.keys():
        odd = sorted(own.keys() ^ values.keys())
        raise ValueError(f"{where}: of another model: found or missed {odd[:3]}, {len(odd)} in all")
    for name, parameter in own.items():
        parameter.copy_(values[name])


def check_room(out: Path, needed: int) -> None:
    """Raises DiskFull if a folder's disk has less room than `needed` bytes."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise DiskFull(
            f"{out}: found {free / 1e9:.2f} GB free, expected at least {needed / 1e9:.2f} GB: for the state "
            "to resume from (weights, their averages, two moments of the optimiser), once more while it is "
            "replaced, and for the checkpoints"
        )


def load_state(path: Path) -> dict[str, Any] | None:
    """What a stage wrote, None if there is nothing yet."""
    if not path.is_file():
        return None
    return dict(torch.load(path, weights_only=True, map_location="cpu"))
