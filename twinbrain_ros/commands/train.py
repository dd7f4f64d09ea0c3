"""`twinbrain train`: from a training file to a checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import OK, CommandError, add_json

DEFAULT_OUT = Path("out/train")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train a policy from a training file",
        description="Train a policy as a training file says: on datasets from a checkpoint, or from nothing "
        "in the simulator. The same command under `accelerate launch` trains on several GPUs and machines.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="training file, as config/train/finetune.yaml, or the name of a shipped one, as finetune",
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="DATASET",
        help="a LeRobot dataset to train on, in place of the file's; once per dataset",
    )
    parser.add_argument(
        "--start",
        metavar="CHECKPOINT",
        help="checkpoint to start from, in place of the file's; demo: the shipped one",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="another value for a key of the file, as policy.steps=2000",
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
    import yaml

    from twinbrain_ros.resources import find_config
    from twinbrain_ros.training.config import build_train_config, read_train_file

    path = find_config("train", args.config)
    if path is None:
        raise CommandError(f"--config: no file {args.config}")
    values = read_train_file(path)
    if args.data:
        values["datasets"] = [{"path": str(Path(p).resolve())} for p in args.data]
    if args.start:
        values["start"] = args.start
    for change in args.changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise CommandError(f"--set: found {change!r}, expected KEY=VALUE")
        *folders, leaf = key.split(".")
        place = values
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise CommandError(f"--set: {key}: {folder!r} is no mapping in {path}")
        place[leaf] = yaml.safe_load(text)
    config = build_train_config(values, str(path))
    from twinbrain_ros.training.processes import Stopped
    from twinbrain_ros.training.run import main as train_main

    try:
        train_main(config, values, args.out, args.resume, args.json)
    except Stopped as stopped:
        print(f"twinbrain train: {stopped}", file=sys.stderr)
        return stopped.code
    return OK
