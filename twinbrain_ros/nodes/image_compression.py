"""Raw images made small on their way into a bag."""

from __future__ import annotations

import array
import dataclasses

import cv2
import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from twinbrain_ros.data.contract import COMPRESSED, COMPRESSED_IMAGE, IMAGE, Topic
from twinbrain_ros.data.pixels import to_pack
from twinbrain_ros.text import shown

FORMATS = ("none", "jpeg", "png")


class ImageCompression:
    """Turns sensor_msgs/Image into CompressedImage on `<topic>/compressed`, as image_transport names it.

    Args:
        kind: `jpeg` or `png` (lossless). Images of 16 bits and of Bayer patterns become PNG either way.
        quality: of JPEG, 1 to 100.
    """

    def __init__(self, kind: str, quality: int) -> None:
        self._kind = kind
        self._options = {
            "jpeg": [cv2.IMWRITE_JPEG_QUALITY, quality],
            "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        }

    def __call__(self, topic: Topic, data: bytes) -> tuple[Topic, bytes]:
        """The topic and the message to be written.

        Raises:
            ValueError: it is no image, contradicts itself or has an encoding that cannot be compressed.
        """
        if topic.type != IMAGE:
            return topic, data
        try:
            return self._compressed(topic, data)
        except ValueError:
            raise
        except Exception as error:  # of the middleware's and OpenCV's: it costs one image, not the recording
            why = shown(f"{type(error).__name__}: {error}")
            raise ValueError(f"{len(data)} bytes that cannot be made a compressed image: {why}") from error

    def _compressed(self, topic: Topic, data: bytes) -> tuple[Topic, bytes]:
        image = deserialize_message(data, Image)
        pixels = to_pack(
            image.data, image.width, image.height, image.step, image.encoding, bool(image.is_bigendian)
        )
        # JPEG has no 16 bits, and would mix the colours of a Bayer pattern.
        bayer = image.encoding.startswith("bayer_")
        kind = "png" if pixels.dtype != np.uint8 or bayer else self._kind
        done, packed = cv2.imencode(f".{kind}", pixels, self._options[kind])
        if not done:
            raise ValueError(f"the image of {image.width}x{image.height} cannot be compressed as {kind}")
        bits = 8 * pixels.dtype.itemsize
        channels = "mono" if pixels.ndim == 2 else "bgra" if pixels.shape[2] == 4 else "bgr"
        message = CompressedImage(
            header=image.header,
            format=f"{image.encoding}; {kind} compressed {'' if bayer else f'{channels}{bits}'}",
        )
        message.data = array.array("B", np.ascontiguousarray(packed).tobytes())
        name = dataclasses.replace(topic, name=topic.name + COMPRESSED, type=COMPRESSED_IMAGE)
        return name, serialize_message(message)
