"""`twinbrain doctor`: what this machine has and lacks, each line with its mend."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import FAILED, OK, SUITES, CommandError, add_json, write_json

if TYPE_CHECKING:
    from twinbrain_ros.demo.checks import Check

MARKS = {"ok": "  ok  ", "warn": " warn ", "fail": " FAIL "}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        help="say what this machine has and lacks",
        description="Check everything the loop needs. Each line that is not ok says how to mend it. "
        "Exit code 1 if anything fails.",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="checkpoint to load as a check (default: the one that ships in the package)",
    )
    parser.add_argument(
        "--no-ros",
        action="store_true",
        help="leave out the test of ROS discovery (default: tested, 10 s at most)",
    )
    parser.add_argument(
        "--suite",
        choices=SUITES,
        metavar="SUITE",
        help=f"also start the first task of a benchmark suite: {', '.join(SUITES)}",
    )
    parser.add_argument("--python", type=Path, metavar="PATH", help="the suite's interpreter")
    parser.add_argument(
        "--live",
        action="store_true",
        help="look at the running nodes instead: who commands the arm, the state of its driver, clocks",
    )
    parser.add_argument(
        "--robot", default="wx250s", metavar="NAME", help="with --live: name or path of the robot file"
    )
    parser.add_argument("--namespace", default="", metavar="NS", help="with --live: of the arm's nodes")
    parser.add_argument(
        "--controller-manager",
        default="controller_manager",
        metavar="NAME",
        help="with --live: of ros2_control's controller manager, in the namespace unless it begins with /",
    )
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    results = []
    for check in _checks(args):
        print(f"[{MARKS[check.status]}] {check.name:<22} {check.found}", flush=True)
        if check.status != "ok" and check.mend:
            print(f"{'':9}{'':<22} mend: {check.mend}", flush=True)
        results.append(check)
    counts = {status: sum(check.status == status for check in results) for status in MARKS}
    print(f"\n{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failures")
    write_json(args.json, {**counts, "checks": [check.to_json() for check in results]})
    return FAILED if counts["fail"] else OK


def _checks(args: argparse.Namespace) -> Iterator[Check]:
    if not args.live:
        from twinbrain_ros.demo.checks import run_checks

        yield from run_checks(args.checkpoint, not args.no_ros, args.suite, args.python)
        return
    from twinbrain_ros.robot.robot_file import load_robot

    try:
        robot = load_robot(args.robot)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    from twinbrain_ros.demo.live_checks import live_checks

    yield from live_checks(robot, args.namespace, manager=args.controller_manager)
