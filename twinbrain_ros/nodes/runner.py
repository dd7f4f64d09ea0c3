"""Runs one node as a process: start, spin, and an orderly end on SIGINT or SIGTERM with exit code 0."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from twinbrain_ros.nodes.base import TwinBrainNode

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


def run_node(make: Callable[[], TwinBrainNode], args: Sequence[str] | None = None) -> int:
    """Runs the node until a signal comes. Returns the exit code: 0, or 1 if it cannot even be made."""
    # rclpy's own handlers would shut the context down first, and a controller could not say "hold" any more.
    rclpy.init(args=list(args) if args is not None else None, signal_handler_options=SignalHandlerOptions.NO)
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    executor = SingleThreadedExecutor()
    code = 0
    try:
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
    executor.shutdown(timeout_sec=1.0)
    if stop.node is not None:
        stop.node.destroy_node()
    rclpy.try_shutdown()
    for number, handler in before.items():
        signal.signal(number, handler)
    return code
