"""Disturbs a run of two processes again and again at random moments; to be run by hand, for minutes.

    python test/support/disturb_training.py OUT [--kinds kill term nan launcher] [--times 10] [--zero]

Each kind has a run of its own, which is started, disturbed and started again until it has been disturbed so
often, and then left to end. It must end with the weights of an undisturbed run, bit for bit, and its state
must never go back. Prints a line per disturbance, and one per kind with what came of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("train_worker.py")
STEPS = 90
KINDS = ("kill", "term", "nan", "launcher")


def launch(out: Path, zero: bool, *options: str) -> subprocess.Popen[bytes]:
    python = [sys.executable, "-m"]
    configured = ["--config_file", str(ROOT / "config" / "accelerate" / "zero2.yaml"), "--num_processes", "2"]
    launcher = (
        [*python, "accelerate.commands.launch", *configured]
        if zero
        else [*python, "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    )
    command = [*launcher, str(WORKER), str(out), "--steps", str(STEPS), "--slow", "0.1", *options]
    with out.with_suffix(".txt").open("a") as said:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        return subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True)


def rows(out: Path) -> int:
    path = out / "steps_1.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def saved(out: Path) -> int:
    path = out / "policy.state.pt"
    return int(torch.load(path)["step"]) if path.is_file() else 0


def workers(launcher: int) -> list[int]:
    """The processes of a launcher, by rank."""
    pids = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ranked = {}
    for pid in pids:
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                ranked[int(entry[5:])] = int(pid)
    return [ranked[rank] for rank in sorted(ranked)]


def disturb(kind: str, out: Path, zero: bool, rng: random.Random) -> str:
    """One disturbance; what was done, and the launcher's exit code."""
    before, start = rows(out), saved(out)
    if kind == "nan":
        rank, step = rng.randrange(2), start + rng.randrange(8)
        process = launch(out, zero, "--nan", str(rank), str(step))
        return f"nan in process {rank} at step {step}, exit {process.wait()}"
    process = launch(out, zero)
    while rows(out) == before:
        assert process.poll() is None, out.with_suffix(".txt").read_text()[-3000:]
        time.sleep(0.02)
    own = workers(process.pid)
    wait = rng.uniform(0.0, 2.5)
    time.sleep(wait)
    if kind == "kill":
        rank = rng.randrange(2)
        os.kill(own[rank], signal.SIGKILL)
        done = f"kill -9 of process {rank}"
    elif kind == "term":
        rank = rng.randrange(-1, 2)
        os.kill(process.pid if rank < 0 else own[rank], signal.SIGTERM)
        done = f"SIGTERM to {'the launcher' if rank < 0 else f'process {rank}'}"
    else:
        os.kill(process.pid, signal.SIGKILL)
        done = "kill -9 of the launcher"
    code = process.wait()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in own):
        assert time.monotonic() < end, f"{own}: still there a minute after"
        time.sleep(0.05)
    return f"{done} after {wait:.2f} s, exit {code}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zero", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    reference = args.out / "undisturbed"
    if not (reference / "weights.pt").is_file():
        shutil.rmtree(reference, ignore_errors=True)
        assert launch(reference, args.zero, "--slow", "0").wait() == 0
    expected = torch.load(reference / "weights.pt")
    sound = True
    for kind in args.kinds:
        out, rng = args.out / kind, random.Random(f"{args.seed} {kind}")
        shutil.rmtree(out, ignore_errors=True)
        done, back = 0, 0
        while done < args.times and saved(out) < STEPS:
            held = saved(out)
            what = disturb(kind, out, args.zero, rng)
            now = saved(out)
            back += now < held
            done += 1
            print(f"{kind} {done}: {what}; state {held} -> {now}", flush=True)
        code = launch(out, args.zero, "--slow", "0").wait()
        found = torch.load(out / "weights.pt")
        same = sum(torch.equal(found[name], expected[name]) for name in expected)
        sound &= same == len(expected) and not back and code == 0
        result = {"kind": kind, "n": done, "went_back": back, "equal": same, "tensors": len(expected)}
        print(json.dumps(result), flush=True)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
