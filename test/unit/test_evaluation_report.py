from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from report_fixtures import episode, strict

from twinbrain_ros.evaluation.figures import EpisodeFigures, Event, Verdict
from twinbrain_ros.evaluation.report import Report
from twinbrain_ros.evaluation.report_histogram import Histogram


@pytest.fixture
def report() -> Iterator[Report]:
    with Report() as gathered:
        yield gathered


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_percentiles_are_within_half_a_percent_of_the_exact_ones(scale: float) -> None:
    generator = np.random.default_rng(5)
    values = scale * generator.lognormal(0, 1.5, 20_000)
    histogram = Histogram()
    for part in np.array_split(values, 37):
        histogram.add(part)

    assert histogram.count == 20_000
    assert histogram.min == values.min() and histogram.max == values.max()
    for percent in (0, 0.1, 1, 25, 50, 90, 99, 99.9, 100):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(values, percent), rel=0.005)


def test_percentiles_of_few_values_interpolate_like_exact_ones() -> None:
    values = [3.0, -50.0, 0.0, 700.0, 20.0]
    histogram = Histogram()
    histogram.add(values)

    for percent in (0, 10, 25, 40, 50, 60, 75, 90, 100):
        expected = np.percentile(values, percent)
        assert histogram.percentile(percent) == pytest.approx(expected, rel=0.005, abs=0.15)
    assert histogram.percentile(50) == pytest.approx(3.0, rel=0.005)


def test_values_beyond_the_bins_and_without_a_number_do_not_spoil_a_histogram() -> None:
    histogram = Histogram()
    dropped = histogram.add([1e-12, -1e-12, 1e15, float("nan"), float("inf"), -float("inf")])

    assert (dropped, histogram.count) == (3, 3)
    assert histogram.max == 1e15 and histogram.percentile(50) == pytest.approx(0, abs=1e-7)
    assert Histogram().percentile(50) is None
    with pytest.raises(ValueError, match="percent: found 101"):
        histogram.percentile(101)


def test_coarse_counts_are_those_of_the_values_without_stripes_of_the_fine_bins() -> None:
    values = np.random.default_rng(2).uniform(0, 100, 200_000)
    histogram = Histogram()
    histogram.add(values)
    edges = np.linspace(0, 100, 51)
    counts = histogram.counts_between(edges)

    assert counts.sum() == pytest.approx(200_000, rel=0.005)
    assert counts[:48] == pytest.approx(np.full(48, 4000.0), rel=0.1)


