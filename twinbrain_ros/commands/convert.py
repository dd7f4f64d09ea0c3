"""`twinbrain convert`: from recordings to a LeRobot dataset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import OK, CommandError, add_json, positive_int, write_json
from twinbrain_ros.evaluation.results import format_rows

if TYPE_CHECKING:
    from twinbrain_ros.data.conversion import BagPart

WHAT = {
    "frames": "frames",
    "idle": "idle before the arm moved, trimmed",
    "gap": "gaps: no complete observation",
    "held": "held: nobody drove",
    "silent": "no instruction",
    "uncommanded": "not known where the arm was to go",
    "short": "alone between such",
}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "convert",
        help="make a LeRobot dataset of recordings",
        description="Make a LeRobot v3.0 dataset of recordings: observations at the rate of the robot file's "
        "actions, built as the live policy has seen them, with what the arm was commanded, who drove, and "
        "labels.",
    )
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="directory of a recording")
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="directory to write")
    parser.add_argument(
        "--only",
        choices=("all", "labelled", "success"),
        default="all",
        help="which recordings, by their label (default: %(default)s)",
    )
    parser.add_argument(
        "--actions",
        choices=("commanded", "achieved"),
        default="commanded",
        help="what the arm was told, or where it had got to (default: %(default)s)",
    )
    parser.add_argument(
        "--idle-threshold",
        type=float,
        default=0.01,
        metavar="RAD",
        help="an episode begins when a joint leaves its place by so much [rad] (default: %(default)s)",
    )
    parser.add_argument("--keep-idle", action="store_true", help="keep what comes before the arm moves")
    parser.add_argument("--robot", metavar="FILE", help="robot file, for recordings that name none")
    parser.add_argument("--namespace", metavar="NAME", help="of the arm's topics (default: as recorded)")
    parser.add_argument(
        "--workers", type=positive_int, default=2, metavar="N", help="processes (default: %(default)s)"
    )
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from twinbrain_ros.data.conversion import ConversionOptions, convert

    if not args.idle_threshold >= 0:
        raise CommandError(f"--idle-threshold {args.idle_threshold}: expected 0 or more")
    idle = None if args.keep_idle else args.idle_threshold
    options = ConversionOptions(args.actions, args.only, idle, args.robot, args.namespace)
    with tqdm(total=len(args.bags), unit="bag", desc="convert") as bar:
        parts = convert(args.bags, args.out, options, args.workers, lambda part: bar.update() and None)
    facts = describe(parts, args.out)
    print(format_rows(rows(facts)))
    write_json(args.json, facts)
    return OK


def describe(parts: list[BagPart], out: Path) -> dict[str, Any]:
    """Figures of a conversion, ready for JSON."""
    from dataclasses import asdict

    from twinbrain_ros.data.conversion import total
    from twinbrain_ros.data.dataset_file import INTERVENTION

    episodes = [episode for part in parts for episode in part.episodes]
    counts = total(parts)
    return {
        "dataset": str(out),
        "bags": len(parts),
        "episodes": len(episodes),
        "period_s": parts[0].period_s,
        "ticks": counts.ticks,
        "counts": asdict(counts),
        "tasks": len({task for episode in episodes for task in episode.tasks}),
        "interventions": sum(int(episode.columns[INTERVENTION].sum()) for episode in episodes),
        "successes": sum(part.notes["label"] == "success" for part in parts if not part.left_out),
        "failures": sum(part.notes["label"] == "failure" for part in parts if not part.left_out),
        "left_out": {part.bag: part.left_out for part in parts if part.left_out},
        "cut_off": {part.bag: part.notes["cut_off"] for part in parts if part.notes["cut_off"]},
        "problems": {part.bag: part.problems for part in parts if part.problems},
    }


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as lines for a person."""
    period_s = facts["period_s"]
    lines = [
        ("dataset", facts["dataset"]),
        ("recordings", f"{facts['bags']}, of which {len(facts['left_out'])} were left out"),
        ("episodes", f"{facts['episodes']}, {facts['tasks']} different instructions"),
        ("labels", f"{facts['successes']} successes, {facts['failures']} failures"),
        ("seen", f"{facts['ticks']} x {period_s} s = {facts['ticks'] * period_s:.1f} s; of these"),
    ]
    lines += [(f"  {count}", WHAT[name]) for name, count in facts["counts"].items() if count]
    lines.append(("corrected", f"{facts['interventions']} frames in which a person had taken over"))
    lines += [("left out", f"{bag}: {why}") for bag, why in facts["left_out"].items()]
    lines += [("cut off", f"{bag}: {how}") for bag, how in facts["cut_off"].items()]
    lines += [
        ("problem", f"{bag}: {sentence}") for bag, found in facts["problems"].items() for sentence in found
    ]
    train = f"twinbrain train --config finetune --data {facts['dataset']} --start CHECKPOINT --out OUT"
    return [*lines, ("next", train)]
