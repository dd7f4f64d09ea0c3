from __future__ import annotations

import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from report_fixtures import JPEG, Page, episode, film, motion, strict

from twinbrain_ros.evaluation.figures import EpisodeFigures, Event, Film, Motion, Verdict
from twinbrain_ros.evaluation.report import Report
from twinbrain_ros.evaluation.report_episode import Details
from twinbrain_ros.evaluation.report_page import page, write_page
from twinbrain_ros.evaluation.report_style import COLOURS

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x.png>"


def made(report: Report, details: Details, title: str = "Episodes") -> str:
    return "".join(page(report, details, title))


def full_page(episodes: list[EpisodeFigures], budget: int = 40) -> str:
    with Report() as report, Details(budget) as details:
        for entry in episodes:
            chosen = details.choose(entry)
            number = report.add(entry, chosen)
            if chosen:
                details.add(number, entry)
        return made(report, details)


def test_failures_are_shown_until_the_budget_is_used_and_successes_up_to_half_of_it() -> None:
    watchdog = (Event(1.0, "watchdog", "late"),)
    with Details(4) as details:
        assert [details.choose(episode(n)) for n in range(4)] == [True, True, False, False]
        assert details.wanted
        assert details.choose(episode(4, success=None))
        assert details.choose(episode(5, events=watchdog))
        assert not details.wanted
        assert not details.choose(episode(6, success=False))
    with Details(0) as details:
        assert not details.wanted and not details.choose(episode(0, success=False))
    with Details(1) as details:
        assert details.choose(episode(0))


def test_page_needs_nothing_from_elsewhere_and_is_well_formed() -> None:
    events = (Event(1.0, "watchdog", "camera"), Event(2.0, "estop", "button"))
    episodes = [
        episode(n, success=n % 3 > 0, policy=f"p{n % 2}", film=film(), motion=motion(), events=events)
        for n in range(5)
    ]
    text = full_page(episodes)
    parsed = Page(text)

    assert "script" not in parsed.tags and "link" not in parsed.tags
    assert parsed.links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in parsed.links)
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(http" not in text
    assert len(parsed.ids) == len(set(parsed.ids)), "names are unique"
    fragments = {link[1:] for link in parsed.links if link.startswith("#")}
    assert fragments <= set(parsed.ids)
    clips = set(re.findall(r"url\(#([^)]+)\)", text))
    assert clips and clips <= set(parsed.ids)


def test_page_says_what_the_figures_are() -> None:
    judged = Verdict("failure", source="judge: done?")
    episodes = [episode(n, success=n < 2, film=film(), judged=judged) for n in range(10)]
    episodes += [episode(n, policy="two@2222") for n in range(10)] + [
        episode(10, success=None, truncated=True)
    ]
    text = Page(full_page(episodes)).text.replace("\N{NO-BREAK SPACE}", " ")

    assert "20 % (2 of 10)" in text and "100 % (10 of 10)" in text and "60 % (12 of 20)" in text
    assert "A succeeds less often than B" in text
    assert "p = 0.008, McNemar's exact test on 10 matched scenes: 0 only A, 8 only B" in text
    assert "1 of 21 episodes have no label that says success or failure" in text
    assert "1 recording was cut off" in text
    assert "On 80 % of 10 episodes that have both" in text
    assert "p50 40.0 ms, p99 50.0 ms" in text
    assert "limit 0.100 rad/s, 0 above it" in text


def test_what_was_left_out_is_all_on_the_page_before_the_figures() -> None:
    with Report() as report, Details(0) as details:
        report.add(episode(0, left_out=("wrist camera: no pictures.",)))
        for number in range(9):
            report.leave_out(f"/bags/broken_{number}", f"reason {number}")
        text = Page(made(report, details)).text

    start = text.index("What is missing here")
    notice = text[start : text.index("95 % interval", start)]
    assert "Of 10 bags" in notice and "wrist camera: no pictures." in notice
    assert all(f"/bags/broken_{number}: reason {number}" in notice for number in range(9))
    assert "and 4 bags more" in notice


def test_hostile_text_stays_text_wherever_it_comes_from() -> None:
    hostile = episode(
        0,
        instruction=HOSTILE,
        policy=HOSTILE,
        task=HOSTILE,
        bag=HOSTILE,
        robot=HOSTILE,
        label=Verdict("failure", text=HOSTILE, source=HOSTILE),
        judged=Verdict("failure", text=HOSTILE, source="judge" + HOSTILE),
        chunks={HOSTILE: 1},
        lost={HOSTILE: 1},
        left_out=(HOSTILE,),
        events=(Event(1.0, HOSTILE, HOSTILE), Event(1.0, "watchdog", HOSTILE)),
        film=Film((0.0,), {HOSTILE: (JPEG,)}),
        motion=Motion((HOSTILE, "$\\frac$"), *(getattr(motion(), n) for n in ("times_s", "joints", "tool")),
                      motion().opening, motion().driver),
    )  # fmt: skip
    with Report() as report, Details(1) as details:
        assert details.choose(hostile)
        details.add(report.add(hostile, True), hostile)
        report.add(episode(1, policy="two"))
        report.leave_out(HOSTILE, HOSTILE)
        text = made(report, details, HOSTILE)
    parsed = Page(text)

    assert "script" not in parsed.tags
    assert not any("evil" in link for link in parsed.links)
    assert "<script" not in text and "<img src=http" not in text
    assert parsed.text.count(HOSTILE) >= 12, "it is shown as it is"


def test_text_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    odd = os.fsdecode(b"/bags/\xff\xfe")
    path = tmp_path / "new" / "page.html"
    with Report() as report, Details(1) as details:
        entry = episode(0, success=False, bag=odd, instruction="nul \0 and \ud800")
        assert details.choose(entry)
        details.add(report.add(entry, True), entry)
        write_page(path, report, details, odd)
        assert strict(report.to_json())["episode_records"][0]["bag"] == odd

    Page(path.read_text(encoding="utf-8"))


def test_detail_shows_each_camera_and_time_and_what_is_absent() -> None:
    text = full_page([episode(0, success=False, film=film(), motion=motion())])
    parsed = Page(text)

    alts = [value for name, value in parsed.attributes if name == "alt"]
    assert alts == ["front at 0.0 s", "front at 1.0 s", "wrist at 1.0 s"]
    assert "no picture" in parsed.text
    assert "shoulder" in parsed.text and "elbow" in parsed.text
    labels = [value for name, value in parsed.attributes if name == "aria-label"]
    assert {"Joints over time", "Height of the tool over time"} <= set(labels)
    bare = Page(full_page([episode(0, success=False)])).text
    assert "No pictures." in bare and "No trajectory." in bare and "No events." in bare


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_short_recordings_and_unknown_drivers_can_be_drawn(count: int) -> None:
    driver = np.array([2, 7, -1, 2])[:count]
    tool = np.full((count, 3), np.nan)
    short = Motion(("q",), np.arange(count, dtype=float), np.zeros((count, 1)), tool, np.zeros(count), driver)
    parsed = Page(full_page([episode(0, success=False, motion=short, duration_s=0.0)]))

    assert ("Joints over time" in [v for n, v in parsed.attributes if n == "aria-label"]) == (count > 0)


def test_drawings_follow_the_colour_scheme() -> None:
    text = full_page([episode(0, film=film(), motion=motion())])
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)

    assert len(drawings) >= 8
    for drawing in drawings:
        assert "var(--" in drawing
        assert not re.search(r"#[0-9a-fA-F]{6}\b", drawing), "no colour of one scheme only"
    assert len({light for light, _ in COLOURS.values()}) == len(COLOURS), "one name for each colour"
    assert "prefers-color-scheme:dark" in text and "@media print" in text


