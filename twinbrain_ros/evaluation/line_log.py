"""Files that grow by lines and survive a kill at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def whole_lines(path: Path) -> list[str]:
    """The lines of a log, without one that a kill cut off; none where there is no file."""
    if not path.is_file():
        return []
    text = path.read_bytes()
    return text[: _whole(text)].decode("utf-8").split("\n")[:-1]


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Adds lines at the end, in place of one that a kill cut off; they are on disk when this returns."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if end and file.read(1) != b"\n":
            file.seek(0)
            file.truncate(_whole(file.read()))
        file.seek(0, os.SEEK_END)
        file.write("".join(line + "\n" for line in lines).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _whole(text: bytes) -> int:
    """Bytes up to the last end of a line."""
    return text.rfind(b"\n") + 1
