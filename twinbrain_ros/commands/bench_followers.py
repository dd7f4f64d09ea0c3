"""`twinbrain bench followers`: what the arm makes of our commands with each trajectory controller."""

from __future__ import annotations

import argparse
from typing import Any

from twinbrain_ros.commands.common import (
    OK,
    check_writable,
    follower_name,
    not_negative_seconds,
    positive_int,
    seed_int,
    write_json,
)
from twinbrain_ros.evaluation.results import format_rows

DESCRIPTION = """\
Episodes by the scripted expert in lock-step, and a joint at steady speed, with each trajectory controller:
how many succeed, how fast set-points are at most, whether the arm stops on the way, how far it is behind."""


def add_subject(subjects: Any) -> argparse.ArgumentParser:
    """The subcommand's parser."""
    parser: argparse.ArgumentParser = subjects.add_parser(
        "followers", help="success and set-points with every trajectory controller", description=DESCRIPTION
    )
    add = parser.add_argument
    add(
        "--follower", nargs="+", type=follower_name, metavar="NAME",
        help="as in humble_10, jazzy_100, kilted_500_from_desired (default: all 32)",
    )  # fmt: skip
    add("--episodes", type=positive_int, default=20, metavar="N", help="with each (default: %(default)s)")
    add(
        "--clock-behind", nargs="+", type=float, default=[0.0], metavar="S",
        help="by how much the driver's clock is behind [s], below 0: ahead; one run for each (default: 0)",
    )  # fmt: skip
    add(
        "--late", nargs="+", type=not_negative_seconds, default=[0.0], metavar="S",
        help="commands take up to so long to arrive [s], drawn anew for each; one run for each (default: 0)",
    )  # fmt: skip
    add(
        "--seed", type=seed_int, default=880_000, metavar="S",
        help="of the first scene (default: %(default)s)",
    )  # fmt: skip
    parser.set_defaults(bench=bench_followers)
    return parser


def bench_followers(args: argparse.Namespace) -> int:
    """A line for each controller, clock and delay."""
    if args.json is not None:
        check_writable("--json", args.json)
    from tqdm import tqdm

    from twinbrain_ros.evaluation.follower_bench import bench_driver
    from twinbrain_ros.evaluation.machine import machine_facts
    from twinbrain_ros.robot.robot_file import load_robot
    from twinbrain_ros.sim.follower_kinds import KINDS
    from twinbrain_ros.sim.lockstep import Driver

    drivers = [
        Driver(KINDS[name], clock_behind_s=behind_s, latest_s=late_s)
        for name in args.follower or KINDS
        for behind_s in args.clock_behind
        for late_s in args.late
    ]
    robot, results = load_robot("wx250s"), []
    with tqdm(total=len(drivers) * args.episodes, unit="episode") as bar:
        for driver in drivers:
            bar.set_description(driver.kind.name)
            results.append(bench_driver(driver, robot, args.episodes, args.seed, bar.update))
            bar.write(format_rows([results[-1].row()]))
    facts = {"seed": args.seed, "machine": machine_facts(), "rows": [result.to_json() for result in results]}
    write_json(args.json, facts)
    return OK
