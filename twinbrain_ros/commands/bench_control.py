"""`twinbrain bench controller`, `seams` and `execution`: how chunks are executed."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands import bench_followers
from twinbrain_ros.commands.common import (
    FAILED,
    OK,
    add_checkpoint,
    add_follower,
    add_json,
    checkpoint_directory,
    not_negative_seconds,
    positive_int,
    positive_seconds,
    seed_int,
    write_json,
)
from twinbrain_ros.commands.demo import STRATEGIES, interrupt
from twinbrain_ros.evaluation.results import format_rates_of, format_rows

if TYPE_CHECKING:
    from twinbrain_ros.demo.loop import LoopSettings
    from twinbrain_ros.evaluation.controller_bench import Measured


def add_subjects(subjects: Any) -> None:
    """The subcommands of `twinbrain bench` about execution."""
    controller = subjects.add_parser(
        "controller",
        help="how regularly commands come, with the whole loop running",
        description="Run the demo's loop with the controller at a given rate; report how late its ticks are, "
        "and its commands as a subscriber sees them. Exit code 1 if the loop cannot run.",
    )
    controller.add_argument(
        "--rate-hz", type=_rate, default=100.0, metavar="HZ", help="of the controller (default: %(default)g)"
    )
    controller.add_argument(
        "--seconds", type=positive_seconds, default=30.0, metavar="S",
        help="how long, apart from bringing the loop up [s] (default: %(default)g)",
    )  # fmt: skip
    controller.set_defaults(bench=bench_controller)
    seams = subjects.add_parser(
        "seams",
        help="commanded velocity where chunks take over from each other, as a picture",
        description="Execute late chunks that disagree with each other, with every strategy, and draw it.",
    )
    seams.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture")
    seams.add_argument(
        "--seconds", type=positive_seconds, default=8.0, metavar="S", help="(default: %(default)g)"
    )
    seams.set_defaults(bench=bench_seams)
    execution = subjects.add_parser(
        "execution",
        help="success with late chunks, for every strategy, in lock-step",
        description="Episodes in lock-step: each strategy on the same scenes, chunks late by a delay.",
    )
    execution.add_argument(
        "--episodes", type=positive_int, default=100, metavar="N", help="of each case (default: %(default)s)"
    )
    execution.add_argument(
        "--strategy", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="(default: all of them)"
    )
    execution.add_argument(
        "--base-delay", type=not_negative_seconds, default=0.04, metavar="S",
        help="delay of the first case, receding_horizon, that others are held to [s] (default: %(default)g)",
    )  # fmt: skip
    add_checkpoint(execution)
    add_follower(execution)
    execution.set_defaults(bench=bench_execution)
    followers = bench_followers.add_subject(subjects)
    for parser in (seams, execution):
        parser.add_argument(
            "--delay", type=not_negative_seconds, default=0.34, metavar="S",
            help="how late chunks are [s]; the policy's own time included (default: %(default)g)",
        )  # fmt: skip
        parser.add_argument(
            "--seed",
            type=seed_int,
            default=520_000,
            metavar="S",
            help="of the first scene (default: %(default)s)",
        )
    recorder = subjects.add_parser(
        "recorder",
        help="what a recorder loses and costs",
        description="Record the demo's whole loop, or cameras alone; compare what was sent with what is in "
        "the bag.",
    )
    recorder.add_argument(
        "--seconds",
        type=positive_seconds,
        default=60.0,
        metavar="S",
        help="how long [s] (default: %(default)g)",
    )
    recorder.add_argument(
        "--raw", action="store_true",
        help="three cameras of 640x480 pixels alone, 83 MB/s at 30 Hz (default: the loop, two of 96x96)",
    )  # fmt: skip
    recorder.add_argument(
        "--camera-hz", type=_rate, default=30.0, metavar="HZ", help="of each camera (default: %(default)g)"
    )
    recorder.add_argument(
        "--compression", choices=("none", "jpeg", "png"), default="none",
        help="of images on their way, with --raw (default: %(default)s)",
    )  # fmt: skip
    recorder.add_argument(
        "--directory", type=Path, metavar="DIR",
        help="where the bag goes; it stays there (default: a temporary directory, deleted at the end)",
    )  # fmt: skip
    recorder.set_defaults(bench=bench_recorder)
    for parser in (controller, seams, execution, followers, recorder):
        add_json(parser)


def _rate(text: str) -> float:
    value = float(text)
    # A slower controller takes itself for one that is held up, see `overrun_s`.
    if not 10.0 <= value <= 1000.0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a rate from 10 to 1000 Hz")
    return value


def bench_controller(args: argparse.Namespace) -> int:
    """The demo's loop, with the controller at the rate."""
    checkpoint = checkpoint_directory(None)
    from twinbrain_ros.demo.environment import local_ros_environment
    from twinbrain_ros.robot.robot_file import load_robot

    robot = load_robot("wx250s")
    # Before rclpy is imported, here and in the nodes.
    os.environ.update(local_ros_environment(os.environ))
    signal.signal(signal.SIGTERM, interrupt)
    from twinbrain_ros.demo.loop import LoopSettings
    from twinbrain_ros.evaluation.controller_bench import Measured, rows

    log_dir = Path(tempfile.mkdtemp(prefix="twinbrain-bench-"))
    measured = Measured(args.rate_hz)
    settings = LoopSettings(robot, checkpoint, log_dir, command_hz=args.rate_hz)
    code = _measure_controller(settings, args.seconds, measured)
    if code == OK:
        shutil.rmtree(log_dir, ignore_errors=True)
    if measured.episodes:
        facts = measured.to_json()
        print(format_rows(rows(facts)), flush=True)
        write_json(args.json, facts)
    return code


