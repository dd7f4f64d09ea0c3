"""What an evaluation leaves: trials on disk, figures with intervals, protocols that compare or do not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_fixtures import trial

from twinbrain_ros.benchmarks.results import (
    Protocol,
    ResultsError,
    TrialLog,
    compare_results,
    figures,
    report,
    table,
)
from twinbrain_ros.benchmarks.trial import TrialKey
from twinbrain_ros.evaluation.statistics import wilson_interval

PROTOCOL = Protocol(
    suite="simpler-ms3",
    simulator="mani-skill-3.0.1/cpu",
    control_hz=5.0,
    limits={"a": 60, "b": 120},
    first_placement=0,
    placements=24,
    trials=24,
    seed=0,
    profile="simpler_starvla",
    execution="temporal_ensemble:1:adaptive_cosine7-0.1",
    delay_steps=0,
    success="last",
    assets="standin",
)


# Trials on disk -------------------------------------------------------------------------------------


def test_trials_are_there_again_after_a_kill(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "t.jsonl", "twin@1", PROTOCOL)
    log.add(trial("a", 0))
    log.add(trial("b", 3, 1, success=False, reruns=1))
    again = TrialLog(tmp_path / "t.jsonl", "twin@1", PROTOCOL)
    assert again.trials == log.trials and set(again.trials) == {TrialKey("a", 0, 0), TrialKey("b", 3, 1)}


def test_a_line_that_a_kill_cut_off_is_played_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    log = TrialLog(path, "twin@1", PROTOCOL)
    for placement in range(3):
        log.add(trial("a", placement))
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(ends[0], len(whole), 11):
        path.write_bytes(whole[:cut])
        again = TrialLog(path, "twin@1", PROTOCOL)
        kept = sum(end <= cut for end in ends) - 1
        assert [key.placement for key in again.trials] == list(range(kept))
        again.add(trial("a", 9))
        assert len(TrialLog(path, "twin@1", PROTOCOL).trials) == kept + 1


def test_trials_of_another_policy_or_protocol_are_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    TrialLog(path, "twin@1", PROTOCOL).add(trial())
    other = dataclasses.replace(PROTOCOL, delay_steps=2, limits={"a": 120, "b": 120})
    with pytest.raises(
        ResultsError, match=r"policy: 'twin@1' and 'twin@2'.*delay_steps: 0 and 2.*limit of a: 60"
    ):
        TrialLog(path, "twin@2", other)
    more = dataclasses.replace(PROTOCOL, trials=48, limits={"a": 60, "c": 60})
    assert len(TrialLog(path, "twin@1", more).trials) == 1


@pytest.mark.parametrize("content", ["{}\n", "hello\n", '{"policy": "p", "protocol": {"suite": "x"}}\n'])
def test_a_file_that_holds_something_else_is_left_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ResultsError, match="found no trials of an evaluation"):
        TrialLog(path, "twin@1", PROTOCOL)
    assert path.read_text(encoding="utf-8") == content


# Figures --------------------------------------------------------------------------------------------


def test_rates_go_by_the_protocols_rule_and_the_others_stand_beside_it() -> None:
    trials = [
        trial("a", 0, grasped=True),
        trial("a", 1, success=False, success_any=True, success_chunk=True, steps_to_success=30, grasped=True),
        trial("a", 2, success=False, success_any=True, steps_to_success=40, grasped=False),
        trial("a", 3, success=False, grasped=False),
    ]
    for rule, k in (("last", 1), ("chunk", 2), ("any", 3)):
        found = figures(trials, rule)
        assert (found["k"], found["n"], found["rate"]) == (k, 4, k / 4)
        assert found["interval"] == list(wilson_interval(k, 4))
        assert (found["success_final"], found["success_chunk"], found["success_any"]) == (0.25, 0.5, 0.75)
        assert found["steps_to_success"] == 30 and found["grasp_rate"] == 0.5


def test_repeats_of_a_placement_do_not_narrow_the_interval_over_placements() -> None:
    once = [trial("a", p, success=p < 12) for p in range(24)]
    often = [trial("a", p, r, success=p < 12) for p in range(24) for r in range(20)]
    narrow, wide = figures(often, "last")["interval"], figures(often, "last")["interval_placements"]
    assert figures(once, "last")["interval_placements"] == wide
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert wide == pytest.approx([0.29, 0.71], abs=0.03)  # binomial of 24


def test_nothing_played_is_not_a_rate_of_zero() -> None:
    found = figures([], "last")
    assert found["rate"] is None and found["interval"] == [0.0, 1.0] and found["interval_placements"] is None


def made(path: Path, policy: str, protocol: Protocol = PROTOCOL, wins: int = 12) -> dict[str, Any]:
    log = TrialLog(path.with_suffix(".trials.jsonl"), policy, protocol)
    for task in protocol.limits:
        for placement in range(24):
            log.add(trial(task, placement, success=placement < wins))
    values = report(log, list(log.trials), protocol, {})
    path.write_text(json.dumps(values), encoding="utf-8")
    return values


def test_the_report_has_every_number_beside_its_protocol(tmp_path: Path) -> None:
    values = made(tmp_path / "r.json", "twin@1")
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == values
    assert {"n", "success_final", "success_any", "interval", "protocol", "tasks"} <= set(values)
    assert values["n"] == 48 and values["tasks"]["a"]["k"] == 12 and values["mean_of_tasks"] == 0.5
    assert values["protocol"] == (
        "simpler-ms3/mani-skill-3.0.1/cpu/5Hz/limit=60+120/placements=0-23/trials=24/seed=0/profile=simpler_starvla/"
        "exec=temporal_ensemble:1:adaptive_cosine7-0.1/delay=0/success=last/assets=standin"
    )
    shown = table(values)
    assert "12/24" in shown and "[31.4, 68.6]" in shown and values["protocol"] in shown and "twin@1" in shown


def test_results_of_one_protocol_are_compared_trial_by_trial(tmp_path: Path) -> None:
    made(tmp_path / "old.json", "twin@1", wins=6)
    values = made(tmp_path / "new.json", "twin@2", wins=18)
    found = compare_results(values, tmp_path / "old.json")
    assert found.matched.counts() == {"pairs": 48, "both": 12, "n10": 24, "n01": 0, "neither": 12}
    assert found.significant


def test_results_of_another_protocol_are_refused_and_the_difference_is_named(tmp_path: Path) -> None:
    longer = dataclasses.replace(PROTOCOL, limits={"a": 120, "b": 120}, assets="published")
    made(tmp_path / "old.json", "twin@1", longer)
    values = made(tmp_path / "new.json", "twin@2")
    with pytest.raises(ResultsError, match=r"limits: .*60.*120.*assets: 'standin' and 'published'"):
        compare_results(values, tmp_path / "old.json")


def test_what_is_to_be_compared_may_differ_and_is_told(tmp_path: Path) -> None:
    late = dataclasses.replace(PROTOCOL, execution="open_loop:4", delay_steps=2)
    made(tmp_path / "old.json", "twin@1", late, wins=6)
    values = made(tmp_path / "new.json", "twin@1", wins=18)
    with pytest.raises(ResultsError, match="delay_steps: 0 and 2"):
        compare_results(values, tmp_path / "old.json", ["execution"])
    found = compare_results(values, tmp_path / "old.json", ["execution", "delay_steps"])
    assert found.matched.counts()["n10"] == 24
    assert found.b == "execution open_loop:4, delay_steps 2" != found.a
    other = made(tmp_path / "newest.json", "twin@2", dataclasses.replace(late, delay_steps=1), wins=18)
    found = compare_results(other, tmp_path / "old.json", ["execution", "delay_steps"])
    assert (found.a, found.b) == ("twin@2, delay_steps 1", "twin@1, delay_steps 2")


def test_a_file_without_results_is_named(tmp_path: Path) -> None:
    values = made(tmp_path / "new.json", "twin@2")
    with pytest.raises(ResultsError, match=r"none.json: found no results"):
        compare_results(values, tmp_path / "none.json")
