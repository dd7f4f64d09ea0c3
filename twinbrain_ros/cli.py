"""The `twinbrain` command."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from twinbrain_ros import __version__
from twinbrain_ros.commands import (
    ask,
    bag,
    bench,
    claims,
    convert,
    demo,
    doctor,
    evaluate,
    import_checkpoint,
    info,
    init,
    interventions,
    judge,
    predict,
    questions,
    replay,
    report,
    train,
    views,
)
from twinbrain_ros.commands.common import INTERRUPTED, USAGE, CommandError, check_device

COMMANDS = (
    demo, report, replay, judge, bag, convert, train, init, import_checkpoint, predict, ask, questions, info,
    bench, evaluate, claims, interventions, doctor, views,
)  # fmt: skip

EXIT_CODES = """\
exit codes: 0 done; 1 the work itself failed; 2 wrong input, named in one line on standard error; 130
interrupted (a demo that is interrupted reports what it has, and is done).
TWINBRAIN_DEBUG=1 in the environment adds the traceback to an error."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twinbrain",
        description="Vision-language-action policies on ROS 2: demo, training, prediction and inspection.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"twinbrain {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = command.add_parser(subparsers)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        check_device(args)
        return int(args.run(args))
    except (CommandError, ValueError, OSError) as error:
        # The rooms raise ValueError (and its subclasses for robot files, checkpoints and instructions) and
        # OSError for input that a person can mend, with messages written for that person.
        if os.environ.get("TWINBRAIN_DEBUG"):
            traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"twinbrain {args.command}: error: {message}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(f"twinbrain {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
