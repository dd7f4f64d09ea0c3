"""What a stage says of itself: a bar with the time left, a log to draw from, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

LOG_EVERY = 20  # steps


class Progress:
    """Means of losses over LOG_EVERY steps, samples per second, and the share of time spent waiting for data.

    log: one record per LOG_EVERY steps, what `rows` of an earlier stretch begins with. shown: whether this
    process is the one that talks; the others only count.
    """

    def __init__(
        self, name: str, out: Path, start: int, end: int, rows: list[dict[str, float]], shown: bool
    ) -> None:
        self.name, self.log, self._shown = name, rows, shown
        self.path = out / f"{name}.jsonl"
        self._bar = tqdm(
            total=end, initial=start, desc=name, unit="step", disable=not shown, dynamic_ncols=True
        )
        self._board = _board(out / "tensorboard" / name, start) if shown else None
        self._sums: dict[str, float] = {}
        self._count = self._samples = 0
        self._waited_s = 0.0
        self._began_s = time.monotonic()

    def note(
        self, step: int, losses: Mapping[str, float], samples: int, waited_s: float, more: Mapping[str, float]
    ) -> None:
        """A step has ended; `more`: what goes into the log as it is, such as rates."""
        self._count += 1
        self._samples += samples
        self._waited_s += waited_s
        for key, value in losses.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._bar.update()
        if (step + 1) % LOG_EVERY:
            return
        took_s = time.monotonic() - self._began_s
        record = {
            "step": step + 1,
            **{key: value / self._count for key, value in self._sums.items()},
            **more,
            "samples_per_s": self._samples / took_s,
            "waited_share": self._waited_s / took_s,
        }
        self.add(record)
        shown = {k: f"{record[k]:.3g}" for k in (*self._sums, "samples_per_s")}
        self._bar.set_postfix(shown)
        self._sums, self._count, self._samples, self._waited_s = {}, 0, 0, 0.0
        self._began_s = time.monotonic()

    def add(self, record: dict[str, float]) -> None:
        """A record of its own, as of an evaluation."""
        self.log.append(record)
        if self._board is not None:
            for key, value in record.items():
                if key != "step":
                    self._board.add_scalar(f"{self.name}/{key}", value, int(record["step"]))

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._shown:
            self._bar.write(f"{self.name}: {text}", file=sys.stderr)

    def pause(self) -> None:
        """What follows is not training: its time does not count."""
        self._paused_s = time.monotonic()

    def go_on(self) -> None:
        self._began_s += time.monotonic() - self._paused_s

    def text(self) -> str:
        return "".join(json.dumps(record) + "\n" for record in self.log)

    def close(self) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _board(directory: Path, start: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Steps after the one that is resumed from were logged by a stretch that was cut off.
    return SummaryWriter(str(directory), purge_step=start + 1)
