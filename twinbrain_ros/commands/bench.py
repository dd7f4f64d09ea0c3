"""`twinbrain bench policy`: how fast it is, beside the plain way to compute the same."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.bench_control import add_subjects
from twinbrain_ros.commands.bench_limits import add_limits
from twinbrain_ros.commands.bench_train import add_subject
from twinbrain_ros.commands.common import (
    FAILED,
    OK,
    CommandError,
    add_device,
    add_json,
    positive_int,
    write_json,
)
from twinbrain_ros.evaluation.results import format_rows

if TYPE_CHECKING:
    from twinbrain_ros.brain.config import TwinBrainConfig

VIEWS = ("front", "wrist")
DEFAULT_ROUNDS = 15


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure: how fast a policy is, how chunks are executed",
        description="Measure how fast a policy is and how chunks are executed.",
    )
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    policy = subjects.add_parser(
        "policy",
        help="a chunk from pixels to actions, beside the plain way",
        description="Time a chunk from pixels to actions in turns with the plain way, which computes as the "
        "public reference does, on the same random weights and inputs; then each stage, against the least "
        "time this device allows. Exit code 1 if the two ways disagree.",
    )
    policy.add_argument(
        "--config",
        default="mid",
        metavar="PRESET_OR_FILE",
        help="name of a preset (as of `twinbrain info`) or a config.json; no weights needed "
        "(default: %(default)s)",
    )
    policy.add_argument(
        "--views", type=int, choices=(1, 2), help="camera views (default: 2, or as many as the file has)"
    )
    policy.add_argument(
        "--conditioning",
        choices=("hidden_states", "action_queries"),
        help="what the expert attends to, for a preset (default: action_queries, as in the published code)",
    )
    policy.add_argument(
        "--deepstack",
        action=argparse.BooleanOptionalAction,
        help="whether both brains add their towers' deepstack features (default: for a preset not, as in the "
        "published code; else as the config has it)",
    )
    policy.add_argument(
        "--rounds",
        type=positive_int,
        default=DEFAULT_ROUNDS,
        metavar="N",
        help="how often each way is timed (default: %(default)s)",
    )
    policy.add_argument(
        "--threads", type=positive_int, default=1, metavar="N", help="CPU threads (default: %(default)s)"
    )
    policy.add_argument(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        help="run as CUDA graphs (default: on a GPU)",
    )
    policy.add_argument(
        "--guided",
        action="store_true",
        help="time chunks with a guide too, as with the parameter real_time (default: without)",
    )
    add_device(policy)
    add_json(policy)
    policy.set_defaults(bench=_bench_policy)
    add_subjects(subjects)
    add_limits(subjects)
    add_subject(subjects)
    return parser


def run(args: argparse.Namespace) -> int:
    return int(args.bench(args))


def _bench_policy(args: argparse.Namespace) -> int:
    from twinbrain_ros.brain.devices import usual_dtype
    from twinbrain_ros.evaluation.bench import BenchOptions, bench_policy

    if args.graphs and args.device == "cpu":
        raise CommandError("--graphs: there are none on a CPU, expected --device cuda")
    config = configured(args)
    dtype = args.dtype or usual_dtype(args.device)
    options = BenchOptions(args.device, dtype, args.rounds, args.threads, args.graphs, args.guided)
    facts = {"config": args.config, **bench_policy(config, options)}
    print(format_rows(rows(facts)))
    write_json(args.json, facts)
    return OK if facts["agrees"] and facts.get("guided_agrees", True) else FAILED


def configured(args: argparse.Namespace) -> TwinBrainConfig:
    """The config that the options ask for; raises CommandError for options that contradict it."""
    from twinbrain_ros.brain.presets import VLMS, config_of, preset

    deepstack = args.deepstack
    if args.config in VLMS:
        # The plain way is the published code's: so is what it is measured on, if not said otherwise.
        conditioning = args.conditioning or "action_queries"
        config = preset(args.config, VIEWS[: args.views or len(VIEWS)], conditioning)
        deepstack = bool(deepstack)
    else:
        config = config_of(args.config)
        if args.views is not None and config.any_views:
            config = config.with_views(args.views)
        for option, wanted, found in (
            ("--views", args.views, len(config.cameras)),
            ("--conditioning", args.conditioning, config.conditioning),
        ):
            if wanted not in (None, found):
                raise CommandError(f"{option} {wanted}: {args.config} is made for {found}")
    return config if deepstack is None else dataclasses.replace(config, deepstack=deepstack)


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as lines for a person."""
    views = ", ".join(f"{v['name']} {v['width']}x{v['height']}" for v in facts["views"])
    lengths, work = facts["prompt_lengths"], facts["operations"]
    device = f"{facts['device']}, {facts['threads']} threads, load {facts['load_average']:.1f}"
    verdict = "" if facts["agrees"] else "; THE TWO WAYS DISAGREE"
    lines = [
        ("config", f"{facts['config']}, {facts['conditioning']}, {facts['parameters'] / 1e6:,.0f} M weights"),
        ("views", views),
        ("prompts", f"left {lengths['left']} tokens, right {lengths['right']}"),
        ("device", device),
        ("ours", f"{_times(facts['ours_ms'])}, {facts['dtype']}{', graphs' if facts['graphs'] else ''}"),
        ("plain", f"{_times(facts['plain_ms'])}, {facts['plain_dtype']}"),
        ("ratio", f"{facts['ratio']:.2f}"),
    ]
    if "cpu_ms" in facts:
        lines.append(
            (
                "processor time",
                "ours {ours:.1f} ms, plain {plain:.1f} ms, ratio ".format(**facts["cpu_ms"])
                + f"{facts['cpu_ratio']:.2f}",
            )
        )
    if "guided_ms" in facts:
        verdict_of_guided = "" if facts["guided_agrees"] else "; THE TWO WAYS DISAGREE"
        lines += [
            ("guided", f"{_times(facts['guided_ms'])}{verdict_of_guided}"),
            ("", f"one operation at a time {_times(facts['guided_eager_ms'])}"),
        ]
    lines += [
        (
            "largest difference",
            f"{facts['max_difference']:.2g} of actions that span {facts['action_range']:.2g} "
            f"(at most {facts['difference_bound']:.2g}){verdict}",
        ),
        *((f"  {name}", _stage(facts, name)) for name in facts["stages_ms"]),
        ("roofline", f"{facts['roofline_ms']:.1f} ms; ours takes {facts['times_roofline']:.2f} times that"),
        ("peak memory", f"{facts['peak_bytes'] / 1e9:.2f} GB"),
        ("operations", "ours {operations:,}, {host_reads} host reads".format(**work["ours"])),
        ("", "plain {operations:,}, {host_reads} host reads".format(**work["plain"])),
    ]
    return lines


def _times(summary: dict[str, Any]) -> str:
    return "p50 {p50:.1f} ms, p99 {p99:.1f} ms".format(**summary)


def _stage(facts: dict[str, Any], name: str) -> str:
    least = facts["roofline"]["stages"][name]["ms"]
    times = f" (x {facts['denoise_steps']})" if name == "expert_step" else ""
    return f"{facts['stages_ms'][name]:.1f} ms{times}, at least {least:.1f} ms"
