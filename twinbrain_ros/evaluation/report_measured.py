"""The part of the report's page on what was measured: people's help, times, motion and stops."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from twinbrain_ros.evaluation.report import Report
from twinbrain_ros.evaluation.report_plots import Bar, dots, histogram, timeline
from twinbrain_ros.evaluation.report_style import amount, esc
from twinbrain_ros.evaluation.statistics import Summary

CUBED = "\N{SUPERSCRIPT THREE}"
MOST_POLICIES = 6  # that get a row of dots of their own


@dataclass
class _Rows:
    """What the drawings need of the episodes, read from their rows."""

    jerks: dict[str, array[float]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)


def measured(report: Report, letters: Mapping[str, str]) -> Iterator[str]:
    """The pieces of these sections; `letters` are the policies' short names."""
    rows = _read(report)
    yield from _help(report, letters)
    yield from _timing(report)
    yield from _moving(report, rows, letters)
    yield from _stops(report, rows)


def _read(report: Report) -> _Rows:
    rows = _Rows()
    for record in report.records():
        jerks = rows.jerks.setdefault(record["policy"], array("d"))
        if record["jerk_rms_rad_s3"] is not None:
            jerks.append(record["jerk_rms_rad_s3"])
        stops = tuple(
            (stop["time_s"], stop["kind"]) for stop in record["stops"] if stop["time_s"] is not None
        )
        rows.bars.append(Bar(record["duration_s"] or 0.0, record["success"], stops))
    return rows


def _figure(drawing: str, title: str, caption: str) -> str:
    """A drawing with its caption; without one, that nothing was measured."""
    body = drawing or '<p class="faint">Nothing measured.</p>'
    return f"<figure><h3>{title}</h3>{body}<figcaption>{caption}</figcaption></figure>"


def _told(summary: Summary, unit: str, what: str) -> str:
    if not summary.count:
        return ""
    return (
        f"p50 {amount(summary.p50, unit)}, p99 {amount(summary.p99, unit)}, "
        f"largest {amount(summary.max, unit)}; {summary.count} {what}"
    )


def _by_policy(
    values: Mapping[str, array[float]], letters: Mapping[str, str]
) -> list[tuple[str, array[float]]]:
    """A row of dots for each policy that has any, all in one row if there are too many."""
    known = {policy: entries for policy, entries in values.items() if entries}
    if len(known) <= MOST_POLICIES:
        return [(letters[policy], entries) for policy, entries in known.items()]
    together = array("d")
    for entries in known.values():
        together.extend(entries)
    return [("all", together)]


def _help(report: Report, letters: Mapping[str, str]) -> Iterator[str]:
    times = {policy: group.times_to_success_s for policy, group in report.policies.items()}
    yield "<h2>Help and speed</h2>"
    yield (
        '<div class="scroll"><table><thead><tr><th>policy</th><th class="n">interventions</th>'
        '<th class="n">per minute</th><th class="n">driven</th><th class="n">time to success p50</th>'
        '<th class="n">latency p50</th><th class="n">latency p99</th></tr></thead><tbody>'
    )
    for policy, group in report.policies.items():
        latency = report.latencies[policy].summary()
        name = f"{letters[policy]}: {policy}" if policy else "no policy recorded"
        yield (
            f'<tr><th scope="row">{esc(name)}</th><td class="n">{group.interventions}</td>'
            f'<td class="n">{amount(group.interventions_per_minute)}</td>'
            f'<td class="n">{amount(group.driven_s / 60, "min")}</td>'
            f'<td class="n">{amount(Summary.of(group.times_to_success_s).p50, "s")}</td>'
            f'<td class="n">{amount(latency.p50, "ms")}</td>'
            f'<td class="n">{amount(latency.p99, "ms")}</td></tr>'
        )
    yield "</tbody></table></div>"
    drawing = dots("success-times", "Time to success by policy", _by_policy(times, letters), "seconds")
    told = _told(Summary.of(report.total.times_to_success_s), "s", "successes")
    note = f"{told}. A dot is an episode, the bar the median." if told else ""
    yield f'<div class="plots">{_figure(drawing, "Time from autonomy to success", note)}</div>'


def _timing(report: Report) -> Iterator[str]:
    yield '<h2>Timing</h2><div class="plots">'
    for key, title, what in (
        ("observation_to_command_ms", "Observation to command", "executed chunks"),
        ("inference_ms", "Inference", "chunks"),
        ("tick_jitter_ms", "Tick jitter", "commands"),
    ):
        values = report.samples[key]
        yield _figure(histogram(key, title, values, "ms"), title, _told(values.summary(), "ms", what))
    yield "</div>"
    if report.chunks:
        counts = ", ".join(f"{count} {esc(what)}" for what, count in report.chunks.items())
        yield f"<p>Action chunks: {counts}.</p>"


def _moving(report: Report, rows: _Rows, letters: Mapping[str, str]) -> Iterator[str]:
    yield '<h2>Smoothness</h2><div class="plots">'
    seams = report.samples["seam_velocity_step_rad_s"]
    limits = report.seams()
    caption = _told(seams.summary(), "rad/s", "seams")
    if limits["limit"] is not None:
        over = limits["over_limit"]
        mark = '<span class="bad">' if over else "<span>"
        caption += f"; limit {amount(limits['limit'], 'rad/s')}, {mark}{over} above it</span>"
    drawing = histogram("seams", "Velocity steps at seams", seams, "rad/s", limits["limit"])
    yield _figure(drawing, "Velocity step at seams of chunks", caption)
    jerks = dots(
        "jerk", "Jerk by policy", _by_policy(rows.jerks, letters), f"rad/s{CUBED}, RMS of an episode"
    )
    told = _told(Summary.of(report.jerks), f"rad/s{CUBED}", "episodes")
    yield _figure(
        jerks, "Commanded jerk", f"{told}. A dot is an episode, the bar the median." if told else ""
    )
    tracking = report.samples["tracking_error_rad"]
    drawing = histogram("tracking", "Tracking error", tracking, "rad")
    yield _figure(drawing, "Tracking error, farthest joint", _told(tracking.summary(), "rad", "commands"))
    yield "</div>"


def _stops(report: Report, rows: _Rows) -> Iterator[str]:
    yield "<h2>Stops</h2>"
    estops = f"{report.estops} emergency stop{'' if report.estops == 1 else 's'}"
    watchdogs = f"{report.watchdog_events} watchdog event{'' if report.watchdog_events == 1 else 's'}"
    yield f"<p>{watchdogs} and {estops} in {len(rows.bars)} episodes.</p>"
    yield f'<figure class="wide">{timeline("stops", "Stops over the episodes", rows.bars)}<figcaption>'
    yield (
        "Each bar is an episode, as high as it was long: "
        '<span class="good">success</span>, <span class="bad">failure</span>, '
        '<span class="unsure">no label</span>. '
        '<span class="warn">\N{BLACK DOWN-POINTING TRIANGLE} watchdog</span>, '
        '<span class="bad">\N{HEAVY MULTIPLICATION X} emergency stop</span>, at their times.'
        "</figcaption></figure>"
    )
