"""The report: claims.md, claims.json and two plots, of however much there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twinbrain_ros.claims import running
from twinbrain_ros.claims.analysis import (
    Cell,
    Difference,
    Rate,
    answers,
    cells,
    differences,
    missing,
)
from twinbrain_ros.claims.material import BEFORE
from twinbrain_ros.claims.plots import draw_control, draw_questions
from twinbrain_ros.claims.protocol import SPLITS, Protocol
from twinbrain_ros.evaluation.comparison import format_p
from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.training.state import write_whole

REPORT, FIGURES = "claims.md", "claims.json"
CONTROL, QUESTIONS = "claims_control.png", "claims_questions.png"
NOTHING = "-"
SPLIT_WORDS = {
    "seen": "goals as demonstrated",
    "held_out": "blocks of the colour that was never a goal",
    "relation": "blocks named by where they stand, in words that no demonstration has",
}


def write_report(protocol: Protocol, out: Path) -> None:
    """Writes tables and plots of what is there beside the runs."""
    found = cells(protocol, out)
    compared = differences(found, protocol.reference)
    before: dict[str, list[int]] = running.read(out / BEFORE) or {}
    latency = running.read(out / "latency.json") or {}
    text = "\n".join(
        [
            *_head(protocol, found),
            *_control(protocol, found),
            *_differences(protocol, compared),
            *_questions(protocol, found, before),
            *_cost(protocol, found, latency, out),
        ]
    )
    write_whole(out / REPORT, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
    figures = json.dumps(_json(protocol, found, compared, before, latency), indent=2) + "\n"
    write_whole(out / FIGURES, lambda partial: partial.write_text(figures, encoding="utf-8"))
    draw_control(protocol, found, out / CONTROL)
    draw_questions(protocol, found, before, out / QUESTIONS)
    print(text)
    print(f"\nreport: {out / REPORT}, {out / FIGURES}, {out / CONTROL}, {out / QUESTIONS}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _head(protocol: Protocol, found: Sequence[Cell]) -> list[str]:
    lacking = missing(protocol, found)
    loop = protocol.recipe.policy
    data = ", ".join(
        f"`{name}`: {teaching.frames:,} frames{'' if teaching.grounding else ', no grounding loss'}"
        for name, teaching in protocol.demonstrations.items()
    )
    return [
        "# The paper's claims on the embedded simulator",
        "",
        f"Each policy: {loop.steps:,} steps of {loop.batch_size} samples; demonstrations {data}; no goal of "
        f"them names anything {protocol.held_out_colour}. Seeds of training: "
        f"{', '.join(map(str, protocol.seeds))}.",
        "",
        f"Not run: {'; '.join(lacking)}." if lacking else "All runs of the protocol are in.",
        "",
    ]


def shown(rate: Rate | None) -> str:
    """As `150/200 = 75.0 % [68.6, 80.5], seeds too [60.0, 88.0]`."""
    if rate is None:
        return NOTHING
    low, high = (100 * bound for bound in rate.wilson)
    text = f"{rate.successes}/{rate.trials} = {100 * rate.rate:.1f} % [{low:.1f}, {high:.1f}]"
    if rate.seeds_too is not None:
        low, high = (100 * bound for bound in rate.seeds_too)
        text += f", seeds too [{low:.1f}, {high:.1f}]"
    return text


def _share(tally: Sequence[int] | None) -> str:
    if not tally or not tally[1]:
        return NOTHING
    low, high = wilson_interval(tally[0], tally[1])
    return f"{100 * tally[0] / tally[1]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _label(protocol: Protocol, name: str) -> str:
    return f"({protocol.variants[name].letter}) {name}"


def _control(protocol: Protocol, found: Sequence[Cell]) -> list[str]:
    lines = [
        "## Closed-loop control",
        "",
        "First interval: 95 % Wilson, as if all episodes were independent. `seeds too`: 95 %, bootstrap over "
        "seeds of training and scenes; with so few seeds a rough one. Wrong object: another block was "
        "lifted, or the block put on another plate.",
        "",
    ]
    for split in SPLITS:
        rows = []
        for cell in found:
            success, wrong = cell.rate_of(split), cell.rate_of(split, "wrong_object")
            if success is None:
                continue
            tasks = [cell.rate_of(split, task=task) for task in ("pick", "put")]
            by_seed = ", ".join(f"{100 * rate:.0f}" for rate in success.by_seed.values())
            per_task = ", ".join(f"{100 * t.rate:.0f}" for t in tasks if t is not None)
            rows.append(
                [
                    cell.demonstrations,
                    _label(protocol, cell.variant),
                    shown(success),
                    by_seed,
                    per_task,
                    shown(wrong),
                ]
            )
        if rows:
            head = ["demonstrations", "variant", "success", "by seed [%]", "pick, put [%]", "wrong object"]
            lines += [f"### {split}: {SPLIT_WORDS[split]}", "", *_table(head, rows)]
    return lines


def _differences(protocol: Protocol, compared: Sequence[Difference]) -> list[str]:
    rows = []
    for entry in compared:
        sample = entry.comparison.matched
        low, high = (100 * bound for bound in sample.interval)
        wide = NOTHING
        if entry.seeds_too is not None:
            wide = f"[{100 * entry.seeds_too[0]:+.1f}, {100 * entry.seeds_too[1]:+.1f}]"
        rows.append(
            [
                entry.demonstrations,
                entry.split,
                f"{entry.comparison.a} - {_label(protocol, entry.comparison.b)}",
                f"{100 * sample.difference:+.1f} [{low:+.1f}, {high:+.1f}]",
                wide,
                f"{sample.only_a} / {sample.only_b} of {sample.pairs}",
                format_p(entry.comparison.p_value),
            ]
        )
    if not rows:
        return []
    head = [
        "demonstrations", "split", "difference", "points of success [95 %]", "seeds too [95 %]",
        "only the first / only the second", "McNemar, Holm",
    ]  # fmt: skip
    return [
        "## Differences on the same scenes and seeds",
        "",
        "Newcombe's paired interval and McNemar's exact test take episodes for independent and know nothing "
        "of how much another seed of training would change; `seeds too` does. P values are adjusted within a "
        "split and set of demonstrations.",
        "",
        *_table(head, rows),
    ]


def _kinds(before: dict[str, list[int]]) -> list[str]:
    return ["all", *(kind for kind in before if kind != "all")]


def _questions(protocol: Protocol, found: Sequence[Cell], before: dict[str, list[int]]) -> list[str]:
    kinds = _kinds(before)
    rows = [["", "the taught VLM, before", *(_share(before[kind]) for kind in kinds if kind in before)]]
    for cell in found:
        for brain in ("acting", "kept"):
            if answers(cell, brain, "all") is not None:
                shares = [_share(answers(cell, brain, kind)) for kind in kinds]
                rows.append(
                    [cell.demonstrations, f"{_label(protocol, cell.variant)}: {brain} brain", *shares]
                )
    return [
        "## Questions answered exactly",
        "",
        f"{protocol.questions:,} questions about frames that nothing was trained on, the same for every "
        "brain; after training the mean of the seeds, its Wilson interval that of one seed's questions.",
        "",
        *_table(["demonstrations", "brain", *kinds], rows),
    ]


def _cost(protocol: Protocol, found: Sequence[Cell], latency: dict[str, Any], out: Path) -> list[str]:
    rows = []
    for cell in found:
        if not cell.trained:
            continue
        costs = [t["cost"] for t in cell.trained.values()]
        whole = [c for c in costs if c["stretches"] == 1]
        per_step = [1e3 * c["processor_s"] / c["steps"] for c in whole]
        steps = sorted(1e3 * c["median_step_s"] for c in costs if c["median_step_s"])
        sizes = next(iter(cell.trained.values()))["parameters"]
        flows = [
            f"{run.rate:g}: {result['held_out_flow']:.4f}"
            for run in protocol.sweep(cell.variant)
            if (result := running.trained(out, run)) is not None
        ]
        ms = latency.get(cell.variant)
        rows.append(
            [
                cell.demonstrations,
                _label(protocol, cell.variant),
                "; ".join(flows),
                f"{cell.rate:g}",
                f"{sizes['trainable']:,} of {sizes['total']:,}",
                f"{sum(per_step) / len(per_step):.0f}" if per_step else NOTHING,
                f"{steps[len(steps) // 2]:.0f}" if steps else NOTHING,
                f"{ms['p50_ms']:.1f}" if ms else NOTHING,
            ]
        )
    head = [
        "demonstrations", "variant", "rates tried: held-out flow loss", "chosen", "parameters trained",
        "processor per step [ms]", "step, median [ms]", "latency, median [ms]",
    ]  # fmt: skip
    return [
        "## Cost",
        "",
        "One thread per run, two runs side by side; the rate was chosen on the "
        f"`{protocol.sweep_demonstrations}` demonstrations with seed {protocol.sweep_seed}. Latency: of one "
        f"chunk, one thread, {protocol.latency_chunks} chunks, the variants in turns.",
        "",
        *_table(head, rows),
    ]


def _json(
    protocol: Protocol,
    found: Sequence[Cell],
    compared: Sequence[Difference],
    before: dict[str, list[int]],
    latency: dict[str, Any],
) -> dict[str, Any]:
    def rates(cell: Cell, split: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key in ("success", "wrong_object"):
            for task in ("", "pick", "put"):
                rate = cell.rate_of(split, key, task)
                made[f"{key} {task}".strip()] = None if rate is None else rate.to_json()
        return made

    return {
        "missing": missing(protocol, found),
        "questions_before": before,
        "latency": latency,
        "cells": [
            {
                "demonstrations": cell.demonstrations,
                "variant": cell.variant,
                "letter": protocol.variants[cell.variant].letter,
                "learning_rate": cell.rate,
                "trained": {str(seed): result for seed, result in cell.trained.items()},
                "splits": {split: rates(cell, split) for split in SPLITS if cell.rate_of(split)},
            }
            for cell in found
        ],
        "differences": [entry.to_json() for entry in compared],
    }
