"""`twinbrain evaluate`: a policy's success on the field's benchmarks."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import (
    FAILED,
    OK,
    STATE_KINDS,
    SUITES,
    CommandError,
    add_checkpoint,
    add_device,
    check_writable,
    checkpoint_directory,
    not_negative_metres,
    positive_int,
    say,
    seed_int,
)

if TYPE_CHECKING:
    from twinbrain_ros.benchmarks.evaluation import Evaluation

DESCRIPTION = """\
Plays a benchmark's tasks with a checkpoint, or with a scripted expert, and tells the success with n, interval
and protocol. Every trial is kept in FILE.trials.jsonl as it ends: the same command goes on where it was
stopped."""
EPILOG = """\
tabletop is the embedded simulator. The other suites run in an interpreter of their own: `make evaluation`
makes one for simpler-ms3, which is found by itself; else --python names it. What is missing of a
suite is told by `twinbrain doctor --suite SUITE --python PATH`."""

# Fields of a protocol that one may want to compare; the others make another task of it.
VARYING = ("profile", "execution", "delay_steps", "seed", "kick_m")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="measure success on SimplerEnv, RoboCasa, LIBERO or the embedded simulator",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("suite", choices=SUITES, metavar="SUITE", help=f"one of {', '.join(SUITES)}")
    add_checkpoint(parser)
    add(
        "--policy", choices=("checkpoint", "expert"), default="checkpoint",
        help="expert: a script that is told where things are, for put-on tasks (default: %(default)s)",
    )  # fmt: skip
    add("--tasks", nargs="+", metavar="TASK", help="(default: all of the benchmark)")
    add(
        "--trials", type=positive_int, metavar="N",
        help="per task: placements in turn, then again with other noise (default: each once, or 24)",
    )  # fmt: skip
    add("--first", type=int, default=0, metavar="K", help="placement to begin with (default: %(default)s)")
    add("--workers", type=positive_int, default=1, metavar="N", help="simulators side by side (default: 1)")
    add("--python", type=Path, metavar="PATH", help="the suite's interpreter")
    add("--profile", metavar="NAME", help="how the policy is run: a name in config/benchmarks, or a file")
    add(
        "--limit",
        type=positive_int,
        metavar="STEPS",
        help="per trial (default: the profile's, or the task's)",
    )
    add(
        "--state", choices=STATE_KINDS,
        help="what the policy is given of the arm (default: the profile's)",
    )  # fmt: skip
    add("--robot", metavar="NAME", help="of several that a checkpoint knows, the one it acts as")
    add("--strategy", metavar="NAME", help="how chunks follow one another (default: the profile's)")
    add("--execution-steps", type=positive_int, metavar="N", help="of each chunk (default: the profile's)")
    add("--delay-steps", type=int, default=0, metavar="N", help="steps that a chunk comes late (default: 0)")
    add("--seed", type=seed_int, default=0, help="of noise and simulator (default: %(default)s)")
    add_device(parser)
    add("--json", type=Path, metavar="FILE", help="results, with trials and contact sheets beside it")
    add("--video", type=Path, metavar="DIR", help="an mp4 of each trial")
    add("--record", type=Path, metavar="DIR", help="successful trials as a LeRobot dataset to train on")
    add(
        "--kick", type=not_negative_metres, default=0.0, metavar="M",
        help="deviation of random moves added to some actions, with which the gripper slips now and then; "
        "an expert then shows how to get back (default: 0)",
    )  # fmt: skip
    add(
        "--lead", type=Path, metavar="CHECKPOINT",
        help="with --policy expert: a policy that drives a first stretch of each trial, up to half of its "
        "limit; the expert then shows what to do from where it got to",
    )  # fmt: skip
    add("--against", type=Path, metavar="FILE", help="earlier results to compare with")
    add(
        "--varying", nargs="+", default=[], choices=VARYING, metavar="FIELD",
        help=f"with --against: what of the protocol is compared, and may differ: {', '.join(VARYING)}",
    )  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> int:
    from twinbrain_ros.benchmarks.evaluation import evaluate
    from twinbrain_ros.benchmarks.results import compare_results, table

    evaluation = _evaluation(args)
    if args.json is not None:
        check_writable("--json", args.json)
    with tempfile.TemporaryDirectory(prefix="twinbrain-") as scratch:
        out = args.json or Path(scratch) / "results.json"
        values = evaluate(evaluation, out, args.workers, args.video, args.record)
    print(table(values))
    if args.json is not None:
        print(f"results: {args.json}")
    if args.against is not None:
        comparison = compare_results(values, args.against, args.varying)
        print(comparison.sentence(comparison.a, comparison.b))
    for trial, reason in values["not_played"].items():
        print(f"not played: {trial}: {reason}")
    return FAILED if values["not_played"] else OK


def _evaluation(args: argparse.Namespace) -> Evaluation:
    """The options as a plan, before anything is started.

    Raises:
        CommandError: an option that cannot be, or options that contradict each other.
    """
    from twinbrain_ros.benchmarks.evaluation import Evaluation
    from twinbrain_ros.benchmarks.players import ExpertPlayer, TwinPlayer
    from twinbrain_ros.benchmarks.process import interpreter, suite_tasks
    from twinbrain_ros.benchmarks.profile import DEFAULTS, load_profile
    from twinbrain_ros.control.strategies import Strategy

    known = suite_tasks(args.suite)
    tasks = args.tasks or [name for name in known if known[name].benchmark]
    unknown = [name for name in tasks if name not in known]
    if unknown:
        raise CommandError(f"--tasks: found {', '.join(unknown)}, expected some of {', '.join(known)}")
    if args.policy == "expert" and args.checkpoint is not None:
        raise CommandError("--policy expert: found --checkpoint too, expected one of them")
    if args.lead is not None and args.policy != "expert":
        raise CommandError("--lead: found with a checkpoint, expected with --policy expert, which takes over")
    if args.delay_steps < 0 or args.first < 0:
        raise CommandError("--delay-steps and --first: found a number below 0, expected 0 or more")
    profile = load_profile(args.profile or ("own" if args.policy == "expert" else DEFAULTS[args.suite]))
    if args.state not in (None, profile.state):
        profile = replace(profile, name=f"{profile.name}:state={args.state}", state=args.state)
    if args.strategy is not None:
        choices = [kind.value for kind in Strategy]
        if args.strategy not in choices:
            raise CommandError(f"--strategy: found {args.strategy}, expected one of {', '.join(choices)}")
        profile = replace(profile, strategy=Strategy(args.strategy))
    lead = None
    if args.lead is not None:
        lead = TwinPlayer.load(checkpoint_directory(args.lead), profile, args.device, args.dtype, tell=say)
    lead_profile = profile
    steps = 1 if args.policy == "expert" else args.execution_steps
    profile = replace(profile, steps=steps or profile.steps, limit=args.limit or profile.limit)
    python = interpreter(args.suite, args.python)
    player: Any = (
        ExpertPlayer()
        if args.policy == "expert"
        else TwinPlayer.load(
            checkpoint_directory(args.checkpoint), profile, args.device, args.dtype, args.robot, say
        )
    )
    return Evaluation(
        args.suite, tuple(dict.fromkeys(tasks)), player, profile, python, args.trials, args.first, args.seed,
        args.delay_steps, args.kick, lead=lead, lead_profile=lead_profile,
    )  # fmt: skip
