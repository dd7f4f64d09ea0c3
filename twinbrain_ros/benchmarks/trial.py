"""One trial: a policy's chunks through the executor, step after step, until its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.benchmarks.actions import Codec
from twinbrain_ros.control.steps import StepExecutor
from twinbrain_ros.robot.chunk import Guide

Array = NDArray[np.float64]


@dataclass(frozen=True, order=True)
class TrialKey:
    """Which trial: a placement of a task, played for the repeat-th time."""

    task: str
    placement: int
    repeat: int


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial.

    Attributes:
        success_last, success_any, success_chunk: at the last step, at any, at the end of an executed chunk.
        steps_to_success: the first step that succeeded, counted from 1; None: none did.
        grasped: whether the right object ever was; None where the suite does not tell.
        reruns: attempts that a worker's death had ended before this one.
        simulator_s, overhead_s, policy_s: time in the simulator's process, between the processes, and waiting
        for
            the policy [s].
    """

    task: str
    placement: int
    repeat: int
    instruction: str
    steps: int
    chunks: int
    success_last: bool
    success_any: bool
    success_chunk: bool
    steps_to_success: int | None
    grasped: bool | None
    reruns: int
    simulator_s: float
    overhead_s: float
    policy_s: float

    @property
    def key(self) -> TrialKey:
        return TrialKey(self.task, self.placement, self.repeat)

    def succeeded(self, rule: str) -> bool:
        """By a profile's rule: last, any or chunk."""
        return bool(getattr(self, f"success_{rule}"))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Ask:
    """An observation that a policy is to answer with a chunk; leads: the one of a `Lead`."""

    observation: Mapping[str, Any]
    seed: int
    guide: Guide | None = None
    leads: bool = False


class Simulator(Protocol):
    """As `WorkerProcess` answers."""

    def reset(self, placement: int, seed: int) -> dict[str, Any]: ...

    def act(self, action: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]: ...


KICK_SHARE = 0.12  # of a trial's actions
# Wrong commands of the gripper: how often one begins, and how often one is over after a step.
SLIP_SHARE, SLIP_END = 0.04, 0.5

Watch = Callable[[Mapping[str, Any], Mapping[str, Any] | None], object]


