"""`twinbrain import-checkpoint`: a published run as a checkpoint of ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import OK, add_json, write_json
from twinbrain_ros.evaluation.results import format_rows

EPILOG = """\
RUN_DIR is the folder of a training run as published: config.yaml, dataset_statistics.json and
checkpoints/steps_N_model.safetensors, checkpoints/steps_N_pytorch_model.pt or final_model/. Of several the
final one is taken, else the one after most steps. Nothing is unpickled: a .pt must hold tensors only.
The base VLM gives architecture, tokenizer, chat format and image processing; its weights are not needed."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "import-checkpoint",
        help="make a checkpoint from a published TwinBrainVLA run",
        description="Make a checkpoint from a published TwinBrainVLA run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of the published run")
    parser.add_argument(
        "--vlm",
        required=True,
        metavar="BASE_DIR",
        help="folder or hub id of the VLM that the run started from",
    )
    parser.add_argument(
        "--robot", required=True, metavar="NAME", help="name of a shipped robot file, or a path to one"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory of the checkpoint to write"
    )
    parser.add_argument(
        "--camera", action="append", metavar="NAME",
        help="a camera of the robot that the policy shall see; once per view, in order (default: those of "
        "the role third_person)",
    )  # fmt: skip
    parser.add_argument(
        "--statistics",
        metavar="KEY",
        help="data set in dataset_statistics.json, as oxe_bridge (default: the only one)",
    )
    parser.add_argument(
        "--normalization",
        choices=("q99", "min_max"),
        default="q99",
        help="range that the run's data were scaled by: q99 for BridgeData and Fractal, min_max for RoboCasa "
        "(default: %(default)s)",
    )
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from twinbrain_ros.brain.importing import import_checkpoint
    from twinbrain_ros.resources import robot_file_path
    from twinbrain_ros.robot.robot_file import load_robot

    made = import_checkpoint(
        args.run_dir,
        args.vlm,
        load_robot(robot_file_path(args.robot)),
        args.out,
        cameras=tuple(args.camera) if args.camera else None,
        statistics_key=args.statistics,
        normalization=args.normalization,
    )
    config = made.config
    facts = {
        "checkpoint": str(args.out),
        "weights": str(made.weights),
        "statistics": made.statistics_key,
        "robot": config.robot,
        "cameras": [c.name for c in config.cameras],
        "state": list(config.state_names),
        "actions": list(config.action.names),
        "horizon": config.action.horizon,
        "query_tokens": config.query_tokens,
        "remarks": list(made.remarks),
    }
    lines = [
        (key, ", ".join(value) if isinstance(value, list) else str(value)) for key, value in facts.items()
    ]
    print(format_rows([line for line in lines if line[0] != "remarks"]))
    for remark in made.remarks:
        print(f"note: {remark}")
    write_json(args.json, facts)
    return OK
