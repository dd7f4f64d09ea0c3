"""Raw images made small on their way into a bag."""

from __future__ import annotations

import array
import dataclasses

import cv2
import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from twinbrain_ros.data.contract import COMPRESSED, COMPRESSED_IMAGE, IMAGE, Topic
from twinbrain_ros.data.decode import to_bgr

FORMATS = ("none", "jpeg", "png")


class ImageCompression:
    """Turns sensor_msgs/Image into CompressedImage on `<topic>/compressed`, as image_transport names it.

    Args:
        kind: `jpeg` or `png` (lossless).
        quality: of JPEG, 1 to 100.
    """

    def __init__(self, kind: str, quality: int) -> None:
        self._kind = kind
        self._options = (
            [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
        )

    def __call__(self, topic: Topic, data: bytes) -> tuple[Topic, bytes]:
        """The topic and the message to be written.

        Raises:
            ValueError: the image contradicts itself or has an encoding that cannot be compressed.
        """
        if topic.type != IMAGE:
            return topic, data
        image = deserialize_message(data, Image)
        pixels = to_bgr(image.data, image.width, image.height, image.step, image.encoding)
        done, packed = cv2.imencode(f".{self._kind}", pixels, self._options)
        if not done:
            raise ValueError(
                f"the image of {image.width}x{image.height} cannot be compressed as {self._kind}"
            )
        channels = "mono8" if pixels.ndim == 2 else "bgra8" if pixels.shape[2] == 4 else "bgr8"
        message = CompressedImage(
            header=image.header, format=f"{image.encoding}; {self._kind} compressed {channels}"
        )
        message.data = array.array("B", np.ascontiguousarray(packed).tobytes())
        name = dataclasses.replace(topic, name=topic.name + COMPRESSED, type=COMPRESSED_IMAGE)
        return name, serialize_message(message)