@dataclass(frozen=True, eq=False)
class Lead:
    """Another policy, which drives the beginning of a trial: who is played starts from where that one got to
    (human-gated DAgger, arXiv 1810.02890, with a script in the human's place).

    executor, codec: the other policy's. Its stretch is drawn for each trial, from no step to half of the
    trial's; it is disturbed and watched by nobody.
    """

    executor: StepExecutor
    codec: Codec

    def steps(self, key: TrialKey, seed: int, limit: int) -> int:
        """How long it drives."""
        return int(np.random.default_rng([noise_seed(key, seed, 0), 1]).integers(0, limit // 2 + 1))


class Kicks:
    """What disturbs a trial: random moves added to some actions, and now and then the wrong command of the
    gripper for a moment, which closes it on nothing or drops what it holds.

    kick_m: deviation of the moves [m], 0: nothing is disturbed.
    """

    def __init__(self, kick_m: float, seed: int) -> None:
        self._kick_m, self._random = kick_m, np.random.default_rng(seed)
        self._slips = False

    def __call__(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._kick_m:
            return action
        if self._random.random() < KICK_SHARE:
            action = {
                **action,
                "translation": action["translation"] + self._random.normal(0.0, self._kick_m, 3),
            }
        self._slips = self._random.random() < (1.0 - SLIP_END if self._slips else SLIP_SHARE)
        return {**action, "gripper": 1.0 - action["gripper"]} if self._slips else action


def noise_seed(key: TrialKey, seed: int, step: int) -> int:
    """Of the noise of a chunk: the same for every policy, another for every repeat, placement and step."""
    return ((seed * 1_009 + key.repeat) * 100_003 + key.placement) * 10_007 + step


def play(
    simulator: Simulator,
    key: TrialKey,
    executor: StepExecutor,
    codec: Codec,
    ask: Callable[[Ask], Array],
    *,
    limit: int,
    horizon: int,
    seed: int = 0,
    stop_after: int | None = None,
    reruns: int = 0,
    watch: Watch = lambda observation, action: None,
    kick_m: float = 0.0,
    lead: Lead | None = None,
) -> TrialResult:
    """Plays a trial.

    Args:
        limit: steps.
        horizon: of the policy's chunks.
        stop_after: steps after the first success at which the trial ends; None: at its limit.
        watch: is given every observation with the action that answers it, and the last one with None.
        kick_m: of `Kicks`, unseen by `watch`: how an expert comes to show what to do off its way (DART,
            arXiv 1703.09327).
        lead: who drives the beginning; its steps are among the limit's.
    """
    executor.reset()
    clock = time.perf_counter
    observation: Mapping[str, Any] = simulator.reset(key.placement, seed + key.repeat)
    led = 0
    if lead is not None:
        led = lead.steps(key, seed, limit)
        observation = _led(simulator, observation, lead, led, lambda seen, step: ask(
            Ask(seen, noise_seed(key, seed, step), leads=True)
        ))  # fmt: skip
    kicks = Kicks(kick_m, noise_seed(key, seed, 0))
    gripper = 1.0
    chunks, steps = 0, led
    simulator_s = all_s = policy_s = 0.0
    first: int | None = None
    last = at_chunk_end = False
    grasped: bool | None = None
    for step in range(led, limit):
        state = observation["state"]
        if executor.due():
            at_chunk_end |= last
            began = clock()
            data = ask(Ask(observation, noise_seed(key, seed, step), _guide(executor, codec, state, horizon)))
            policy_s += clock() - began
            executor.add(codec.rows(data, state))
            chunks += 1
        row = executor.take()
        action = codec.hold(state) if row is None else codec.action(row, state)
        gripper = action.setdefault("gripper", gripper)
        watch(observation, action)
        began = clock()
        observation, info = simulator.act(kicks(action))
        all_s += clock() - began
        simulator_s += float(info.get("seconds", 0.0))
        steps += 1
        last = bool(info["success"])
        if last and first is None:
            first = steps
        if "grasped" in info:
            grasped = bool(grasped) or bool(info["grasped"])
        if stop_after is not None and first is not None and steps >= first + stop_after:
            break
    watch(observation, None)
    return TrialResult(
        key.task, key.placement, key.repeat, observation["instruction"], steps, chunks,
        success_last=last, success_any=first is not None, success_chunk=at_chunk_end or last,
        steps_to_success=first, grasped=grasped, reruns=reruns,
        simulator_s=simulator_s, overhead_s=all_s - simulator_s, policy_s=policy_s,
    )  # fmt: skip


def _led(
    simulator: Simulator,
    observation: Mapping[str, Any],
    lead: Lead,
    steps: int,
    ask: Callable[[Mapping[str, Any], int], Array],
) -> Mapping[str, Any]:
    """Where a lead gets to in so many steps; ask: for its chunk at an observation and step."""
    lead.executor.reset()
    gripper = 1.0
    for step in range(steps):
        state = observation["state"]
        if lead.executor.due():
            lead.executor.add(lead.codec.rows(ask(observation, step), state))
        row = lead.executor.take()
        action = lead.codec.hold(state) if row is None else lead.codec.action(row, state)
        gripper = action.setdefault("gripper", gripper)
        observation, _ = simulator.act(action)
    return observation


def _guide(executor: StepExecutor, codec: Codec, state: Mapping[str, Array], horizon: int) -> Guide | None:
    found = executor.guide()
    if found is None:
        return None
    rows, weights, frozen = found
    return Guide(codec.chunk(rows, state, horizon), weights, frozen)
