"""The loop with the scripted expert in the policy's place: all of it but the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinbrain_ros.demo.loop import LoopSettings, running_loop
from twinbrain_ros.demo.plan import plan_episodes
from twinbrain_ros.demo.runner import EpisodeRunner, Recording
from twinbrain_ros.robot.robot_file import load_robot

pytestmark = pytest.mark.e2e

SUPPORT = Path(__file__).resolve().parents[1] / "support"
SEED = 710_000


def run_with_expert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str = "receding_horizon", **plan: object
) -> Recording:
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    settings = LoopSettings(
        load_robot("wx250s"),
        tmp_path,
        tmp_path / "logs",
        strategy=strategy,
        delay_s=0.3 if strategy == "real_time" else 0.0,
        modules={"policy_node": "expert_policy_node"},
    )
    plans = plan_episodes(**{"seed": SEED, "instruction": None, "retarget": False, **plan})  # type: ignore[arg-type]
    recording = Recording()
    with running_loop(settings) as loop:
        loop.bring_up()
        runner = EpisodeRunner(loop, max_seconds=20, films=1)
        runner.run(plans, recording, lambda record: print(record.line(len(plans))))
    print(recording.results.table())
    return recording


def test_both_tasks_succeed_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = run_with_expert(tmp_path, monkeypatch, task="all", episodes=4)

    results = recording.results
    assert [record.success for record in results.records] == [True] * 4
    assert not any(record.wrong_object for record in results.records)
    assert results.frames is not None and results.frames.lost == 0
    counts = results.chunks.counts()
    assert counts["published"] == sum(counts.values()) - counts["published"]
    assert counts["refused"] == 0
    record, film = recording.films[0]
    assert record.index == 0 and len(film.views["front"]) >= 6 and len(film.views["wrist"]) >= 6


def test_a_new_instruction_in_the_middle_leads_to_the_other_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = run_with_expert(tmp_path, monkeypatch, task="pick", episodes=2, retarget=True)

    records = recording.results.records
    assert all(record.retargeted for record in records)
    assert [record.success for record in records] == [True, True]


def test_a_late_policy_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks come 0.3 s late, and are executed with real-time chunking."""
    recording = run_with_expert(tmp_path, monkeypatch, strategy="real_time", task="all", episodes=2)

    results = recording.results
    assert [record.success for record in results.records] == [True] * 2
    assert not results.faults and results.chunks.counts()["refused"] == 0
    assert results.ticks is not None and results.ticks.count > 100
    assert min(results.chunks.observation_to_command_ms) > 300
