"""`twinbrain judge`: was the task of recorded episodes done, as the left brain sees it?"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import (
    FAILED,
    INTERRUPTED,
    OK,
    CommandError,
    add_checkpoint,
    add_device,
    add_json,
    checkpoint_directory,
    say,
    write_json,
)
from twinbrain_ros.commands.report import find_bags

if TYPE_CHECKING:
    from twinbrain_ros.brain.generalist import Generalist
    from twinbrain_ros.evaluation.judging import Judge, Judgement

DESCRIPTION = """\
Ask a checkpoint's frozen left brain, a VLM, whether the task of each recorded episode was done. It is shown
the first and the last frame of the time in which the policy drove (of the whole bag, if the bag does not
tell), all first ones before all last ones. An answer that begins with yes or no becomes a machine label in
the bag's metadata, beside those of people and of a simulator, in place of an earlier one of the same
question; any other answer is kept as words only. At the end it says how often it agrees with the others.
Exit code 1 if not one bag was judged."""

# As `evaluation/judging.py` has them; not imported, as the help must not wait for numerics to load.
FRAMES = ("first,last", "first", "last")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "judge", help="ask the left brain whether recorded episodes succeeded", description=DESCRIPTION
    )
    add = parser.add_argument
    add(
        "bags", type=Path, nargs="+", metavar="BAG",
        help="directory of a bag, or of any directories that hold bags",
    )  # fmt: skip
    add(
        "--question", default="", metavar="TEXT",
        help="what is asked, to be answered with yes or no; {instruction} stands for the episode's (default: "
        "says which pictures are the start and the end, and asks whether the instruction was done)",
    )  # fmt: skip
    add(
        "--frames", choices=FRAMES, default=FRAMES[0], metavar="WHICH",
        help="what is shown: 'first,last', 'first' or 'last' (default: %(default)s)",
    )  # fmt: skip
    add(
        "--camera", action="append", default=[], metavar="NAME",
        help="camera of the robot file to show; as often as there are, in their order (default: those of the "
        "left brain, or all of a robot that has none of these)",
    )  # fmt: skip
    add_checkpoint(parser)
    add(
        "--robot", metavar="FILE",
        help="robot file, or name of a shipped one (default: the one in each bag)",
    )  # fmt: skip
    add("--namespace", metavar="NAME", help="of the arm's topics (default: the one in each bag)")
    add("--dry-run", action="store_true", help="write no labels (default: off)")
    add_device(parser)
    add_json(parser)
    return parser


@dataclass
class _Done:
    """What came of the bags."""

    judgements: list[Judgement] = field(default_factory=list)
    skipped: dict[Path, str] = field(default_factory=dict)
    interrupted: bool = False


def run(args: argparse.Namespace) -> int:
    directory = checkpoint_directory(args.checkpoint)
    unreadable: list[OSError] = []
    bags = find_bags(args.bags, unreadable)
    if not bags and not unreadable:
        places = ", ".join(str(path) for path in args.bags)
        raise CommandError(f"{places}: found no bag, expected metadata.yaml, *.mcap or *.db3 in a directory")
    from twinbrain_ros.brain.generalist import Generalist
    from twinbrain_ros.brain.policy import TwinBrainPolicy
    from twinbrain_ros.evaluation.judging import FRAMES, Judge, check_places
    from twinbrain_ros.robot.robot_file import load_robot

    check_places(args.question)
    if args.robot is not None:
        load_robot(args.robot)  # what is wrong with it is no fault of a bag
    generalist = Generalist(TwinBrainPolicy.from_pretrained(directory, args.device, args.dtype, tell=say))
    judge = Judge(
        generalist, args.question, FRAMES[args.frames], tuple(args.camera), args.robot, args.namespace
    )
    _check_words(generalist, judge.template())
    done = _Done()
    for error in unreadable:
        done.skipped[Path(error.filename)] = f"cannot be looked into: {error.strerror or error}"
    _judge_all(judge, bags, args.dry_run, done)
    print(table(done, args.dry_run), flush=True)
    write_json(args.json, _to_json(args, judge, done))
    if done.interrupted:
        return INTERRUPTED
    return OK if any(judgement.outcome for judgement in done.judgements) else FAILED


def _judge_all(judge: Judge, bags: list[Path], dry_run: bool, done: _Done) -> None:
    """What was done until it was interrupted is in `done`, and in the bags."""
    from tqdm import tqdm

    from twinbrain_ros.data.bag import add_verdict

    try:
        for path in tqdm(bags, desc="judging", unit="bag"):
            try:
                judgement = judge.judge(path)
                if not dry_run:
                    add_verdict(path, judgement.verdict)
            except (ValueError, OSError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                done.skipped[path] = reason.removeprefix(f"{path}: ")
            else:
                done.judgements.append(judgement)
    except KeyboardInterrupt:
        done.interrupted = True


def _check_words(generalist: Generalist, question: str) -> None:
    """Refuses a question that holds words this checkpoint has no tokens for, telling how many.

    Raises:
        CommandError: see above; words of the instructions are looked at later, episode by episode.
    """
    from twinbrain_ros.brain.prompt import PromptBuilder
    from twinbrain_ros.evaluation.judging import INSTRUCTION

    # The place may touch a sign, as in "{instruction}?", which then belongs to the instruction's last word.
    own = [word for word in question.split() if INSTRUCTION not in word]
    unknown = PromptBuilder(generalist.policy.tokenizer).unknown_words(" ".join(own))
    if unknown:
        raise CommandError(
            f"question: {len(unknown)} of its {len(own)} words are not in this checkpoint's vocabulary, such "
            f"as {unknown[:5]}; found {question[:80]!r}, expected --question in words that it knows"
        )


def table(done: _Done, dry_run: bool) -> str:
    """The figures for a person."""
    from twinbrain_ros.evaluation.judging import Agreement
    from twinbrain_ros.evaluation.results import format_fraction, format_rates_of, format_rows

    clear = [judgement for judgement in done.judgements if judgement.outcome]
    unclear = [judgement for judgement in done.judgements if not judgement.outcome]
    outcomes = Counter(judgement.outcome for judgement in clear)
    said = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    agreement = Agreement.of(clear)
    rows = [
        ("judged", f"{len(clear)}{f' ({said})' if said else ''}"),
        ("unclear answers", f"{len(unclear)}{_examples(unclear)}"),
        ("skipped", str(len(done.skipped))),
        *((f"  {path}", reason) for path, reason in done.skipped.items()),
        ("labels written", "none (dry run)" if dry_run else str(len(done.judgements))),
    ]
    if agreement.total:
        sources = Counter(judgement.labelled_by or "unnamed" for judgement in clear if judgement.label)
        kappa = agreement.kappa
        rows += [
            ("compared with", ", ".join(f"{name} ({count})" for name, count in sources.items())),
            ("judged success", f"label success {agreement.both}, label failure {agreement.only_judge}"),
            ("judged failure", f"label success {agreement.only_label}, label failure {agreement.neither}"),
            ("agreement", format_rates_of(agreement.agreed, agreement.total)),
            ("Cohen's kappa", "undefined: only one outcome" if kappa is None else f"{kappa:.2f}"),
            ("the commoner label", format_fraction(agreement.constant, agreement.total)),
        ]
    return format_rows(rows)


def _examples(unclear: list[Judgement]) -> str:
    """The commonest unclear answers, shortened."""
    common = Counter(judgement.verdict.text[:40] for judgement in unclear).most_common(3)
    return f" (such as {', '.join(repr(answer) for answer, _ in common)})" if common else ""


def _to_json(args: argparse.Namespace, judge: Judge, done: _Done) -> dict[str, Any]:
    from twinbrain_ros.evaluation.judging import Agreement

    clear = [judgement for judgement in done.judgements if judgement.outcome]
    return {
        "question": judge.template(),
        "frames": args.frames,
        "cameras": list(judge.cameras or judge.generalist.cameras),
        "dry_run": args.dry_run,
        "interrupted": done.interrupted,
        "judged": len(clear),
        "unclear": len(done.judgements) - len(clear),
        "skipped": {str(path): reason for path, reason in done.skipped.items()},
        "agreement": Agreement.of(clear).to_json(),
        "episodes": [judgement.to_json() for judgement in done.judgements],
    }
