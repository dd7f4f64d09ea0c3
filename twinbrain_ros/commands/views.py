"""`twinbrain views`: what a checkpoint was trained to see of each camera, put into it afterwards."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import OK, add_checkpoint, checkpoint_directory, positive_int
from twinbrain_ros.robot.robot_file import load_robot

if TYPE_CHECKING:
    from twinbrain_ros.training.dataset import Demonstrations
    from twinbrain_ros.training.mixture import MixtureSource


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "views",
        help="put into a checkpoint what it was trained to see of each camera",
        description="Put into a checkpoint what it was trained to see of each camera, for the policy node to "
        "compare live cameras with. Training does so by itself; this is for older checkpoints. Neither the "
        "weights nor the checkpoint's name change.",
    )
    add_checkpoint(parser)
    parser.add_argument("--robot", default="wx250s", help="robot file the checkpoint is for (wx250s)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", metavar="DIR", help="dataset that it was trained on")
    parser.add_argument("--mapping", default="", metavar="FILE", help="the dataset's file, as for training")
    source.add_argument(
        "--demonstrations",
        metavar="FRAMES",
        type=positive_int,
        help="so many frames of the simulator's demonstrations, as the demo's checkpoint was trained on",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    from twinbrain_ros.data.views import FILE, save_views
    from twinbrain_ros.training.sources import views_of

    directory = checkpoint_directory(args.checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        views = views_of(_source(args, directory, Path(scratch)))
    save_views(views, directory)
    print(f"{directory / FILE}: {', '.join(views)}")
    return OK


def _source(args: argparse.Namespace, checkpoint: Path, scratch: Path) -> Demonstrations | MixtureSource:
    from twinbrain_ros.brain.config import TwinBrainConfig
    from twinbrain_ros.training.dataset import Demonstrations
    from twinbrain_ros.training.demonstrations import DataConfig, generate
    from twinbrain_ros.training.mixture import MixtureEntry, MixtureSource

    config = TwinBrainConfig.load(checkpoint)
    if args.dataset is not None:
        robot, entries = load_robot(args.robot), [MixtureEntry(args.dataset, mapping=args.mapping)]
        return MixtureSource(entries, robot, config.cameras, config.action.horizon)
    data = DataConfig(frames=args.demonstrations, frames_per_shard=min(args.demonstrations, 250))
    return Demonstrations(generate(args.robot, data, scratch), config.cameras, 1)
