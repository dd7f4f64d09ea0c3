"""The report as one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from twinbrain_ros.evaluation.report import Group, Report
from twinbrain_ros.evaluation.report_episode import Details, outcome_mark
from twinbrain_ros.evaluation.report_measured import measured
from twinbrain_ros.evaluation.report_style import STYLE, amount, esc, percent, typeset
from twinbrain_ros.evaluation.statistics import Summary, wilson_interval

SHOWN_LEFT_OUT = 6  # bags named at once; the others one click away

# Nothing is loaded and nothing runs, even if a text from a bag got through as markup.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(path: Path, report: Report, details: Details, title: str) -> None:
    """Write the page piece by piece to a file beside `path`, which it replaces at the end.

    Raises:
        OSError: it cannot be written; what was at `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".report-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(page(report, details, title))
        # mkstemp makes it ours only; a page is read like any other file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def page(report: Report, details: Details, title: str) -> Iterator[str]:
    """The page's pieces in order."""
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
    )
    yield from _head(report, title)
    yield from _left_out(report)
    yield from _success(report)
    yield from _comparison(report)
    yield from measured(report, _letters(report))
    yield from _judge(report)
    yield from _details(report, details)
    yield from _all_episodes(report)
    yield from _method()
    yield "</main></body></html>\n"


def _letters(report: Report) -> dict[str, str]:
    """Short names of the policies, in order of appearance; those who drove without one are "none"."""
    named = [policy for policy in report.policies if policy]
    letters = {
        policy: chr(ord("A") + place) if place < 26 else f"P{place + 1}" for place, policy in enumerate(named)
    }
    return {policy: letters.get(policy, "none") for policy in report.policies}


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _date(ns: int) -> str:
    try:
        return datetime.fromtimestamp(ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "an impossible date"


def _head(report: Report, title: str) -> Iterator[str]:
    total = report.total
    when = ""
    if report.first_ns:
        first, last = _date(report.first_ns), _date(report.last_ns)
        when = f", recorded {first}" if first == last else f", recorded {first} to {last}"
    robots = ", ".join(name for name in report.robots if name)
    yield f'<h1>{esc(title)}</h1><p class="faint">{_plural(total.episodes, "episode")}'
    yield f"{' of ' + esc(robots) if robots else ''}{when}</p>"
    latency = report.samples["observation_to_command_ms"].summary()
    times = Summary.of(total.times_to_success_s)
    per_minute = total.interventions_per_minute
    counted = f"{total.successes} of {total.labelled} labelled"
    low, high = wilson_interval(total.successes, total.labelled)
    if total.labelled:
        success = (percent(total.successes / total.labelled), f"{counted}, {_range(low, high)}")
    else:
        success = ("\N{EN DASH}", "no episode has a label")
    figures = [
        ("success", *success),
        ("interventions per minute", amount(per_minute), f"{total.interventions} in all"),
        ("time to success", amount(times.p50, "s"), f"median of {times.count}"),
        ("observation to command", amount(latency.p50, "ms"), f"median; p99 {amount(latency.p99, 'ms')}"),
        ("stops", str(report.watchdog_events + report.estops),
         f"{report.watchdog_events} by watchdogs, {_plural(report.estops, 'emergency stop')}"),
    ]  # fmt: skip
    yield '<dl class="key">'
    for name, value, remark in figures:
        yield f"<div><dt>{name}</dt><dd>{value}<small>{remark}</small></dd></div>"
    yield "</dl>"


def _range(low: float, high: float) -> str:
    return f"95\N{NO-BREAK SPACE}% interval {100 * low:.0f} to {percent(high)}"


def _left_out(report: Report) -> Iterator[str]:
    sentences = []
    if report.total.unlabelled:
        sentences.append(
            f"{report.total.unlabelled} of {_plural(report.total.episodes, 'episode')} have no label that "
            "says success or failure. They count as episodes, but not in success rates."
        )
    if report.truncated:
        were = "was" if report.truncated == 1 else "were"
        sentences.append(f"{_plural(report.truncated, 'recording')} {were} cut off; what there is was used.")
    if report.lost:
        lost = ", ".join(f"{count} of {esc(topic)}" for topic, count in report.lost.items())
        sentences.append(f"Messages known to be lost while recording: {lost}.")
    if not sentences and not report.left_out_bags:
        yield '<p class="faint">Nothing was left out: every episode is labelled and was used in full.</p>'
        return
    yield '<div class="notice"><strong>What is missing here</strong><ul>'
    yield from (f"<li>{sentence}</li>" for sentence in sentences)
    if report.left_out_bags:
        yield f"<li>Of {_plural(report.left_out_bags, 'bag')} not everything could be used:<ul>"
        for place, (bag, why) in enumerate(report.left_out()):
            if place == SHOWN_LEFT_OUT:
                rest = report.left_out_bags - SHOWN_LEFT_OUT
                yield f"</ul><details><summary>and {_plural(rest, 'bag')} more</summary><ul>"
            yield f"<li><strong>{esc(bag)}</strong>: {esc(' '.join(why))}</li>"
        yield "</ul></details></li>" if report.left_out_bags > SHOWN_LEFT_OUT else "</ul></li>"
    yield "</ul></div>"


def _interval_bar(low: float, high: float, rate: float, lowest: float = 0.0) -> str:
    """A dot with its interval on a scale from `lowest` to 1."""

    def place(value: float) -> float:
        return 100 * (value - lowest) / (1 - lowest)

    zero = f'<s style="left:{place(0):.2f}%"></s>' if lowest < 0 else ""
    return (
        f'<span class="bar" aria-hidden="true">{zero}'
        f'<i style="left:{place(low):.2f}%;width:{place(high) - place(low):.2f}%"></i>'
        f'<b style="left:{place(rate):.2f}%"></b></span>'
    )


def _success_row(name: str, group: Group, kind: str = "") -> str:
    row = f'<tr class="{kind}"><th scope="row">{esc(name)}</th>'
    if group.labelled:
        rate = group.successes / group.labelled
        low, high = wilson_interval(group.successes, group.labelled)
        counts = f'<span class="faint">({group.successes} of {group.labelled})</span>'
        row += (
            f'<td class="w">{percent(rate)} {counts}</td>'
            f'<td class="w">{100 * low:.0f} to {percent(high)}</td>'
            f'<td class="draw">{_interval_bar(low, high, rate)}</td>'
        )
    else:
        row += '<td class="faint">not known</td><td></td><td></td>'
    return row + f'<td class="n">{group.unlabelled or ""}</td></tr>'


def _success(report: Report) -> Iterator[str]:
    yield (
        '<h2>Success</h2><div class="scroll"><table><thead><tr><th>task</th><th>success</th>'
        '<th>95 % interval</th><th><span class="scale"><span>0</span><span>50</span>'
        '<span>100 %</span></span></th><th class="n">no label</th></tr></thead><tbody>'
    )
    letters = _letters(report)
    for policy, group in report.policies.items():
        name = f"{letters[policy]}: {policy}" if policy else "no policy recorded"
        yield f'<tr class="head"><th colspan="5" scope="rowgroup">{esc(name)}</th></tr>'
        cells = {task: cell for (of, task), cell in report.cells.items() if of == policy}
        for task, cell in cells.items():
            yield _success_row(task or "no task recorded", cell)
        if len(cells) > 1:
            yield _success_row("all", group, "sum")
    if len(report.policies) > 1:
        yield '<tr class="head"><th colspan="5" scope="rowgroup">All policies</th></tr>'
        for task, cell in report.tasks.items():
            yield _success_row(task or "no task recorded", cell)
        if len(report.tasks) > 1:
            yield _success_row("all", report.total, "sum")
    yield "</tbody></table></div>"


def _comparison(report: Report) -> Iterator[str]:
    comparisons = report.comparisons()
    if not comparisons:
        return
    letters = _letters(report)
    yield "<h2>Which policy succeeds more often?</h2>"
    if len(comparisons) > 1:
        yield f"<p>Each policy against the first, {letters[comparisons[0].a]}.</p>"
    for entry in comparisons:
        a, b = letters[entry.a], letters[entry.b]
        yield f'<p class="finding">{typeset(entry.sentence(a, b))}</p>'
        yield from (f"<p>{typeset(remark)}</p>" for remark in entry.remarks(a, b))
        if entry.samples:
            bar = _interval_bar(*entry.samples[0].interval, entry.samples[0].difference, -1.0)
            yield (
                f'<div style="max-width:26rem">{bar}<span class="scale"><span>{b} better, 100 points</span>'
                f"<span>0</span><span>{a} better, 100 points</span></span></div>"
            )
        yield f'<p class="faint"><small>{a} is {esc(entry.a)}, {b} is {esc(entry.b)}.</small></p>'


def _judge(report: Report) -> Iterator[str]:
    judge = report.judge()
    if not judge["episodes"]:
        return
    counts = judge["counts"]
    kappa = "not defined" if judge["kappa"] is None else f"{judge['kappa']:.2f}"
    low, high = judge["agreement_interval"]
    yield "<h2>Does the machine's verdict agree with the label?</h2>"
    yield (
        f"<p>On {percent(judge['agreement'])} of {_plural(judge['episodes'], 'episode')} that have both "
        f"({_range(low, high)}); Cohen's kappa {kappa}, where 0 is chance and 1 full agreement.</p>"
        '<div class="scroll"><table><thead><tr><th></th><th class="n">machine: success</th>'
        '<th class="n">machine: failure</th></tr></thead><tbody>'
        f'<tr><th scope="row">label: success</th><td class="n">{counts["both_success"]}</td>'
        f'<td class="n">{counts["only_label_success"]}</td></tr>'
        f'<tr><th scope="row">label: failure</th><td class="n">{counts["only_judge_success"]}</td>'
        f'<td class="n">{counts["both_failure"]}</td></tr></tbody></table></div>'
    )


def _details(report: Report, details: Details) -> Iterator[str]:
    if not details.shown:
        return
    yield f"<h2>Episodes in detail</h2><p>{details.shown} of {_plural(report.total.episodes, 'episode')}"
    if details.shown < report.total.episodes:
        yield (
            ": failures, unlabelled ones and those with a watchdog event or an emergency stop as they came, "
            f"until there were {details.budget}, and the first other successes up to half of that"
        )
    yield ".</p>"
    yield from details.parts()


def _all_episodes(report: Report) -> Iterator[str]:
    yield (
        '<h2>All episodes</h2><div class="scroll"><table><thead><tr><th class="n">no.</th><th>outcome</th>'
        '<th>policy</th><th>task</th><th class="n">seed</th><th>instruction</th><th class="n">length</th>'
        '<th class="n">to success</th><th class="n">interv.</th><th class="n">latency p50</th>'
        '<th class="n">stops</th><th>machine</th><th>bag</th></tr></thead><tbody>\n'
    )
    letters = _letters(report)
    for record in report.records():
        yield _episode_row(record, letters[record["policy"]])
    yield "</tbody></table></div>"


def _episode_row(record: dict[str, Any], letter: str) -> str:
    number = record["number"]
    shown = f'<a href="#e{number}">{number}</a>' if record["detailed"] else str(number)
    stops = record["watchdog_events"] + record["estops"]
    seed = "" if record["seed"] is None else record["seed"]
    judged = record["judged"]["outcome"] if record["judged"] else ""
    bag = "/".join(Path(record["bag"]).parts[-2:])  # what differs; the whole path is shown on pointing at it
    return (
        f'<tr><td class="n">{shown}</td><td class="w">{outcome_mark(record["success"])}</td>'
        f'<td>{esc(letter)}</td><td>{esc(record["task"])}</td><td class="n">{seed}</td>'
        f'<td class="t">{esc(record["instruction"])}</td>'
        f'<td class="n">{amount(record["duration_s"], "s")}</td>'
        f'<td class="n">{amount(record["time_to_success_s"], "s")}</td>'
        f'<td class="n">{record["interventions"]}</td>'
        f'<td class="n">{amount(record["observation_to_command_ms"]["p50"], "ms")}</td>'
        f'<td class="n">{stops or ""}</td><td>{esc(judged)}</td>'
        f'<td class="w" title="{esc(record["bag"])}">{esc(bag)}</td></tr>\n'
    )


def _method() -> Iterator[str]:
    yield (
        "<h2>How it was computed</h2><ul>"
        "<li>Success is what the label says; intervals of rates are Wilson's, at 95 %. Episodes without a "
        "label are not in the rates.</li>"
        "<li>Policies are compared on episodes of the same task and seed by McNemar's exact test, on the "
        "others by Fisher's exact test, both two-sided; intervals of differences are Newcombe's. "
        "Significant means p &lt; 0.05.</li>"
        "<li>Interventions are counted per minute that the policy or a person drove.</li>"
        "<li>Percentiles of latency, inference, tick jitter, seam steps and tracking error come from "
        "histograms with bins 1 % wide, so they are within 0.5 %; the largest values are exact.</li></ul>"
    )
