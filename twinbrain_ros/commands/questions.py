"""`twinbrain questions`: what a checkpoint's brains still know, beside the VLM that they were made from."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import (
    OK,
    CommandError,
    add_checkpoint,
    add_device,
    check_writable,
    checkpoint_directory,
    positive_int,
    say,
    write_json,
)

DESCRIPTION = """\
Asks both brains of a checkpoint about pictures, each by itself, and with --vlm the stock VLM too: how many
of the left brain's answers are the VLM's token for token, how often each is right, with 95 % intervals and
paired tests. With --json every answer is kept as it comes, in a .answers.jsonl beside it: the same command
goes on where it was stopped."""
EPILOG = """\
FILE is JSON lines with id, image (or images), question and, where known, answer, choices, category; or POPE's
JSON lines (question_id, image, text, label); or MMBench's table with tabs (index, question, hint, A, B, C, D,
answer, category, image in base64). docs/evaluation.md says how answers are judged."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "questions",
        help="ask both brains about pictures, beside the stock VLM",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="questions, in one of the layouts below")
    add_checkpoint(parser)
    add("--vlm", metavar="PATH_OR_HUB_ID", help="the VLM that the twin was made from (default: not asked)")
    add("--images", type=Path, metavar="DIR", help="folder of the pictures (default: that of FILE)")
    add("--limit", type=positive_int, metavar="N", help="only the first N questions (default: all)")
    add(
        "--batch", type=positive_int, default=8, metavar="N",
        help="questions at once, of pictures that are seen at one size (default: %(default)s)",
    )  # fmt: skip
    add(
        "--max-tokens", type=positive_int, default=32, metavar="N",
        help="end an answer after so many tokens (default: %(default)s)",
    )  # fmt: skip
    add(
        "--pixels", type=pixel_limits, metavar="LEAST,MOST",
        help="fit pictures within so many pixels, as Qwen's processors do (default: the limits of --vlm's "
        "processor; without --vlm as the left brain sees its cameras)",
    )  # fmt: skip
    add(
        "--suffix", metavar="TEXT",
        help="what is added to each question (default: how to answer, for POPE and MMBench; else nothing)",
    )  # fmt: skip
    add_device(parser)
    add("--json", type=Path, metavar="FILE", help="results and every answer (default: no file)")
    add("--against", type=Path, metavar="FILE", help="earlier results of other weights, to compare with")
    return parser


def run(args: argparse.Namespace) -> int:
    directory = checkpoint_directory(args.checkpoint)
    if args.json is not None:
        check_writable("--json", args.json)
        for path in (args.file, *filter(None, [args.against])):
            if args.json.resolve() == path.resolve():
                raise CommandError(f"--json {args.json}: found a file that is read, expected another")
    if not args.file.is_file():
        raise CommandError(f"{args.file}: found no such file, expected questions")
    if args.images is not None and not args.images.is_dir():
        raise CommandError(f"--images {args.images}: found no such directory")
    from twinbrain_ros.evaluation.questions import load_questions

    file = load_questions(args.file, args.images)
    from twinbrain_ros.brain.devices import usual_dtype
    from twinbrain_ros.brain.generalist import MAX_TOKENS
    from twinbrain_ros.evaluation.question_results import AnswerLog, compare_with, read_verdicts, table
    from twinbrain_ros.evaluation.question_run import Options, QuestionRun

    if args.max_tokens > MAX_TOKENS:
        raise CommandError(f"--max-tokens: found {args.max_tokens}, expected 1 to {MAX_TOKENS}")
    dtype = args.dtype or usual_dtype(args.device)
    options = Options(
        args.device, dtype, args.vlm, args.limit, args.batch, args.max_tokens, args.pixels, args.suffix
    )
    asking = QuestionRun(file, directory, options, say)
    before = None if args.against is None else read_verdicts(args.against, asking.protocol)
    with tempfile.TemporaryDirectory(prefix="twinbrain-") as scratch:
        out = args.json or Path(scratch) / "questions.json"
        log = AnswerLog(out.with_suffix(".answers.jsonl"), asking.names, asking.protocol)
        with log.alone():
            values = asking.run(log)
    if before is not None:
        values["comparisons"] += compare_with(values, before, args.against.name)
    write_json(args.json, values)
    print(table(values))
    return OK


def pixel_limits(text: str) -> tuple[int, int]:
    """Parse LEAST,MOST, for argparse."""
    least, _, most = text.partition(",")
    try:
        limits = int(least), int(most)
    except ValueError:
        limits = 0, 0
    if not 0 < limits[0] <= limits[1]:
        raise argparse.ArgumentTypeError(
            f"found {text}, expected two numbers of pixels such as 65536,1048576"
        )
    return limits
