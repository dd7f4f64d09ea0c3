"""The recorder node's parameters."""

from __future__ import annotations

from twinbrain_ros.data.contract import Topic, in_namespace
from twinbrain_ros.data.recorder import RecorderSettings
from twinbrain_ros.nodes.image_compression import FORMATS
from twinbrain_ros.nodes.parameters import Declared

_DEFAULTS = RecorderSettings()
MIB = 2**20

PARAMETERS: tuple[Declared, ...] = (
    Declared("directory", "bags", "Where the bags go; each episode is a directory in it."),
    Declared(
        "auto",
        False,
        "Record an episode from the beginning of autonomy until nobody drives any more, without being asked.",
    ),
    Declared(
        "extra_topics",
        "",
        "More topics to record, as `name type` with commas between: /tf tf2_msgs/msg/TFMessage, ...",
    ),
    Declared(
        "image_compression",
        FORMATS[0],
        f"What becomes of raw images on their way: {', '.join(FORMATS)}; png is lossless. Images that come "
        "compressed stay as they are.",
    ),
    Declared("jpeg_quality", 95, "Quality of JPEG.", lower=1, upper=100),
    Declared(
        "queue_mib",
        _DEFAULTS.queue_bytes // MIB,
        "Messages that wait to be written take no more memory than this; what comes beyond is lost and "
        "counted.",
        unit="MiB",
        lower=1,
        upper=65536,
    ),
    Declared(
        "preroll_s",
        _DEFAULTS.preroll_s,
        "How much of what was before its start an episode's bag begins with.",
        unit="s",
        lower=0.0,
        upper=60.0,
    ),
    Declared(
        "flush_s",
        _DEFAULTS.flush_s,
        "What is older is on the disk, whatever happens to the process or the machine.",
        unit="s",
        lower=0.05,
        upper=60.0,
    ),
    Declared(
        "min_free_mib",
        _DEFAULTS.min_free_bytes // MIB,
        "An episode is ended when less is free on the disk.",
        unit="MiB",
        lower=1,
        upper=10**6,
    ),
)


def extra_topics(text: str, namespace: str) -> list[Topic]:
    """Topics of the parameter extra_topics, in a namespace; raises ValueError for what is not `name type`."""
    topics = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        words = entry.split()
        if len(words) != 2:
            raise ValueError(f"extra_topics: found {entry!r}, expected `name type`")
        topics.append(Topic(in_namespace(namespace, words[0]), words[1]))
    return topics
