"""Looks in the graph for others that publish where one node alone may."""

from __future__ import annotations

from collections.abc import Mapping

from rclpy.node import Node

from twinbrain_ros.control.rivals import full_name, rivals, rivals_sentence

LOOK_S = 0.2  # two drivers see each other within a second


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
        self._topics = {node.resolve_topic_name(topic): alone for topic, alone in topics.items()}

    def problem(self) -> str:
        """Who else publishes, in one sentence; empty if nobody does."""
        own = self._node.get_fully_qualified_name()
        for topic, alone in self._topics.items():
            others = rivals(own, publishers_of(self._node, topic))
            if others:
                return rivals_sentence(topic, own, others, alone)
        return ""


def several_publishers(node: Node, topic: str, alone: str) -> str:
    """Of a topic that the node listens to: a sentence if more than one node publishes it, else empty."""
    full = node.resolve_topic_name(topic)
    names = publishers_of(node, full)
    if len(names) < 2:
        return ""
    by = " and by ".join(sorted(names))
    return f"{full} takes {alone} from one node, but is published by {by}: end one of them"
