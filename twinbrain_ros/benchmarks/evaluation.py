"""An evaluation from its plan to its results file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from twinbrain_ros.benchmarks.players import Player
from twinbrain_ros.benchmarks.process import WorkerError, WorkerProcess, suite_tasks, worker_command
from twinbrain_ros.benchmarks.profile import Profile
from twinbrain_ros.benchmarks.recording import KEPT_AFTER_SUCCESS, Recorder, RecordingError
from twinbrain_ros.benchmarks.results import Protocol, TrialLog, report
from twinbrain_ros.benchmarks.runner import Plan, Runner
from twinbrain_ros.benchmarks.trial import TrialKey, TrialResult, Watch
from twinbrain_ros.benchmarks.watching import Album
from twinbrain_ros.control.steps import StepExecutor
from twinbrain_ros.training.state import write_whole

TRIALS_OF_UNLISTED = 24  # where a suite has no list of placements


@dataclass(frozen=True)
class Evaluation:
    """What is to be played.

    Attributes:
        python: the suite's interpreter, None: ours.
        trials: per task; None: every placement once.
        first: placement to begin with.
        delay_steps: that every chunk comes late.
        kick_m: see `trial.play`.
        recorded: successful trials become a dataset, so that a trial ends shortly after its success.
        lead, lead_profile: who drives the beginning of each trial, and how (`trial.Lead`).
    """

    suite: str
    tasks: tuple[str, ...]
    player: Player
    profile: Profile
    python: Path | None
    trials: int | None
    first: int
    seed: int
    delay_steps: int
    kick_m: float = 0.0
    recorded: bool = False
    lead: Player | None = None
    lead_profile: Profile | None = None

    @property
    def stop_after(self) -> int | None:
        """See `trial.play`."""
        if self.recorded:
            return KEPT_AFTER_SUCCESS
        return 0 if self.profile.stop_at_success else None

    def limits(self) -> dict[str, int]:
        """Steps by task."""
        known = suite_tasks(self.suite)
        return {name: self.profile.limit or known[name].task.limit for name in self.tasks}

    def placements(self, task: str) -> int:
        """How many different placements are played."""
        listed = suite_tasks(self.suite)[task].task.placements
        most = self.trials or listed or TRIALS_OF_UNLISTED
        return min(most, listed) if listed and self.first == 0 else most

    def trial_keys(self) -> list[TrialKey]:
        """All trials, task by task: each placement once, then each again."""
        found = []
        for task in self.tasks:
            count = self.placements(task)
            total = self.trials or count
            found += [TrialKey(task, self.first + i % count, i // count) for i in range(total)]
        return found

    def protocol(self, described: Mapping[str, Any]) -> Protocol:
        """With what the suite says of itself."""
        placements = max(self.placements(task) for task in self.tasks)
        return Protocol(
            suite=self.suite,
            simulator=described["simulator"],
            control_hz=described["control_hz"],
            limits=self.limits(),
            first_placement=self.first,
            placements=placements,
            trials=self.trials or placements,
            seed=self.seed,
            profile=self.profile.name,
            execution=self.profile.execution(),
            delay_steps=self.delay_steps,
            success=self.profile.success,
            assets=described.get("assets", ""),
            kick_m=self.kick_m,
            stop_after=self.stop_after,
            lead="" if self.lead is None else self.lead.name,
        )


def evaluate(
    evaluation: Evaluation, out: Path, workers: int, videos: Path | None = None, dataset: Path | None = None
) -> dict[str, Any]:
    """Plays what is missing of an evaluation and writes its results.

    Args:
        out: the results, JSON; trials, strips of pictures and logs are beside it.
        dataset: for a LeRobot dataset of the successful trials; it must not be there yet.
    Returns:
        What is written (`results.report`).
    """
    evaluation = replace(evaluation, recorded=dataset is not None)
    for player, profile in (
        (evaluation.player, evaluation.profile),
        (evaluation.lead, evaluation.lead_profile or evaluation.profile),
    ):
        if player is not None:  # refuses steps and delays beyond its horizon before a simulator is started
            StepExecutor(profile.chunks(), player.horizon, evaluation.delay_steps, profile.votes)
    logs = out.with_suffix(".logs")
    environment = _environment(workers)

    def opens(task: str) -> WorkerProcess:
        command = worker_command(evaluation.suite, task, evaluation.limits()[task], evaluation.python)
        return WorkerProcess(command, logs / f"{task.replace('/', '_')}.log", environment)

    # The first worker tells what the protocol needs to know; it plays on.
    with _First(opens, evaluation.tasks[0]) as first:
        described = first.worker.described
        for player in (evaluation.player, evaluation.lead):
            if player is not None:
                player.check(described)
        protocol = evaluation.protocol(described)
        log = TrialLog(out.with_suffix(".trials.jsonl"), evaluation.player.name, protocol)
        missing = [key for key in evaluation.trial_keys() if key not in log.trials]
        recorder = None
        if dataset is not None:
            if log.trials:
                raise RecordingError(
                    f"--record: {log.path} has trials already, whose pictures are gone; choose another --json"
                )
            recorder = Recorder(dataset, described)
        album = Album(out.with_suffix(".strips"), videos, described["control_hz"])
        failed = _play(evaluation, missing, workers, log, album, recorder, first.opens)
    values = report(log, evaluation.trial_keys(), protocol, failed)
    write_whole(
        out, lambda partial: partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    )
    _sheets(out, evaluation, log, album, values)
    return values


def _play(
    evaluation: Evaluation,
    missing: list[TrialKey],
    workers: int,
    log: TrialLog,
    album: Album,
    recorder: Recorder | None,
    opens: Any,
) -> dict[str, str]:
    """Plays trials; gives those that could not be played, with the reason."""
    failed: dict[str, str] = {}
    profile = evaluation.profile
    led = evaluation.lead_profile or profile
    plan = Plan(
        evaluation.limits(), profile.chunks(), profile.votes, evaluation.delay_steps, evaluation.seed,
        evaluation.stop_after, evaluation.kick_m, led.chunks(), led.votes,
    )  # fmt: skip
    wins = sum(trial.succeeded(profile.success) for trial in log.trials.values())
    bar = tqdm(total=len(missing) + len(log.trials), initial=len(log.trials), desc="evaluating", unit="trial")

    def played(key: TrialKey, outcome: TrialResult | WorkerError) -> None:
        nonlocal wins
        if isinstance(outcome, WorkerError):
            failed[f"{key.task} {key.placement} {key.repeat}"] = str(outcome)
            bar.write(str(outcome))
        else:
            success = outcome.succeeded(profile.success)
            wins += success
            if recorder is not None:
                recorder.keep(outcome, success)
            album.keep(outcome, success)
            log.add(outcome)  # last: what is in the log is not played again
        bar.update()
        bar.set_postfix_str(f"{wins}/{len(log.trials)}")

    @contextlib.contextmanager
    def watches(key: TrialKey) -> Iterator[Watch]:
        with album.film(key) as film:
            record = None if recorder is None else recorder.begin(key)

            def watch(observation: Mapping[str, Any], action: Mapping[str, Any] | None) -> None:
                film(observation, action)
                if record is not None:
                    record(observation, action)

            yield watch

    with bar:
        if missing:
            Runner(evaluation.player, plan, opens, played, watches, evaluation.lead).run(missing, workers)
    if recorder is not None:
        recorder.close()
    return failed


class _First:
    """The first worker: it is there before the runner, which is then given it."""

    def __init__(self, opens: Any, task: str) -> None:
        self._opens, self._task = opens, task
        self.worker: WorkerProcess = opens(task)
        self._given = False

    def opens(self, task: str) -> WorkerProcess:
        if task == self._task and not self._given:
            self._given = True
            return self.worker
        opened: WorkerProcess = self._opens(task)
        return opened

    def __enter__(self) -> _First:
        return self

    def __exit__(self, *exception: object) -> None:
        self.worker.end()


def _environment(workers: int) -> dict[str, str]:
    """Ours, with the cores shared out: simulators that draw on all cores each are slower together than in
    turn."""
    threads = str(max(1, (os.cpu_count() or 1) // (workers + 1)))
    shared = {"OMP_NUM_THREADS": threads, "LP_NUM_THREADS": threads}
    return {**shared, **os.environ}


def _sheets(
    out: Path, evaluation: Evaluation, log: TrialLog, album: Album, values: Mapping[str, Any]
) -> None:
    wins = {key: trial.succeeded(evaluation.profile.success) for key, trial in log.trials.items()}
    for task, entry in values["tasks"].items():
        trials = sorted((t for t in log.trials.values() if t.task == task), key=lambda trial: trial.key)
        if trials:
            title = f"{task}: {trials[0].instruction}   {entry['k']} of {entry['n']}"
            album.sheet(out.with_name(f"{out.stem}_{task.replace('/', '_')}.png"), trials, title, wins)
