"""Files that grow by lines and survive a kill at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def whole_lines(path: Path) -> list[str]:
    """The lines of a log, none where there is no file. One that a kill cut off is taken out of the file."""
    if not path.is_file():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole.decode("utf-8").splitlines()


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Adds lines at the end; they are on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
