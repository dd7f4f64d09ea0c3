"""Runs `twinbrain demo` as a person would, and looks for processes it left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Inherited by every process of a run, whoever started it.
MARK = "TWINBRAIN_TEST_RUN"


@dataclass
class DemoProcess:
    """A running demo. `output` is standard output and error together."""

    popen: subprocess.Popen[str]
    mark: str

    def read_until(self, text: str) -> str:
        """Output up to the first line that holds `text`; fails if the demo ends without it."""
        assert self.popen.stdout is not None
        lines = []
        for line in self.popen.stdout:
            lines.append(line)
            if text in line:
                return "".join(lines)
        raise AssertionError(f"the demo ended without saying {text!r}:\n{''.join(lines)}")

    def finish(self, timeout_s: float) -> str:
        """The rest of the output, after the demo has ended by itself."""
        output, _ = self.popen.communicate(timeout=timeout_s)
        return output

    def survivors(self) -> list[str]:
        """Command lines of processes of this run that are still there."""
        found = []
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit() or int(directory.name) == os.getpid():
                continue
            try:
                if f"{MARK}={self.mark}".encode() in (directory / "environ").read_bytes():
                    found.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # gone in the meantime, or not ours
        return found


def start_demo(*arguments: str | Path) -> DemoProcess:
    """Start `twinbrain demo` with these arguments."""
    mark = uuid.uuid4().hex
    command = [str(Path(sys.executable).parent / "twinbrain"), "demo", *map(str, arguments)]
    popen = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, MARK: mark},
        start_new_session=True,
    )
    return DemoProcess(popen, mark)


def run_demo(directory: Path, *arguments: str | Path, timeout_s: float) -> dict[str, Any]:
    """Run a demo to its end; returns its JSON. It must end well and leave nothing behind."""
    figures = directory / "figures.json"
    demo = start_demo(*arguments, "--json", figures, "--log-dir", directory / "logs")
    output = demo.finish(timeout_s)
    assert demo.popen.returncode == 0, output
    assert demo.survivors() == []
    print(output)  # pytest shows it if the test fails
    values: dict[str, Any] = json.loads(figures.read_text())
    return values
