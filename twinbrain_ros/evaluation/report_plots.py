"""The report's drawings, as SVG elements that follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.evaluation.figures import Motion
from twinbrain_ros.evaluation.report_histogram import Histogram
from twinbrain_ros.evaluation.report_style import DRIVERS, JOINT_COLOURS, esc, ink, themed

Array = NDArray[np.float64]

WIDTH, HEIGHT = 340, 200  # of a drawing in the grid; one unit is one CSS pixel where the column is that wide
WIDE = 960
BARS = 44
POINTS = 240  # of a trajectory that are drawn

# What matplotlib writes around a drawing that a page of many does not need, or must not have twice.
_NOT_NEEDED = re.compile(
    r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->"
    r'| xmlns(?::\w+)?="[^"]*"| version="1.1"| id="[A-Za-z0-9.]+(?:_[a-z0-9]+)*_\d+"',
    re.DOTALL,
)
_SIZE = re.compile(r' (?:width|height)="[\d.]+pt"')
_PLACES = re.compile(r' (?:d|x|y)="[^"]*"')
_DIGITS = re.compile(r"(\.\d\d)\d+")  # beyond a hundredth of a pixel


def draw(key: str, label: str, paint: Callable[[Any], None], width: int = WIDTH, height: int = HEIGHT) -> str:
    """An SVG element with one pair of axes that `paint` draws in.

    `key` is unique on the page, as the names inside the drawing are made of it; `label` says in words what it
    shows. Text must be ours: matplotlib reads dollar signs as formulas.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "font.family": "DejaVu Sans",
        "font.size": 10.5,
        "text.color": ink("ink"),
        "axes.edgecolor": ink("faint"),
        "axes.labelcolor": ink("faint"),
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": ink("faint"),
        "ytick.color": ink("faint"),
        "grid.color": ink("rule"),
        "grid.linewidth": 0.7,
        "path.simplify_threshold": 0.3,
    }
    with matplotlib.rc_context(style):
        # At 72 dots per inch a point is a unit of the drawing.
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        nothing = {name: None for name in ("Date", "Creator", "Format", "Type")}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = _NOT_NEEDED.sub("", text[text.index("<svg") :])
    text = _PLACES.sub(lambda found: _DIGITS.sub(r"\1", found.group()), _SIZE.sub("", text, count=2))
    text = text.replace("<svg", f'<svg role="img" aria-label="{esc(label)}"', 1)
    return themed(re.sub(r">\s+<", "><", text)).strip()


def histogram(key: str, label: str, values: Histogram, axis: str, limit: float | None = None) -> str:
    """Bars, with lines at the median, the 99th percentile and the limit. Empty of no values.

    The axis ends a little above the 99th percentile (or the limit): the caption tells the largest value.
    """
    p50, p99 = values.percentile(50), values.percentile(99)
    if p50 is None or p99 is None or values.min is None or values.max is None:
        return ""
    high = max(min(values.max, 1.3 * p99 if p99 > 0 else values.max), 1.1 * (limit or 0.0))
    low = min(0.0, values.min)
    if high <= low:
        high = low + 1.0
    edges = np.linspace(low, high, BARS + 1)
    counts = values.counts_between(edges)

    def paint(axes: Any) -> None:
        axes.stairs(counts, edges, fill=True, color=ink("a"), alpha=0.45)
        axes.stairs(counts, edges, color=ink("a"), linewidth=0.8)
        top = max(float(counts.max()), 1.0)
        lines = [("p50", p50, "ink"), ("p99", p99, "ink")]
        if limit is not None:
            lines.append(("limit", limit, "bad"))
        for place, (name, at, colour) in enumerate(lines):
            axes.axvline(at, color=ink(colour), linewidth=1.1, linestyle="-" if name == "p50" else "--")
            right = at > low + 0.8 * (high - low)
            axes.annotate(
                name, (at, top * (1.16 - 0.1 * place)), xytext=(-3 if right else 3, 0),
                textcoords="offset points", ha="right" if right else "left", va="center",
                color=ink(colour), fontsize=9.5,
            )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1.24 * top)
        axes.set_xlabel(axis)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)

    return draw(key, label, paint)


def dots(key: str, label: str, groups: Sequence[tuple[str, Sequence[float]]], axis: str) -> str:
    """One dot per episode, a row per named group, a bar at each median. Empty of no values."""
    if not any(len(values) for _, values in groups):
        return ""

    def paint(axes: Any) -> None:
        for row, (_, values) in enumerate(groups):
            if not len(values):
                continue
            # Spread evenly and always alike, so that equal values stay countable.
            spread = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.6
            size = 14 if len(values) < 150 else 5
            axes.scatter(values, row + spread, s=size, color=ink("a"), alpha=0.75, linewidths=0)
            median = float(np.median(values))
            axes.plot([median, median], [row - 0.4, row + 0.4], color=ink("ink"), linewidth=1.4)
        axes.set_xlim(left=0)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_yticks(range(len(groups)), [name for name, _ in groups])
        axes.grid(axis="x")
        axes.set_xlabel(axis)

    return draw(key, label, paint, height=max(HEIGHT, 60 + 42 * len(groups)))