def test_figures_have_the_promised_keys_and_values(report: Report) -> None:
    judged = Verdict("success", source="judge: done?")
    report.add(episode(0, judged=judged, events=(Event(1.0, "watchdog", "camera"), Event(2.0, "estop", "b"))))
    report.add(episode(1, success=False, judged=judged, task="put", lost={"/camera": 2, "/other": 0}))
    report.add(episode(2, success=None, judged=judged, policy="two@2222", truncated=True))
    report.leave_out("/bags/broken", "holds no messages")
    values = strict(report.to_json())

    assert (values["episodes"], values["successes"], values["unlabelled"]) == (3, 1, 1)
    assert values["success_rate"] == 0.5, "of the two labelled ones"
    assert values["success_interval"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert values["tasks"]["put"]["success_rate"] == 0.0
    assert values["policies"]["two@2222"]["success_rate"] is None
    assert values["policies"]["one@1111"]["tasks"]["pick"]["successes"] == 1
    assert values["interventions_per_minute"] == pytest.approx(3 / 18 * 60)
    assert values["time_to_success_s"] == {"count": 1, "p50": 4.0, "p99": 4.0, "max": 4.0}
    assert values["observation_to_command_ms"]["p50"] == pytest.approx(40, rel=0.005)
    assert values["observation_to_command_ms"]["count"] == 9
    assert values["inference_ms"]["max"] == 21.0
    assert values["tick_jitter_ms"]["max"] == 0.3, "early is as bad as late"
    assert values["jerk_rms_rad_s3"] == {"count": 3, "p50": 3.0, "p99": 3.0, "max": 3.0}
    assert values["tracking_error_rad"]["max"] == 0.02
    assert (values["watchdog_events"], values["estops"], values["truncated"]) == (1, 1, 1)
    assert values["chunks"] == {"published": 12, "executed": 9, "stale": 3}
    assert values["messages_lost"] == {"/camera": 2}
    assert values["judge"]["counts"] == {
        "both_success": 1,
        "only_label_success": 0,
        "only_judge_success": 1,
        "both_failure": 0,
    }
    assert values["judge"]["agreement"] == 0.5 and values["judge"]["kappa"] == 0.0
    assert values["left_out"] == {"/bags/broken": ["holds no messages"]}
    assert [record["seed"] for record in values["episode_records"]] == [0, 1, 2]
    assert values["episode_records"][0]["stops"][1] == {"time_s": 2.0, "kind": "estop", "text": "b"}
    assert values["comparison"] is None, "the second policy has no label"


def test_seam_steps_are_counted_against_each_episodes_own_limit(report: Report) -> None:
    report.add(episode(0, seam_steps=(0.1, 0.1 + 1e-12, 0.11), seam_limit=0.1))
    report.add(episode(1, seam_steps=(0.15, -0.25), seam_limit=0.2))
    seams = strict(report.figures())["seam_velocity_step_rad_s"]

    assert (seams["limit"], seams["over_limit"], seams["max"]) == (0.1, 2, 0.25)


def test_a_report_of_nothing_known_is_null_and_not_zero(report: Report) -> None:
    report.add(EpisodeFigures("/bags/empty"))
    values = strict(report.to_json())

    assert values["success_rate"] is None and values["success_interval"] == [0.0, 1.0]
    assert values["interventions_per_minute"] is None
    assert values["observation_to_command_ms"] == {"count": 0, "p50": None, "p99": None, "max": None}
    assert values["seam_velocity_step_rad_s"]["limit"] is None
    assert values["seam_velocity_step_rad_s"]["over_limit"] is None
    assert values["judge"]["agreement"] is None and values["judge"]["kappa"] is None


def test_numbers_that_are_none_are_left_out_and_named(report: Report) -> None:
    bad = float("nan")
    report.add(
        episode(
            0,
            inference_ms=(bad, 20.0),
            jerk_rms=float("inf"),
            duration_s=bad,
            time_to_success_s=bad,
            autonomy_s=bad,
            events=(Event(bad, "watchdog", "when?"),),
        )
    )
    values = strict(report.to_json())

    assert values["inference_ms"]["count"] == 1
    assert values["jerk_rms_rad_s3"]["count"] == 0 and values["time_to_success_s"]["count"] == 0
    assert values["interventions_per_minute"] == 60, "per minute of the part that is known"
    sentence = "1 of 2 values of inference_ms are not finite and not used."
    assert values["left_out"] == {"/bags/episode_0": [sentence]}


def test_two_policies_are_compared_on_matched_scenes(report: Report) -> None:
    for seed in range(10):
        report.add(episode(seed, success=seed < 2))
    for seed in range(10):
        report.add(episode(seed, success=True, policy="two@2222"))
    comparison = strict(report.figures())["comparison"]

    assert (comparison["a"], comparison["b"]) == ("one@1111", "two@2222")
    assert (comparison["matched"]["n10"], comparison["matched"]["n01"]) == (0, 8)
    assert comparison["p_value"] == 2 / 2**8 and comparison["significant"]
    assert "A succeeds less often than B" in report.table()


def test_three_policies_are_compared_with_the_first_and_p_values_adjusted(report: Report) -> None:
    for policy, successes in (("one", 0), ("two", 8), ("three", 6)):
        for seed in range(8):
            report.add(episode(seed, success=seed < successes, policy=policy))
    report.add(episode(0, policy=""))  # a person's demonstration is no policy
    found = strict(report.figures())["comparisons"]

    assert [(entry["a"], entry["b"]) for entry in found] == [("one", "two"), ("one", "three")]
    assert [entry["p_value"] for entry in found] == [2 * 2 / 2**8, 2 / 2**6]
    assert found[0]["adjusted_by"] == "Holm"


def test_table_tells_rates_unlabelled_ones_and_what_is_left_out(report: Report) -> None:
    report.add(episode(0))
    report.add(episode(1, success=None))
    report.leave_out("/bags/broken", "empty")
    table = report.table()

    assert "100.0% (1 of 1), 95 % interval 20.7 to 100.0 %; 1 without a label not counted" in table
    assert "p50 40.0 ms" in table and "something in 1 bags" in table
