"""Nodes as child processes: started in groups of their own, watched, and all gone when their owner leaves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# From the first signal to the last: the whole stop must be over within the 5 s that Ctrl-C may take.
INTERRUPT_S, TERMINATE_S, KILL_S = 2.5, 1.0, 0.5

LOG_TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


class NodeDied(RuntimeError):
    """A node ended although nobody asked it to; the message names it and shows the end of its log."""


@dataclass
class NodeProcess:
    """A running node, its name and the file that its output goes to."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def log_tail(self) -> str:
        """The last lines of its output, indented."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:]) or "  (its log is empty)"


def _die_with_parent() -> None:
    """In the child: have the kernel end it if the parent is killed outright. No node outlives the loop."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class NodeGroup:
    """The node processes of one loop. A context manager: leaving it stops every one."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.nodes: list[NodeProcess] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> NodeProcess:
        """Start a node; its output goes to `<log_dir>/<name>.log`."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        log = self.log_dir / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C in the terminal reaches the loop's owner, who stops the nodes in
                # order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        node = NodeProcess(name, popen, log)
        self.nodes.append(node)
        return node

    def check(self) -> None:
        """Look whether all nodes are alive.

        Raises:
            NodeDied: one is not.
        """
        for node in self.nodes:
            code = node.popen.poll()
            if code is not None:
                raise NodeDied(
                    f"{node.name} ended with exit code {code}; the end of {node.log}:\n{node.log_tail()}"
                )

    def stop(self) -> dict[str, int]:
        """Stop every node: interrupt, terminate, kill what is left; at most 4 s. Returns the exit codes."""
        for to_send, patience_s in (
            (signal.SIGINT, INTERRUPT_S),
            (signal.SIGTERM, TERMINATE_S),
            (signal.SIGKILL, KILL_S),
        ):
            running = [node for node in self.nodes if node.popen.poll() is None]
            for node in running:
                _signal_group(node.popen.pid, to_send)
            deadline = time.monotonic() + patience_s
            for node in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    node.popen.wait(timeout=max(0.0, deadline - time.monotonic()))
        for node in self.nodes:
            _signal_group(node.popen.pid, signal.SIGKILL)  # whatever a node may have started itself
        return {node.name: node.popen.poll() or 0 for node in self.nodes}

    def __enter__(self) -> NodeGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave nodes behind; stopping is bounded in time.
        previous = {
            number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self.stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _signal_group(group: int, to_send: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already
        os.killpg(group, to_send)


def node_command(module: str, name: str, parameters: Mapping[str, object]) -> list[str]:
    """The command line that runs a node module with ROS parameters."""
    command = [sys.executable, "-m", module, "--ros-args", "-r", f"__node:={name}"]
    for key, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        command += ["-p", f"{key}:={text}"]
    return command
