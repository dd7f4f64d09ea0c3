"""One episode on the report's page: what the cameras saw, how the arm moved and what happened when."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO

from twinbrain_ros.evaluation.figures import ESTOP, WATCHDOG, EpisodeFigures, Event, Film, Motion
from twinbrain_ros.evaluation.report import finite, stops_of
from twinbrain_ros.evaluation.report_plots import spans, trajectory
from twinbrain_ros.evaluation.report_style import DRIVER_WORDS, DRIVERS, JOINT_COLOURS, amount, esc, seconds
from twinbrain_ros.evaluation.statistics import Summary

OPEN = 3  # how many of the first are shown opened
SHOWN_EVENTS = 100
OUTCOMES = {True: ("good", "\N{CHECK MARK}", "success"), False: ("bad", "\N{BALLOT X}", "failure")}
NO_OUTCOME = ("unsure", "?", "no label")


class Details:
    """Chooses the episodes that are shown in detail, and keeps what the page shows of them in a file.

    The rule needs no look ahead: every failure, unlabelled episode and episode with a watchdog event or an
    emergency stop until the budget is used up, and the first other successes up to half of it.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.shown = 0
        self._plain = 0
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (closed at exit)

    def __enter__(self) -> Details:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def wanted(self) -> bool:
        """Whether the next episode may be chosen, so that its pictures must be read."""
        return self.shown < self.budget

    def choose(self, episode: EpisodeFigures) -> bool:
        """Whether this one is shown; it then takes its place in the budget."""
        stops = stops_of(episode, WATCHDOG) + stops_of(episode, ESTOP)
        plain = episode.success is True and not stops
        if not self.wanted or (plain and 2 * (self._plain + 1) > self.budget + 1):
            return False
        self.shown += 1
        self._plain += plain
        return True

    def add(self, number: int, episode: EpisodeFigures) -> None:
        """Keep a chosen one; `number` counts all episodes from 1.

        Raises:
            OSError: the temporary file cannot be written.
        """
        self._file.writelines(section(number, episode, opened=self.shown <= OPEN))

    def parts(self) -> Iterator[str]:
        """What was kept, in pieces of bounded size."""
        self._file.flush()
        self._file.seek(0)
        while part := self._file.read(1 << 16):
            yield part


def outcome_mark(success: bool | None) -> str:
    """The outcome as a sign and a word, in its colour."""
    colour, sign, word = OUTCOMES[success] if success is not None else NO_OUTCOME
    return f'<span class="{colour}">{sign} {word}</span>'


def section(number: int, episode: EpisodeFigures, opened: bool) -> Iterator[str]:
    """The pieces of one episode's part of the page."""
    time_s = finite(episode.time_to_success_s)
    where = [
        episode.policy or "no policy",
        episode.task or "no task",
        "no seed" if episode.seed is None else f"seed {episode.seed}",
    ]
    took = f" after {time_s:.1f} s" if episode.success and time_s is not None else ""
    yield f"<details{' open' if opened else ''}><summary><strong>{number}. "
    yield f"{esc(episode.instruction or 'no instruction')}</strong> {outcome_mark(episode.success)}{took}"
    yield f' <small>{esc(", ".join(where))}</small></summary><div class="body" id="e{number}">'
    yield f'<p class="faint"><small>{esc(episode.bag)}</small></p>'
    if episode.left_out or episode.truncated:
        cut = ["The recording was cut off: this is what there is of it."] if episode.truncated else []
        lines = "".join(f"<li>{esc(text)}</li>" for text in [*cut, *episode.left_out])
        yield f'<div class="notice"><strong>Left out</strong><ul>{lines}</ul></div>'
    yield from _film(episode.film)
    yield from _motion(number, episode.motion)
    yield from _events(episode)
    yield from _facts(episode)
    yield "</div></details>\n"


def _film(film: Film | None) -> Iterator[str]:
    if film is None or not film.times_s or not film.images:
        yield '<p class="faint">No pictures.</p>'
        return
    yield f'<div class="scroll"><div class="film" style="--n:{len(film.times_s)}">'
    for camera, images in film.images.items():
        yield f'<span class="name">{esc(camera)}</span>'
        for time_s, image in zip(film.times_s, images, strict=False):
            if image is None:
                yield '<span class="none">no picture</span>'
                continue
            data = base64.b64encode(image).decode("ascii")
            label = esc(f"{camera} at {seconds(time_s)}")
            yield f'<img alt="{label}" decoding="async" src="data:image/jpeg;base64,{data}">'
        # Keeps the rows apart where a camera has fewer pictures than there are times.
        yield '<span class="none">no picture</span>' * (len(film.times_s) - len(images))
    yield "".join(f"<span>{seconds(time_s)}</span>" for time_s in film.times_s)
    yield "</div></div>"


