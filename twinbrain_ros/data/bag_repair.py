"""Mends a recording that was cut off: everything that can be read goes into a whole bag in its place."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twinbrain_ros.data.bag import METADATA, BagError, open_bag
from twinbrain_ros.data.bag_writer import UNFINISHED, BagWriter
from twinbrain_ros.data.contract import Topic
from twinbrain_ros.data.episode_info import TopicCounts

TORN = ".torn"
FLUSH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Repaired:
    """What a repair did: messages in the whole bag, how the old one was cut off, where its file is now."""

    path: Path
    messages: int
    cut: str
    torn_file: Path


def repair(path: Path, on_message: Callable[[], object] = lambda: None) -> Repaired | None:
    """Makes a recording whole; its torn file stays beside the new one. None if nothing is wrong with it.

    Args:
        path: of the bag's directory.
        on_message: called for each message, for a progress bar.
    Raises:
        BagError: nothing can be read, or it is not a directory with one mcap file.
        OSError: the disk does not take it; the recording stays as it is.
    """
    bag = open_bag(path)
    if path.is_file():
        raise BagError(f"{path}: found a file, expected the directory of a recording")
    if (path / METADATA).is_file() and not bag.truncated:
        return None
    files = sorted(path.glob("*.mcap"))
    info = bag.episode
    counts = {name: TopicCounts(topic.count, topic.count) for name, topic in bag.topics.items()}
    whole = dataclasses.replace(
        info,
        ended_ns=bag.end_ns,
        ended=f"cut off, and mended: {bag.truncated or 'not closed'}",
        counts=counts,
    )
    # On the same disk, so that putting it in place is one step.
    workshop = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        writer = BagWriter(workshop / path.name, info.to_json())
        topics = {
            name: Topic(name, topic.type, topic.latched, definition=topic.definition)
            for name, topic in bag.topics.items()
        }
        flushed = 0
        for message in bag.messages():
            writer.write(topics[message.topic], message.log_ns, message.data)
            if writer.bytes_written - flushed > FLUSH_BYTES:
                writer.flush()
                flushed = writer.bytes_written
            on_message()
        writer.close(whole.to_json())
        torn = files[0].rename(files[0].with_name(files[0].name + TORN))
        made = workshop / path.name
        os.replace(made / f"{path.name}.mcap", path / f"{path.name}.mcap")
        os.replace(made / METADATA, path / METADATA)
        (path / UNFINISHED).unlink(missing_ok=True)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return Repaired(path, bag.message_count, bag.truncated, torn)
