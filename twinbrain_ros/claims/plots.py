"""The two plots: success by variant and split, and what the brains still answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from twinbrain_ros.claims.analysis import Cell, answers
from twinbrain_ros.claims.protocol import SPLITS, Protocol
from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.training.state import write_whole

matplotlib.use("Agg")

COLOURS = ("#1b6ca8", "#c8553d", "#5a7d2a", "#7a5195")
TITLES = {
    "seen": "goals as demonstrated",
    "held_out": "a colour that was never a goal",
    "relation": "“the block left of ..”, never demonstrated",
}
GREY = "#8a8a8a"


def draw_control(protocol: Protocol, found: Sequence[Cell], path: Path) -> None:
    """Success by variant, a panel per split, a colour per set of demonstrations."""
    from matplotlib import pyplot as plt

    played = [cell for cell in found if cell.episodes]
    splits = [s for s in SPLITS if any(cell.rate_of(s) for cell in played)]
    if not splits:
        return
    names, sets = _order(played)
    size = (3.6 * len(splits) + 1.6, 0.34 * len(names) * len(sets) + 1.7)
    figure, axes = plt.subplots(
        1, len(splits), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, split in zip(axes[0], splits, strict=True):
        for cell in played:
            _one(axis, cell, split, _place(cell, names, sets), COLOURS[sets.index(cell.demonstrations)])
        axis.set_title(TITLES[split], fontsize=10)
        _finish(axis, "success [%]")
    _rows(axes[0][0], protocol, names)
    _legend(figure, axes[0][0], sets, "thick: 95 % Wilson; thin: seeds of training too; dots: seeds")
    _save(figure, path)


def _one(axis: Any, cell: Cell, split: str, y: float, colour: str) -> None:
    rate = cell.rate_of(split)
    if rate is None:
        return
    if rate.seeds_too is not None:
        axis.plot([100 * b for b in rate.seeds_too], [y, y], color=colour, lw=1.0, zorder=1)
    axis.plot(
        [100 * b for b in rate.wilson],
        [y, y],
        color=colour,
        lw=4.0,
        alpha=0.35,
        solid_capstyle="butt",
        zorder=2,
    )
    axis.plot(100 * rate.rate, y, "D", color=colour, ms=5, zorder=4)
    dots = [100 * r for r in rate.by_seed.values()]
    axis.plot(dots, [y] * len(dots), "o", color="white", mec=colour, ms=3.5, mew=0.9, zorder=3)


def draw_questions(
    protocol: Protocol, found: Sequence[Cell], before: dict[str, list[int]], path: Path
) -> None:
    """Share of questions answered by the brain that acts (filled) and by the one that is kept (hollow)."""
    from matplotlib import pyplot as plt

    trained = [cell for cell in found if cell.trained]
    if not trained or not before:
        return
    names, sets = _order(trained)
    kinds = ["all", *(kind for kind in before if kind != "all")]
    size = (2.0 * len(kinds) + 1.8, 0.34 * len(names) * len(sets) + 1.7)
    figure, axes = plt.subplots(1, len(kinds), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds, strict=True):
        axis.axvline(100 * before[kind][0] / before[kind][1], color=GREY, lw=1.2, ls="--", zorder=0)
        for cell in trained:
            y, colour = _place(cell, names, sets), COLOURS[sets.index(cell.demonstrations)]
            for brain, face in (("acting", colour), ("kept", "white")):
                tally = answers(cell, brain, kind)
                if tally is None or not tally[1]:
                    continue
                low, high = wilson_interval(*tally)
                axis.plot([100 * low, 100 * high], [y, y], color=colour, lw=1.2, zorder=1)
                axis.plot(
                    100 * tally[0] / tally[1], y, "o", color=face, mec=colour, ms=5.5, mew=1.2, zorder=2
                )
        axis.set_title(_kind(kind), fontsize=10)
        _finish(axis, "answered [%]")
    _rows(axes[0][0], protocol, names)
    note = "filled: the brain that acts; hollow: the one that is kept; dashed: before training"
    _legend(figure, axes[0][0], sets, note)
    _save(figure, path)


def _kind(kind: str) -> str:
    if kind == "all":
        return "all questions"
    return kind if kind.startswith("names") else f"“{kind} ..”"


def _order(found: Sequence[Cell]) -> tuple[list[str], list[str]]:
    names = list(dict.fromkeys(cell.variant for cell in found))
    return names, list(dict.fromkeys(cell.demonstrations for cell in found))


def _place(cell: Cell, names: list[str], sets: list[str]) -> float:
    """From top to bottom: variants, and within each the sets of demonstrations."""
    apart = 0.5 / max(1, len(sets))
    shift = apart * (sets.index(cell.demonstrations) - 0.5 * (len(sets) - 1))
    return names.index(cell.variant) + shift


def _rows(axis: Any, protocol: Protocol, names: list[str]) -> None:
    axis.set_yticks(
        range(len(names)), [f"({protocol.variants[n].letter}) {n.replace('_', ' ')}" for n in names]
    )
    axis.set_ylim(len(names) - 0.5, -0.5)


def _finish(axis: Any, label: str) -> None:
    axis.set_xlabel(label, fontsize=9)
    axis.set_xlim(-2, 102)
    axis.tick_params(labelsize=8.5)
    axis.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _legend(figure: Any, axis: Any, sets: list[str], note: str) -> None:
    for name, colour in zip(sets, COLOURS, strict=False):
        axis.plot([], [], "s", color=colour, label=f"{name} demonstrations")
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=max(1, len(sets)), frameon=False,
        fontsize=8.5, title=note, title_fontsize=8.5,
    )  # fmt: skip


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    write_whole(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))
    plt.close(figure)
