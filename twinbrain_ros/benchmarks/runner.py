"""Plays trials: workers side by side, each in a thread of its own, one policy that answers them in
batches."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.benchmarks.players import Player
from twinbrain_ros.benchmarks.process import WorkerError, WorkerProcess
from twinbrain_ros.benchmarks.trial import Ask, Lead, TrialKey, TrialResult, Watch, play
from twinbrain_ros.control.steps import StepExecutor
from twinbrain_ros.control.strategies import ChunkSettings

# Most that an observation waits for those of other workers, so that they are answered together; a worker that
# hangs holds the others up by no more than this.
GATHER_S = 0.5
RERUNS = 1
_JOIN_S = 5.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What is played, and how.

    Attributes:
        limits: steps by task.
        chunks, votes, delay_steps: of the executor.
        stop_after, kick_m: see `trial.play`.
        lead_chunks, lead_votes: of a lead's executor (`trial.Lead`).
    """

    limits: Mapping[str, int]
    chunks: ChunkSettings
    votes: int
    delay_steps: int
    seed: int
    stop_after: int | None
    kick_m: float = 0.0
    lead_chunks: ChunkSettings | None = None
    lead_votes: int = 1


@dataclass
class _Request:
    ask: Ask
    answered: threading.Event = field(default_factory=threading.Event)
    chunk: Array | None = None


class _Stopped(Exception):
    """The run is being ended."""


Opens = Callable[[str], WorkerProcess]
Watches = Callable[[TrialKey], contextlib.AbstractContextManager[Watch]]


class Runner:
    """Plays trials with several workers.

    Args:
        opens: starts a worker for a task.
        watches: for a trial, what watches it (`play`); left when the trial is over, by an exception where it
            broke off.
        played: is given every result, and what could not be played with its error; from one thread at a time.
        lead: drives the beginning of each trial (`trial.Lead`); with the plan's lead_chunks.
    """

    def __init__(
        self,
        player: Player,
        plan: Plan,
        opens: Opens,
        played: Callable[[TrialKey, TrialResult | WorkerError], object],
        watches: Watches = lambda key: contextlib.nullcontext(lambda observation, action: None),
        lead: Player | None = None,
    ) -> None:
        self._player, self._plan, self._opens, self._leads = player, plan, opens, lead
        self._watches, self._played = watches, played
        self._asks: queue.Queue[_Request | None] = queue.Queue()
        self._lock = threading.Lock()
        self._playing = 0  # workers within a trial: those worth waiting for
        self._workers: set[WorkerProcess] = set()
        self._stopping = threading.Event()
        self._errors: list[BaseException] = []

    def run(self, trials: Sequence[TrialKey], workers: int) -> None:
        """Plays them all. What a policy or a missing part raises ends the run and is raised here."""
        waiting: dict[str, deque[TrialKey]] = {}
        for key in trials:
            waiting.setdefault(key.task, deque()).append(key)
        threads = [
            threading.Thread(target=self._work, args=(waiting,), daemon=True)
            for _ in range(min(workers, len(trials)))
        ]
        self._alive = len(threads)
        for thread in threads:
            thread.start()
        try:
            self._answer_all()
        finally:
            self._stopping.set()
            with self._lock:
                for worker in self._workers:
                    worker.process.kill()  # whose thread waits for it
            for thread in threads:
                thread.join(_JOIN_S)
        if self._errors:
            raise self._errors[0]

    # The policy's side, in the caller's thread --------------------------------------------------------

    def _answer_all(self) -> None:
        while (first := self._asks.get()) is not None:
            asked = [first, *self._others()]
            for player, batch in (
                (self._player, [request for request in asked if not request.ask.leads]),
                (self._leads, [request for request in asked if request.ask.leads]),
            ):
                if player is None or not batch:
                    continue
                chunks = player.answer([request.ask for request in batch])
                for request, chunk in zip(batch, chunks, strict=True):
                    request.chunk = chunk
                    request.answered.set()

    def _others(self) -> list[_Request]:
        """What the other playing workers ask within a moment."""
        found: list[_Request] = []
        with contextlib.suppress(queue.Empty):
            while len(found) + 1 < self._playing:
                request = self._asks.get(timeout=GATHER_S)
                if request is None:
                    self._asks.put(None)
                    break
                found.append(request)
        return found

    def _ask(self, ask: Ask) -> Array:
        request = _Request(ask)
        self._asks.put(request)
        while not request.answered.wait(0.2):
            if self._stopping.is_set():
                raise _Stopped
        assert request.chunk is not None
        return request.chunk

    # A worker's side, in a thread ---------------------------------------------------------------------

    def _work(self, waiting: Mapping[str, deque[TrialKey]]) -> None:
        try:
            while not self._stopping.is_set() and (task := self._next_task(waiting)) is not None:
                self._play_task(task, waiting[task])
        except _Stopped:
            pass
        except BaseException as error:
            self._errors.append(error)
            self._stopping.set()
        finally:
            with self._lock:
                self._alive -= 1
                if self._alive == 0 or self._errors:
                    self._asks.put(None)

    def _next_task(self, waiting: Mapping[str, deque[TrialKey]]) -> str | None:
        """The task with most trials left."""
        with self._lock:
            task = max(waiting, key=lambda name: len(waiting[name]), default=None)
            return task if task is not None and waiting[task] else None

    def _play_task(self, task: str, trials: deque[TrialKey]) -> None:
        worker: WorkerProcess | None = None
        plan, player = self._plan, self._player
        executor = StepExecutor(plan.chunks, player.horizon, plan.delay_steps, plan.votes)
        try:
            while not self._stopping.is_set():
                with self._lock:
                    if not trials:
                        return
                    key = trials.popleft()
                for attempt in range(RERUNS + 1):
                    try:
                        worker = worker or self._open(task)
                        result = self._play(worker, key, executor, attempt)
                    except WorkerError as error:
                        self._close(worker, gently=False)
                        worker = None
                        if self._stopping.is_set():
                            return
                        if attempt == RERUNS:
                            self._tell(key, error)
                    else:
                        self._tell(key, result)
                        break
        finally:
            self._close(worker)

    def _open(self, task: str) -> WorkerProcess:
        worker = self._opens(task)
        with self._lock:
            self._workers.add(worker)
        return worker

    def _close(self, worker: WorkerProcess | None, gently: bool = True) -> None:
        if worker is not None:
            with self._lock:
                self._workers.discard(worker)
            worker.end(gently)

    def _play(
        self, worker: WorkerProcess, key: TrialKey, executor: StepExecutor, attempt: int
    ) -> TrialResult:
        self._player.check(worker.described)
        lead = self._lead(worker)
        with self._lock:
            self._playing += 1
        try:
            with self._watches(key) as watch:
                return play(
                    worker, key, executor, self._player.codec, self._ask,
                    limit=self._plan.limits[key.task], horizon=self._player.horizon, seed=self._plan.seed,
                    stop_after=self._plan.stop_after, reruns=attempt, watch=watch,
                    kick_m=self._plan.kick_m, lead=lead,
                )  # fmt: skip
        finally:
            with self._lock:
                self._playing -= 1

    def _lead(self, worker: WorkerProcess) -> Lead | None:
        player, chunks = self._leads, self._plan.lead_chunks
        if player is None or chunks is None:
            return None
        player.check(worker.described)
        executor = StepExecutor(chunks, player.horizon, 0, self._plan.lead_votes)
        return Lead(executor, player.codec)

    def _tell(self, key: TrialKey, outcome: TrialResult | WorkerError) -> None:
        with self._lock:
            self._played(key, outcome)
