"""A course of interventions as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from twinbrain_ros.evaluation.statistics import wilson_interval
from twinbrain_ros.sim.tasks import TASKS
from twinbrain_ros.training.state import write_whole

COLOURS = {"all": "#222222", "pick": "#1b6ca8", "put": "#c8553d"}


def draw(figures: dict[str, Any], views: tuple[np.ndarray, np.ndarray], path: Path) -> None:
    """What the knock did to the view, success round by round, and how much help was needed.

    views: uint8 RGB [height, width, 3], before and after the knock.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(11, 3.7), layout="constrained")
    places = figure.subplot_mosaic([["before", "success", "help"], ["after", "success", "help"]],
                                   width_ratios=[0.9, 2.2, 1.6])  # fmt: skip
    for name, view in zip(("before", "after"), views, strict=True):
        places[name].imshow(view)
        places[name].set_title(f"{name} the knock", fontsize=9)
        places[name].axis("off")
    _success(places["success"], figures["policies"])
    _help(places["help"], figures["rounds"])
    write_whole(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))
    plt.close(figure)


def _success(axis: Any, policies: list[dict[str, Any]]) -> None:
    for index, name in enumerate(("all", *TASKS)):
        rates = [policy[name] for policy in policies]
        x = np.arange(len(rates)) + 0.06 * (index - 1)
        y = np.array([100 * r["successes"] / r["episodes"] for r in rates])
        low, high = (np.array([100 * r["interval"][side] for r in rates]) for side in (0, 1))
        style = {"lw": 2.0} if name == "all" else {"lw": 1.0, "ls": "--"}
        axis.errorbar(x, y, [y - low, high - y], color=COLOURS[name], marker="o", ms=5, capsize=3,
                      label=f"{name} ({rates[0]['episodes']} episodes)", **style)  # fmt: skip
    axis.set_xticks(range(len(policies)), ["before", *(f"round {i}" for i in range(1, len(policies)))])
    axis.set(ylim=(0, 100), ylabel="success without help [%]")
    axis.set_title("the policy alone (95 % Wilson)", fontsize=10)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")


def _help(axis: Any, rounds: list[dict[str, Any]]) -> None:
    x = np.arange(1, len(rounds) + 1)
    share = np.array([100 * r["with_help"] / r["episodes"] for r in rounds])
    bounds = [wilson_interval(r["with_help"], r["episodes"]) for r in rounds]
    low, high = (np.array([100 * b[side] for b in bounds]) for side in (0, 1))
    axis.bar(x, share, 0.5, color="#9db8cf")
    axis.errorbar(x, share, [share - low, high - share], fmt="none", color=COLOURS["all"], capsize=3)
    for i, entry in enumerate(rounds):
        text = (
            f"{entry['interventions']} corrections\n{entry['corrected_s']:.0f} s of {entry['time_s']:.0f} s"
        )
        axis.text(x[i], 3, text, ha="center", fontsize=8)
    axis.set_xticks(x, [f"round {i}" for i in x])
    axis.set(xlim=(0.4, len(rounds) + 0.6), ylim=(0, 100), ylabel="episodes with help [%]")
    axis.set_title("the person", fontsize=10)
    axis.grid(axis="y", alpha=0.3)
