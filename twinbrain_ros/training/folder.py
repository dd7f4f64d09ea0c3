"""The folder of a run: one run's at a time, seen by all of its processes."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import yaml

from twinbrain_ros.training.config import TrainConfigError
from twinbrain_ros.training.processes import Processes
from twinbrain_ros.training.state import clear_partial

STAMP = "train.yaml"
LOCK = "train.lock"
SEEN_WITHIN_S = 20.0  # a network's file system shows a new file late


class RunFolder:
    """Takes a folder for a run, until the process ends or `release`.

    Raises TrainConfigError if another run is at work in it; if it holds an earlier run and `resume` is not
    set, or one that was started from another file; if a process does not see what the first one writes.
    """

    def __init__(self, out: Path, values: dict[str, Any], resume: bool, processes: Processes) -> None:
        self.out = out
        self._lock: int | None = None
        token = processes.first_does(lambda: self._take(values, resume))
        blind = processes.failures(lambda: self._see(token, processes))
        if blind:
            processes.refuse(TrainConfigError(blind[0]))

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self, values: dict[str, Any], resume: bool) -> str:
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / LOCK
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Of the process, not of its children: it ends with the process, however that ends.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(lock, 1000).decode(errors="replace").split("\n")[0]
            os.close(lock)
            raise TrainConfigError(
                f"{self.out}: in use by another run, {holder or 'which has not said who it is'}; expected "
                "none: wait until it has ended, or give another --out"
            ) from error
        try:
            _claim(self.out, values, resume)
            token = secrets.token_hex(8)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n{token}\n".encode(), 0)
            os.fsync(lock)
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        clear_partial(self.out)
        clear_partial(self.out / "data")
        return token

    def _see(self, token: str, processes: Processes) -> None:
        """Raises ValueError where the folder is not the one that the first process has taken."""
        if processes.is_first:  # which would lose its lock by reading the file
            return
        end = time.monotonic() + SEEN_WITHIN_S
        while True:
            try:
                found = (self.out / LOCK).read_text(encoding="utf-8").split("\n")
            except OSError:
                found = []
            if token in found:
                return
            if time.monotonic() > end:
                raise ValueError(
                    f"{self.out}: process {processes.rank} on {socket.gethostname()} does not see what the "
                    "first process has written there, expected a folder that all machines share"
                )
            time.sleep(0.2)


def _claim(out: Path, values: dict[str, Any], resume: bool) -> None:
    """Makes `out` this run's; refuses to mix two runs."""
    stamp = out / STAMP
    if stamp.is_file():
        if not resume:
            raise TrainConfigError(
                f"{out}: holds an earlier run; give --resume to go on with it, or another --out"
            )
        if yaml.safe_load(stamp.read_text()) != values:
            raise TrainConfigError(f"{out}: its run was started from another training file; see {stamp}")
    else:
        if resume:
            shutil.rmtree(out / "data", ignore_errors=True)
        stamp.write_text(yaml.safe_dump(values, sort_keys=False))
