from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from twinbrain_ros.demo.processes import NodeDied, NodeGroup, node_command

# Child programs say "ready" so that a test acts at the right moment. They wait in short sleeps: a signal
# that comes just before a long one would be heard only after it.
WAITS = "import time; print('ready', flush=True)\nwhile True: time.sleep(0.05)"
ENDS_ON_INTERRUPT = f"import signal; signal.signal(signal.SIGINT, lambda *_: exit(0)); {WAITS}"
STUBBORN = (
    "import signal; [signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)]\n"
    "print('ready', flush=True)\nwhile True: signal.pause()"
)


def wait_for(path: Path, text: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < deadline, f"no {text!r} in {path} within {timeout_s} s"
        threading.Event().wait(0.01)


def start(group: NodeGroup, name: str, program: str) -> int:
    node = group.start(name, [sys.executable, "-c", program], os.environ)
    wait_for(node.log, "ready")
    return node.popen.pid


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_leaving_ends_every_node_even_one_that_ignores_signals(tmp_path: Path) -> None:
    with NodeGroup(tmp_path) as group:
        pids = [start(group, "polite", ENDS_ON_INTERRUPT), start(group, "stubborn", STUBBORN)]
        group.check()
        started = time.monotonic()
    assert time.monotonic() - started < 5, "Ctrl-C ends everything within 5 s"
    assert not any(exists(pid) for pid in pids)


def test_a_polite_node_ends_with_exit_code_0(tmp_path: Path) -> None:
    group = NodeGroup(tmp_path)
    start(group, "polite", ENDS_ON_INTERRUPT)
    assert group.stop() == {"polite": 0}


def test_what_a_node_started_itself_ends_with_it(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, signal, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print('child', child.pid, 'ready', flush=True)\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(0))\nwhile True: time.sleep(0.05)"
    )
    with NodeGroup(tmp_path) as group:
        start(group, "parent", program)
        child = int((tmp_path / "parent.log").read_text().split()[1])
    deadline = time.monotonic() + 5
    while exists(child) and not _is_zombie(child):
        assert time.monotonic() < deadline, "the grandchild lives on"


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_node_that_died_is_named_with_its_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    with NodeGroup(tmp_path) as group:
        node = group.start("sim_node", [sys.executable, "-c", "print('no such mesh'); exit(3)"], os.environ)
        node.popen.wait(timeout=20)
        with pytest.raises(NodeDied, match=r"sim_node ended with exit code 3;[^\n]*\n  no such mesh"):
            group.check()


def test_nodes_end_when_their_owner_is_killed_outright(tmp_path: Path) -> None:
    owner = (
        "import os, sys; from pathlib import Path; from twinbrain_ros.demo.processes import NodeGroup\n"
        f"group, command = NodeGroup(Path({str(tmp_path)!r})), [sys.executable, '-c', {WAITS!r}]\n"
        "node = group.start('orphan', command, os.environ)\n"
        "print(node.popen.pid, flush=True); import signal; signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    wait_for(tmp_path / "orphan.log", "ready")
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    deadline = time.monotonic() + 10
    while exists(pid) and not _is_zombie(pid):
        assert time.monotonic() < deadline, "the node outlives its owner"


def test_command_line_of_a_node_carries_its_name_and_parameters() -> None:
    command = node_command(
        "twinbrain_ros.nodes.sim_node", "sim_node", {"robot": "a.yaml", "autostart": False}
    )
    assert command[:3] == [sys.executable, "-m", "twinbrain_ros.nodes.sim_node"]
    assert command[3:] == [
        "--ros-args", "-r", "__node:=sim_node", "-p", "robot:=a.yaml", "-p", "autostart:=false",
    ]  # fmt: skip
