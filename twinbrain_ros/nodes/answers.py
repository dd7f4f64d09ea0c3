"""Services that answer later than their callback returns."""

from __future__ import annotations

from typing import Any

from twinbrain_ros.text import sentence


class Answers:
    """Sends what a service answers: at once, or, where it is held, when it is there.

    rclpy hands what a callback returns to `send_response`, with the header that says whom it is for. A
    coroutine that waits instead would be looked at in every turn of the executor, bar the node's other
    callbacks, keep the executor from shutting down, and fail where the service is gone before it.
    """

    def __init__(self, service: Any) -> None:
        self._send = service.send_response
        service.send_response = self._send_or_keep
        self._held: dict[int, tuple[Any, Any]] = {}  # responses and their headers, by id

    def hold(self, response: Any) -> None:
        """To be called by the callback: `send` answers, the callback's return does not."""
        self._held[id(response)] = response, None

    def send(self, response: Any) -> None:
        """Answers what was held."""
        _, header = self._held.pop(id(response))
        self._send(complete(response), header)

    def _send_or_keep(self, response: Any, header: Any) -> None:
        if id(response) in self._held:
            self._held[id(response)] = response, header
        else:
            self._send(complete(response), header)


def complete(response: Any) -> Any:
    """The same with one sentence as its message, whatever the callback left."""
    if not response.success and not response.message:
        response.message = "internal error, see /diagnostics"
    response.message = sentence(response.message)
    return response
