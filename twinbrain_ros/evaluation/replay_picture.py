"""The picture of a replay: errors over the horizon, disagreement over time, paths of the tool from above."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from twinbrain_ros.control.modes import Mode
from twinbrain_ros.evaluation.replay import Replay
from twinbrain_ros.evaluation.replay_table import WORDS, references, units_of

COLUMNS, LEGEND_COLUMNS = 4, 4
WIDTH, ROW, TALL_ROW = 15.0, 2.3, 5.0  # inches
DPI = 110
INK, FAINT, RULE = "#1f2328", "#5d6670", "#d8dce1"
COLOURS = {"commanded": "#2160c4", "autonomy": "#1a7f37", "teleop": "#c96a12"}
REPLAYED = "#c4222e"
MODES = {
    Mode.HOLD: ("hold", "#98a1ab"),
    Mode.TELEOP: ("a person drives", "#d98a00"),
    Mode.AUTONOMY: ("the policy drives", "#3f7fe0"),
    Mode.ESTOP: ("emergency stop", "#d0202f"),
    Mode.GO_TO: ("on the way to a pose", "#7a52b3"),
}
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    # Names and instructions are words, whatever signs are in them.
    "text.parse_math": False,
}


def write_picture(path: Path, result: Replay, name: str) -> None:
    """Writes a PNG of a replay of the recording `name`.

    Raises:
        OSError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = -(-len(result.robot.action.names) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6 + ROW * rows + TALL_ROW), layout="constrained")
        figure.suptitle(
            f"{name}: {result.policy or 'a policy'} on {result.observations} observations, beside what was "
            "commanded and what was done",
            fontsize=12,
            fontweight="bold",
        )
        parts: Any = figure.subfigures(2, 1, height_ratios=[ROW * rows, TALL_ROW])
        upper, lower = parts
        _draw_errors(upper, result, rows)
        left, right = lower.subplots(1, 2, width_ratios=[1.25, 1])
        _draw_disagreement(left, result)
        _draw_paths(right, result)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=DPI)


def _draw_errors(figure: Any, result: Replay, rows: int) -> None:
    """A panel for each action: its mean absolute error (line) and root mean square (dashes) by step."""
    action = result.robot.action
    after_s = action.period_s * np.arange(1, action.horizon + 1)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    found = references(result)
    for number, (name, unit) in enumerate(zip(action.names, units_of(result.robot), strict=True)):
        axes = panels[number]
        for reference, errors in found.items():
            colour = COLOURS[reference]
            axes.plot(after_s, errors.mean_absolute()[:, number], "o-", color=colour, markersize=3, lw=1.6)
            axes.plot(after_s, errors.rms()[:, number], "--", color=colour, lw=0.9, alpha=0.7)
        axes.set_title(f"{name} [{unit}]")
        axes.set_xlim(0, after_s[-1] * 1.03)
        _from_zero(axes)
        axes.grid()
    for axes in panels[max(0, len(action.names) - COLUMNS) : len(action.names)]:
        axes.set_xlabel("after the observation [s]")
    for axes in panels[len(action.names) :]:
        axes.set_axis_off()
    _explain_errors(figure, found)


def _explain_errors(figure: Any, found: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=COLOURS[name], marker="o", markersize=3, label=f"error to {WORDS[name]}")
        for name in found
    ]
    entries += [
        Line2D([], [], color=INK, lw=1.6, label="mean absolute"),
        Line2D([], [], color=INK, lw=0.9, linestyle="--", label="root mean square"),
    ]
    figure.legend(handles=entries, loc="outside upper left", ncols=len(entries))


