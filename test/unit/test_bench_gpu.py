"""`make bench-gpu` measures on a GPU, and says in one line where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from brain_fixtures import tiny_config
from script_files import SCRIPTS, load_script

SCRIPT = SCRIPTS / "bench_gpu.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("bench_gpu", monkeypatch)


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="a GPU is here")
def test_without_a_gpu_it_says_so_in_one_line_and_fails(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--json", str(tmp_path / "out.json")]
    ended = subprocess.run(command, capture_output=True, text=True)
    (line,) = ended.stderr.splitlines()
    assert line.startswith("bench-gpu: device: found 'cuda', expected cpu (torch")
    assert ended.returncode == 1 and not ended.stdout and not list(tmp_path.iterdir())


TESTS = """
import pytest
@pytest.mark.cuda
def test_good(): pass
@pytest.mark.cuda
def test_bad(): assert False
@pytest.mark.cuda
@pytest.mark.skipif(True, reason="two are needed")
def test_two(): pass
def test_other(): assert False
"""


def test_the_tests_for_gpus_are_run_and_counted(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    found = script.run_tests(tmp_path)
    assert (found["passed"], found["skipped"]) == (1, 1)
    (failed,) = found["failed"]
    assert failed.endswith("test_it.test_bad")
    assert script.run_tests(tmp_path / "nowhere")["passed"] == 0


def test_what_is_measured_is_told_with_machine_and_number(script: ModuleType, tmp_path: Path) -> None:
    """The real command, on the processor."""
    tiny_config().save(tmp_path)
    policy = script.bench_policy(str(tmp_path / "config.json"), "cpu", 2)
    tests = {"passed": 3, "skipped": 1, "failed": []}
    facts = {"gpu": "cuda:0 (H)", "commit": "abc", "date": "today", "tests": tests, "policy": policy}
    text = script.table(json.loads(json.dumps(facts)))
    for words in (
        "cuda:0 (H), commit abc, today",
        "3 passed, 1 skipped, 0 failed",
        "n = 2 each",
        "the ways agree",
    ):
        assert words in text
    assert f"| ours with a guide | {policy['guided_ms']['p50']:.1f} |" in text
    assert script.sound(facts)
    for wrong in ({"tests": tests | {"failed": ["x"]}}, {"tests": tests | {"passed": 0}}):
        assert not script.sound(facts | wrong)
    assert not script.sound(facts | {"policy": policy | {"guided_agrees": False}})


def test_why_nothing_was_measured_is_told(script: ModuleType) -> None:
    policy: dict[str, Any] = script.bench_policy("huge", "cpu", 2)
    assert "found 'huge', expected a file or one of" in policy["error"]
    tests = {"passed": 3, "skipped": 0, "failed": []}
    facts = {"gpu": "g", "commit": "", "date": "d", "tests": tests, "policy": policy}
    assert f"nothing was measured: {policy['error']}" in script.table(facts) and not script.sound(facts)
