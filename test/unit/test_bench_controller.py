"""`twinbrain bench controller`: what counts as late, and how a run ends. The loop is made by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sim_fixtures import shared_robot
from trajectory_msgs.msg import JointTrajectory

from twinbrain_ros.cli import main
from twinbrain_ros.control.timing import PAST_S, lead_s
from twinbrain_ros.demo import loop as demo_loop
from twinbrain_ros.demo.client import LoopError
from twinbrain_ros.evaluation.controller_bench import Arrivals, CommandWatch, Measured, measure, rows
from twinbrain_ros.evaluation.results import Ticks
from twinbrain_ros.nodes import convert

RATE_HZ, PERIOD_NS, MS = 100.0, 10_000_000, 1_000_000
START_NS = 1_700_000_000_123_456_789  # of today's size: nanoseconds must not get lost


def on_the_grid(count: int = 100) -> list[int]:
    return [START_NS + k * PERIOD_NS for k in range(count)]


def arrivals(times_ns: list[int], resting: tuple[int, ...] = ()) -> Arrivals:
    moving = np.array([k not in resting for k in range(len(times_ns))])
    return Arrivals(np.array(times_ns, dtype=np.int64), moving)


def test_commands_in_their_turn_are_not_late() -> None:
    seen = arrivals(on_the_grid())
    assert len(seen.late_ms(RATE_HZ)) == len(seen.intervals_ms()) == 99
    assert max(seen.late_ms(RATE_HZ)) == pytest.approx(0.0, abs=1e-3)
    assert seen.intervals_ms() == pytest.approx([10.0] * 99)


def test_one_late_command_is_late_once_although_the_next_interval_is_short() -> None:
    times = on_the_grid()
    times[50] += 7 * MS
    late = arrivals(times).late_ms(RATE_HZ)
    assert sum(ms > 1.0 for ms in late) == 1 and max(late) == pytest.approx(7.0, abs=0.01)


def test_a_skipped_turn_is_late_by_a_period() -> None:
    times = on_the_grid()
    del times[50]
    late = arrivals(times).late_ms(RATE_HZ)
    assert sum(ms > 1.0 for ms in late) == 1 and max(late) == pytest.approx(10.0, abs=0.01)


def test_a_command_on_a_chunks_arrival_makes_none_late() -> None:
    times = on_the_grid()
    extra = sorted([*times, times[20] + 4 * MS, times[60] + 9 * MS])
    late = arrivals(extra).late_ms(RATE_HZ)
    assert min(late) > -2.0 and max(late) < 0.01 and len(late) >= 98


def test_an_arm_at_rest_needs_no_commands() -> None:
    times = on_the_grid()
    times[50:] = [ns + 33 * PERIOD_NS for ns in times[50:]]
    assert max(arrivals(times).late_ms(RATE_HZ)) == pytest.approx(330.0, abs=0.01)
    resting = arrivals(times, resting=(49,))
    assert max(resting.late_ms(RATE_HZ)) < 0.01 and max(resting.intervals_ms()) == pytest.approx(10.0)


def test_a_few_commands_say_nothing_about_turns() -> None:
    assert arrivals(on_the_grid(5)).late_ms(RATE_HZ) == []


def trajectory(velocity: float) -> JointTrajectory:
    """In motion until its decision; where it leads to it is as fast as is said, then at rest."""
    times_s, velocities = (0.0, PAST_S, PAST_S + lead_s(RATE_HZ), 0.3), (0.1, 0.1, velocity, 0.0)
    return convert.trajectory_message(["a"], times_s, [[0.0]] * 4, [[v] for v in velocities], START_NS)


def hear(watch: CommandWatch, times_ns: list[int], velocity: float = 0.1) -> None:
    for time_ns in times_ns:
        watch.on_trajectory(trajectory(velocity), {"received_timestamp": time_ns})


def test_what_lies_between_two_stretches_of_autonomy_is_no_interval() -> None:
    watch, times = CommandWatch(RATE_HZ), on_the_grid(80)
    hear(watch, times[:30])
    hear(watch, times[50:])
    watch.add_stretch(START_NS, times[35])
    watch.add_stretch(times[45], times[79])
    assert [len(some.times_ns) for some in watch.arrivals()] == [30, 30]
    assert all(max(some.intervals_ms()) == pytest.approx(10.0) for some in watch.arrivals())


def test_a_command_that_leads_to_rest_is_the_last_of_a_motion() -> None:
    watch, times = CommandWatch(RATE_HZ), on_the_grid(30)
    hear(watch, times[:29])
    hear(watch, times[29:], velocity=0.0)
    watch.add_stretch(times[0], times[-1])
    assert watch.arrivals()[0].moving.tolist() == [True] * 29 + [False]


class StandInClient:
    """A client whose loop ticks 100 times a second and succeeds at nothing; time passes in `spin_until`."""

    def __init__(self, ends: BaseException | None = None) -> None:
        self.ends, self.reports, self.asked = ends, 0, 0
        self.node = SimpleNamespace(create_subscription=lambda *arguments: None)
        self.stopped, self.faults = False, ["held up"]

    def now_ns(self) -> int:
        return self.asked

    def counter(self, key: str, since_ns: int) -> int:
        return 0

    def ticks(self) -> Ticks:
        return Ticks(0.1, 1.0, 9.0, count=1000 + 100 * self.reports, over_5_ms=3 + self.reports, skipped=7)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        self.reports += 1
        if self.ends is not None and self.reports > 2:
            raise self.ends
        return condition() or timeout_s < 1e-3

    def reset_scene(self, seed: int, task: str) -> str:
        return "pick up the red block"

    def release(self) -> None: ...
    def instruct(self, text: str) -> None: ...
    def set_mode(self, mode: int, reason: str) -> None: ...
    def watch_scene(self, handler: Any) -> None: ...


def test_ticks_of_bringing_up_are_not_counted_and_an_interrupted_run_keeps_its_figures() -> None:
    measured = Measured(RATE_HZ)
    loop: Any = SimpleNamespace(client=StandInClient(KeyboardInterrupt()), robot=shared_robot())
    with pytest.raises(KeyboardInterrupt):
        measure(loop, 60.0, measured)
    facts = measured.to_json()
    assert (facts["ticks"], facts["skipped"], facts["episodes"]) == (200, 0, 2)
    assert facts["within_5_ms"] == pytest.approx(198 / 200)
    assert facts["late_ms"] == {"p50": 0.1, "p99": 1.0, "max": 9.0} and facts["faults"] == ["held up"]


def test_the_figures_have_their_names_and_are_told_even_if_nothing_was_heard() -> None:
    facts = json.loads(json.dumps(Measured(RATE_HZ).to_json()))
    assert facts["subscriber"]["within_5_ms"] is None and "ticks" not in facts
    assert "nothing measured" in str(rows(facts))
    measured = Measured(RATE_HZ, Ticks(0.1, 3.0, 12.0, 990, 5, 10), seconds=10.0, episodes=1)
    hear(measured.watch, times := on_the_grid())
    measured.watch.add_stretch(times[0], times[-1])
    facts = json.loads(json.dumps(measured.to_json()))
    assert {"rate_hz", "seconds", "late_ms", "ticks", "skipped", "within_5_ms", "machine", "versions"} <= set(
        facts
    )
    assert facts["subscriber"]["within_5_ms"] == 1.0 and facts["subscriber"]["intervals_ms"]["count"] == 99
    assert "990, 10 skipped" in str(rows(facts))


@pytest.mark.parametrize(
    ("ends", "code", "words"),
    [
        (LoopError("policy_node: no such checkpoint"), 1, "error: policy_node: no such checkpoint"),
        (KeyboardInterrupt(), 0, "interrupted; all nodes have ended"),
    ],
)
def test_a_loop_that_cannot_run_is_an_error_and_an_interrupted_one_is_not(
    ends: BaseException,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def no_loop(settings: demo_loop.LoopSettings) -> Iterator[None]:
        assert settings.command_hz == 80.0
        raise ends
        yield

    monkeypatch.setattr(demo_loop, "running_loop", no_loop)
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    assert main(["bench", "controller", "--rate-hz", "80", "--seconds", "1"]) == code
    out, err = capsys.readouterr()
    assert words in out + err and "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate-hz", "5"], "expected a rate from 10 to 1000 Hz"),
        (["--rate-hz", "nan"], "expected a rate from 10 to 1000 Hz"),
        (["--seconds", "-1"], "expected a number of seconds above 0"),
        (["--seconds", "0"], "expected a number of seconds above 0"),
    ],
)
def test_a_rate_or_a_time_that_cannot_be_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "controller", *arguments])
    assert ended.value.code == 2 and words in capsys.readouterr().err
