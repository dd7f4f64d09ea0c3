"""How chunks are executed, measured."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sim_fixtures import shared_robot

from twinbrain_ros.cli import main
from twinbrain_ros.control.strategies import Strategy
from twinbrain_ros.evaluation.execution_bench import Case, run_case
from twinbrain_ros.evaluation.results import RunResults, Ticks
from twinbrain_ros.evaluation.seams import measure_plain, measure_seams
from twinbrain_ros.sim.rollout import SimObservation, expert_policy


@pytest.mark.parametrize("strategy", list(Strategy))
def test_at_no_seam_velocity_changes_by_more_than_acceleration_times_tick(strategy: Strategy) -> None:
    robot = shared_robot()
    record = measure_seams(robot, strategy, delay_s=0.3, seconds=4.0, seed=1)
    acceleration = max(limit.acceleration for limit in robot.limits.values())
    assert record.seams.sum() >= 3
    assert record.largest_step() <= acceleration / robot.rates.command_hz * (1 + 1e-6)
    assert record.largest_acceleration() <= acceleration * (1 + 1e-6)


def test_without_a_governor_it_does() -> None:
    """Else the picture would show nothing."""
    robot = shared_robot()
    assert measure_plain(robot, 0.3, 4.0, 1).largest_step() > 5 * 12.0 / robot.rates.command_hz


def test_guided_chunks_are_smoother_than_a_naive_swap() -> None:
    robot = shared_robot()

    def effort(strategy: Strategy) -> float:
        record = measure_seams(robot, strategy, 0.3, 8.0, 2)
        late = record.times_s > 2.0  # the first two chunks come without a measured delay
        return float(np.abs(np.diff(record.velocities[late], axis=0)).sum())

    assert effort(Strategy.REAL_TIME) < 0.5 * effort(Strategy.RECEDING_HORIZON)


def test_the_seams_are_drawn_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, figures = tmp_path / "seams.png", tmp_path / "seams.json"
    assert main(["bench", "seams", "--out", str(picture), "--seconds", "2", "--json", str(figures)]) == 0
    image = cv2.imread(str(picture))
    assert image is not None and image.shape[0] > 500
    values = json.loads(figures.read_text())
    assert [r["strategy"] for r in values["records"]][1:] == [s.value for s in Strategy]
    assert "bound" in capsys.readouterr().out


def test_controllers_of_the_field_are_measured_and_followed(tmp_path: Path) -> None:
    figures = tmp_path / "followers.json"
    names = ["humble_10", "jazzy_100", "rolling_500_from_desired"]
    command = ["bench", "followers", "--follower", *names, "--episodes", "1", "--json", str(figures)]
    assert main(command) == 0
    rows = json.loads(figures.read_text())["rows"]
    assert [row["driver"] for row in rows] == names
    for row in rows:
        assert row["successes"] == 1 and row["refused"] == 0 and row["faults"] == []
        assert row["fastest_of_limit"] <= 1.05 and row["stopped_share"] == 0.0
        assert row["slowest_of_commanded"] > 0.9 and 0.0 < row["lag_s"] < 0.15


def test_a_driver_whose_clock_is_far_off_is_not_driven(tmp_path: Path) -> None:
    figures = tmp_path / "followers.json"
    command = ["bench", "followers", "--follower", "jazzy_100", "--episodes", "1", "--clock-behind", "-2"]
    assert main([*command, "--json", str(figures)]) == 0
    row = json.loads(figures.read_text())["rows"][0]
    assert row["not_started"] and row["episodes"] == row["sent"] == 0
    assert "do the clocks agree" in row["faults"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seams", "--out", "x.png", "--delay", "-1"], "expected a number of seconds of at least 0"),
        (["execution", "--strategy", "best"], "invalid choice: 'best'"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["bench", *arguments])
    assert exit_code.value.code == 2 and words in capsys.readouterr().err


def test_the_scripted_expert_survives_a_late_policy_with_every_strategy() -> None:
    robot = shared_robot()
    act = expert_policy(robot)
    for strategy in (Strategy.RECEDING_HORIZON, Strategy.REAL_TIME):
        seen: list[SimObservation] = []

        def watch(observation: SimObservation, instruction: str, seen: list = seen) -> np.ndarray:
            seen.append(observation)
            return act(observation, instruction)

        result = run_case(Case(strategy, 0.3), robot, watch, episodes=2, first_seed=900_000).to_json()
        assert (result["successes"], result["episodes"], result["rejected"]) == (2, 2, 0)
        guided = any(observation.guide is not None for observation in seen)
        assert guided == (strategy is Strategy.REAL_TIME)


def test_ticks_are_reported_with_their_share_in_time() -> None:
    ticks = Ticks(p50=0.1, p99=3.0, max=12.0, count=990, over_5_ms=5, skipped=10)
    values = ticks.to_json()
    assert values["late_ms"] == {"p50": 0.1, "p99": 3.0, "max": 12.0} and values["skipped"] == 10
    assert values["within_5_ms"] == pytest.approx(0.985)  # skipped ones were not in time
    table = RunResults(ticks=ticks).table()
    assert "98.50% within 5 ms of 990, 10 skipped" in table
