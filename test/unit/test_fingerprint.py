"""The name of a checkpoint says which weights these are, wherever its files lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from twinbrain_ros.brain import fingerprint as module
from twinbrain_ros.brain.fingerprint import checkpoint_name, fingerprint
from twinbrain_ros.resources import demo_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_checkpoint(), tmp_path / "mine"))


def test_a_copy_has_the_same_fingerprint_under_its_own_name(checkpoint: Path) -> None:
    digits = fingerprint(demo_checkpoint())
    assert checkpoint_name(demo_checkpoint()) == f"demo@{digits}"
    assert checkpoint_name(checkpoint) == f"mine@{digits}" and len(digits) == module.DIGITS


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_any_changed_byte_of_what_it_is_changes_it(checkpoint: Path, name: str) -> None:
    before = fingerprint(checkpoint)
    data = bytearray((checkpoint / name).read_bytes())
    data[len(data) // 2] ^= 1
    (checkpoint / name).write_bytes(bytes(data))
    assert fingerprint(checkpoint) != before


def test_how_it_was_made_does_not_matter(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    (checkpoint / "training.json").write_text("{}")
    (checkpoint / "notes.txt").write_text("the good one")
    assert fingerprint(checkpoint) == before


def test_of_large_files_blocks_all_over_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    monkeypatch.setattr(module, "BLOCKS", 16)
    file = tmp_path / "model.safetensors"
    data = bytearray(5000)
    file.write_bytes(bytes(data))
    before = fingerprint(tmp_path)
    for place in (0, 4999):
        changed = bytearray(data)
        changed[place] = 1
        file.write_bytes(bytes(changed))
        assert fingerprint(tmp_path) != before
    file.write_bytes(bytes(5001))
    assert fingerprint(tmp_path) != before
