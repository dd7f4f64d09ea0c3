"""`twinbrain ask`: a question about images, answered by a policy's left brain."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import (
    OK,
    add_checkpoint,
    add_device,
    add_json,
    checkpoint_directory,
    positive_int,
    say,
    write_json,
)
from twinbrain_ros.commands.predict import load_images


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "ask",
        help="ask the left brain about images",
        description="Ask a checkpoint's frozen left brain, a VLM, about images. It says its likeliest words, "
        "so the same question gets the same answer.",
    )
    parser.add_argument("question", metavar="QUESTION", help="in words, such as 'what is on the table?'")
    add_checkpoint(parser)
    parser.add_argument(
        "--image",
        type=Path,
        required=True,
        action="append",
        metavar="FILE",
        help="PNG or JPEG image to look at, of any size [pixels]; as often as there are images",
    )
    parser.add_argument(
        "--max-tokens",
        type=positive_int,
        default=128,
        metavar="N",
        help="end the answer after so many tokens (default: %(default)s)",
    )
    add_device(parser)
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    directory = checkpoint_directory(args.checkpoint)
    images = load_images(args.image, [f"image {i + 1}" for i in range(len(args.image))])
    from twinbrain_ros.brain.generalist import Generalist
    from twinbrain_ros.brain.policy import TwinBrainPolicy

    generalist = Generalist(TwinBrainPolicy.from_pretrained(directory, args.device, args.dtype, tell=say))
    generalist.check(args.question)  # before anything is printed
    started = time.perf_counter()
    answer = generalist.ask(
        list(images.values()),
        args.question,
        args.max_tokens,
        lambda piece: print(piece, end="", flush=True),
    )
    seconds = time.perf_counter() - started
    print()
    write_json(
        args.json,
        {
            "question": args.question,
            "answer": answer.text,
            "tokens": answer.tokens,
            "finished": answer.finished,
            "seconds": seconds,
        },
    )
    return OK