def test_the_page_replaces_its_target_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("before")
    with Report() as report, Details(1) as details:
        report.add(episode(0))
        details._file.close()
        details.shown = 1
        with pytest.raises(ValueError, match="closed file"):
            write_page(path, report, details, "Episodes")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path], "no half page is left"


def gathering_and_writing(count: int) -> tuple[int, int]:
    """Most memory [bytes] held while `count` episodes are gathered, and while the page is made."""
    samples = np.random.default_rng(1).exponential(0.01, 1000)
    tracemalloc.start()
    try:
        with Report() as report, Details(1) as details:
            for number in range(count):
                entry = episode(
                    number,
                    success=number % 3 > 0,
                    tracking_error=tuple((samples + number).tolist()),
                    film=film(2000) if details.wanted else None,
                    events=(Event(1.0, "watchdog", "late"),) if number % 10 == 0 else (),
                    left_out=("something could not be used.",) if number % 5 == 0 else (),
                )
                chosen = details.choose(entry)
                placed = report.add(entry, chosen)
                if chosen:
                    details.add(placed, entry)
            gathering = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            for _ in page(report, details, "Episodes"):
                pass
            return gathering, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_episodes() -> None:
    full_page([episode(0, film=film())])  # loads what is loaded on first use
    few, many = gathering_and_writing(50), gathering_and_writing(300)

    # An episode holds 32 kB of samples and a row of 2 kB; what stays of it is what policies are matched by,
    # and when the page is made, a bar and two dots.
    assert many[0] - few[0] < 250 * 400
    assert many[1] - few[1] < 250 * 4000
    assert few[0] > 300_000, "it was measured"
