"""`twinbrain bench train`: a step of training, beside the plain way."""

from __future__ import annotations

import argparse
from typing import Any

from twinbrain_ros.commands.common import FAILED, OK, add_json, positive_int, write_json
from twinbrain_ros.evaluation.results import format_rows

VIEWS = ("front", "wrist")


def add_subject(subjects: Any) -> None:
    train = subjects.add_parser(
        "train",
        help="a step of training, beside the plain way",
        description="Time a step of training in turns with a plain eager loop that has the reference's "
        "structure, on the same random weights and batch; then where the time goes. Exit code 1 if their "
        "losses disagree.",
    )
    train.add_argument(
        "--config",
        default="mid",
        metavar="PRESET",
        help="name of a preset, as of `twinbrain info`; no weights needed (default: %(default)s)",
    )
    train.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:1 (default: %(default)s)"
    )
    for name, default, text in (
        ("batch", 4, "samples per step"),
        ("repeats", 4, "draws of noise per sample"),
        ("rounds", 5, "how often each way is timed"),
        ("threads", 1, "CPU threads"),
        ("workers", 1, "processes that make batches of --data"),
        ("data-steps", 20, "steps that are timed on --data"),
    ):
        train.add_argument(
            f"--{name}",
            type=positive_int,
            default=default,
            metavar="N",
            help=f"{text} (default: %(default)s)",
        )
    train.add_argument(
        "--data",
        metavar="DATASET",
        help="a dataset that `twinbrain convert` wrote: also train on it, and say how long that waits",
    )
    add_json(train)
    train.set_defaults(bench=bench_train)


def bench_train(args: argparse.Namespace) -> int:
    from twinbrain_ros.brain.presets import preset
    from twinbrain_ros.evaluation import train_bench

    config = preset(args.config, VIEWS)
    options = train_bench.TrainBenchOptions(
        args.device, args.batch, args.repeats, args.rounds, args.threads, args.data_steps, args.workers
    )
    source, words = (None, "") if args.data is None else train_bench.dataset(args.data, config)
    facts = {"config": args.config, **train_bench.bench_train(config, options, source, words)}
    print(format_rows(rows(facts)))
    write_json(args.json, facts)
    return OK if facts["agrees"] else FAILED


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as lines for a person."""
    steps, parts = facts["steps_ms"], facts["parts_ms"]
    total = sum(parts.values())
    weights, trained = facts["parameters"] / 1e6, facts["trained"] / 1e6
    lines = [
        ("config", f"{facts['config']}, {weights:,.0f} M weights, of which {trained:,.0f} M are trained"),
        ("device", f"{facts['device']}, {facts['threads']} threads, load {facts['load_average']:.1f}"),
        ("batch", f"{facts['batch']} samples, {facts['repeats']} draws of noise each"),
        *((name, "p50 {p50:,.0f} ms, at most {max:,.0f}".format(**steps[name])) for name in steps),
        ("plain / ours", f"{facts['ratio']:.2f}"),
        ("left remembered", f"{facts['left_cache_gain']:.2f} times as fast as without"),
        ("losses", f"ours {facts['loss']:.6g}, plain {facts['plain_loss']:.6g}"),
        *((f"  {name}", f"{ms:,.0f} ms, {ms / total:.1%}") for name, ms in parts.items()),
        ("peak memory", f"{facts['peak_bytes'] / 1e9:.2f} GB"),
    ]
    if "data" in facts:
        data = "{steps} steps, {workers} workers: {samples_per_s:.2f} samples/s, ".format(**facts["data"])
        lines.append(("data", data + f"waited {facts['data']['waited_share']:.1%} of the time"))
    return lines
