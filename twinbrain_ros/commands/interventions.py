"""`twinbrain interventions`: a person's corrections teach a policy, in the simulator."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import OK, add_json, positive_int, write_json

DESCRIPTION = """\
Somebody has knocked against the simulator's front camera. The policy is judged, corrected by a person (the
scripted expert with a leader arm), taught with the recorded bags, and judged again, round after round. Writes
the bags, the datasets, the checkpoints, interventions.json and interventions.png. The same command goes on
where it was stopped."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "interventions",
        help="teach a policy by a person's corrections in the simulator",
        description=DESCRIPTION,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="directory of everything that is written")
    add("--start", default="demo", metavar="CHECKPOINT", help="the policy (default: demo, the shipped one)")
    add(
        "--rounds", type=positive_int, default=1, metavar="N",
        help="how often corrections are recorded and learnt from (default: %(default)s)",
    )  # fmt: skip
    add(
        "--episodes", type=positive_int, default=100, metavar="N",
        help="corrected episodes per round (default: %(default)s)",
    )  # fmt: skip
    add(
        "--trials", type=positive_int, default=200, metavar="N",
        help="episodes without help by which each policy is judged (default: %(default)s)",
    )  # fmt: skip
    add(
        "--steps", type=positive_int, default=400, metavar="N",
        help="training steps per round, from the start on all bags so far (default: %(default)s)",
    )  # fmt: skip
    add(
        "--workers", type=positive_int, default=2, metavar="N",
        help="processes side by side, for converting and training (default: %(default)s)",
    )  # fmt: skip
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from twinbrain_ros.demo.interventions import Course
    from twinbrain_ros.demo.interventions import run as run_course

    course = Course(args.start, args.rounds, args.episodes, args.trials, args.steps)
    figures = run_course(course, args.out, args.workers)
    for number, policy in enumerate(figures["policies"][1:], 1):
        print(f"round {number}: {policy['against_before']['sentence']}")
    write_json(args.json, figures)
    return OK
