"""`twinbrain claims`: the paper's claims, put to the test on the embedded simulator."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import FAILED, OK, CommandError, positive_int


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "claims",
        help="put the paper's claims to the test in the simulator",
        description="Train one brain, a twin and their variants on the same demonstrations, by a protocol "
        "that is fixed beforehand; play episodes, ask questions, and write tables and plots with intervals. "
        "Takes hours; the same command goes on where it was stopped.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory of the data, the runs, claims.md, claims.json and the plots",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the protocol (default: the one that ships, config/claims.yaml)",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=2,
        metavar="N",
        help="runs side by side, each with one thread (default: %(default)s)",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="VARIANT", help="only these variants (default: all of them)"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="train nothing; draw tables and plots of what is there"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    from twinbrain_ros.resources import share_dir

    config = args.config or share_dir() / "config" / "claims.yaml"
    if not config.is_file():
        raise CommandError(f"--config: no file {config}")
    from twinbrain_ros.claims.main import main as run_claims

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # workers are stopped with the command
    failed = run_claims(config, args.out, args.workers, tuple(args.only), args.report_only)
    for line in failed:
        print(f"twinbrain claims: failed: {line}", file=sys.stderr)
    return FAILED if failed else OK
