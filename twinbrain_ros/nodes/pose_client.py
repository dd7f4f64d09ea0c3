"""Asks the controller to bring the arm to a named pose: the client of its action go_to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient

from twinbrain_ros.action import GoTo
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.text import shown

FOUND_S = 0.8  # nodes that were started together have found each other by then
ANSWER_S = 2.0


class PoseClient:
    """One way at a time.

    Args:
        node: owns the client until cleanup; it calls `look` several times a second.

    Attributes:
        pose: where the arm is on its way to; empty if it is on none.
    """

    def __init__(self, node: TwinBrainNode) -> None:
        self._node = node
        self._client: Any = ActionClient(node, GoTo, "go_to")
        node.keep(lambda client: client.destroy(), self._client)
        self.pose = ""
        self._done: Callable[[str], None] = lambda problem: None
        self._asked_s = 0.0
        self._sent: Any = None  # the goal as it was sent: the future of its handle
        self._handle: Any = None

    def begin(self, pose: str, done: Callable[[str], None]) -> None:
        """Sets off to a pose; `done` is called once: with "" when the arm rests there, or with why not."""
        self.pose, self._done, self._asked_s = pose, done, time.monotonic()
        self._sent = self._handle = None
        self.look()

    def look(self) -> None:
        """Whether there is a controller, and it answers; nothing if the arm is on no way of this client."""
        if not self.pose:
            return
        waited_s, there = time.monotonic() - self._asked_s, self._client.server_is_ready()
        if self._sent is None:
            if there:
                self._sent = sent = self._client.send_goal_async(GoTo.Goal(pose=self.pose))
                self._node.when_done(sent, lambda handle: self._answered(sent, handle))
            elif waited_s > FOUND_S:
                self._end("nobody serves the action go_to: is controller_node running and configured?")
        elif not there:
            self.cancel("the controller has gone, nobody serves the action go_to any more")
        elif self._handle is None and waited_s > ANSWER_S:
            self.cancel(f"the controller has not answered the action go_to within {ANSWER_S:g} s")

    def cancel(self, reason: str) -> None:
        """Ends the way, at rest where the arm is then; `done` is called with the reason."""
        if self._handle is not None:
            self._handle.cancel_goal_async()
        self._end(reason)

    def _answered(self, sent: Any, handle: Any) -> None:
        if sent is not self._sent:  # cancelled before it was answered
            if handle.accepted:
                handle.cancel_goal_async()
        elif not handle.accepted:
            self._end(f"the controller rejected the goal {shown(self.pose)}")
        else:
            self._handle = handle
            self._node.when_done(handle.get_result_async(), lambda answer: self._over(handle, answer.result))

    def _over(self, handle: Any, result: GoTo.Result) -> None:
        if handle is self._handle:
            self._end("" if result.success else result.message or "the controller does not say why")

    def _end(self, problem: str) -> None:
        if self.pose:
            self.pose, self._sent, self._handle = "", None, None
            self._done(problem)
