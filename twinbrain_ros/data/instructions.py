"""Which instruction a recording says was followed, and when."""

from __future__ import annotations

from typing import Any

from twinbrain_ros.data.contract import in_namespace
from twinbrain_ros.robot.robot_file import RobotFile


class Instructions:
    """Reads the instruction from a recording's messages, given in their order.

    A policy says what it follows (`instruction_in_force`), and from then on only that counts: what somebody
    said may not have reached it, or was refused. Recordings of earlier versions, and those without a policy,
    have only what was said.

    Attributes:
        topics: full names of those that are to be read.
    """

    def __init__(self, robot: RobotFile, namespace: str) -> None:
        names = robot.topics
        self._said = in_namespace(namespace, names.instruction)
        self._in_force = in_namespace(namespace, names.instruction_in_force)
        self._told = False
        self.topics = (self._said, self._in_force)

    def read(self, topic: str, content: Any) -> str | None:
        """The instruction that is followed from this message on, "" for none; None: it changes nothing."""
        if topic == self._in_force:
            self._told = True
            return str(content.text).strip()
        return None if self._told else str(content.data).strip()
