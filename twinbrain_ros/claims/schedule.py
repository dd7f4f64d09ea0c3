"""Which job comes next, worker processes that do them, and a line now and then about how far they are."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from twinbrain_ros.claims import running
from twinbrain_ros.claims.protocol import Protocol, Run

SAY_EVERY_S = 60.0
TAIL_BYTES = 400


@dataclass(frozen=True)
class Job:
    """Training or evaluating one run."""

    kind: str
    run: Run

    @property
    def name(self) -> str:
        return f"{self.kind} {self.run.name}"


def pending(protocol: Protocol, out: Path) -> Iterator[Job]:
    """Jobs that can be done now, the most important first: the plan's order, within it seed by seed.

    A variant's other runs wait for the rate that its sweep chooses.
    """
    named: set[Job] = set()
    for data, variants in protocol.plan:
        for seed in protocol.seeds:
            for variant in variants:
                for job in _of(protocol, out, data, variant, seed):
                    if job not in named:
                        named.add(job)
                        yield job


def _of(protocol: Protocol, out: Path, data: str, variant: str, seed: int) -> Iterator[Job]:
    rate = running.chosen_rate(protocol, out, variant)
    if rate is None:
        for run in protocol.sweep(variant):
            if running.trained(out, run) is None:
                yield Job("train", run)
        return
    run = Run(variant, data, seed, rate)
    if running.trained(out, run) is None:
        yield Job("train", run)
    elif running.evaluated(out, run) is None:
        yield Job("evaluate", run)


def total(protocol: Protocol) -> int:
    """How many jobs the whole protocol has."""
    variants = {v for _, names in protocol.plan for v in names}
    runs = {(data, v, seed) for data, names in protocol.plan for v in names for seed in protocol.seeds}
    swept = {r for r in runs if r[0] == protocol.sweep_demonstrations and r[2] == protocol.sweep_seed}
    return len(variants) * len(protocol.rates) + 2 * len(runs) - len(swept)


def finished(protocol: Protocol, out: Path) -> int:
    """How many of them are done."""
    done: set[Job] = set()
    for data, variants in protocol.plan:
        for variant in variants:
            done |= {Job("train", r) for r in protocol.sweep(variant) if running.trained(out, r)}
            rate = running.chosen_rate(protocol, out, variant)
            for seed in protocol.seeds if rate is not None else ():
                run = Run(variant, data, seed, rate or 0.0)
                done |= {Job("train", run)} if running.trained(out, run) else set()
                done |= {Job("evaluate", run)} if running.evaluated(out, run) else set()
    return len(done)


def work(protocol: Protocol, out: Path, workers: int) -> list[str]:
    """Does all pending jobs; returns what failed, a line each. A job that failed is not tried again here."""
    failed: dict[Job, str] = {}
    on_the_way: dict[Future[None], Job] = {}
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in a bad state
    said_s = 0.0
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        try:
            while True:
                if len(on_the_way) < workers:
                    _hand_out(protocol, out, workers, pool, on_the_way, failed)
                if not on_the_way:
                    return [f"{job.name}: {why}" for job, why in failed.items()]
                ended, _ = wait(on_the_way, timeout=5.0, return_when=FIRST_COMPLETED)
                for future in ended:
                    job, error = on_the_way.pop(future), future.exception()
                    if error is not None:
                        failed[job] = f"{error}; see {running.folder(out, job.run) / running.LOG}"
                if ended or time.monotonic() - said_s > SAY_EVERY_S:
                    said_s = time.monotonic()
                    _say(protocol, out, on_the_way.values())
        except BaseException:
            # Their states are whole files; the next command goes on from them.
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _hand_out(
    protocol: Protocol,
    out: Path,
    workers: int,
    pool: ProcessPoolExecutor,
    on_the_way: dict[Future[None], Job],
    failed: Collection[Job],
) -> None:
    for job in pending(protocol, out):
        if len(on_the_way) >= workers:
            return
        if job not in failed and job not in on_the_way.values():
            on_the_way[pool.submit(running.do, job.kind, protocol, out, job.run)] = job


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _say(protocol: Protocol, out: Path, jobs: Collection[Job]) -> None:
    print(
        f"[{time.strftime('%H:%M:%S')}] {finished(protocol, out)} of {total(protocol)} jobs done", flush=True
    )
    for job in jobs:
        print(f"    {job.name}: {_tail(running.folder(out, job.run) / running.LOG)}", flush=True)


def _tail(path: Path) -> str:
    """The last state of a log's progress bar."""
    if not path.is_file():
        return "begins"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "begins"
