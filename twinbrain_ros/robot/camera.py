"""The cameras of a robot file: where their images come from, and what they are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from twinbrain_ros.robot.encodings import ENCODINGS
from twinbrain_ros.robot.strict import StrictMapping

CAMERA_ROLES = ("third_person", "wrist")
TRANSPORTS = ("raw", "compressed")
STAMPS = ("header", "receipt")
COMPRESSED = "/compressed"  # as image_transport names the topic of JPEG and PNG, beside the raw one


@dataclass(frozen=True)
class Camera:
    """One camera: its topic, role and the exact images [pixels] it must deliver at ``rate_hz``.

    ``transport``: ``raw`` (sensor_msgs/Image) or ``compressed`` (CompressedImage). ``stamps``: the time of an
    image is that of its ``header``, or of its ``receipt`` where the driver's stamps mean nothing.
    ``value_range``: of encodings with 16 bits, the values that become black and white.
    """

    name: str
    topic: str
    role: str
    width: int
    height: int
    encoding: str
    rate_hz: float
    transport: str = TRANSPORTS[0]
    stamps: str = STAMPS[0]
    value_range: tuple[float, float] = (0.0, 65535.0)

    @property
    def base_topic(self) -> str:
        """Return the topic of raw images, beside which the others have theirs."""
        return self.topic.removesuffix(COMPRESSED) if self.compressed else self.topic

    @property
    def image_topic(self) -> str:
        """Return the topic that is listened to."""
        return self.base_topic + COMPRESSED if self.compressed else self.topic

    @property
    def compressed(self) -> bool:
        """Whether its images come as sensor_msgs/CompressedImage."""
        return self.transport == "compressed"


def read_cameras(top: StrictMapping) -> tuple[Camera, ...]:
    """Return the cameras of a robot file in its order; raises its error for what is wrong."""
    entries = top.raw("cameras")
    if not isinstance(entries, list) or not entries:
        raise top.fail("cameras", entries, "a list of at least one camera")
    cameras = [_camera(top, index, entry) for index, entry in enumerate(entries)]
    names = [camera.name for camera in cameras]
    if len(set(names)) != len(names):
        raise top.fail("cameras", names, "cameras of different names")
    topics = [camera.image_topic for camera in cameras]
    if len(set(topics)) != len(topics):
        raise top.fail("cameras", topics, "cameras of different topics")
    return tuple(cameras)


def _camera(top: StrictMapping, index: int, entry: Any) -> Camera:
    optional = ("transport", "stamps", "value_range")
    keys = tuple(key for key in Camera.__dataclass_fields__ if key not in optional)
    source = StrictMapping(entry, top.source, keys, f"cameras[{index}]", top.error, optional)
    camera = Camera(
        source.text("name"),
        source.topic("topic"),
        source.text("role", CAMERA_ROLES),
        source.integer("width", 1, 8192),
        source.integer("height", 1, 8192),
        source.text("encoding", ENCODINGS),
        source.number("rate_hz", 0.1, 1000),
    )
    more: dict[str, Any] = {}
    if source.has("transport"):
        more["transport"] = source.text("transport", TRANSPORTS)
    if source.has("stamps"):
        more["stamps"] = source.text("stamps", STAMPS)
    if source.has("value_range"):
        low, high = source.numbers("value_range", 2)
        if not 0 <= low < high <= 65535:
            raise source.fail("value_range", [low, high], "[black, white], 0 <= black < white <= 65535")
        more["value_range"] = (low, high)
    return dataclasses.replace(camera, **more)
