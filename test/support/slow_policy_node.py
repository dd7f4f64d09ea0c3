"""A policy node whose policy takes its time: SLOW is `load` or `act`. Run as a process by tests."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch
from stand_in import StandInPolicy

from twinbrain_ros.nodes.policy_node import PolicyNode
from twinbrain_ros.nodes.runner import run_node

LONG_S = 60.0


def compute() -> None:
    """As a large model does: in C++, for long, whoever asks it to stop."""
    matrix, end_s = torch.rand(1500, 1500), time.monotonic() + LONG_S
    while time.monotonic() < end_s:
        matrix = matrix @ matrix / 1500


class SlowPolicy(StandInPolicy):
    def act(self, *_: Any, noise: np.ndarray, **__: Any) -> np.ndarray:
        compute()
        return noise


def load(*_: Any) -> SlowPolicy:
    if os.environ["SLOW"] == "load":
        compute()
    return SlowPolicy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_node(lambda: PolicyNode(load, lambda _: None))
