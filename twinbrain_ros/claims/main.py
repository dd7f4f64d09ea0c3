"""The whole of it: data, runs, latency, and a report of whatever is there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.claims import running, schedule
from twinbrain_ros.claims.material import Material
from twinbrain_ros.claims.protocol import Protocol, ProtocolError, Run, load_protocol
from twinbrain_ros.claims.report import write_report
from twinbrain_ros.evaluation.statistics import percentile
from twinbrain_ros.training.state import write_whole

STAMP, LATENCY, LOCK = "claims.yaml", "latency.json", "lock"


def main(
    path: Path, out: Path, workers: int = 2, only: tuple[str, ...] = (), report_only: bool = False
) -> list[str]:
    """Runs a protocol into `out`, or goes on with it, and reports; returns what failed, a line each.

    Raises ProtocolError for an unsound protocol, or if `out` holds runs of another one.
    """
    protocol, values = load_protocol(path)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, values)
    failed: list[str] = []
    if not report_only:
        chosen = protocol.only(list(only)) if only else protocol
        material = Material.of(protocol, out)
        with _alone(out):
            material.shards()  # before runs side by side would make them, and get into each other's way
            print(f"questions answered before training: {material.ask()['all']}")
            failed = schedule.work(chosen, out, workers)
            if not failed:
                measure_latency(protocol, out, material)
    write_report(protocol, out)
    return failed


def _claim(out: Path, values: dict[str, Any]) -> None:
    """Makes `out` this protocol's; refuses to mix two."""
    stamp = out / STAMP
    if not stamp.is_file():
        stamp.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    elif yaml.safe_load(stamp.read_text(encoding="utf-8")) != values:
        raise ProtocolError(
            f"{out}: holds runs of another protocol, see {stamp}; give another --out, or delete it"
        )


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Holds the directory for one command at a time; a process that ends in any way lets go of it."""
    with (out / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProtocolError(f"{out}: another twinbrain claims is at work in it") from None
        yield


def measure_latency(protocol: Protocol, out: Path, material: Material) -> None:
    """Milliseconds per chunk, one thread, nothing else of this command running, the variants in turns."""
    import torch

    policies: dict[str, TwinBrainPolicy] = {}
    for data, variants in protocol.plan:
        for variant in variants:
            rate = running.chosen_rate(protocol, out, variant)
            for seed in protocol.seeds:  # any will do: results that came from elsewhere have no weights
                where = running.folder(out, Run(variant, data, seed, rate or 0.0)) / running.CHECKPOINT
                if variant not in policies and where.is_dir():
                    policies[variant] = TwinBrainPolicy.from_pretrained(where)
    rng = np.random.default_rng(0)
    images = {
        c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in material.twin.cameras
    }
    state = np.zeros(len(material.twin.state_names), np.float32)
    taken: dict[str, list[float]] = {name: [] for name in policies}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(protocol.latency_chunks + 3):
            for name, policy in policies.items():
                began_s = time.perf_counter()
                policy.act(images, "put the red block on the blue plate", state, seed=turn)
                if turn >= 3:  # the first ones prepare what later ones find
                    taken[name].append(1e3 * (time.perf_counter() - began_s))
    finally:
        torch.set_num_threads(threads)
    found = {
        name: {"chunks": len(ms), "p50_ms": percentile(ms, 50), "p95_ms": percentile(ms, 95)}
        for name, ms in taken.items()
    }
    write_whole(out / LATENCY, lambda partial: partial.write_text(json.dumps(found, indent=2) + "\n"))
