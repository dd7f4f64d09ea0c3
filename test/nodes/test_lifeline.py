"""Nothing outlives its launch: a stand-in parent that is killed takes what it has started with it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.srv import GetState
from twinbrain_ros.srv import StartEpisode

from twinbrain_ros.data.bag import open_bag
from twinbrain_ros.nodes.lifeline import LAUNCHED_BY

# As a launch: it starts a process, says which, and takes no care of it.
PARENT = f"""
import os, subprocess, sys
environment = {{**os.environ, {LAUNCHED_BY!r}: str(os.getpid())}}
child = subprocess.Popen(sys.argv[1:], env=environment)
print(child.pid, flush=True)
child.wait()
"""
GONE_WITHIN_S = 5.0  # 2 s where the machine has the time


class Launched:
    """A process and its parent."""

    def __init__(self, *command: str) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.parent.stdout is not None
        self.number = int(self.parent.stdout.readline())
        self.process = os.pidfd_open(self.number)

    def kill_parent(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.parent.send_signal(number)
        self.parent.wait()

    def ended_after_s(self) -> float:
        """How long the process still lived [s]."""
        poll, start = select.poll(), time.monotonic()
        poll.register(self.process, select.POLLIN)
        assert poll.poll(GONE_WITHIN_S * 1e3), "it has outlived its parent"
        return time.monotonic() - start

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)
        os.close(self.process)
        if self.parent.poll() is None:
            self.parent.kill()
            self.parent.wait()


@pytest.fixture
def launch() -> Iterator[Callable[..., Launched]]:
    started: list[Launched] = []

    def start(*command: str) -> Launched:
        started.append(Launched(*command))
        return started[-1]

    yield start
    for launched in started:
        launched.close()


def node(module: str, *parameters: str) -> list[str]:
    given = [word for parameter in ("autostart:=true", *parameters) for word in ("-p", parameter)]
    return [sys.executable, "-m", f"twinbrain_ros.nodes.{module}", "--ros-args", *given]


@pytest.mark.parametrize("module", ["controller_node", "sim_node"])
def test_a_node_ends_with_its_launch(bench: Any, launch: Callable[..., Launched], module: str) -> None:
    launched = launch(*node(module))
    bench.until(lambda: bench.value(module, "state") == "active")
    launched.kill_parent()
    launched.ended_after_s()
    bench.until(lambda: bench.value(module, "state") == "finalized")  # it had the time to come to rest


def test_a_policy_that_loads_ends_with_its_launch(
    bench: Any, launch: Callable[..., Launched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW", "load")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1] / "support"))
    launched = launch(sys.executable, "-m", "slow_policy_node", "--ros-args", "-p", "autostart:=true")
    bench.until(lambda: bench.value("policy_node", "state") == "configuring")
    launched.kill_parent()
    launched.ended_after_s()


def test_a_recorder_closes_its_bag_when_its_launch_ends(
    bench: Any, launch: Callable[..., Launched], tmp_path: Path
) -> None:
    launched = launch(*node("recorder_node", f"directory:={tmp_path}", "min_free_mib:=1"))
    answer = bench.call(StartEpisode, "episode/start", StartEpisode.Request(name="e"))
    assert answer.success, answer.message
    launched.kill_parent()
    launched.ended_after_s()
    assert not open_bag(answer.bag).truncated


def test_a_node_that_was_started_by_hand_stays(bench: Any, tmp_path: Path) -> None:
    """Its parent may be a shell that is closed, or a tool that has done its work."""
    log = (tmp_path / "log").open("wb")
    words = [word for word in node("controller_node")]
    starter = f"import subprocess; print(subprocess.Popen({words!r}, stdout=2).pid)"
    done = subprocess.run([sys.executable, "-c", starter], stdout=subprocess.PIPE, stderr=log, check=True)
    number = int(done.stdout)
    try:
        bench.until(lambda: bench.value("controller_node", "state") == "active")
        bench.call(GetState, "controller_node/get_state", GetState.Request())
    finally:
        os.kill(number, signal.SIGTERM)


def test_a_node_of_others_ends_with_its_launch_too(launch: Callable[..., Launched]) -> None:
    """Such as a joystick's driver, which knows nothing of launches."""
    launched = launch(sys.executable, "-m", "twinbrain_ros.nodes.lifeline", "sleep", "600")
    name = Path(f"/proc/{launched.number}/comm")
    end_s = time.monotonic() + 30
    while name.read_text().strip() != "sleep":
        assert time.monotonic() < end_s
        time.sleep(0.01)
    launched.kill_parent()
    launched.ended_after_s()


def test_a_launch_that_is_gone_already(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv(LAUNCHED_BY, str(gone.pid))
    process = subprocess.Popen(node("controller_node"), stderr=subprocess.DEVNULL)
    assert process.wait(60) == 0
