"""Runs one node as a process: start, spin, and an orderly end on SIGINT or SIGTERM with exit code 0."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.lifeline import end_with_launch

# Python runs signal handlers between two waits of the executor; this bounds how long a signal waits.
SPIN_TIMEOUT_S = 0.1


class _Stop:
    """The wish to stop. While the node works on its own (start, configure) it interrupts at once."""

    def __init__(self) -> None:
        self.asked = False
        self.node: TwinBrainNode | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        # Loading a model can take longer than a person is willing to wait; callbacks that move an arm are
        # never cut short.
        if first and (self.node is None or self.node.phase in ("unconfigured", "configuring")):
            raise KeyboardInterrupt


def _heard() -> list[signal.Signals]:
    """SIGHUP comes when a terminal is closed; `nohup` has it ignored, and that stays so."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]


def run_node(make: Callable[[], TwinBrainNode], args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until a signal comes, then ends the process: code 0, or 1 if it cannot even be made."""
    stop = _Stop()
    for number in _heard():
        signal.signal(number, stop)
    executor: SingleThreadedExecutor | None = None
    code = 0
    try:
        # Its own handlers would shut the context down first, and a controller could not say "hold" any more.
        given = list(args) if args is not None else None
        rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
        end_with_launch()
        executor = SingleThreadedExecutor()
        stop.node = make()
        executor.add_node(stop.node)
        stop.node.autostart()
        while not stop.asked:
            executor.spin_once(timeout_sec=SPIN_TIMEOUT_S)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ParameterException as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    stop.asked = True
    if stop.node is not None:
        stop.node.close()
        stop.node.wait_until_heard()
    if executor is not None:
        executor.shutdown(timeout_sec=1.0)
    if stop.node is not None:
        stop.node.destroy_node()
    rclpy.try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to be done. Python's own end would take PyTorch down piece by piece: a second, more on a
    # busy machine, or an abort where a model that nobody waits for any more still computes.
    os._exit(code)
