"""Plays a bag into live topics, with the recorded timing, from the bytes that were recorded.

By default only what was sensed and said is played: cameras, joint states, instruction, the robot's
description and the simulator's scene. Everything else is withheld: it moves an arm (commands, chunks, teleop
inputs, modes) or speaks for a node (status, diagnostics) while a live controller or its watchdogs listen.

Stamps. Live nodes refuse images whose stamps are old, so every `header.stamp` is moved to the time at which
it is played: now + (stamp - start of the recording) / rate. At rate 1 that is the same offset for all of
them, and every message is as old as it was. Only the first field of a message is changed, and only if it is a
std_msgs/Header: its stamp stands as eight bytes (int32 seconds, uint32 nanoseconds) right behind the four
bytes of the CDR encapsulation. Stamps further inside, such as a chunk's observation stamp, stay, and so do
stamps of zero, which mean none.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from twinbrain_ros.data.bag import Bag, Message
from twinbrain_ros.data.contract import (
    COMPRESSED,
    SCENE_STATE,
    in_namespace,
    info_topic,
    recorded_topics,
)
from twinbrain_ros.data.messages import NS_PER_S
from twinbrain_ros.data.problems import Problems
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.raw_topics import message_class
from twinbrain_ros.robot.robot_file import RobotFile

LISTENERS_S = 3.0  # so long is waited for somebody who listens
SETTLED_S = 0.3  # no more listeners have come for so long: all that are there are matched
LOOK_S = 0.02
ACKNOWLEDGED_S = 2.0  # so long the last messages may be on their way when everything has been published
# Deeper than what nodes offer themselves: who asks for every message shall get it, however fast they come.
PLAYED = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.RELIABLE)
_PLAIN_CDR = {b"\x00\x00": ">iI", b"\x00\x01": "<iI"}  # representation identifiers, and how a stamp is packed
_STAMP = slice(4, 12)


def played_topics(robot: RobotFile, namespace: str) -> set[str]:
    """Full names of the topics that are played unless all are asked for."""
    names = robot.topics
    relative = [*names.all_joint_states, names.instruction, names.robot_description, SCENE_STATE]
    for camera in robot.cameras:
        relative += [camera.base_topic, camera.base_topic + COMPRESSED, info_topic(camera)]
    return {in_namespace(namespace, name) for name in relative}


def begins_with_header(kind: Any) -> bool:
    """Whether the first field of a message class is a std_msgs/Header."""
    return next(iter(kind.get_fields_and_field_types().values()), "") == "std_msgs/Header"


def restamped(data: bytes, to_stamp: Callable[[int], int]) -> bytes | None:
    """A serialized message that begins with a header, its stamp changed.

    Args:
        data: CDR, with its encapsulation.
        to_stamp: from the old stamp to the new one [ns].
    Returns:
        None if it cannot be: another encapsulation, torn, or a new stamp out of range. A stamp of zero, which
        means none, stays.
    """
    packed = _PLAIN_CDR.get(data[:2])
    if packed is None or len(data) < _STAMP.stop:
        return None
    seconds, nanoseconds = struct.unpack(packed, data[_STAMP])
    if not (seconds or nanoseconds):
        return data
    stamp_ns = to_stamp(seconds * NS_PER_S + nanoseconds)
    if not 0 <= stamp_ns < 2**31 * NS_PER_S:
        return None
    return data[: _STAMP.start] + struct.pack(packed, *divmod(stamp_ns, NS_PER_S)) + data[_STAMP.stop :]


class Playback:
    """Plays one bag once. Not thread-safe; uses the ROS settings of the environment.

    Attributes:
        total: how many messages will be played.
        played: how many were, by topic.
        problems: what could not be played as it was recorded.
    """

    def __init__(
        self,
        bag: Bag,
        robot: RobotFile,
        namespace: str,
        rate: float = 1.0,
        *,
        all_topics: bool = False,
        keep_stamps: bool = False,
    ) -> None:
        """namespace: of the arm's topics; rate: so many times as fast; the rest as the module says."""
        self._bag, self._rate, self._keep_stamps = bag, rate, keep_stamps
        self.problems = Problems()
        self.played: Counter[str] = Counter()
        wanted = played_topics(robot, namespace)
        self._latched = {topic.name for topic in recorded_topics(robot, namespace) if topic.latched}
        self._latched |= {name for name, topic in bag.topics.items() if topic.latched}
        filled = {name: topic for name, topic in bag.topics.items() if topic.count}
        # Where a policy drove, what was said is recorded as that policy took it.
        self._said = in_namespace(namespace, robot.topics.instruction)
        self._followed = in_namespace(namespace, robot.topics.instruction_in_force)
        says = self._followed in filled and self._said not in filled
        self._kinds: dict[str, Any] = {self._said: String} if says else {}
        self._withheld = sorted(name for name in filled if not all_topics and name not in wanted)
        for name, topic in filled.items():
            if name not in self._withheld:
                self._add_kind(name, topic.type)
        read = {*self._kinds, self._followed} if says else set(self._kinds)
        self._read = read & set(filled)
        self.total = sum(filled[name].count for name in self._read)

    def _add_kind(self, name: str, kind: str) -> None:
        try:
            self._kinds[name] = message_class(kind)
        except ValueError as error:
            self.problems.add(f"type/{name}", f"{name}: not played: {error}")

    def withheld(self) -> list[str]:
        """What is not played, as a sentence; none if everything is."""
        return [f"withheld: {', '.join(self._withheld)} (--all-topics plays them)"] if self._withheld else []

    def __enter__(self) -> Playback:
        self._context = rclpy.Context()
        # Ctrl-C ends waits by KeyboardInterrupt; rclpy's own handlers would end its context first.
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("twinbrain_playback", context=self._context)
        self._publishers = {
            name: self._node.create_publisher(kind, name, qos.LATCHED if name in self._latched else PLAYED)
            for name, kind in self._kinds.items()
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait_for_listeners(self, timeout_s: float = LISTENERS_S) -> list[str]:
        """Waits until those who listen are matched, so that they get the first message too.

        Returns:
            sentences on what a person should know before it begins: nobody listens, or others publish too.
        """
        end, found, since = time.monotonic() + timeout_s, 0, time.monotonic()
        while (now := time.monotonic()) < end:
            matched = sum(publisher.get_subscription_count() for publisher in self._publishers.values())
            if matched != found:
                found, since = matched, now
            if found and now - since >= SETTLED_S:
                break
            time.sleep(LOOK_S)
        others = [name for name in self._publishers if self._node.count_publishers(name) > 1]
        sentences = [f"{name}: somebody else publishes it too" for name in others]
        return sentences if found else ["nobody listens yet", *sentences]

    def play(self, on_message: Callable[[], None] = lambda: None) -> None:
        """Publishes everything; `on_message` is called after each message.

        Raises:
            BagError: the bag turns out to be damaged.
        """
        start_ns, recorded_ns = time.monotonic_ns(), self._bag.start_ns
        now_ns = self._node.get_clock().now().nanoseconds

        def later(at_ns: int) -> int:
            """From the start of the recording to a time in it, as it is played [ns]."""
            # Integers stay exact; the quotient of two of nanoseconds since 1970 would not.
            return at_ns - recorded_ns if self._rate == 1 else round((at_ns - recorded_ns) / self._rate)

        headed = {name for name, kind in self._kinds.items() if begins_with_header(kind)}
        for message in self._bag.messages(self._read):
            data = message.data
            if message.topic in headed and not self._keep_stamps:
                data = self._moved(message, lambda stamp_ns: now_ns + later(stamp_ns))
            while (wait_ns := start_ns + later(message.log_ns) - time.monotonic_ns()) > 0:
                time.sleep(wait_ns / NS_PER_S)
            if message.topic == self._followed and self._said not in self._read:
                self._say(message)
            if message.topic in self._publishers:
                self._publishers[message.topic].publish(data)
                self.played[message.topic] += 1
            on_message()
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED_S))

    def _say(self, message: Message) -> None:
        text = self._bag.decode(message).text
        if text:
            self._publishers[self._said].publish(String(data=text))
            self.played[self._said] += 1

    def _moved(self, message: Message, to_stamp: Callable[[int], int]) -> bytes:
        data = restamped(message.data, to_stamp)
        if data is None:
            self.problems.add(
                f"stamp/{message.topic}", f"{message.topic}: its stamp cannot be moved and stays as it was"
            )
            return message.data
        return data