@dataclass(frozen=True)
class Bar:
    """An episode on the timeline: how long it was [s], its outcome, and (time [s], kind) of its stops."""

    duration_s: float
    success: bool | None
    stops: tuple[tuple[float, str], ...]


def timeline(key: str, label: str, bars: Sequence[Bar]) -> str:
    """Episodes side by side in order, each as high as it was long, with its stops at their times."""
    colours = {True: "good", False: "bad", None: "unsure"}

    def paint(axes: Any) -> None:
        width = min(5.0, max(0.6, 0.6 * (WIDE - 60) / max(len(bars), 1)))
        for success, colour in colours.items():
            chosen = [(n, bar.duration_s) for n, bar in enumerate(bars, 1) if bar.success is success]
            if chosen:
                numbers, heights = zip(*chosen, strict=True)
                axes.vlines(numbers, 0, heights, color=ink(colour), alpha=0.4, linewidth=width)
        for kind, marker, colour in (("watchdog", "v", "warn"), ("estop", "X", "estop")):
            points = [(n, t) for n, bar in enumerate(bars, 1) for t, what in bar.stops if what == kind]
            if points:
                x, y = zip(*points, strict=True)
                axes.scatter(x, y, s=42, marker=marker, color=ink(colour), linewidths=0, zorder=3)
        axes.set_xlim(0.3, len(bars) + 0.7)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("episode")
        axes.set_ylabel("time in it [s]")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")

    return draw(key, label, paint, width=WIDE, height=190)


def spans(driver: NDArray[np.int64], times: Array) -> list[tuple[float, float, int]]:
    """Stretches (from [s], to [s], who) in which one drove; `driver`, `times` [N]."""
    if not len(driver):
        return []
    starts = np.flatnonzero(np.diff(driver, prepend=driver[0] - 1))
    ends = np.append(starts[1:], len(driver) - 1)
    return [(float(times[s]), float(times[e]), int(driver[s])) for s, e in zip(starts, ends, strict=True)]


def trajectory(key: str, motion: Motion) -> list[tuple[str, str]]:
    """(drawing, caption) of the tool's path from above, its height and the joints over time."""
    if not len(motion.times_s):
        return []
    chosen = np.unique(np.linspace(0, len(motion.times_s) - 1, POINTS).astype(int))
    times = motion.times_s[chosen]
    driven = spans(motion.driver, motion.times_s)
    drawings = []
    if motion.tool.shape == (len(motion.times_s), 3) and np.isfinite(motion.tool).any():
        tool = motion.tool[chosen]
        drivers = motion.driver[chosen]
        drawings.append((_from_above(f"{key}-xy", tool, drivers), "Tool from above, base frame"))

        def height(axes: Any) -> None:
            axes.plot(times, tool[:, 2], color=ink("ink"), linewidth=1.3)
            _over_time(axes, driven, times, "height [m]")

        drawings.append((draw(f"{key}-z", "Height of the tool over time", height), "Height of the tool"))
    if motion.joints.ndim == 2 and motion.joints.shape[1]:
        joints = motion.joints[chosen]

        def angles(axes: Any) -> None:
            for joint in range(joints.shape[1]):
                colour = ink(JOINT_COLOURS[joint % len(JOINT_COLOURS)])
                axes.plot(times, joints[:, joint], color=colour, linewidth=1.2)
            _over_time(axes, driven, times, "joints [rad]")

        drawings.append((draw(f"{key}-q", "Joints over time", angles), "Joints"))
    return drawings


def _from_above(key: str, tool: Array, drivers: NDArray[np.int64]) -> str:
    def paint(axes: Any) -> None:
        axes.plot(tool[:, 0], tool[:, 1], color=ink("rule"), linewidth=1)
        for number, name in enumerate(DRIVERS):
            # A step belongs to who drove at its beginning; holes keep stretches apart.
            mine = drivers == number
            mine[1:] |= mine[:-1].copy()
            path = np.where(mine[:, None], tool[:, :2], np.nan)
            axes.plot(path[:, 0], path[:, 1], color=ink(name), linewidth=1.6)
        finite = tool[np.isfinite(tool).all(axis=1)]
        if len(finite):
            axes.plot(*finite[0, :2], "o", color=ink("ink"), markersize=5)
            axes.plot(*finite[-1, :2], "s", color=ink("ink"), markersize=5)
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid()
        axes.set_xlabel("x [m]")
        axes.set_ylabel("y [m]")

    return draw(key, "Path of the tool from above, from the dot to the square", paint)


def _over_time(axes: Any, driven: list[tuple[float, float, int]], times: Array, name: str) -> None:
    for start, end, who in driven:
        if 0 <= who < len(DRIVERS):
            axes.axvspan(start, end, color=ink(DRIVERS[who]), alpha=0.16, linewidth=0)
    if times[-1] > times[0]:
        axes.set_xlim(times[0], times[-1])
    axes.grid(axis="y")
    axes.set_xlabel("time [s]")
    axes.set_ylabel(name)
