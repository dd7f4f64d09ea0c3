from __future__ import annotations

import json

import pytest
from evaluation_fixtures import record

from twinbrain_ros.evaluation.records import Rates, by_task
from twinbrain_ros.evaluation.results import FrameCounts, RunResults
from twinbrain_ros.evaluation.tally import ChunkTally


def full_run() -> RunResults:
    chunks = ChunkTally()
    for sequence in range(4):
        chunks.on_chunk(inference_time_s=0.010 + 0.001 * sequence)
    chunks.on_status("executed", "", observation_ns=1_000_000_000, first_command_ns=1_030_000_000)
    chunks.on_status("executed", "", observation_ns=2_000_000_000, first_command_ns=2_050_000_000)
    chunks.on_status("stale", "too old", observation_ns=3, first_command_ns=0)
    chunks.on_status("discarded", "in hold", observation_ns=4, first_command_ns=0)
    return RunResults(
        records=[record(0), record(1, "put", success=False, wrong_object=True), record(2)],
        chunks=chunks,
        frames=FrameCounts(
            {
                "front": {"sent": 100, "received": 100, "used": 40},
                "wrist": {"sent": 100, "received": 98, "used": 40},
            }
        ),
        context={"settings": {"task": "all"}},
    )


def test_json_has_the_promised_keys_and_figures() -> None:
    values = json.loads(json.dumps(full_run().to_json()))

    assert (values["episodes"], values["successes"]) == (3, 2)
    assert values["success_rate"] == pytest.approx(2 / 3)
    low, high = values["success_interval"]
    assert 0 < low < 2 / 3 < high < 1
    assert values["wrong_object_rate"] == pytest.approx(1 / 3)
    assert values["observation_to_command_ms"]["p50"] == pytest.approx(40)
    assert values["inference_ms"]["p50"] == pytest.approx(11.5)
    assert {"p50", "p99"} <= set(values["inference_ms"])
    assert {"sent": 200, "received": 198, "used": 80, "lost": 2}.items() <= values["frames"].items()
    counts = {"published": 4, "executed": 2, "stale": 1, "refused": 0, "discarded": 1}
    assert counts.items() <= values["chunks"].items()
    assert values["tasks"]["pick"]["success_rate"] == 1
    assert values["tasks"]["put"]["success_rate"] == 0
    assert values["seeds"] == [100, 101, 102]
    assert values["settings"] == {"task": "all"}
    assert [entry["seed"] for entry in values["episode_records"]] == [100, 101, 102]


def test_table_states_rates_intervals_and_losses() -> None:
    table = full_run().table()

    assert "success, pick" in table and "100.0% (2 of 2)" in table
    assert "success, all" in table and "66.7% (2 of 3), 95 % interval 20.8 to 93.9 %" in table
    assert "33.3% (1 of 3)" in table
    assert "p50 40.0 ms" in table
    assert "200 sent, 198 received, 80 used, 2 lost" in table
    assert "4 published, 2 executed, 1 stale, 0 refused, 1 discarded" in table


def test_an_interrupted_run_reports_unknown_as_null_and_not_as_zero() -> None:
    results = RunResults(interrupted=True)
    values = results.to_json()

    assert values["frames"] is None
    assert values["success_rate"] is None
    assert values["success_interval"] == [0.0, 1.0]
    assert values["observation_to_command_ms"]["p99"] is None
    assert "not known" in results.table() and "interrupted" in results.table()


def test_tally_refuses_an_outcome_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="found 'lost', expected one of executed, stale"):
        ChunkTally().on_status("lost", "", 0, 0)


def test_tallies_of_two_stretches_add_up() -> None:
    first, second = full_run().chunks, full_run().chunks
    second.on_status("refused", "names differ", 0, 0)
    first.add(second)

    assert first.counts() == {"published": 8, "executed": 4, "stale": 2, "refused": 1, "discarded": 2}
    assert len(first.observation_to_command_ms) == 4
    assert first.refusals == {"names differ": 1}


def test_only_a_few_reasons_of_refusal_are_kept_in_words() -> None:
    chunks = ChunkTally()
    for number in range(20):
        chunks.on_status("refused", f"missed by {number} mm", 0, 0)
    assert len(chunks.refusals) == 6 and chunks.refusals["other reasons"] == 15


def test_line_of_an_episode_names_outcome_seed_and_both_instructions_if_it_was_retargeted() -> None:
    line = record(2, first_instruction="pick up the blue block", success=False, wrong_object=True).line(20)

    assert line.startswith("[ 3/20] FAILED  after  5.5 s  seed 102")
    assert "pick up the blue block -> pick up the red block" in line
    assert "wrong object" in line


def test_records_group_by_task_in_order_of_appearance() -> None:
    groups = by_task([record(0, "put"), record(1), record(2, "put")])

    assert list(groups) == ["put", "pick"]
    assert Rates.of(groups["put"]).episodes == 2
