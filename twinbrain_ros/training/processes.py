"""The processes that train together: how many they are, what they agree on, and how they end together.

What one of them does alone may take long (data, statistics, trials, a large state): the others then wait in a
group of their own, over gloo, and not in the one of the gradients, whose time-out is there to find a hang.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import Tensor

from twinbrain_ros.brain.devices import check_processes, settle
from twinbrain_ros.training.batch import Share

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=3)
# How launchers tell a process how many were started, the one that is nearest to the process first.
SIZE_VARIABLES = (
    "WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)
REFUSED = 2  # exit code, as of every command


class LaunchError(ValueError):
    """Processes that were not started as they should be; names what was found and what is expected."""


class ProcessLost(OSError):
    """Another process of a run has ended while this one waited for it."""


class Stopped(KeyboardInterrupt):
    """Training was told to end, and did so between two steps, its state saved; `code`: of the process."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.code = 128 + number


def launched() -> tuple[str, int]:
    """The variable by which a launcher tells how many processes it has started, and its value; ("", 1)
    without a launcher."""
    for name in SIZE_VARIABLES:
        text = os.environ.get(name, "")
        if text.isdigit():
            return name, int(text)
    return "", 1


def accelerator() -> Accelerator:
    """The processes that a launcher has started, and their devices; without one, this process.

    Raises LaunchError if they do not see each other: each would train by itself, into one folder; DeviceError
    for more processes than there are GPUs.
    """
    check_processes()
    name, count = launched()
    sharded = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    on_cpu = not torch.accelerator.is_available()
    # Of a VLM some layers have no part in an action: they get no gradient.
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if sharded:
        _check_deepspeed()
    if sharded and on_cpu and "LOCAL_RANK" in os.environ:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    try:
        made = Accelerator(cpu=on_cpu and count > 1 and not sharded, kwargs_handlers=handlers)
    except ValueError as error:
        raise LaunchError(f"{name or 'accelerate'}: {count} processes cannot be set up: {error}") from error
    if made.num_processes != count:
        raise LaunchError(
            f"{name}: found {count} processes started, but each sees {made.num_processes}, expected the "
            "same; start them with `accelerate launch` or `python -m torch.distributed.run`"
        )
    settle(made.device)
    return made


def _check_deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise LaunchError("DeepSpeed: not installed, but the launcher asks for it; pip install deepspeed")
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on"):
        raise LaunchError(
            "ACCELERATE_USE_CPU: found true under a DeepSpeed configuration, which it would turn off; "
            "expected it not to be set: DS_ACCELERATOR=cpu has DeepSpeed run on CPUs"
        )
    import deepspeed

    # A kernel for inference on CPUs that would be compiled first, for a minute; gradients go over gloo.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Processes:
    """The processes of a run. rank: of this one; count: how many; device: of this one, as torch names it."""

    def __init__(self) -> None:
        made = accelerator()
        self.rank, self.count = int(made.process_index), int(made.num_processes)
        self.device = "cpu" if made.device.type == "cpu" else str(made.device)
        self.share = Share(self.rank, self.count)
        self.sharded = made.distributed_type == DistributedType.DEEPSPEED
        self._launcher = os.getppid()
        self._group: Any = None
        if self.count > 1:
            self._group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and talks."""
        return self.rank == 0

    @property
    def launcher_is_gone(self) -> bool:
        """Whether what has started several processes, and would end them, has ended itself."""
        return self.count > 1 and os.getppid() != self._launcher

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """What each process has, by rank; as many values in all of them."""
        if self.count == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own, group=self._group)
        return [one.tolist() for one in found]

    def first_does(self, work: Callable[[], T]) -> T:
        """Runs `work` in the first process while the others wait; all get what it gives.

        What it raises is raised in the first process, and ends the others without a word.
        """
        if self.count == 1:
            return work()
        told: list[Any] = [None]
        if not self.is_first:
            dist.broadcast_object_list(told, src=0, group=self._group)
            if told[0] is None:
                self.leave()
            return told[0][0]
        try:
            value = work()
            told = [(value,)]
        finally:
            dist.broadcast_object_list(told, src=0, group=self._group)
        return value

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The others enter the block once the first process has left it, as to find what it has written."""
        if self.is_first:
            told: list[Any] = [None]
            try:
                yield
                told = [(None,)]
            finally:
                if self.count > 1:
                    dist.broadcast_object_list(told, src=0, group=self._group)
        else:
            self.first_does(lambda: None)
            yield

    def failures(self, work: Callable[[], object]) -> list[str]:
        """Every process does its part, waiting for none; what went wrong (OSError, ValueError), in all of
        them."""
        own = ""
        try:
            work()
        except (OSError, ValueError) as error:
            own = " ".join(str(error).split()) or type(error).__name__
        if self.count == 1:
            return [own] if own else []
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, own, group=self._group)
        return [text for text in found if text]

    def lost(self, error: RuntimeError) -> bool:
        """Whether an error is that of a process that waits for one that has ended."""
        said = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
        return self.count > 1 and (isinstance(error, dist.DistError) or any(s in str(error) for s in said))

    def refuse(self, error: BaseException) -> NoReturn:
        """Ends all processes, which have all come to the same error; the first one says it."""
        if not self.is_first:
            self.leave(getattr(error, "code", REFUSED))
        raise error

    def leave(self, code: int = REFUSED) -> NoReturn:
        """Ends this process without a word, after the first one, which has one to say."""
        with suppress(RuntimeError):  # what it waits for never comes: the first process ends
            dist.barrier(group=self._group)
        raise SystemExit(code)


@functools.cache
def processes() -> Processes:
    """Those that this process is one of; they are found out once."""
    return Processes()


def mean_over(share: Share, value: Tensor) -> Tensor:
    """The mean of what all shares' processes have; the value itself where there is one."""
    if share.count == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / share.count


class CutOff(BaseException):
    """What ran was not to be waited for (`StopSignals.at_once`)."""


class StopSignals:
    """SIGTERM and SIGINT, caught while a block runs: `asked` is the signal's number, 0 while there was none.

    A launcher passes on what a terminal sends to all, so a second one is nothing new to several processes; a
    process by itself ends at the second, at once.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._cuts = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises CutOff where it finds the main thread; one that came before does too."""
        self._cuts = True
        try:
            if self.asked:
                raise CutOff
            yield
        finally:
            self._cuts = False

    @contextmanager
    def caught(self, alone: bool) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # where Python has no signals
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in numbers}

        def note(number: int, frame: object) -> None:
            self.asked = number
            if alone:
                restore()
            if self._cuts:
                raise CutOff

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in numbers:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()
