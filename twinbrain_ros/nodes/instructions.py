"""What a policy is told to do: heard from whoever says it, however it is offered, and told to all who listen.

An instruction is said once, often by a process that ends a moment later. Nobody may therefore stand between
it and the policy: `ros2 topic pub --once` waits for one listener only, and ends before the policy knows of it
where a recorder was that one. So recorders listen to `instruction_in_force` instead, which also says what the
policy refused.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from std_msgs.msg import String

from twinbrain_ros.msg import InstructionInForce
from twinbrain_ros.nodes import qos
from twinbrain_ros.nodes.base import TwinBrainNode
from twinbrain_ros.robot.robot_file import RobotFile
from twinbrain_ros.text import sentence, shown

MAX_INSTRUCTION_CHARACTERS = 2000
CAUSE = "instruction"
# How it is listened to: always as to a default publisher, and as others ask for while there are any.
SAID, LATCHED, BEST_EFFORT = "said", "latched", "best effort"
PROFILES = {SAID: qos.SAID, LATCHED: qos.SAID_LATCHED, BEST_EFFORT: qos.SAID_BEST_EFFORT}
LOOK_S = 0.2
# Looks for which a way to listen stays after the last who needed it: the next one may have found it already.
LINGERS = 10
# The same message comes by up to three subscriptions, and not at once.
_REMEMBERED = 100


class Instructions:
    """The instruction in force, published from the beginning on: none.

    Attributes:
        text: what is to be done; "" if there is nothing.
    """

    def __init__(self, node: TwinBrainNode, robot: RobotFile) -> None:
        self._node, self._topic = node, robot.topics.instruction
        self.text = ""
        self._refused: str | None = None  # the newest text, if it was refused
        self._heard_as: dict[str, Any] = {}
        self._idle: Counter[str] = Counter()
        self._heard: deque[tuple[bytes, int]] = deque(maxlen=_REMEMBERED)
        self._out = node.advertise(InstructionInForce, robot.topics.instruction_in_force, qos.LATCHED)
        self._tell()

    def listen(self, check: Callable[[str], object], on_change: Callable[[], None]) -> None:
        """Listens from now on.

        Args:
            check: raises ValueError if the policy cannot read a text.
            on_change: called when another instruction is in force.
        """
        self._check, self._on_change = check, on_change
        self._heard_as = {SAID: self._subscription(SAID)}
        self._node.watch(LOOK_S, self._adapt)

    def close(self) -> None:
        """Listens no more."""
        while self._heard_as:
            self._node.destroy_subscription(self._heard_as.popitem()[1])

    def _adapt(self) -> None:
        """Listens as those who publish need it, and no more: they would be warned of a listener in vain."""
        wanted = {SAID}
        for publisher in self._node.get_publishers_info_by_topic(self._topic):
            profile = publisher.qos_profile
            if profile.reliability == ReliabilityPolicy.BEST_EFFORT:
                wanted.add(BEST_EFFORT)
            elif profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                wanted.add(LATCHED)
        for name in wanted - set(self._heard_as):
            self._heard_as[name] = self._subscription(name)
        self._idle = Counter({name: self._idle[name] + 1 for name in set(self._heard_as) - wanted})
        for name in [name for name, looks in self._idle.items() if looks > LINGERS]:
            self._node.destroy_subscription(self._heard_as.pop(name))

    def _subscription(self, name: str) -> Any:
        guarded = self._node._guarded(self._hear)

        def hear(message: String, information: Any) -> None:
            guarded(message, information)

        # Who offers something else is heard in another way: rclpy would warn that it is not.
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)
        return self._node.create_subscription(
            String, self._topic, hear, PROFILES[name], event_callbacks=silent
        )

    def _hear(self, message: String, information: dict[str, Any]) -> None:
        gid = information.get("publisher_gid") or {}  # Jazzy does not give it
        which = (bytes(gid.get("data", b"")), int(information["source_timestamp"]))
        if which in self._heard:
            return
        self._heard.append(which)
        self._take(message.data.strip())

    def _take(self, text: str) -> None:
        """A refused instruction leaves none: the old one is not what is wanted any more."""
        try:
            if not text:
                raise ValueError("instruction: found an empty text, expected words")
            if len(text) > MAX_INSTRUCTION_CHARACTERS:
                raise ValueError(
                    f"instruction: found {len(text)} characters ({shown(text, 60)}), "
                    f"expected at most {MAX_INSTRUCTION_CHARACTERS}"
                )
            self._check(text)
        except ValueError as error:
            self.text = ""
            self._tell(refused=shown(text), reason=sentence(error))
            anew, self._refused = text != self._refused, text
            self._node.report(CAUSE, f"refused, the arm will hold: {error}", anew=anew)
            return
        self._refused = None
        self._node.health.clear(CAUSE)
        changed, self.text = text != self.text, text
        self._tell()
        if changed:
            self._node.get_logger().info(f"instruction: {shown(text)}")
            self._on_change()

    def _tell(self, refused: str = "", reason: str = "") -> None:
        message = InstructionInForce(text=self.text, refused=refused, reason=reason)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._out.publish(message)
