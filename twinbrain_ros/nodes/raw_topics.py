"""Subscriptions that take messages as they came over the wire, however reliably they are offered."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)

from twinbrain_ros.data.contract import Topic
from twinbrain_ros.nodes.base import TwinBrainNode

# Deep enough for a recorder that is held up for a second, at the rates of each kind.
DEPTH, IMAGE_DEPTH = 1000, 60

OnRaw = Callable[[Topic, bytes, "dict[str, Any]"], None]


def message_class(name: str) -> Any:
    """The class of a message type such as `sensor_msgs/msg/Image`.

    Raises:
        ValueError: it is not installed, or no such name.
    """
    try:
        package, kind, message = name.split("/")
        return getattr(importlib.import_module(f"{package}.{kind}"), message)
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"message type {name!r}: not installed ({error})") from error


class RawTopics:
    """Listens to topics of a node.

    Args:
        node: owns the subscriptions.
        on_raw: called with the topic, the serialized message and rclpy's message information.
    """

    def __init__(self, node: TwinBrainNode, on_raw: OnRaw) -> None:
        self._node, self._on_raw = node, on_raw
        self._subscriptions: dict[str, Any] = {}
        self._looser: list[Topic] = []

    def listen(self, topics: Sequence[Topic]) -> list[str]:
        """Subscribes to these; returns a sentence for each that cannot be."""
        problems = []
        for topic in topics:
            try:
                self._subscribe(topic)
            except ValueError as error:
                problems.append(f"{topic.name}: not recorded: {error}")
        return problems

    def drop(self, topic: Topic) -> None:
        """Listens to this one no more; nothing happens if it does not."""
        subscription = self._subscriptions.pop(topic.name, None)
        if subscription is not None:
            self._node.destroy_subscription(subscription)
        self._looser = [other for other in self._looser if other.name != topic.name]

    def listens(self, topic: Topic) -> bool:
        """Whether it is subscribed to."""
        return topic.name in self._subscriptions

    def adapt(self) -> None:
        """Asks for less where a publisher offers less than was asked for; to be called now and then."""
        looser, self._looser = self._looser, []
        for topic in looser:
            self._node.destroy_subscription(self._subscriptions.pop(topic.name))
            self._subscribe(topic)

    def close(self) -> None:
        """Ends them all."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.popitem()[1])

    def _subscribe(self, topic: Topic) -> None:
        kind = message_class(topic.type)
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=IMAGE_DEPTH if topic.type.endswith("Image") else DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if topic.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE,
        )

        def on_raw(data: Any, information: Any) -> None:
            self._on_raw(topic, data, information)

        def incompatible(event: QoSRequestedIncompatibleQoSInfo) -> None:
            self._looser.append(self._loosened(topic, event.last_policy_kind))

        self._subscriptions[topic.name] = self._node.create_subscription(
            kind,
            topic.name,
            on_raw,
            profile,
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=incompatible, use_default_callbacks=False
            ),
        )

    @staticmethod
    def _loosened(topic: Topic, policy: Any) -> Topic:
        if policy == QoSPolicyKind.DURABILITY:
            return dataclasses.replace(topic, latched=False)
        return dataclasses.replace(topic, reliable=False)
