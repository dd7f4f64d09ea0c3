"""Runs the policy in its own thread, one observation at a time, so that messages keep being taken in."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data.frames import NS_PER_S, Observation
from twinbrain_ros.robot.chunk import Guide
from twinbrain_ros.robot.robot_file import RobotFile

# A request takes a fraction of this; a process asked to end has 5 s in all.
JOIN_TIMEOUT_S = 1.5
NICENESS = 10


class Policy(Protocol):
    """What the policy node needs of a policy; `brain.policy.TwinBrainPolicy` is one.

    Attributes:
        name: which weights these are, for the record.
        left_period_s: how old what the left brain remembers may be [s]; 0 runs it for every chunk.
        guidance: most that a chunk is drawn to its guide in one step of the flow.
        left_age_s: how much older than the last chunk's observation that was [s].
    """

    name: str
    left_period_s: float
    guidance: float
    left_age_s: float

    @property
    def state_names(self) -> tuple[str, ...]:
        """The state that `act` is to be given, in this order; () for none."""

    def take_robot(self, robot: RobotFile) -> None:
        """Acts as this robot from here on. Raises ValueError, naming both values, if it was not made for
        it."""

    def warm_up(self, sizes: Mapping[str, tuple[int, int]] | None = None, guided: bool = False) -> None:
        """Makes the first real call as quick as the later ones; sizes: cameras' height and width [pixels];
        guided: there will be guides."""

    def prompts(self, instruction: str) -> object:
        """Raises ValueError if the instruction cannot be read."""

    def act(
        self,
        images: dict[str, NDArray[np.uint8]],
        instruction: str,
        state: NDArray[np.float64] | None,
        noise: NDArray[np.float32] | None = None,
        seed: int = 0,
        *,
        stamp_s: float | None = None,
        guide: Guide | None = None,
    ) -> NDArray[np.float64]:
        """Actions [horizon, names] in robot units; stamp_s: of the observation [s]; guide: to agree with."""


@dataclass(frozen=True)
class Request:
    """One observation to answer; guide: what the chunk of `guide_sequence` wants it to agree with."""

    observation: Observation
    instruction: str
    noise_seed: int
    guide: Guide | None = None
    guide_sequence: int = 0


@dataclass(frozen=True)
class Answer:
    """Its actions [horizon, names], or the error that there are none; left_age_s as of `Policy`."""

    request: Request
    actions: NDArray[np.float64] | None
    error: Exception | None
    taken_s: float
    left_age_s: float


class PolicyWorker:
    """A thread that turns requests into answers.

    Args:
        policy: called from this thread only.
        noise: from a seed to the noise the actions are integrated from; None leaves it to the policy.
        on_answer: called from the thread when an answer waits in `answers`; must be quick and thread-safe. It
            is not called once `close` has returned, whatever the policy still does.
        delay_s: every answer takes at least so long, for experiments.
    """

    def __init__(
        self,
        policy: Policy,
        noise: Callable[[int], NDArray[np.float32]],
        on_answer: Callable[[], None],
        delay_s: float = 0.0,
    ) -> None:
        self._policy = policy
        self._delay_s = delay_s
        self._asked_s = 0.0
        self._noise = noise
        self._on_answer: Callable[[], None] | None = on_answer
        self._telling = threading.Lock()
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.busy = False  # read and written by the asking thread only
        # A daemon, so that a policy that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> None:
        """Hands over a request. The caller asks for nothing more until it has taken the answer."""
        self.busy = True
        self._asked_s = time.perf_counter()
        self._requests.put(request)

    def busy_s(self) -> float:
        """For how long it has been working on the present request [s]; 0: it waits."""
        return time.perf_counter() - self._asked_s if self.busy else 0.0

    def take(self) -> Answer | None:
        """An answer that waits, or None."""
        try:
            answer = self.answers.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        return answer

    def close(self) -> bool:
        """Ends the thread after the request it works on; False if it did not end in time."""
        self._requests.put(None)
        self._thread.join(JOIN_TIMEOUT_S)
        with self._telling:
            self._on_answer = None
        return not self._thread.is_alive()

    def _run(self) -> None:
        # On Linux each thread has a niceness. Who works for long must not delay those who are due now: this
        # node's own messages, and the controller where both share a few cores.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (request := self._requests.get()) is not None:
            start = time.perf_counter()
            actions, error, left_age_s = None, None, 0.0
            try:
                seen = request.observation
                noise = self._noise(request.noise_seed)
                guided: dict[str, Any] = {} if request.guide is None else {"guide": request.guide}
                actions = self._policy.act(
                    seen.images,
                    request.instruction,
                    seen.named_state(self._policy.state_names),
                    noise=noise,
                    stamp_s=seen.stamp_ns / NS_PER_S,
                    **guided,
                )
                time.sleep(max(0.0, self._delay_s - (time.perf_counter() - start)))
                left_age_s = self._policy.left_age_s
            except Exception as failure:  # whatever the policy raises is told, and the next request served
                error = failure
            self.answers.put(Answer(request, actions, error, time.perf_counter() - start, left_age_s))
            with self._telling:
                if self._on_answer is not None:
                    self._on_answer()
