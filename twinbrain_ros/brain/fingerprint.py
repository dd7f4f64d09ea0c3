"""Which weights these are: a short name for a checkpoint, the same wherever its files lie."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

# Files up to this size are hashed whole, of larger ones so many blocks, evenly spaced, first and last among
# them: 18 GB would take half a minute, and no training leaves all of these blocks as they were.
WHOLE_BYTES = 256 * 2**20
BLOCKS, BLOCK_BYTES = 1024, 64 * 2**10
DIGITS = 12
MATTERS = (".json", ".safetensors")
# How it was made, and not what it is.
IGNORED = ("training.json", "views.json")


def fingerprint(directory: str | Path) -> str:
    """Hexadecimal digits that depend on every configuration and weight file directly in `directory`.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(directory).iterdir()):
        if path.suffix not in MATTERS or path.name in IGNORED or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                while block := file.read(2**20):
                    digest.update(block)
                continue
            for i in range(BLOCKS):
                file.seek(i * (size - BLOCK_BYTES) // (BLOCKS - 1), os.SEEK_SET)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()[:DIGITS]


def checkpoint_name(directory: str | Path) -> str:
    """As `demo@1a2b3c4d5e6f`: the directory's name and the fingerprint."""
    directory = Path(directory).resolve()
    return f"{directory.name}@{fingerprint(directory)}"
