"""Where a stage's state is kept: one file that the first process writes, and parts where they are shared out.

The state before the last one stays, so that a damaged file costs the steps between them and not the run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from twinbrain_ros.training.processes import Processes
from twinbrain_ros.training.progress import Progress
from twinbrain_ros.training.state import StateError, before, load_state, read_state, write_state, write_whole
from twinbrain_ros.training.weights import Weights, Whole


class Store:
    """The state of a stage in `out/<name>.state.pt`; with `out/<name>.zero/<step>/`, a part of each process.

    kind: by name, what the state must agree in with the run that goes on from it. last: the step of the
    state that is saved, 0 for none.
    """

    def __init__(self, out: Path, name: str, processes: Processes, kind: Mapping[str, Any]) -> None:
        self.path = out / f"{name}.state.pt"
        self._parts, self._processes, self._kind = out / f"{name}.zero", processes, dict(kind)
        self.last = 0

    def found(self) -> tuple[int, list[dict[str, float]]]:
        """How far the saved state came, and its log; (0, []) where there is none. For the first process.

        Raises StateError for a state that is damaged, or of another kind of run.
        """
        state = load_state(self.path)
        if state is None:
            if before(self.path).is_file():
                raise StateError(
                    f"{self.path}: missing, but the state before it is there: {before(self.path)}, move it "
                    "there to go on from it"
                )
            return 0, []
        # Before states said so, they were of one process, or in parts of a form that is no longer read.
        plain = {**self._kind, "kind": Whole.kind, "processes": 1}
        held = state.get("run", plain if state.get("optimizer") else {"kind": "DeepSpeed's own"})
        for key, expected in self._kind.items():
            if held.get(key) != expected:
                raise StateError(
                    f"{self.path}: {key}: found a state of {held.get(key)!r}, expected {expected!r} as this "
                    "run has it: start it as it was started, or give another --out"
                )
        return int(state["step"]), list(state["log"])

    def restore(self, weights: Weights, step: int) -> None:
        """Takes over the state of a step that the first process has `found`, in all processes.

        Raises StateError if there is a part of it missing, damaged, or of another model.
        """

        def take() -> None:
            if not self._shared_out:
                weights.restore(read_state(self.path), self.path)
                return
            path = self._part(step)
            values = load_state(path)
            if values is None:
                raise StateError(f"{path}: missing, expected what process {self._processes.rank} has saved")
            if values["step"] != step:
                raise StateError(f"{path}: found step {values['step']}, expected {step} as in {self.path}")
            weights.restore(values, path)

        failed = self._processes.failures(take)
        if failed:
            self._processes.refuse(StateError(failed[0]))
        weights.restored()
        self.last = step

    def save(self, weights: Weights, step: int, progress: Progress) -> str:
        """Writes the state, in all processes; what went wrong, in which case the last one is still there."""
        values = weights.values()
        state = {"run": self._kind, "step": step, "log": progress.log}
        if self._shared_out:
            part = {**values, "step": step}
            failed = self._processes.failures(lambda: self._write_part(part, step))
            values = {}
        else:
            failed = []
        if not failed:
            failed = self._processes.failures(lambda: self._write({**values, **state}, progress))
        if not failed:
            self.last = step
        if self._processes.is_first:
            self._tidy()
        return failed[0] if failed else ""

    @property
    def _shared_out(self) -> bool:
        return self._kind["kind"] != Whole.kind

    def _part(self, step: int) -> Path:
        return self._parts / f"{step:08d}" / f"process_{self._processes.rank:04d}.pt"

    def _write_part(self, part: Mapping[str, Any], step: int) -> None:
        path = self._part(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda p: torch.save(part, p))

    def _write(self, state: Mapping[str, Any], progress: Progress) -> None:
        if self._processes.is_first:
            write_whole(progress.path, lambda p: p.write_text(progress.text()))
            write_state(self.path, lambda p: torch.save(state, p))  # from here on it is the last one

    def _tidy(self) -> None:
        """Takes away the parts of states that are neither the last nor the one before."""
        steps = {int(parts.name): parts for parts in self._parts.glob("*") if parts.name.isdigit()}
        kept = sorted(step for step in steps if step <= self.last)[-2:]
        for step, parts in steps.items():
            if step not in kept:
                shutil.rmtree(parts, ignore_errors=True)