def _measure_controller(settings: LoopSettings, seconds: float, measured: Measured) -> int:
    """Run the loop; what it measures until it ends, for whatever reason, is in `measured`."""
    from twinbrain_ros.demo.client import LoopError
    from twinbrain_ros.demo.loop import running_loop
    from twinbrain_ros.demo.processes import NodeDied
    from twinbrain_ros.evaluation.controller_bench import measure

    try:
        print(f"starting the nodes (logs in {settings.log_dir}) ...", flush=True)
        with running_loop(settings) as loop:
            loop.bring_up()
            measure(loop, seconds, measured)
    except KeyboardInterrupt:
        print("interrupted; all nodes have ended", flush=True)
        measured.interrupted = True
    except (LoopError, NodeDied) as error:
        print(f"twinbrain bench: error: {error}\nlogs: {settings.log_dir}", file=sys.stderr)
        measured.interrupted = True
        return FAILED
    return OK


def bench_recorder(args: argparse.Namespace) -> int:
    """The demo's loop, or cameras alone, recorded."""
    checkpoint = checkpoint_directory(None)
    from twinbrain_ros.demo.environment import local_ros_environment
    from twinbrain_ros.robot.robot_file import load_robot

    os.environ.update(local_ros_environment(os.environ))
    signal.signal(signal.SIGTERM, interrupt)
    from twinbrain_ros.demo.client import LoopError
    from twinbrain_ros.demo.loop import LoopSettings
    from twinbrain_ros.demo.processes import NodeDied
    from twinbrain_ros.evaluation import recorder_bench

    directory = (args.directory or Path(tempfile.mkdtemp(prefix="twinbrain-bench-"))).resolve()
    robot, rate = load_robot("wx250s"), {"rate_hz": args.camera_hz}
    names = ("left", "right", "wrist")
    large = [
        {"name": n, "topic": f"camera/{n}/image_raw", "width": 640, "height": 480, **rate} for n in names
    ]
    robot = recorder_bench.with_cameras(robot, directory / "robot", large if args.raw else [rate, rate])
    try:
        if args.raw:
            found = recorder_bench.measure_cameras(robot, directory, args.seconds, args.compression)
        else:
            settings = LoopSettings(robot, checkpoint, directory / "logs", record=directory)
            found = recorder_bench.measure_loop(settings, args.seconds)
    except (LoopError, NodeDied) as error:
        print(f"twinbrain bench: error: {error}\nlogs: {directory / 'logs'}", file=sys.stderr)
        return FAILED
    finally:
        if args.directory is None and sys.exc_info()[0] is None:
            shutil.rmtree(directory, ignore_errors=True)
    print(format_rows(found.rows()))
    write_json(args.json, found.to_json())
    return OK


def bench_seams(args: argparse.Namespace) -> int:
    """Every strategy, and how it is often done."""
    from twinbrain_ros.control.strategies import Strategy
    from twinbrain_ros.evaluation.seams import measure_plain, measure_seams, plot_seams
    from twinbrain_ros.robot.robot_file import load_robot

    robot = load_robot("wx250s")
    records = [measure_plain(robot, args.delay, args.seconds, args.seed)]
    records += [measure_seams(robot, strategy, args.delay, args.seconds, args.seed) for strategy in Strategy]
    acceleration = max(limit.acceleration for limit in robot.limits.values())
    bound = acceleration / robot.rates.command_hz
    plot_seams(records, bound, args.out)
    figures = [record.to_json() for record in records]
    rows = [
        (f["strategy"], f"step {f['largest_step_rad_s']:.3f} rad/s at {f['seams']} seams, acceleration up to "
         f"{f['largest_acceleration_rad_s2']:.1f} rad/s2") for f in figures
    ]  # fmt: skip
    print(format_rows([*rows, ("bound", f"step {bound:.3f} rad/s, acceleration {acceleration:g} rad/s2")]))
    write_json(args.json, {"delay_s": args.delay, "bound_rad_s": bound, "records": figures})
    return OK


def bench_execution(args: argparse.Namespace) -> int:
    """Success of each strategy with late chunks, beside the first case."""
    import torch
    from tqdm import tqdm

    from twinbrain_ros.control.strategies import Strategy
    from twinbrain_ros.evaluation.execution_bench import Case, load_actor, run_case
    from twinbrain_ros.robot.robot_file import load_robot

    torch.set_num_threads(1)
    act = load_actor(checkpoint_directory(args.checkpoint))
    cases = [Case(Strategy.RECEDING_HORIZON, args.base_delay)]
    cases += [Case(Strategy(name), args.delay) for name in args.strategy]
    robot, results = load_robot("wx250s"), []
    with tqdm(total=len(cases) * args.episodes, unit="episode") as bar:
        for case in cases:
            result = run_case(case, robot, act, args.episodes, args.seed, bar.update, args.follower)
            results.append(result.to_json())
    rows = [
        (f"{r['strategy']}, {r['delay_s']:g} s", format_rates_of(r["successes"], r["episodes"]))
        for r in results
    ]
    print(format_rows(rows))
    write_json(args.json, {"seed": args.seed, "follower": args.follower, "cases": results})
    return OK