def _draw_disagreement(axes: Any, result: Replay) -> None:
    """Mean distance of the tool over the horizon at each observation, over who drove."""
    from matplotlib.patches import Patch

    handles = []
    points = result.points.kept
    times = [point.at_s for point in points]
    for name, colour, label in (
        ("commanded_mm", COLOURS["commanded"], "to what was commanded"),
        ("done_mm", COLOURS["autonomy"], "to what was done, by whoever drove"),
    ):
        values = [np.nan if (value := getattr(point, name)) is None else value for point in points]
        if np.isfinite(values).any():
            handles += axes.plot(times, values, "o-", color=colour, markersize=3.5, lw=1.3, label=label)
    ends = [at_s for at_s, _ in result.modes[1:]] + [max(result.end_s, *times)]
    for (start_s, mode), end_s in zip(result.modes, ends, strict=True):
        axes.axvspan(start_s, end_s, color=MODES[mode][1], alpha=0.16, lw=0)
    for mode in sorted({mode for _, mode in result.modes}):
        handles.append(Patch(color=MODES[mode][1], alpha=0.3, lw=0, label=MODES[mode][0]))
    title = "Mean distance of the tool over the horizon [mm]; dotted: a new instruction"
    axes.set_xlabel("time in the recording [s]")
    axes.set_xlim(-0.01 * max(ends), 1.01 * max(ends))
    _from_zero(axes, room=1.22)
    axes.grid(axis="y")
    _mark_instructions(axes, result)
    _explain(axes, title, handles)


def _explain(axes: Any, title: str, handles: list[Any]) -> None:
    """A legend between the title and the axes."""
    rows = -(-len(handles) // LEGEND_COLUMNS)
    axes.set_title(title, pad=10 + 15 * rows)
    legend = axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=LEGEND_COLUMNS, fontsize=8.5,
        borderaxespad=0.2,
    )  # fmt: skip
    # The layout would make the axes narrow for the sake of a wide legend.
    legend.set_in_layout(False)


def _from_zero(axes: Any, room: float = 1.05) -> None:
    """From a little below zero, so that a line at zero can be seen; all zeros get a scale as well."""
    top = max((float(np.nanmax(line.get_ydata(), initial=0.0)) for line in axes.lines), default=0.0) or 1e-3
    axes.set_ylim(-0.04 * top, room * top)


def _mark_instructions(axes: Any, result: Replay) -> None:
    bottom, top = axes.get_ylim()
    for number, (at_s, text) in enumerate(result.instructions):
        axes.axvline(at_s, color=INK, lw=0.9, linestyle=":")
        # In two heights, so that two that follow each other soon stay readable.
        height = bottom + (0.97 - 0.07 * (number % 2)) * (top - bottom)
        words = textwrap.shorten(text, 40, placeholder=" ...") or "(empty)"
        late = at_s > 0.5 * axes.get_xlim()[1]
        note = axes.annotate(
            words, (at_s, height), xytext=(-4 if late else 4, 0), textcoords="offset points",
            ha="right" if late else "left", va="top", fontsize=8.5,
        )  # fmt: skip
        note.set_in_layout(False)


def _draw_paths(axes: Any, result: Replay) -> None:
    """Chunks from above: what was done widest, so that what coincides with it stays visible."""
    styles = (
        ("done", FAINT, "-", 4.0, 0.25, "done by whoever drove"),
        ("commanded", COLOURS["commanded"], "-", 1.6, 0.9, "commanded"),
        ("replayed", REPLAYED, (0, (3, 2)), 1.4, 1.0, "replayed"),
    )
    for place, (name, colour, line, width, alpha, label) in enumerate(styles):
        for path in result.paths.kept:
            points = getattr(path, name)
            if points is None:
                continue
            axes.plot(
                points[:, 0], points[:, 1], color=colour, linestyle=line, lw=width, alpha=alpha, label=label,
                zorder=2 + place,
            )  # fmt: skip
            label = "_"
    starts = np.array([path.replayed[0] for path in result.paths.kept])
    axes.scatter(starts[:, 0], starts[:, 1], s=16, color=INK, zorder=6, label="at the observation")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x [m]")
    axes.set_ylabel("y [m]")
    axes.grid()
    _explain(axes, f"Tool from above, base frame, {len(starts)} chunks", axes.get_legend_handles_labels()[0])
