"""The service `ask`: a policy's generalist answers one question at a time, in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data.frames import Look, NotReady
from twinbrain_ros.nodes import convert
from twinbrain_ros.nodes.answers import Answers
from twinbrain_ros.nodes.policy_worker import JOIN_TIMEOUT_S
from twinbrain_ros.text import sentence


class Said(Protocol):
    """An answer: its text and its tokens."""

    @property
    def text(self) -> str: ...

    @property
    def tokens(self) -> Sequence[int]: ...


class Generalist(Protocol):
    """What the service needs of a generalist; `brain.generalist.Generalist` is one."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """The views it is shown, in order."""

    def ask(
        self,
        images: Sequence[NDArray[np.uint8]],
        question: str,
        max_tokens: int = ...,
        *,
        cancelled: Callable[[], bool] = ...,
    ) -> Said:
        """Answers about images [H, W, 3] RGB; raises ValueError for a question that it cannot answer."""


@dataclass
class _Job:
    """A question that is being answered. Whoever sets `cancelled` has told the one who asks."""

    request: Any
    response: Any
    images: list[NDArray[np.uint8]]
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class _Outcome:
    said: Said | None
    error: Exception | None
    taken_s: float


class Asking:
    """Serves questions; all but the answering itself happens in the thread that spins.

    Args:
        generalist: called from one thread at a time; None refuses every question.
        look: the newest images of the cameras named, or why there are none.
        on_answer: called from the answering thread when `take` has something to do; must be quick and
            thread-safe. It is not called once `close` has returned.

    Attributes:
        answers: of the service whose callback is `on_ask`; to be set before it is called.
    """

    answers: Answers

    def __init__(
        self,
        generalist: Generalist | None,
        look: Callable[[Sequence[str]], Look | NotReady],
        on_answer: Callable[[], None],
    ) -> None:
        self._generalist = generalist
        self._look = look
        self._on_answer: Callable[[], None] | None = on_answer
        self._telling = threading.Lock()
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._outcomes: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()

    # In the thread that spins -----------------------------------------------------------------------

    def on_ask(self, request: Any, response: Any) -> None:
        """Begins to answer, or says in the response why not."""
        if self._generalist is None:
            response.message = "this policy has no generalist that could be asked"
        elif self._job is not None:
            ending = self._job.cancelled.is_set()
            response.message = f"{'a cancelled' if ending else 'another'} question is still being answered"
        else:
            seen = self._look(self._generalist.cameras)
            if isinstance(seen, NotReady):
                response.message = f"nothing to look at: {seen.message}"
                return
            response.image_stamp = convert.to_time(seen.stamp_ns)
            images = [seen.images[name] for name in self._generalist.cameras]
            self._job = _Job(request, response, images)
            # A daemon, so that a generalist that hangs cannot keep the process from ending.
            self._thread = threading.Thread(
                target=self._run, args=(self._generalist, self._job), name="generalist", daemon=True
            )
            self._thread.start()
            self.answers.hold(response)

    def take(self) -> None:
        """Sends the answer that waits, if there is one."""
        try:
            outcome = self._outcomes.get_nowait()
        except queue.Empty:
            return
        job, self._job = self._job, None
        if job is None or job.cancelled.is_set():
            return
        response = job.response
        response.seconds = outcome.taken_s
        if outcome.said is not None:
            response.success, response.message = True, ""
            response.answer, response.tokens = outcome.said.text, len(outcome.said.tokens)
        else:
            expected = isinstance(outcome.error, ValueError)
            kind = "" if expected else f"{type(outcome.error).__name__}: "
            response.message = sentence(f"{kind}{outcome.error}")
        self.answers.send(response)

    def cancel(self, reason: str) -> None:
        """Ends the answer that is being given, if there is one, and tells the one who asked."""
        job = self._job
        if job is None or job.cancelled.is_set():
            return
        job.cancelled.set()
        job.response.message = reason
        self.answers.send(job.response)

    def close(self, reason: str) -> bool:
        """Cancels, and waits for the thread; False if it did not end in time."""
        self.cancel(reason)
        with self._telling:
            self._on_answer = None
        if self._thread is None:
            return True
        self._thread.join(JOIN_TIMEOUT_S)
        return not self._thread.is_alive()

    # In the answering thread ------------------------------------------------------------------------

    def _run(self, generalist: Generalist, job: _Job) -> None:
        start = time.perf_counter()
        said, error = None, None
        limit = {"max_tokens": int(job.request.max_tokens)} if job.request.max_tokens else {}
        try:
            said = generalist.ask(job.images, job.request.question, cancelled=job.cancelled.is_set, **limit)
        except Exception as failure:  # whatever it raises is told to the one who asked
            error = failure
        self._outcomes.put(_Outcome(said, error, time.perf_counter() - start))
        with self._telling:
            if self._on_answer is not None:
                self._on_answer()
