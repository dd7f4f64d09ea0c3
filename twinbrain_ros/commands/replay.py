"""`twinbrain replay`: a policy over a recording, beside what was done; or the recording into live topics."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import (
    FAILED,
    OK,
    CommandError,
    add_checkpoint,
    add_device,
    add_json,
    check_writable,
    checkpoint_directory,
    positive_seconds,
    say,
    seed_int,
    write_json,
)

if TYPE_CHECKING:
    from twinbrain_ros.evaluation.replay import Replay

DESCRIPTION = """\
Run a policy over the observations of a recording, without an arm, and compare what it says with what was
commanded and with what the arm then did, driven by the policy or by the person: errors over the horizon,
disagreement over time. On the observations of recorded chunks it starts from the recorded noise, so that the
checkpoint that drove gives the same chunks again. --ros plays the recording into live topics instead."""

EPILOG = """\
--ros uses the ROS settings of the shell, so that the nodes of a live system hear it: cameras, joint states,
instruction and the like, with the recorded timing. What would move an arm or speak for one (commands, chunks,
modes, teleop inputs, status) is withheld unless --all-topics is given."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay",
        help="run a policy over a recording, or play it into live topics",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("bag", type=Path, metavar="BAG", help="directory of a recording, or its .mcap or .db3 file")
    add_checkpoint(parser)
    add(
        "--robot", metavar="FILE",
        help="name of a shipped robot file, or the path of one (default: the one in the recording)",
    )  # fmt: skip
    add("--namespace", metavar="NAME", help="of the arm's topics (default: as the recording says)")
    add(
        "--instruction", metavar="TEXT",
        help="what the policy is asked for all along (default: what was asked for in the recording)",
    )  # fmt: skip
    add(
        "--every", type=positive_seconds, metavar="S",
        help="run the policy on an observation every S seconds (default: on those of the recorded chunks; "
        "without chunks, as often as a live policy)",
    )  # fmt: skip
    add(
        "--seed", type=seed_int, default=0, metavar="N",
        help="seed of the noise of the first observation that has no recorded one; the next ones count up "
        "from it (default: %(default)s)",
    )  # fmt: skip
    add("--out", type=Path, metavar="FILE.png", help="picture of the comparison (default: no file)")
    add_json(parser)
    add_device(parser)
    live = parser.add_argument_group("playing into live topics")
    live.add_argument("--ros", action="store_true", help="play the recording; no policy is run")
    live.add_argument(
        "--rate", type=positive_rate, metavar="X",
        help="so many times as fast as it was recorded (default: 1)",
    )  # fmt: skip
    live.add_argument("--all-topics", action="store_true", help="play also what would move an arm")
    live.add_argument(
        "--keep-stamps", action="store_true",
        help="leave the stamps of messages as they were (default: moved to now, or live nodes would refuse "
        "them as old)",
    )  # fmt: skip
    return parser


def positive_rate(text: str) -> float:
    """Parse a finite factor above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}, expected a factor above 0")
    return value


def run(args: argparse.Namespace) -> int:
    _check_options(args)
    return _play(args) if args.ros else _replay(args)


def _check_options(args: argparse.Namespace) -> None:
    """Refuses options that would have no effect."""
    offline = ("checkpoint", "instruction", "every", "out", "json", "dtype")
    live = ("rate", "all_topics", "keep_stamps")
    for name in offline if args.ros else live:
        if getattr(args, name) not in (None, False):
            option = "--" + name.replace("_", "-")
            why = "with --ros no policy is run" if args.ros else "it belongs to --ros"
            raise CommandError(f"{option}: found without effect: {why}")
    for option, path in (("--out", args.out), ("--json", args.json)):
        if path is not None:
            check_writable(option, path)
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise CommandError(f"--out {args.out}: found {args.out.suffix or 'no ending'}, expected .png")


def _replay(args: argparse.Namespace) -> int:
    checkpoint = checkpoint_directory(args.checkpoint)
    from tqdm import tqdm

    from twinbrain_ros.brain.policy import TwinBrainPolicy
    from twinbrain_ros.data.bag import open_bag
    from twinbrain_ros.data.recorded import RecordedFrames, robot_of
    from twinbrain_ros.evaluation.replay import expected_observations, replay
    from twinbrain_ros.robot.kinematics import Kinematics

    bag = open_bag(args.bag)
    robot = robot_of(bag, args.robot)
    kinematics = Kinematics(robot)
    frames = RecordedFrames(bag, robot, kinematics, args.namespace)
    policy = TwinBrainPolicy.from_pretrained(checkpoint, args.device, args.dtype, tell=say)
    with tqdm(total=expected_observations(frames, args.every) or None, desc="replaying", unit="chunk") as bar:
        result = replay(
            frames,
            kinematics,
            policy,
            every_s=args.every,
            instruction=args.instruction,
            seed=args.seed,
            on_observation=lambda: bar.update(),
        )
    left_out = [f"not used: {sentence}" for sentence in result.problems]
    if bag.truncated:
        left_out.insert(0, f"the recording is not whole: {bag.truncated}")
    if not result.observations:
        print(f"twinbrain replay: {bag.path}: no observation could be used", file=sys.stderr)
        print("\n".join(left_out or [_nothing(result)]), file=sys.stderr)
        return FAILED
    return _tell(args, bag.path, result, left_out)


def _nothing(result: Replay) -> str:
    return (
        "not used: there are no recorded chunks"
        if result.every_s is None
        else "not used: cameras and joint states never made a complete observation"
    )


def _tell(args: argparse.Namespace, path: Path, result: Replay, left_out: list[str]) -> int:
    from twinbrain_ros.evaluation.replay_table import replay_table

    print("\n".join([f"{path}:", replay_table(result), *left_out]))
    write_json(args.json, {"bag": str(path), **result.to_json()})
    if args.out is not None:
        from twinbrain_ros.evaluation.replay_picture import write_picture

        try:
            write_picture(args.out, result, path.name)
        except OSError as error:
            raise CommandError(f"--out {args.out}: cannot be written: {error.strerror or error}") from error
        print(f"picture: {args.out}")
    return OK


def _play(args: argparse.Namespace) -> int:
    from twinbrain_ros.commands.demo import interrupt
    from twinbrain_ros.data.bag import open_bag
    from twinbrain_ros.data.recorded import namespace_of, robot_of

    bag = open_bag(args.bag)
    robot = robot_of(bag, args.robot)
    namespace = namespace_of(bag, robot) if args.namespace is None else args.namespace

    from tqdm import tqdm

    from twinbrain_ros.nodes.playback import Playback

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with Playback(
            bag, robot, namespace, args.rate or 1.0, all_topics=args.all_topics, keep_stamps=args.keep_stamps
        ) as playback:
            for sentence in (*playback.withheld(), *playback.wait_for_listeners()):
                print(sentence, file=sys.stderr)
            with tqdm(total=playback.total, desc="playing", unit="message") as bar:
                playback.play(lambda: bar.update())
    finally:
        signal.signal(signal.SIGTERM, before)
    for sentence in playback.problems.sentences():
        print(f"not played as recorded: {sentence}", file=sys.stderr)
    if not playback.played:
        print(f"twinbrain replay: {bag.path}: no message could be played", file=sys.stderr)
        return FAILED
    print(f"{bag.path}: played {sum(playback.played.values())} messages of {len(playback.played)} topics")
    return OK
