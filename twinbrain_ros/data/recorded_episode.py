"""What the recorder keeps of messages and of an episode while it is being written."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from twinbrain_ros.data.bag_writer import BagWriter
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.episode_info import EpisodeInfo, TopicCounts


@dataclass
class Counter:
    """Messages of a topic."""

    received: int = 0
    written: int = 0
    lost: int = 0

    def fixed(self) -> TopicCounts:
        return TopicCounts(self.received, self.written, self.lost)


@dataclass(frozen=True)
class Item:
    """A message that waits to be written: when it came [ns, and s of the monotonic clock]."""

    topic: Topic
    log_ns: int
    data: bytes
    came_s: float


@dataclass(eq=False)
class RecordedEpisode:
    """An episode from its start until its bag is whole, and afterwards as the last one."""

    bag: BagWriter
    info: EpisodeInfo
    started_s: float
    counters: dict[str, Counter] = field(default_factory=dict)
    ending: str = ""  # why, once it is to end
    ended_ns: int = 0
    discard: bool = False
    failure: str = ""
    done: threading.Event = field(default_factory=threading.Event)

    def counter(self, topic: str) -> Counter:
        return self.counters.setdefault(topic, Counter())

    def counts(self) -> dict[str, TopicCounts]:
        return {topic: counter.fixed() for topic, counter in sorted(self.counters.items())}
