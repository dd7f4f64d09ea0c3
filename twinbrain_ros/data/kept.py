"""What is computed once of a dataset and kept: where, and for which files it holds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def kept_at(root: Path, name: str) -> list[Path]:
    """Where a file of this name is kept: beside the dataset (meta/) and, where that cannot be written, in
    XDG_CACHE_HOME/twinbrain."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [root / "meta" / f"twinbrain-{name}", cache / "twinbrain" / name]


def file_stamps(root: Path, files: Iterable[Path]) -> bytes:
    """A line for each of a dataset's files, with its size and when it was written: to hash."""
    lines = []
    for path in files:
        stat = path.stat()
        lines.append(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n")
    return "".join(lines).encode()
