"""`make bench-gpu`: on a machine with a GPU, its tests, then a real twin's size beside the plain way.

Writes one JSON file and prints a table, with the machine, the commit and how often each way was timed.
Without a GPU it says so in one line and ends with 1, as it does where a test fails or the ways disagree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="qwen3_vl_4b", metavar="PRESET", help="(default: %(default)s)")
    parser.add_argument("--device", default="cuda", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--rounds", default=50, type=int, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", default=Path("out/bench_gpu.json"), type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    from twinbrain_ros.brain.devices import DeviceError, describe, find_device

    try:
        device = find_device(args.device)
        if device.type != "cuda":
            raise DeviceError(f"device: found {args.device!r}, expected a GPU")
    except DeviceError as error:
        print(f"bench-gpu: {error}", file=sys.stderr)
        return 1
    facts = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "gpu": describe(device),
        "tests": run_tests(ROOT / "test" / "unit"),
        "policy": bench_policy(args.config, args.device, args.rounds),
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(table(facts))
    print(f"results: {args.json}")
    return 0 if sound(facts) else 1


def commit() -> str:
    """What is checked out, with + where files differ from it; "" outside a repository."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
    )
    return described.stdout.strip()


def run_tests(where: Path) -> dict[str, Any]:
    """Runs the tests that are marked `cuda`; how many ended how, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", str(where), f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, check=False)
        if not report.is_file():
            return {"passed": 0, "skipped": 0, "failed": ["pytest did not run to its end"]}
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [c for c in cases if c.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "skipped": len(skipped),
        "failed": [f"{case.get('classname')}.{case.get('name')}" for case in failed],
    }


def bench_policy(config: str, device: str, rounds: int) -> dict[str, Any]:
    """What `twinbrain bench policy` measures, guided chunks too; or why it measured nothing, as `error`."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "policy.json"
        options = [f"--config={config}", f"--device={device}", f"--rounds={rounds}", "--guided"]
        command = [sys.executable, "-m", "twinbrain_ros.cli", "bench", "policy", *options, f"--json={out}"]
        ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
        if not out.is_file():
            lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            return {"error": lines[-1]}
        facts: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return facts


def sound(facts: dict[str, Any]) -> bool:
    """Whether tests ran and none failed, and all ways gave the same actions."""
    tests, policy = facts["tests"], facts["policy"]
    agrees = bool(policy.get("agrees") and policy.get("guided_agrees"))
    return tests["passed"] > 0 and not tests["failed"] and agrees


def table(facts: dict[str, Any]) -> str:
    """The figures for a person, in Markdown."""
    tests, policy = facts["tests"], facts["policy"]
    lines = [
        f"{facts['gpu']}, commit {facts['commit'] or 'unknown'}, {facts['date']}",
        "tests on the GPU: {passed} passed, {skipped} skipped, ".format(**tests)
        + f"{len(tests['failed'])} failed",
        *(f"failed: {name}" for name in tests["failed"]),
    ]
    if "error" in policy:
        return "\n".join([*lines, f"nothing was measured: {policy['error']}"])
    versions = policy["versions"]
    lines += [
        f"{policy['config']}, {policy['parameters'] / 1e6:,.0f} M weights in {policy['dtype']}, n = "
        f"{policy['rounds']} each in turns, {policy['machine']['cpu']}, torch {versions['torch']}, "
        f"transformers {versions['transformers']}",
        "",
        "| a chunk from pixels to actions | p50, ms | p99, ms |",
        "|---|---|---|",
    ]
    rows = (
        ("ours", "ours_ms"),
        ("the plain way", "plain_ms"),
        ("ours with a guide", "guided_ms"),
        ("with a guide, one operation at a time", "guided_eager_ms"),
    )
    lines += [f"| {name} | {policy[key]['p50']:.1f} | {policy[key]['p99']:.1f} |" for name, key in rows]
    verdict = "agree" if policy["agrees"] and policy["guided_agrees"] else "DISAGREE"
    return "\n".join(
        [
            *lines,
            "",
            f"the ways {verdict}; roofline {policy['roofline_ms']:.1f} ms; peak memory "
            f"{policy['peak_bytes'] / 1e9:.1f} GB with both ways' weights",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
