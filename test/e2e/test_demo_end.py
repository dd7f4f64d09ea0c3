"""How a demo ends when it does not end by itself. The policy here is a tiny untrained one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from brain_fixtures import tiny_policy
from demo_process import start_demo

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    tiny_policy().save_pretrained(directory)
    return directory


@pytest.mark.parametrize("to_send", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_ends_every_process_within_5_s_and_reports_what_there_is(
    to_send: signal.Signals, checkpoint: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    demo = start_demo(
        "--checkpoint", checkpoint, "--instruction", "pick up the red block", "--max-seconds", "1",
        "--episodes", "1000", "--json", figures, "--log-dir", tmp_path,
    )  # fmt: skip
    demo.read_until("[   2/1000]")
    sent = time.monotonic()
    demo.popen.send_signal(to_send)
    output = demo.finish(timeout_s=20)

    assert time.monotonic() - sent < 5
    assert demo.popen.returncode == 0, output
    assert demo.survivors() == []
    assert "Traceback" not in output and "success, pick" in output
    values = json.loads(figures.read_text())
    assert values["interrupted"] and values["episodes"] >= 2 and values["frames"] is None
    for node in ("sim_node", "policy_node", "controller_node"):
        assert "Traceback" not in (tmp_path / f"{node}.log").read_text()


def test_a_node_that_dies_ends_the_demo_with_its_name(checkpoint: Path, tmp_path: Path) -> None:
    demo = start_demo(
        "--checkpoint", checkpoint, "--instruction", "pick up the red block", "--max-seconds", "1",
        "--episodes", "1000", "--log-dir", tmp_path,
    )  # fmt: skip
    demo.read_until("[   1/1000]")
    os.kill(child_of(demo.popen.pid, "controller_node"), signal.SIGKILL)
    output = demo.finish(timeout_s=20)

    assert demo.popen.returncode == 1
    assert "error: controller_node ended with exit code -9; the end of" in output
    assert demo.survivors() == []


def child_of(parent: int, name: str) -> int:
    """The child process of `parent` whose command line holds `name`."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if name in Path(f"/proc/{pid}/cmdline").read_text())


def test_a_checkpoint_that_does_not_fit_is_refused_with_both_values(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["robot"] = "other_arm"
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    demo = start_demo("--checkpoint", tmp_path, "--log-dir", tmp_path / "logs")
    output = demo.finish(timeout_s=120)

    assert demo.popen.returncode == 1
    assert "robot: checkpoint 'other_arm', robot file 'wx250s'" in output
    assert demo.survivors() == []
