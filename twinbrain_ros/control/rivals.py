"""Who else publishes on a topic that has one publisher by rights. No ROS in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from twinbrain_ros.control.modes import Mode

UNKNOWN = ("_NODE_NAME_UNKNOWN_", "_CREATED_BY_BARE_DDS_APP_")  # what ROS calls nodes that it has no name of

NAMELESS = "a node without a name"


def full_name(namespace: str, name: str) -> str:
    """A node's name from the root, as in `ros2 node list`."""
    return NAMELESS if name in UNKNOWN else f"{namespace.rstrip('/')}/{name}"


def _another(own: str) -> str:
    return f"another {own}"


def rivals(own: str, publishers: Sequence[str]) -> list[str]:
    """The others among a topic's publishers, of which one is this node's own.

    Args:
        own: this node's full name; a second one of that name is another node, or one that was killed.
        publishers: full names of the nodes, one for each publisher.
    """
    counts = Counter(publishers)
    others = [name for name in sorted(counts) if name != own]
    again = [_another(own)] * (counts[own] - 1)
    return [name if counts[name] == 1 else f"{name} ({counts[name]} times)" for name in others] + again


def rivals_sentence(topic: str, own: str, others: Sequence[str], alone: str) -> str:
    """What stands against moving; empty if nobody else publishes there.

    Args:
        alone: what the topic takes of one node only, such as `the arm's commands`.
    """
    if not others:
        return ""
    again = _another(own) in others
    last_seen = " (one that was killed is known for 6 to 20 s more)" if again else ""
    return (
        f"{topic} takes {alone} from one node, but is published by {own} (this one) and by "
        f"{', '.join(others)}: end one of them{last_seen}"
    )


@dataclass
class Barred:
    """What stands against modes that move, in a sentence each, or nothing.

    Attributes:
        driver: another driver of the same arm, or its driver in a wrong state: against all of them.
        policy: a second policy: against autonomy.
    """

    driver: str = ""
    policy: str = ""

    def reason(self, mode: Mode) -> str:
        """Why a mode may not be; empty if nothing stands against it."""
        return self.driver or (self.policy if mode is Mode.AUTONOMY else "")
