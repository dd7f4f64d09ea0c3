"""`twinbrain bench limits`: what a trajectory controller executes whatever happens, beside the limits."""

from __future__ import annotations

import argparse
from typing import Any

from twinbrain_ros.commands.common import FAILED, OK, add_json, positive_int, seed_int, write_json
from twinbrain_ros.evaluation.results import format_rows

RUN = 250  # sequences of one controller's life
FOLLOWERS = ("jazzy_100", "humble_100", "jazzy_500", "humble_500", "kilted_100_from_desired")


def add_limits(subjects: Any) -> None:
    """The subcommand."""
    limits = subjects.add_parser(
        "limits",
        help="random chunks, people, readings, clocks and delays: does what is executed keep every limit?",
        description="Drive the controller's core through random sequences of whatever can happen, and hold "
        "what a trajectory controller executes of it against the robot file's limits. Exit code 1 if one is "
        "broken.",
    )
    limits.add_argument(
        "--sequences", type=positive_int, default=10_000, metavar="N",
        help="of each robot file (default: %(default)s)",
    )  # fmt: skip
    limits.add_argument(
        "--robot", nargs="+", default=["wx250s", "wx250s_xs", "wx250s_bridge", "franka"], metavar="NAME",
        help="robot files: names of shipped ones, or paths (default: all that are shipped)",
    )  # fmt: skip
    limits.add_argument(
        "--seed", type=seed_int, default=1000, metavar="S", help="of the first run (default: %(default)s)"
    )
    limits.set_defaults(bench=bench_limits)
    add_json(limits)


def bench_limits(args: argparse.Namespace) -> int:
    """Every robot file, in runs of some sequences."""
    from tqdm import tqdm

    from twinbrain_ros.evaluation.random_driving import Chance, RandomDriving, Worst, verdict
    from twinbrain_ros.robot.kinematics import Kinematics
    from twinbrain_ros.robot.robot_file import load_robot
    from twinbrain_ros.sim.follower_kinds import follower_kind

    rows, figures = [], []
    with tqdm(total=len(args.robot) * args.sequences, unit="sequence") as bar:
        for robot in map(load_robot, args.robot):
            kinematics, worst, commands, broken = Kinematics(robot), Worst(), 0, list[str]()
            for run, first in enumerate(range(0, args.sequences, RUN)):
                seed, kind = args.seed + run, follower_kind(FOLLOWERS[run % len(FOLLOWERS)])
                driving = RandomDriving(robot, kinematics, seed, kind)
                for number in range(min(RUN, args.sequences - first)):
                    driving.sequence(Chance())
                    bar.update()
                    found = [*driving.broken, *verdict(driving.arm.worst)]
                    if found:
                        broken += [f"seed {seed}, sequence {number}: {what}" for what in found]
                        break
                worst.take(driving.arm.worst)
                commands += driving.commands
            rows += _rows(robot.path.stem, args.sequences, commands, worst, broken)
            figures.append({"robot": robot.path.stem, "commands": commands, **vars(worst), "broken": broken})
    print(format_rows(rows))
    write_json(args.json, {"sequences": args.sequences, "seed": args.seed, "robots": figures})
    return FAILED if any(entry["broken"] for entry in figures) else OK


def _rows(name: str, sequences: int, commands: int, worst: Any, broken: list[str]) -> list[tuple[str, str]]:
    said = (
        f"{sequences} sequences, {commands} commands; executed at most {worst.velocity:.3f} of the velocity "
        f"and {worst.acceleration:.3f} of the acceleration limit, {worst.outside_rad:.1e} rad past a position"
    )
    return [(name, said), *((f"{name}, broken", what) for what in broken)]
