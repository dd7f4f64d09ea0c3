"""`twinbrain report`: what recorded episodes say, as one page."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import FAILED, OK, CommandError, add_json, check_writable, write_json

DESCRIPTION = """\
Read recorded episodes and write a page that shows how well the policies do: success by task with intervals, a
comparison of policies, latencies, smoothness, stops, and single episodes with pictures and trajectories. The
page is one file that needs nothing else. Bags that cannot be used are named there, with the reason."""

# Bags that could not be used at all, or not in full, which the terminal names; the page names all.
TOLD = 5


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "report", help="make a page of recorded episodes", description=DESCRIPTION
    )
    add = parser.add_argument
    add(
        "bags", type=Path, nargs="+", metavar="BAG",
        help="directory of a bag, or of any directories that hold bags",
    )  # fmt: skip
    add("--out", type=Path, required=True, metavar="FILE.html", help="the page")
    add(
        "--details", type=_count, default=40, metavar="N",
        help="show up to N episodes with pictures and trajectories: failures, unlabelled ones and those with "
        "stops as they come, first successes up to half of N (default: %(default)s)",
    )  # fmt: skip
    add(
        "--robot", metavar="FILE", help="robot file of the bags (default: the one each was recorded with)"
    )  # fmt: skip
    add("--namespace", metavar="NAME", help="of the arm's topics (default: the recorded one)")
    add("--title", default="Recorded episodes", metavar="TEXT", help="of the page (default: %(default)s)")
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    unreadable: list[OSError] = []
    bags = find_bags(args.bags, unreadable)
    if not bags:
        places = ", ".join(str(path) for path in args.bags)
        raise CommandError(
            f"{places}: found no bag, expected a directory with metadata.yaml, *.mcap or *.db3"
        )
    check_writable("--out", args.out)
    if args.json is not None:
        check_writable("--json", args.json)

    from tqdm import tqdm

    from twinbrain_ros.evaluation.bag_figures import figures_of
    from twinbrain_ros.evaluation.report import Report
    from twinbrain_ros.evaluation.report_episode import Details
    from twinbrain_ros.evaluation.report_page import write_page

    with Report() as report, Details(args.details) as details:
        for error in unreadable:
            report.leave_out(str(error.filename), f"cannot be looked into: {error.strerror or error}")
        for bag in tqdm(bags, desc="reading", unit="bag"):
            try:
                episode = figures_of(bag, details.wanted, args.robot, args.namespace)
            except Exception as error:  # of a thousand bags one must not spoil the report
                expected = isinstance(error, (ValueError, OSError))
                kind = "" if expected else f"internal error, {type(error).__name__}: "
                report.leave_out(str(bag), " ".join(f"{kind}{error}".split()) or type(error).__name__)
                continue
            chosen = details.choose(episode)
            number = report.add(episode, chosen)
            if chosen:
                details.add(number, episode)
        left_out = _told(report.left_out(), report.left_out_bags)
        if not report.total.episodes:
            print(f"twinbrain report: none of {len(bags)} bags could be used", file=sys.stderr)
            print("\n".join(left_out), file=sys.stderr)
            return FAILED
        try:
            write_page(args.out, report, details, args.title)
        except OSError as error:
            raise CommandError(f"--out {args.out}: cannot be written: {error.strerror or error}") from error
        if args.json is not None:
            write_json(args.json, report.to_json())
        print("\n".join([_printable(report.table()), *left_out, f"page: {_printable(str(args.out))}"]))
    return OK


def find_bags(places: Iterable[Path], unreadable: list[OSError]) -> list[Path]:
    """The bags at and below `places`, each once, in natural order of their paths within each place.

    A bag is a directory that holds a `metadata.yaml`, `*.mcap` or `*.db3`; it is not searched further.
    Directories that cannot be looked into are added to `unreadable`.

    Raises:
        CommandError: a place is not there, or not a directory.
    """
    from twinbrain_ros.data.bag import is_bag

    found: list[Path] = []
    seen: set[str] = set()
    for place in places:
        if not place.is_dir():
            what = "found a file" if place.exists() else "found nothing"
            raise CommandError(f"{place}: {what}, expected the directory of a bag, or one that holds bags")
        here: list[Path] = []
        for root, directories, _ in os.walk(place, onerror=unreadable.append, followlinks=True):
            # By where they really are, so that links neither loop nor bring a bag in twice.
            real = os.path.realpath(root)
            if real in seen:
                directories.clear()
                continue
            seen.add(real)
            if is_bag(Path(root)):
                here.append(Path(root))
                directories.clear()
        found += sorted(here, key=_natural)
    return found


def _natural(path: Path) -> list[list[tuple[int, int, str]]]:
    """Sorts `episode_9` before `episode_10`."""
    return [
        [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in re.split(r"(\d+)", part)]
        for part in path.parts
    ]


def _told(left_out: Iterable[tuple[str, list[str]]], count: int) -> list[str]:
    """Lines that name the first few bags of which something was left out."""
    lines = []
    for place, (bag, why) in enumerate(left_out):
        if place == TOLD:
            lines.append(f"  and {count - TOLD} more")
            break
        lines.append(_printable(f"  {bag}: {' '.join(why)}"))
    return lines


def _printable(text: str) -> str:
    """The text with what the terminal's encoding cannot show as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _count(text: str) -> int:
    """Parse an integer of at least 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected an integer of at least 0")
    return value
