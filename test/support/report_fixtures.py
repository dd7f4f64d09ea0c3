"""Episodes to make a report of, and a reader for its page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np

from twinbrain_ros.evaluation.figures import EpisodeFigures, Film, Motion, Verdict

JPEG = b"\xff\xd8not quite a picture\xff\xd9"


def film(size: int = 1) -> Film:
    return Film((-0.01, 1.0), {"front": (JPEG * size, JPEG * size), "wrist": (None, JPEG)})


def motion(count: int = 50) -> Motion:
    times = np.linspace(0, 5, count)
    joints = np.stack([np.sin(times), np.cos(times)], axis=1)
    tool = np.stack([np.cos(times), np.sin(times), 0.1 * times], axis=1)
    driver = np.where(times < 1, 0, np.where(times < 4, 2, 1)).astype(np.int64)
    return Motion(("shoulder", "elbow"), times, joints, tool, np.zeros(count), driver)


def episode(number: int, success: bool | None = True, **changes: Any) -> EpisodeFigures:
    values: dict[str, Any] = {
        "bag": f"/bags/episode_{number}",
        "robot": "wx250s",
        "policy": "one@1111",
        "task": "pick",
        "seed": number,
        "instruction": "pick up the red block",
        "started_ns": 1_700_000_000_000_000_000 + number,
        "duration_s": 6.0,
        "label": None if success is None else Verdict("success" if success else "failure", source="person"),
        "autonomy_s": 5.0,
        "teleop_s": 1.0,
        "time_to_success_s": 4.0 if success else None,
        "interventions": 1,
        "observation_to_command_ms": (30.0, 40.0, 50.0),
        "inference_ms": (20.0, 21.0),
        "tick_jitter_ms": (0.1, -0.3),
        "seam_steps": (0.05, 0.1),
        "seam_limit": 0.1,
        "jerk_rms": 3.0,
        "tracking_error": (0.01, 0.02),
        "chunks": {"published": 4, "executed": 3, "stale": 1},
    }
    return EpisodeFigures(**{**values, **changes})


def strict(values: dict[str, Any]) -> dict[str, Any]:
    """The values as a program reads them that knows no NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in JSON")

    return json.loads(json.dumps(values), parse_constant=refuse)


class Page(HTMLParser):
    """What a page is made of; fails on tags that do not match."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what is open"

    def handle_data(self, data: str) -> None:
        self.text += data
