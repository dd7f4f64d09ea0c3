"""`twinbrain bag`: what is in a recording, a label on it, and a repair of one that was cut off."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from twinbrain_ros.commands.common import FAILED, OK, CommandError, add_json, write_json


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bag", help="look at, label and mend recordings", description="Look at, label and mend recordings."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("info", help="topics, counts, and what is known of the episode")
    _add_bags(show)
    add_json(show)
    label = actions.add_parser("label", help="say whether the task was done")
    _add_bags(label)
    label.add_argument("--outcome", choices=("success", "failure"), default="", help="whether it was done")
    label.add_argument("--score", type=float, metavar="X", help="how well, from 0 to 1")
    label.add_argument("--text", default="", metavar="TEXT", help="free words")
    label.add_argument(
        "--source", default="person", metavar="NAME",
        help="who says so; an earlier label of the same source is replaced (default: %(default)s)",
    )  # fmt: skip
    mend = actions.add_parser("repair", help="make a recording whole that was cut off")
    _add_bags(mend)
    return parser


def _add_bags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="directory of a recording")


def run(args: argparse.Namespace) -> int:
    return {"info": _info, "label": _label, "repair": _repair}[args.action](args)


def _info(args: argparse.Namespace) -> int:
    from twinbrain_ros.data.bag import open_bag
    from twinbrain_ros.evaluation.results import format_rows

    found = []
    for path in args.bags:
        bag = open_bag(path)
        info = bag.episode
        duration_s = (bag.end_ns - bag.start_ns) / 1e9
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(bag.start_ns / 1e9))
        rows = [("bag", str(path)), ("messages", f"{bag.message_count} in {duration_s:.1f} s from {started}")]
        rows += [("cut off", f"{bag.truncated}; `twinbrain bag repair` mends it")] if bag.truncated else []
        known = (
            ("robot", info.robot), ("policy", info.policy), ("instruction", info.instruction),
            ("refused", info.refused),
            ("task", f"{info.task}, seed {info.seed}" if info.task else ""), ("note", info.note),
            ("ended", info.ended),
        )  # fmt: skip
        rows += [(name, value) for name, value in known if value]
        for verdict in info.verdicts:
            score = "" if verdict.score is None else f" {verdict.score:g}"
            rows.append((f"label of {verdict.source}", f"{verdict.outcome}{score} {verdict.text}".strip()))
        for topic, entry in sorted(bag.topics.items()):
            missing = f", {info.missing[topic]} LOST" if topic in info.missing else ""
            rows.append((topic, f"{entry.count} x {entry.type}{missing}"))
        print(format_rows(rows) + "\n")
        found.append(
            {
                "bag": str(path),
                "messages": bag.message_count,
                "seconds": duration_s,
                "truncated": bag.truncated,
                "topics": {name: {"type": t.type, "count": t.count} for name, t in bag.topics.items()},
                "lost": info.missing,
                "episode": info.to_json(),
            }
        )
    write_json(args.json, {"bags": found})
    return OK


def _label(args: argparse.Namespace) -> int:
    from twinbrain_ros.data.bag import add_verdict
    from twinbrain_ros.data.episode_info import Verdict

    verdict = Verdict(args.outcome, args.score, args.text, args.source)
    for path in args.bags:
        add_verdict(path, verdict)
        print(f"{path}: {args.outcome or args.score or args.text} ({args.source})")
    return OK


def _repair(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from twinbrain_ros.data.bag_repair import repair

    code = OK
    for path in args.bags:
        try:
            with tqdm(desc=str(path), unit=" messages") as bar:
                done = repair(path, bar.update)
        except (CommandError, ValueError, OSError) as error:
            print(f"{path}: cannot be mended: {error}")
            code = FAILED
            continue
        if done is None:
            print(f"{path}: nothing is wrong with it")
            continue
        print(f"{path}: {done.messages} messages recovered: {done.cut or 'it was not closed'}")
        print(f"the torn file is still there: {done.torn_file}")
    return code
