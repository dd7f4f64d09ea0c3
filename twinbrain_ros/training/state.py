"""What an interrupted stage goes on from: whole files, whatever moment it was killed at."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

PARTIAL = ".partial"  # ends the name of what is not whole yet


class DiskFull(OSError):
    """A place that cannot hold what a run will write; names it, what is needed and what is free."""


class StateError(ValueError):
    """A saved state that cannot be gone on from: damaged, or of another run; names the file."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there, so that a kill leaves the old or the new one.

    Raises OSError with the path and the room on its disk if it cannot be written; nothing is left of it.
    """
    _written(path, write)
    os.replace(_partial(path), path)


def write_state(path: Path, write: Callable[[Path], object]) -> None:
    """As `write_whole`; the file that was there stays as `before(path)`."""
    _written(path, write)
    if path.is_file():
        older = _partial(before(path))
        try:
            os.link(path, older)  # so that at no moment there is none
        except OSError:  # not on every file system
            older = path
        os.replace(older, before(path))
    os.replace(_partial(path), path)


def before(path: Path) -> Path:
    """Where the state before the last one is kept."""
    return path.with_suffix(f".before{path.suffix}")


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")


def _written(path: Path, write: Callable[[Path], object]) -> None:
    partial = _partial(path)
    try:
        write(partial)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # or a power cut could leave the new name on an empty file
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError) as error:  # torch reports a short write as a RuntimeError
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            f"{path}: cannot be written: {str(error).splitlines()[0]}; {free / 1e9:.2f} GB free there"
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def clear_partial(folder: Path) -> None:
    """Takes away what killed processes had begun to write into a folder that is nobody else's."""
    for path in folder.glob(f"*.*[0-9]{PARTIAL}"):
        if path.is_file():
            path.unlink()


def replace_folder(path: Path, write: Callable[[Path], object]) -> None:
    """As `write_whole`, for a folder. A kill between its two renames leaves the new one as PATH.partial and
    the old one as PATH.old, both whole."""
    partial, old = path.with_name(path.name + PARTIAL), path.with_name(path.name + ".old")
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
    """Puts back what `trainable_state` gave; raises StateError where the model is another one."""
    own = trainable_state(module)
    if own.keys() != values.keys():
        odd = sorted(own.keys() ^ values.keys())
        raise StateError(f"{where}: of another model: found or missed {odd[:3]}, {len(odd)} in all")
    for name, parameter in own.items():
        if parameter.shape != values[name].shape:
            raise StateError(
                f"{where}: of another model: {name}: found {list(values[name].shape)}, expected "
                f"{list(parameter.shape)}"
            )
    for name, parameter in own.items():
        parameter.copy_(values[name])


def check_room(out: Path, needed: int) -> None:
    """Raises DiskFull if a folder's disk has less room than `needed` bytes."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise DiskFull(
            f"{out}: found {free / 1e9:.2f} GB free, expected at least {needed / 1e9:.2f} GB: for the state "
            "to resume from (weights, their averages, two moments of the optimiser), the one before it, once "
            "more while it is replaced, and for the checkpoints"
        )


def check_whole(path: Path) -> None:
    """Raises StateError if a file that torch has saved is not as it was written: each part's checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise StateError(_damaged(path, " ".join(str(error).split()))) from error
    if bad is not None:
        raise StateError(_damaged(path, f"wrong checksum of {bad}"))


def _damaged(path: Path, how: str) -> str:
    other = before(path)
    rest = f"; the state before it is whole: {other}, move it there to go on from it" if _sound(other) else ""
    return f"{path}: damaged: found {how}, expected a file as training has written it{rest}"


def _sound(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        return False


def load_state(path: Path) -> dict[str, Any] | None:
    """What a stage wrote, None if there is nothing yet; nothing in it is run. Raises StateError."""
    if not path.is_file():
        return None
    check_whole(path)
    return read_state(path)


def read_state(path: Path) -> dict[str, Any]:
    """As `load_state`, of a file that is known to be whole; its tensors are read when they are used."""
    return dict(torch.load(path, weights_only=True, map_location="cpu", mmap=True))


def not_finite(values: Any) -> str:
    """The name of a tensor that holds a number that is not finite, in nested mappings and lists; "" for
    none."""
    return next(_not_finite(values, ""), "")


def _not_finite(values: Any, name: str) -> Iterator[str]:
    if isinstance(values, torch.Tensor):
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            yield name
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from _not_finite(value, f"{name}[{number}]")
