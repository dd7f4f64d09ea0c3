"""`twinbrain train`: from a training configuration to a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import OK, CommandError, add_json

DEFAULT_OUT = Path("out/train")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train a policy from a configuration file",
        description="Generate data in the simulator, teach the small VLM to see, train the policy.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="training configuration, as config/train/demo.yaml",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="DIR",
        help="directory of the checkpoint, the curves and the state to resume from (default: %(default)s)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on where an interrupted run into the same directory stopped"
    )
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if not args.config.is_file():
        raise CommandError(f"--config: no file {args.config}")
    from twinbrain_ros.training.run import main as train_main

    train_main(args.config, args.out, args.resume, args.json)
    return OK
