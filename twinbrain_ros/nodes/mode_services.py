"""Who is to drive, asked for over ROS: the services set_mode, estop and reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from std_srvs.srv import Trigger

from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.control.modes import ModeError
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.srv import SetMode
from twinbrain_ros.text import shown


class ModeServices:
    """Serves them for a controller.

    Args:
        controller: whose mode it is.
        times: gives the ROS clock and a steady one [ns].
        refusal: why nothing may be asked of the controller now; empty if it may.
        tell: publishes what has happened in the core.
        look: finds out what stands against driving, before a mode is asked for.
    """

    def __init__(
        self,
        node: TwinBrainNode,
        controller: ArmController,
        times: Callable[[], tuple[int, int]],
        refusal: Callable[[], str],
        tell: Callable[[], None],
        look: Callable[[], None],
    ) -> None:
        self._node, self._controller, self._times = node, controller, times
        self._refusal, self._tell, self._look = refusal, tell, look
        node.serve(SetMode, "set_mode", self._on_set_mode)
        node.serve(Trigger, "estop", self._on_estop)
        node.serve(Trigger, "reset", self._on_reset)

    def _on_set_mode(self, request: SetMode.Request, response: SetMode.Response) -> None:
        if not self._refusal():
            self._look()
        asked = f"mode {request.mode} asked for by {shown(request.source)}, because {shown(request.reason)}"
        self._serve(
            response, asked,
            lambda c: c.set_mode(request.mode, *self._times(), request.source, request.reason),
        )  # fmt: skip

    def _on_estop(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self._serve(response, "estop called", lambda c: c.estop(*self._times(), "service", "estop called"))

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self._serve(response, "reset called", lambda c: c.reset(*self._times(), "service", "reset called"))

    def _serve(self, response: Any, asked: str, act: Callable[[ArmController], None]) -> None:
        """Answers a service: `act` raises ModeError if it cannot be done."""
        controller = self._controller
        response.success, response.message = False, self._refusal()
        if not response.message:
            try:
                act(controller)
                response.success, response.message = True, f"{controller.mode.name} is in force"
                if controller.driven and controller.advice:
                    response.message += f"; {controller.advice}"
            except ModeError as error:
                response.message = str(error)
            self._tell()
        # Two calls, not one chosen: rclpy ties a severity to the line that logs.
        if response.success:
            self._node.get_logger().info(f"{asked}: {response.message}")
        else:
            self._node.get_logger().warning(f"{asked}: {response.message}")
