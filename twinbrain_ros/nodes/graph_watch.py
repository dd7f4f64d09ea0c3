"""Looks in the graph for others that publish where one node alone may."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rclpy.node import Node

from twinbrain_ros.control.rivals import NAMELESS, full_name, rivals, rivals_sentence

LOOK_S = 0.2  # two drivers see each other within a second
NAMED_S = 0.4  # a publisher is often known a moment before its node's name is


def publishers_of(node: Node, topic: str) -> list[str]:
    """Full names of the nodes that publish a topic, one for each publisher."""
    found = node.get_publishers_info_by_topic(topic)
    return [full_name(entry.node_namespace, entry.node_name) for entry in found]


class GraphWatch:
    """Of topics that a node publishes: who else does.

    Args:
        topics: as they were given to `advertise`, with what each takes from one node only.
    """

    def __init__(self, node: Node, topics: Mapping[str, str]) -> None:
        self._node = node
        self._nameless_s: float | None = None  # since when a publisher without a name is seen
        self._topics = {node.resolve_topic_name(topic): alone for topic, alone in topics.items()}

    def problem(self) -> str:
        """Who else publishes, in one sentence; empty if nobody does."""
        own = self._node.get_fully_qualified_name()
        found = {topic: rivals(own, publishers_of(self._node, topic)) for topic in self._topics}
        if not any(NAMELESS in name for others in found.values() for name in others):
            self._nameless_s = None
        elif self._nameless_s is None:
            self._nameless_s = time.monotonic()
        if self._nameless_s is not None and time.monotonic() - self._nameless_s < NAMED_S:
            return ""
        for topic, others in found.items():
            if others:
                return rivals_sentence(topic, own, others, self._topics[topic])
        return ""


def several_publishers(node: Node, topic: str, alone: str) -> str:
    """Of a topic that the node listens to: a sentence if more than one node publishes it, else empty."""
    full = node.resolve_topic_name(topic)
    names = publishers_of(node, full)
    if len(names) < 2:
        return ""
    by = " and by ".join(sorted(names))
    return f"{full} takes {alone} from one node, but is published by {by}: end one of them"
