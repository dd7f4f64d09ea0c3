"""A worker process from this side: started, asked, watched, ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twinbrain_ros.benchmarks import tabletop, worker
from twinbrain_ros.resources import share_dir

START_S = 300.0  # most until a simulator is there: the first start compiles shaders
RESET_S = 180.0
STEP_S = 60.0
_TAIL_LINES = 6
# What `make evaluation` leaves: an interpreter with ManiSkill3 and its driver.
MADE_PYTHON = Path(".venv-evaluation/bin/simulator-python")
_CLOSE_S = 10.0


class WorkerError(Exception):
    """A worker that died, hangs or failed; the message says which task, what happened and where its log
    is."""


class WorkerMissing(ValueError):
    """A suite that cannot be played here: what is missing, and how it is had."""


class SuiteTask(NamedTuple):
    """A task of a suite, and whether it belongs to the benchmark."""

    task: worker.Task
    benchmark: bool


def suite_tasks(suite: str) -> dict[str, SuiteTask]:
    """Tasks of a suite by name, the benchmark's first."""
    tasks = tabletop.TASKS if suite == "tabletop" else worker.SUITES[suite]
    return {name: SuiteTask(task, name not in worker.EXTRA) for name, task in tasks.items()}


def interpreter(suite: str, given: Path | None) -> Path | None:
    """The suite's Python; None: ours.

    Raises:
        WorkerMissing: none was named, and none is there.
    """
    if suite == "tabletop":
        if given is not None:
            raise WorkerMissing("--python: the suite tabletop runs in this package's own interpreter")
        return None
    if given is not None:
        if not given.is_file():
            raise WorkerMissing(
                f"--python {given}: no such file, expected a Python with the packages of {suite}"
            )
        return given.absolute()  # not resolved: a link into a virtual environment is what makes it one
    made = share_dir() / MADE_PYTHON
    if suite == "simpler-ms3" and made.is_file():
        return made
    how = "`make evaluation` makes one, or " if suite == "simpler-ms3" else ""
    raise WorkerMissing(f"suite {suite}: no interpreter with its packages: {how}name one with --python")


def worker_command(suite: str, task: str, limit: int, python: Path | None) -> list[str]:
    """The command line of a task's worker, but for where to connect to.

    Args:
        python: the suite's interpreter; the embedded suite runs in ours.
    """
    own = ["--suite", suite, "--task", task, "--limit", str(limit)]
    if python is None:
        return [sys.executable, "-m", "twinbrain_ros.benchmarks.tabletop", *own]
    return [str(python), worker.__file__, *own]


class WorkerProcess:
    """One task's simulator. Not thread-safe; each belongs to one thread. Use as a context manager.

    Args:
        command: starts it; ``--connect PATH`` is added.
        log: takes what it prints.
        environment: for the process; None: ours.
    Raises:
        WorkerMissing: the interpreter, a package, a driver or data are not there.
        WorkerError: it died, or was not there in time.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        start_s: float = START_S,
        step_s: float = STEP_S,
    ) -> None:
        self._log, self._step_s = log, step_s
        self._name = " ".join(command[command.index("--suite") + 1 : command.index("--suite") + 4 : 2])
        log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            # Only whoever may read this directory can connect; unlinked once the worker is there.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="twinbrain-"))
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            path = str(Path(folder) / "socket")
            listener.bind(path)
            listener.listen(1)
            output = stack.enter_context(log.open("ab"))
            try:
                self.process = subprocess.Popen(
                    [*command, "--connect", path],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=_clean(os.environ if environment is None else environment),
                )
            except OSError as error:
                raise WorkerMissing(f"--python {command[0]}: cannot be started: {error.strerror}") from error
            try:
                self._connection = self._accepted(listener, time.monotonic() + start_s)
                self.described: dict[str, Any] = self._reply(start_s, "its start")["describe"]
            except BaseException:
                self.end(gently=False)
                raise

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def _accepted(self, listener: socket.socket, until: float) -> socket.socket:
        listener.settimeout(0.2)
        while True:
            try:
                return listener.accept()[0]
            except TimeoutError:
                if self.process.poll() is not None:
                    raise self._error(f"ended with {self.process.returncode} before it was there") from None
                if time.monotonic() > until:
                    raise self._error("did not start in time") from None

    def reset(self, placement: int, seed: int) -> dict[str, Any]:
        """The observation at the start of a placement."""
        return dict(self._ask({"do": "reset", "placement": placement, "seed": seed}, RESET_S)["observation"])

    def act(self, action: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """One step: observation and info."""
        reply = self._ask({"do": "act", "action": action}, self._step_s)
        return reply["observation"], reply["info"]

    def _ask(self, message: dict[str, Any], most_s: float) -> dict[str, Any]:
        try:
            self._connection.settimeout(most_s)
            worker.send(self._connection, message)
        except OSError as error:
            raise self._error(f"is gone ({error})") from error
        return self._reply(most_s, message["do"])

    def _reply(self, most_s: float, what: str) -> dict[str, Any]:
        try:
            self._connection.settimeout(most_s)
            reply = worker.receive(self._connection)
        except TimeoutError:
            raise self._error(f"gave no answer to {what} within {most_s:g} s") from None
        except (OSError, ValueError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)
            raise self._error(f"died in {what} (exit status {self.process.poll()}): {error}") from error
        if "error" in reply:
            if reply["kind"] == "missing":
                raise WorkerMissing(f"{self._name}: {reply['error'].removeprefix('Missing: ')}")
            raise self._error(f"failed in {what}: {reply['error']}")
        return reply

    def _error(self, what: str) -> WorkerError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        said = "".join(f"\n    {line}" for line in lines)
        return WorkerError(f"worker of {self._name} {what}; its log, {self._log}, ends:{said}")

    def end(self, gently: bool = True) -> None:
        """Ends the process; gently: it may close its simulator first."""
        connection = getattr(self, "_connection", None)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.settimeout(1.0)
                worker.send(connection, {"do": "close"})
            connection.close()
        if gently:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_CLOSE_S)
        self.process.kill()
        self.process.wait()


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what points our own interpreter to its packages."""
    return {k: v for k, v in environment.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
