"""Named poses over ROS: the action go_to, and a service go_<pose> for each.

A goal that cannot be done is accepted and aborted at once: a rejection could not say why. The services answer
when the arm sets off, `control_mode` tells when it is there; the action's result comes when it is at rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from std_srvs.srv import Trigger

from twinbrain_ros.action import GoTo
from twinbrain_ros.control.controller import ArmController
from twinbrain_ros.control.go_to import WayEnd
from twinbrain_ros.control.modes import Mode
from twinbrain_ros.control.timing import to_ns
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.nodes.health import Level
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.text import shown

FEEDBACK_S = 0.1
SPEED = "go_to_speed"
_TOKEN = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")


class PoseAction:
    """Serves go_to for a controller.

    Args:
        node: its parameter go_to_speed is the speed where nobody says one.
        controller: leads the arm.
        times: gives the ROS clock and a steady one [ns].
        refusal: why the arm must not be moved at all now; empty if it may.
        tell: publishes what has happened in the core.
        guarded: makes a callback one whose failure is reported.
    """

    def __init__(
        self,
        node: TwinBrainNode,
        robot: RobotFile,
        controller: ArmController,
        times: Callable[[], tuple[int, int]],
        refusal: Callable[[], str],
        tell: Callable[[], None],
        guarded: Callable[[Callable[..., Any]], Callable[..., None]],
    ) -> None:
        self._node, self._controller, self._times = node, controller, times
        self._refusal, self._tell = refusal, tell
        self._goals: dict[int, Any] = {}  # handles by the number of their way
        self._over: list[tuple[Any, WayEnd]] = []  # until the arm is at rest
        self._results: dict[bytes, WayEnd] = {}
        self._told_ns = 0
        self._server: Any = ActionServer(
            node,
            GoTo,
            "go_to",
            execute_callback=self._finish,
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            handle_accepted_callback=guarded(self._begin),
            cancel_callback=self._cancel,
        )
        node.keep(lambda server: server.destroy(), self._server)
        for name in robot.poses:
            if _TOKEN.fullmatch(name):
                node.serve(Trigger, f"go_{name}", self._service(name))

    # Begin ------------------------------------------------------------------------------------------

    def _ask(self, pose: str, speed: float, source: str) -> int:
        """Sets off; the number of the way. Raises ValueError: says why not."""
        refusal = self._refusal()
        if refusal:
            raise ValueError(refusal)
        speed = speed or float(self._node.value(SPEED))
        number = self._controller.go_to(pose, speed, *self._times(), source, f"go to {pose!r}")
        self._node.health.clear("go_to")
        return number

    def _service(self, pose: str) -> Callable[[Any, Any], None]:
        def answer(request: Trigger.Request, response: Trigger.Response) -> None:
            try:
                self._ask(pose, 0.0, f"service go_{pose}")
            except ValueError as error:
                response.success, response.message = False, str(error)
                self._node.get_logger().warning(f"go_{pose}: {error}")
                return
            way = self._controller.on_the_way
            assert way is not None
            left_s = way.progress(self._controller.clock.tell(*self._times()))[2]
            response.success, response.message = True, f"on the way to {pose!r}, there in {left_s:.1f} s"
            self._tell()

        return answer

    def _begin(self, handle: Any) -> None:
        pose = str(handle.request.pose)
        try:
            self._goals[self._ask(pose, float(handle.request.speed), "action go_to")] = handle
        except ValueError as error:
            self._node.get_logger().warning(f"go_to {shown(pose)}: {error}")
            self._end(handle, WayEnd(0, pose, False, str(error)))
        self._tell()

    def _cancel(self, handle: Any) -> CancelResponse:
        number = next(
            (number for number, goal in self._goals.items() if goal.goal_id == handle.goal_id), None
        )
        way = self._controller.on_the_way
        if number is None or way is None or way.number != number:
            return CancelResponse.REJECT
        self._controller.set_mode(Mode.HOLD, *self._times(), "action go_to", "go_to was cancelled")
        self._tell()
        return CancelResponse.ACCEPT

    # On the way, and its end ------------------------------------------------------------------------

    def over(self, end: WayEnd) -> None:
        """A way has come to its end."""
        handle = self._goals.pop(end.number, None)
        if handle is not None:
            self._over.append((handle, end))
        if end.problem:
            self._node.report("go_to", end.message, Level.WARN)

    def tick(self, now_ns: int) -> None:
        """To be called once a period of the controller's."""
        if self._over and (self._controller.driven or self._controller.settling(now_ns) is None):
            self.close()
        way = self._controller.on_the_way
        handle = self._goals.get(way.number) if way is not None else None
        if handle is None or abs(now_ns - self._told_ns) < to_ns(FEEDBACK_S):
            return
        assert way is not None
        self._told_ns = now_ns
        towards, distance, left_s = way.progress(self._controller.clock.motion(now_ns))
        handle.publish_feedback(GoTo.Feedback(towards=towards, distance_rad=distance, time_left_s=left_s))

    def close(self) -> None:
        """Tells the end of ways that are over, without waiting for rest: nobody ticks any more."""
        over, self._over = self._over, []
        for handle, end in over:
            self._end(handle, end)

    def _end(self, handle: Any, end: WayEnd) -> None:
        self._results[bytes(handle.goal_id.uuid)] = end
        handle.execute()

    def _finish(self, handle: Any) -> Any:
        end = self._results.pop(bytes(handle.goal_id.uuid))
        if handle.is_cancel_requested:
            handle.canceled()
        elif end.success:
            handle.succeed()
        else:
            handle.abort()
        return GoTo.Result(success=end.success, message=end.message)
