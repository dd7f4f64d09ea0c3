"""Trials: one by one, side by side, with workers that die, hang or fail."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_fixtures import RulePlayer, open_worker, plan_for, standing
from put_on_suite import MARKER, MAT, THING, PutOn
from script_files import load_script

from twinbrain_ros.benchmarks.actions import codec_for
from twinbrain_ros.benchmarks.expert import PutOnExpert
from twinbrain_ros.benchmarks.players import TOOL_RULE, ExpertPlayer, SuiteMismatch
from twinbrain_ros.benchmarks.process import WorkerError, WorkerMissing, WorkerProcess
from twinbrain_ros.benchmarks.profile import load_profile
from twinbrain_ros.benchmarks.runner import Runner
from twinbrain_ros.benchmarks.trial import Ask, Kicks, Lead, TrialKey, TrialResult, noise_seed, play
from twinbrain_ros.control.steps import StepExecutor
from twinbrain_ros.control.strategies import ChunkSettings, Strategy
from twinbrain_ros.robot.actions import euler_to_matrix


class Played:
    """What a runner tells."""

    def __init__(self) -> None:
        self.results: dict[TrialKey, TrialResult] = {}
        self.failed: dict[TrialKey, str] = {}

    def __call__(self, key: TrialKey, outcome: TrialResult | WorkerError) -> None:
        if isinstance(outcome, WorkerError):
            self.failed[key] = str(outcome)
        else:
            self.results[key] = outcome


def run(
    tasks: tuple[str, ...],
    folder: Path,
    player: Any,
    *,
    placements: int = 3,
    workers: int = 1,
    limit: int = 5,
    step_s: float = 60.0,
    together: int = 1,
) -> Played:
    """together: so many workers are there before the first one plays."""
    played, gate = Played(), threading.Barrier(together)

    def opens(task: str) -> WorkerProcess:
        worker = open_worker(task, folder, limit, step_s=step_s)
        if together > 1:
            gate.wait(60.0)
        return worker

    keys = [TrialKey(task, placement, 0) for task in tasks for placement in range(placements)]
    Runner(player, plan_for(tasks, limit), opens, played).run(keys, workers)
    return played


# One trial ------------------------------------------------------------------------------------------


def played_here(rule: Any, *, horizon: int, executor: StepExecutor, **more: Any) -> TrialResult:
    """A trial in this process."""
    codec = codec_for(TOOL_RULE, "observation")
    return play(PutOn("calm", 60), TrialKey("calm", 0, 0), executor, codec, rule, horizon=horizon, **more)


@pytest.mark.parametrize("placement", range(20))
def test_the_expert_puts_things_where_they_belong(placement: int) -> None:
    expert = PutOnExpert()
    result = play(
        PutOn("calm", 60),
        TrialKey("calm", placement, 0),
        StepExecutor(ChunkSettings(execution_steps=1), 1),
        codec_for(TOOL_RULE, "observation"),
        lambda ask: expert.act(ask.observation["state"], ask.observation["truth"]),
        limit=60,
        horizon=1,
    )
    assert result.success_last and result.grasped and result.steps == 60
    assert result.steps_to_success is not None and result.steps_to_success < 40


def test_a_trial_counts_success_at_the_last_step_at_any_and_at_the_end_of_chunks() -> None:
    """The expert in chunks of one step, until it has succeeded; then the thing is taken away again."""
    expert = PutOnExpert()

    def spoils(ask: Ask) -> np.ndarray:
        row = expert.act(ask.observation["state"], ask.observation["truth"])
        if ask.observation["images"]["3rd_view_camera"][0, 1, 0] > 30:
            row[0, :3], row[0, -1] = [0.0, -0.05, -0.02], 0.0
        return row

    executor = StepExecutor(ChunkSettings(execution_steps=1), 1)
    result = played_here(spoils, horizon=1, executor=executor, limit=60)
    assert result.success_any and result.success_chunk and result.steps_to_success is not None
    stopped = played_here(spoils, horizon=1, executor=executor, limit=60, stop_after=0)
    assert stopped.success_last and stopped.steps == stopped.steps_to_success == result.steps_to_success
    later = played_here(spoils, horizon=1, executor=executor, limit=60, stop_after=2)
    assert later.steps == stopped.steps + 2


def test_an_expert_whose_gripper_closed_on_nothing_opens_it_again() -> None:
    suite, expert = PutOn("calm", 60), PutOnExpert()
    found = suite.reset(3, 0)
    beside = found["truth"]["source_position"] + [0.0, 0.025, 0.0]
    for opening, wanted in ((0.55, 0.0), (0.0, 1.0)):
        state = {**found["state"], "position": beside, "gripper": np.array([opening])}
        assert expert.act(state, found["truth"])[0, -1] == wanted


def test_an_expert_lets_be_what_is_where_it_belongs() -> None:
    """A success off the middle, as of a thing that rolled there, is no reason to take hold of it again."""
    suite, expert = PutOn("calm", 60), PutOnExpert()
    suite.reset(0, 0)
    suite.thing = suite.mat + np.array([0.025, 0.0, THING[2] / 2])
    suite.position = suite.thing + np.array([0.0, 0.0, 0.10])
    for _ in range(8):
        found = suite._observation()
        row = expert.act(found["state"], found["truth"])[0]
        assert row[-1] == 1.0
        suite.act({"translation": row[:3], "rotation": np.eye(3), "gripper": row[-1]})
    assert suite.position[2] > 0.10 and suite._over()


def test_an_expert_that_is_held_up_closes_where_it_has_got_to() -> None:
    found = PutOn("calm", 60).reset(0, 0)
    state, truth = found["state"], found["truth"]
    above = {
        **state,
        "position": truth["source_position"] + np.array([0.0, 0.0, 0.018]),
        "target_position": truth["source_position"],
    }
    for speed, wanted in ((0.1, 1.0), (0.0, 0.0)):
        assert PutOnExpert().act(above, {**truth, "tool_speed": np.array([speed])})[0, -1] == wanted
    # Standing still where it was told to be, it goes further down.
    waiting = {**above, "target_position": above["position"]}
    assert PutOnExpert().act(waiting, {**truth, "tool_speed": np.zeros(1)})[0, -1] == 1.0


def test_an_expert_lets_go_at_the_height_of_a_tilted_bottom() -> None:
    found = PutOn("calm", 60).reset(0, 0)
    state, truth = found["state"], found["truth"]
    tilt = euler_to_matrix(np.array([0.2, 0.0, 0.0]))
    # Held a hair above the middle of a tilted mat; the box around the mat is higher by 1 cm.
    middle = truth["target_position"] + [0.0, 0.0, MAT[2] / 2 + THING[2] / 2 + 0.008]
    told = {**truth, "target_rotation": tilt, "source_position": middle}
    holding = {**state, "position": middle, "gripper": np.array([0.55])}
    assert PutOnExpert().act(holding, told)[0, -1] == 1.0
    above = middle + np.array([0.0, 0.0, 0.006])
    higher = {**told, "source_position": above}
    assert PutOnExpert().act({**holding, "position": above}, higher)[0, -1] == 0.0


def test_a_trial_ends_exactly_at_its_limit_and_every_observation_is_watched() -> None:
    seen: list[tuple[int, bool]] = []

    def watch(observation: Mapping[str, Any], action: Mapping[str, Any] | None) -> None:
        seen.append((int(observation["images"]["3rd_view_camera"][0, 1, 0]), action is None))

    player = standing()
    result = played_here(
        lambda ask: player.answer([ask])[0],
        horizon=1,
        executor=StepExecutor(ChunkSettings(execution_steps=1), 1),
        limit=7,
        watch=watch,
    )
    assert (result.steps, result.chunks, result.success_any) == (7, 7, False)
    assert seen == [(step, step == 7) for step in range(8)]


def test_relative_poses_reach_the_same_place_however_late_their_chunk_is() -> None:
    """Rows composed on the observation are poses: what a late chunk skips is not left out of the way."""
    ends = []
    for delay in (0, 2):
        moves = np.tile([0.01, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0], (8, 1))
        last: list[Any] = []
        asked: list[Ask] = []

        def rule(ask: Ask, moves: Any = moves, asked: Any = asked) -> Any:
            asked.append(ask)
            return moves

        played_here(
            rule,
            horizon=8,
            executor=StepExecutor(ChunkSettings(Strategy.OPEN_LOOP, 8 - delay), 8, delay),
            limit=8,
            watch=lambda observation, action, last=last: last.append(observation["state"]),
        )
        ends.append(last[-1])
    np.testing.assert_allclose(ends[0]["position"] - [0.25, 0, 0.15], [0.08, 0, 0], atol=1e-9)
    # Two steps stood still at the beginning; six were driven.
    np.testing.assert_allclose(ends[1]["position"] - [0.25, 0, 0.15], [0.06, 0, 0], atol=1e-9)


def away(ask: Ask) -> np.ndarray:
    """A policy that goes down and off to the side, and closes its gripper on nothing."""
    return np.tile([0.01, 0.01, -0.01, 0.0, 0.0, 0.0, 0.0], (3, 1))


def test_an_expert_takes_over_where_another_policy_has_got_to() -> None:
    expert, asked, seen = PutOnExpert(), [], []

    def rule(ask: Ask) -> np.ndarray:
        asked.append(ask.leads)
        return away(ask) if ask.leads else expert.act(ask.observation["state"], ask.observation["truth"])

    lead = Lead(StepExecutor(ChunkSettings(execution_steps=2), 3), codec_for(TOOL_RULE, "observation"))
    led = lead.steps(TrialKey("calm", 0, 0), 0, 60)
    assert 0 < led <= 30
    result = played_here(
        rule, horizon=1, executor=StepExecutor(ChunkSettings(execution_steps=1), 1), limit=60, lead=lead,
        watch=lambda observation, action: seen.append((observation, action)), stop_after=3,
    )  # fmt: skip
    # The other one was asked for every other step of its stretch, which nobody watched.
    assert (
        asked == [True] * -(-led // 2) + [False] * (result.steps - led)
        and len(seen) == result.steps - led + 1
    )
    start = PutOn("calm", 60).reset(0, 0)["state"]["position"]
    np.testing.assert_allclose(seen[0][0]["state"]["position"], start + led * np.array([0.01, 0.01, -0.01]))
    assert seen[0][0]["state"]["gripper"][0] == 0.0 and result.success_last and seen[-1][1] is None


def test_stretches_of_a_lead_differ_between_trials_and_not_between_runs() -> None:
    lead = Lead(StepExecutor(ChunkSettings(execution_steps=2), 3), codec_for(TOOL_RULE, "observation"))
    found = [[lead.steps(TrialKey("a", k, 0), 0, 60) for k in range(200)] for _ in range(2)]
    assert found[0] == found[1] and min(found[0]) == 0 and max(found[0]) == 30


def test_while_nothing_drives_the_arm_holds_and_keeps_its_gripper() -> None:
    actions: list[Any] = []
    closing = np.tile([0.0] * 6 + [0.0], (2, 1))
    played_here(
        lambda ask: closing,
        horizon=2,
        executor=StepExecutor(ChunkSettings(Strategy.OPEN_LOOP, 1), 2, delay_steps=1),
        limit=6,
        watch=lambda observation, action: actions.append(action),
    )
    grippers = [action["gripper"] for action in actions[:-1]]
    assert grippers[0] == 1.0 and set(grippers[1:]) == {0.0}
    assert all(not np.any(action["translation"]) for action in actions[:-1])


def test_with_real_time_a_policy_is_told_what_it_has_to_agree_with() -> None:
    asked: list[Ask] = []
    moves = np.tile([0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], (8, 1))

    def rule(ask: Ask) -> Any:
        asked.append(ask)
        return moves

    executor = StepExecutor(ChunkSettings(Strategy.REAL_TIME, 3), 8, delay_steps=2)
    played_here(rule, horizon=8, executor=executor, limit=8)
    assert asked[0].guide is None
    guide = asked[1].guide
    assert guide is not None and guide.frozen == 2
    guide.validate(8, 7)
    # At step 3 one row is over; the others, seen from where the arm is now, then it stands.
    np.testing.assert_allclose(guide.actions[:7, 0], 0.01, atol=1e-9)
    np.testing.assert_allclose(guide.actions[7, :6], 0.0, atol=1e-9)


def test_the_gripper_slips_for_moments_where_there_are_kicks() -> None:
    held = {"translation": np.zeros(3), "rotation": np.eye(3), "gripper": 0.0}
    kicks = Kicks(0.02, 0)
    given = np.array([kicks(held)["gripper"] for _ in range(2000)])
    begins = np.flatnonzero(np.diff(given) > 0)
    assert 0.05 < given.mean() < 0.11  # begins in 4 % of steps, and lasts two on average
    assert 1.5 < given.sum() / len(begins) < 2.5
    assert Kicks(0.0, 0)(held) is held


def test_kicks_move_the_arm_and_are_not_among_what_is_watched() -> None:
    def run(kick_m: float) -> tuple[list[Any], list[Any]]:
        moves: list[Any] = []
        places: list[Any] = []

        def watch(observation: Mapping[str, Any], action: Mapping[str, Any] | None) -> None:
            places.append(observation["state"]["position"])
            if action is not None:
                moves.append((action["translation"], action["gripper"]))

        executor = StepExecutor(ChunkSettings(execution_steps=1), 1)
        rule = standing()
        played_here(
            lambda ask: rule.answer([ask])[0],
            horizon=1,
            executor=executor,
            limit=50,
            kick_m=kick_m,
            watch=watch,
        )
        return moves, places

    moves, places = run(0.02)
    assert all(gripper == 1.0 for _, gripper in moves)
    kicked = np.linalg.norm(np.diff(places, axis=0), axis=1) > 1e-6
    assert 2 <= kicked.sum() <= 15 and not any(np.any(move) for move, _ in moves)
    assert not np.any(np.diff(run(0.0)[1], axis=0))
    np.testing.assert_array_equal(run(0.02)[1], places)


def test_noise_differs_between_trials_and_steps_and_not_between_runs() -> None:
    seeds = {
        noise_seed(TrialKey("a", p, r), s, step)
        for p in range(5) for r in range(3) for s in range(2) for step in range(200)
    }  # fmt: skip
    assert len(seeds) == 5 * 3 * 2 * 200 and max(seeds) < 2**63


# Workers --------------------------------------------------------------------------------------------


def test_two_workers_are_answered_together(tmp_path: Path) -> None:
    player = standing()
    played = run(("calm",), tmp_path, player, placements=6, workers=2, limit=12, together=2)
    assert len(played.results) == 6 and not played.failed
    assert sum(player.batches) == 6 * 12
    assert player.batches.count(2) > len(player.batches) / 2


def test_every_task_has_a_process_of_its_own(tmp_path: Path) -> None:
    played = run(("calm", "calmer"), tmp_path, standing(), placements=2, workers=2)
    assert {key.task for key in played.results} == {"calm", "calmer"} and len(played.results) == 4
    assert (tmp_path / "calm.log").exists() and (tmp_path / "calmer.log").exists()


def test_a_worker_that_dies_has_its_trial_played_again_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARKER, str(tmp_path / "died"))
    played = run(("dies_once",), tmp_path, standing(), workers=2)
    assert {key.placement: result.reruns for key, result in played.results.items()} == {0: 0, 1: 1, 2: 0}
    assert not played.failed


@pytest.mark.parametrize("task", ["dies", "hangs", "fails"])
def test_a_trial_that_breaks_off_twice_is_named_and_the_others_are_played(task: str, tmp_path: Path) -> None:
    played = run((task,), tmp_path, standing(), workers=2, step_s=1.0)
    assert {key.placement for key in played.results} == {0, 2}
    ((key, reason),) = played.failed.items()
    assert key == TrialKey(task, 1, 0) and f"put-on {task}" in reason


def test_what_is_missing_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkerMissing, match="install it"):
        run(("missing",), tmp_path, standing(), workers=2)


def test_a_policy_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    player = standing()
    player.check = lambda described: (_ for _ in ()).throw(SuiteMismatch("cameras"))  # type: ignore[method-assign]
    with pytest.raises(SuiteMismatch, match="cameras"):
        run(("calm",), tmp_path, player)


def test_a_policy_that_fails_ends_the_run_and_its_workers(tmp_path: Path) -> None:
    def broken(ask: Ask) -> np.ndarray:
        raise ValueError("instruction: cannot be read")

    before = threading.active_count()
    with pytest.raises(ValueError, match="cannot be read"):
        run(("calm",), tmp_path, RulePlayer(broken), workers=2)
    assert threading.active_count() == before


def test_the_expert_is_refused_where_no_poses_are_told(tmp_path: Path) -> None:
    expert = ExpertPlayer()
    with pytest.raises(SuiteMismatch, match="tells no poses"):
        expert.answer([Ask({"truth": {}, "state": {}}, 0)])
    with pytest.raises(SuiteMismatch, match="takes joint_groups, expected ee_delta"):
        expert.check({"action": {"kind": "joint_groups"}})


# Phases ---------------------------------------------------------------------------------------------


def test_how_far_a_trial_came_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("trial_phases", monkeypatch)
    profile = dataclasses.replace(load_profile("own"), steps=1)
    expert, key = PutOnExpert(), TrialKey("calm", 0, 0)

    def rule(ask: Ask) -> np.ndarray:
        return expert.act(ask.observation["state"], ask.observation["truth"])

    def beside(ask: Ask) -> np.ndarray:
        """The expert, with a thing that is told 2 cm beside where it is."""
        truth = ask.observation["truth"]
        told = {**truth, "source_position": truth["source_position"] + np.array([0.0, 0.022, 0.0])}
        return expert.act(ask.observation["state"], told)

    done = script.trial(PutOn("calm", 60), key, 60, RulePlayer(rule), profile)
    assert done.came == set(script.PHASES) and done.closing.startswith("closed 0 mm beside")
    missed = script.trial(PutOn("calm", 60), key, 60, RulePlayer(beside), profile)
    assert missed.came == {"reached"} and missed.closing.startswith("closed 22 mm beside")
    never = script.trial(PutOn("calm", 60), key, 60, standing(), profile)
    assert (never.came, never.closing) == (set(), "never closed")