def _motion(number: int, motion: Motion | None) -> Iterator[str]:
    drawings = trajectory(f"e{number}", motion) if motion is not None else []
    if motion is None or not drawings:
        yield '<p class="faint">No trajectory.</p>'
        return
    yield '<div class="plots">'
    for drawing, caption in drawings:
        yield f"<figure>{drawing}<figcaption>{esc(caption)}</figcaption></figure>"
    yield '</div><div class="legend">'
    for joint, name in enumerate(motion.joints_names):
        yield _swatch(JOINT_COLOURS[joint % len(JOINT_COLOURS)], name)
    yield "</div>"


def _swatch(colour: str, name: str) -> str:
    return f'<span><i style="background:var(--{colour})"></i>{esc(name)}</span>'


def _events(episode: EpisodeFigures) -> Iterator[str]:
    motion = episode.motion
    driven = spans(motion.driver, motion.times_s) if motion is not None else []
    events = episode.events[:SHOWN_EVENTS]
    ends = [episode.duration_s, *(end for _, end, _ in driven), *(event.time_s for event in events)]
    length = max((finite(end) or 0.0 for end in ends), default=0.0)
    if length > 0:
        yield '<div class="strip" aria-hidden="true">'
        for start, end, who in driven:
            if 0 <= who < len(DRIVERS):
                left, width = 100 * start / length, 100 * (end - start) / length
                yield f'<i style="left:{left:.2f}%;width:{width:.2f}%;background:var(--{DRIVERS[who]})"></i>'
        yield from (_tick(event, length) for event in events)
        yield '</div><div class="legend"><span>Who drove:</span>'
        yield from (_swatch(name, word) for name, word in zip(DRIVERS, DRIVER_WORDS, strict=True))
        yield f"<span>\N{MIDDLE DOT} the strip is {length:.1f} s long, its marks are the events</span></div>"
    if not events:
        yield '<p class="faint">No events.</p>'
        return
    yield '<div class="scroll"><table class="events"><caption>Events</caption><tbody>'
    for event in events:
        until = finite(event.until_s)
        times = seconds(event.time_s) + (f" to {seconds(until)}" if until is not None else "")
        kind = f'<td class="{_event_colour(event)}">{esc(event.kind)}</td>'
        yield f"<tr><td>{times}</td>{kind}<td>{esc(event.text)}</td></tr>"
    yield "</tbody></table></div>"
    if len(episode.events) > len(events):
        yield f"<p>and {len(episode.events) - len(events)} events more</p>"


def _event_colour(event: Event) -> str:
    return {WATCHDOG: "warn", ESTOP: "bad"}.get(event.kind, "faint")


def _tick(event: Event, length: float) -> str:
    place = 100 * min(max(finite(event.time_s) or 0.0, 0.0), length) / length
    colour = {WATCHDOG: ";background:var(--warn)", ESTOP: ";background:var(--bad)"}.get(event.kind, "")
    title = esc(f"{seconds(event.time_s)}: {event.kind}, {event.text}")
    return f'<b style="left:{place:.2f}%{colour}" title="{title}"></b>'


def _facts(episode: EpisodeFigures) -> Iterator[str]:
    facts = [
        ("duration", amount(finite(episode.duration_s), "s")),
        ("driven by the policy", amount(finite(episode.autonomy_s), "s")),
        ("driven by a person", amount(finite(episode.teleop_s), "s")),
        ("interventions", str(episode.interventions)),
        ("jerk, RMS", amount(finite(episode.jerk_rms), "rad/s\N{SUPERSCRIPT THREE}")),
        ("chunks", ", ".join(f"{count} {what}" for what, count in episode.chunks.items() if count)),
        ("messages lost", ", ".join(f"{count} of {topic}" for topic, count in episode.lost.items() if count)),
        ("label", _verdict(episode, "label")),
        ("machine's verdict", _verdict(episode, "judged")),
        ("robot", episode.robot),
    ]
    samples = (
        ("observation to command", episode.observation_to_command_ms, "ms"),
        ("inference", episode.inference_ms, "ms"),
        ("tick jitter", episode.tick_jitter_ms, "ms"),
        ("seam velocity step", episode.seam_steps, "rad/s"),
        ("tracking error", episode.tracking_error, "rad"),
    )
    for name, values, unit in samples:
        known = [value for value in values if finite(value) is not None]
        if known:
            summary = Summary.of(known)
            facts.append((name, f"p50 {amount(summary.p50, unit)}, p99 {amount(summary.p99, unit)}"))
    yield '<dl class="facts">'
    yield from (f"<div><dt>{esc(name)}</dt><dd>{esc(text)}</dd></div>" for name, text in facts if text)
    yield "</dl>"


def _verdict(episode: EpisodeFigures, which: str) -> str:
    verdict = episode.label if which == "label" else episode.judged
    if verdict is None:
        return ""
    score = f"score {verdict.score:.2f}" if verdict.score is not None else ""
    source = f"by {verdict.source}" if verdict.source else ""
    return ", ".join(part for part in (verdict.outcome, score, verdict.text, source) if part)
