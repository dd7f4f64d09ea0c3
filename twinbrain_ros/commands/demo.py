"""`twinbrain demo`: the whole loop on this machine, and how well it does."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from twinbrain_ros.commands.common import (
    FAILED,
    OK,
    CommandError,
    add_follower,
    add_json,
    check_writable,
    checkpoint_directory,
    not_negative_seconds,
    positive_int,
    positive_seconds,
    seed_int,
    write_json,
)

if TYPE_CHECKING:
    from twinbrain_ros.demo.loop import LoopSettings
    from twinbrain_ros.demo.plan import EpisodePlan
    from twinbrain_ros.demo.runner import Recording
    from twinbrain_ros.robot.robot_file import RobotFile

DESCRIPTION = """\
Run the whole loop on this machine as separate processes (simulated arm and cameras, policy, controller) and
let the arm do what it is told in words. Prints a line per episode, then a table."""

# As `control/strategies.py` has them; not imported, as the help must not wait for numerics to load.
STRATEGIES = ("open_loop", "receding_horizon", "temporal_ensemble", "real_time")
# Episodes whose frames the sheet shows.
SHEET_EPISODES = 6


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo", help="run the whole loop and measure how well it does", description=DESCRIPTION
    )
    add = parser.add_argument
    add(
        "--task",
        choices=("pick", "put", "all"),
        default="all",
        help="what is asked; all: both in turn (default: all)",
    )
    add(
        "--episodes", type=positive_int, default=6, metavar="N",
        help="how many episodes, all tasks together (default: %(default)s)",
    )  # fmt: skip
    add(
        "--seed", type=seed_int, default=1000, metavar="S",
        help="seed of the first scene; the next ones count up from it (default: %(default)s)",
    )  # fmt: skip
    add(
        "--instruction", metavar="TEXT",
        help="ask for this in every episode, in scenes with the objects it names (default: one per scene)",
    )  # fmt: skip
    add(
        "--max-seconds", type=positive_seconds, default=20.0, metavar="S",
        help="an episode that has not succeeded after this time has failed [s] (default: %(default)g)",
    )  # fmt: skip
    add(
        "--retarget", action="store_true",
        help="publish another block's name after 2 s and count success on that one (default: off)",
    )  # fmt: skip
    add(
        "--sheet", type=Path, metavar="FILE.png",
        help=f"picture of what the cameras saw in the first {SHEET_EPISODES} episodes (default: no file)",
    )  # fmt: skip
    add(
        "--checkpoint", type=Path, metavar="DIR",
        help="directory of the policy's checkpoint (default: the one that ships in the package)",
    )  # fmt: skip
    add(
        "--robot", default="wx250s", metavar="NAME",
        help="name of a shipped robot file, or the path of one (default: %(default)s)",
    )  # fmt: skip
    add(
        "--execution-steps", type=positive_int, metavar="N",
        help="steps of each chunk to execute before the next (default: the robot file's)",
    )  # fmt: skip
    add(
        "--strategy", choices=STRATEGIES, default=STRATEGIES[1],
        help="how chunks follow one another (default: %(default)s)",
    )  # fmt: skip
    add(
        "--inject-delay", type=not_negative_seconds, default=0.0, metavar="S",
        help="hold every chunk back until it is so late [s], as on a slower machine (default: %(default)g)",
    )  # fmt: skip
    add_follower(parser)
    add(
        "--from-pose", default="", metavar="POSE",
        help="begin each episode in this pose of the robot file, as sleep, and with the way home by go_to "
        "(default: at home)",
    )  # fmt: skip
    add(
        "--record", type=Path, metavar="DIR",
        help="record every episode as a bag in this directory, labelled with the simulator's truth (default: "
        "no bags)",
    )  # fmt: skip
    add(
        "--log-dir", type=Path, metavar="DIR",
        help="keep the nodes' output in this directory (default: a temporary one, kept on errors)",
    )  # fmt: skip
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    try:
        return _run(args)
    except KeyboardInterrupt:  # before there was anything to report
        print("interrupted", flush=True)
        return OK


def _run(args: argparse.Namespace) -> int:
    checkpoint = checkpoint_directory(args.checkpoint)
    from twinbrain_ros.demo.environment import local_ros_environment
    from twinbrain_ros.demo.plan import plan_episodes
    from twinbrain_ros.robot.robot_file import load_robot

    robot = load_robot(args.robot)
    if args.from_pose and args.from_pose not in robot.poses:
        poses = ", ".join(robot.poses)
        raise CommandError(
            f"--from-pose {args.from_pose}: {robot.name} has no such pose, expected one of {poses}"
        )
    plans = plan_episodes(args.task, args.episodes, args.seed, args.instruction, args.retarget)
    for option, path in (("--json", args.json), ("--sheet", args.sheet)):
        if path is not None:
            check_writable(option, path)
    if args.record is not None:
        _check_bags(args.record, plans)
    # Before rclpy is imported, here and in the nodes.
    os.environ.update(local_ros_environment(os.environ))
    signal.signal(signal.SIGTERM, interrupt)

    from twinbrain_ros.demo.loop import LoopSettings
    from twinbrain_ros.demo.runner import Recording

    recording = Recording()
    recording.results.context = _context(args, robot, checkpoint)
    log_dir = args.log_dir or Path(tempfile.mkdtemp(prefix="twinbrain-demo-"))
    settings = LoopSettings(
        robot,
        checkpoint,
        log_dir,
        execution_steps=args.execution_steps,
        strategy=args.strategy,
        delay_s=args.inject_delay,
        seed=args.seed,
        follower=args.follower,
        record=args.record,
        from_pose=args.from_pose,
    )
    films = SHEET_EPISODES if args.sheet is not None else 0
    code = run_episodes(settings, plans, args.max_seconds, films, recording)
    if args.log_dir is None and code == OK:
        shutil.rmtree(log_dir, ignore_errors=True)
    if recording.results.records or code == OK:
        print(f"\n{recording.results.table()}", flush=True)
        write_json(args.json, recording.results.to_json())
        if args.sheet is not None and recording.films:
            from twinbrain_ros.evaluation.sheet import write_sheet

            write_sheet(args.sheet, recording.films, [camera.name for camera in robot.cameras])
    return code


def run_episodes(
    settings: LoopSettings, plans: list[EpisodePlan], max_seconds: float, films: int, recording: Recording
) -> int:
    """Run the loop; everything that happened until it ends, for whatever reason, is in `recording`."""
    from twinbrain_ros.demo.client import LoopError
    from twinbrain_ros.demo.loop import running_loop
    from twinbrain_ros.demo.processes import NodeDied
    from twinbrain_ros.demo.runner import EpisodeRunner

    domain = os.environ["ROS_DOMAIN_ID"]
    try:
        print(f"starting the nodes (ROS domain {domain}, logs in {settings.log_dir}) ...", flush=True)
        with running_loop(settings) as loop:
            loop.bring_up()
            runner = EpisodeRunner(loop, max_seconds, films)
            runner.run(plans, recording, lambda record: print(record.line(len(plans)), flush=True))
    except KeyboardInterrupt:
        print("interrupted; all nodes have ended", flush=True)
        recording.results.interrupted = True
    except (LoopError, NodeDied) as error:
        print(f"twinbrain demo: error: {error}\nlogs: {settings.log_dir}", file=sys.stderr)
        recording.results.interrupted = True
        return FAILED
    return OK


def interrupt(signum: int, frame: object) -> NoReturn:
    """SIGTERM ends the run in the same orderly way as Ctrl-C."""
    raise KeyboardInterrupt


def _check_bags(directory: Path, plans: list[EpisodePlan]) -> None:
    """Bags are never overwritten: find out before the episodes that one is there already."""
    for plan in plans:
        if (directory / plan.bag).exists():
            raise CommandError(f"--record {directory}: {plan.bag} is there already, expected a new directory")


def _context(args: argparse.Namespace, robot: RobotFile, checkpoint: Path) -> dict[str, Any]:
    """What is needed to repeat the run."""
    from twinbrain_ros.evaluation.machine import machine_facts, package_versions

    return {
        "settings": {
            "task": args.task,
            "seed": args.seed,
            "instruction": args.instruction,
            "retarget": args.retarget,
            "max_seconds": args.max_seconds,
            "execution_steps": args.execution_steps or robot.action.execution_steps,
            "strategy": args.strategy,
            "inject_delay_s": args.inject_delay,
            "from_pose": args.from_pose,
            "follower": args.follower,
            "robot": robot.name,
            "checkpoint": str(checkpoint),
        },
        "versions": package_versions(),
        "machine": machine_facts(),
    }
