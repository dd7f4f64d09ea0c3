"""From the fields of image and joint messages to arrays, with the checks that belong to the robot file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.data import pixels
from twinbrain_ros.data.pixels import Buffer, PixelError
from twinbrain_ros.robot.encodings import CONVERTED, ENCODINGS, same_encoding
from twinbrain_ros.robot.robot_file import Camera
from twinbrain_ros.text import shown


class FrameError(ValueError):
    """Input that cannot become part of an observation.

    Attributes:
        stream: the camera's name, or "joint_states".
        field: what is wrong with it; with `stream` it identifies the cause, without the changing values.
    """

    def __init__(self, stream: str, field: str, found: str, expected: str) -> None:
        super().__init__(f"{stream}: {field} is {found}, expected {expected}")
        self.stream = stream
        self.field = field


def image_from_buffer(
    data: Buffer,
    width: int,
    height: int,
    step: int,
    encoding: str,
    camera: Camera,
    big_endian: bool = False,
) -> NDArray[np.uint8]:
    """Pixels of a sensor_msgs/Image as RGB.

    Args:
        data, width, height, step, big_endian: as of `pixels.rgb`.
        encoding: must be the one that the robot file states for this camera.
        camera: what the robot file says.
    Returns:
        [H, W, 3] uint8, contiguous. rgb8 without padding is a view of `data`, everything else a copy.
    Raises:
        FrameError: any field differs from what is expected; names camera, field, found and expected.
    """
    if encoding != camera.encoding and not same_encoding(encoding, camera.encoding):
        expected = f"{camera.encoding!r} (robot file)"
        if encoding in CONVERTED:
            expected += f"; with `encoding: {encoding}` there it is converted"
        elif encoding in ENCODINGS:
            expected += f"; with `encoding: {encoding}` there only cv_bridge could convert it"
        raise FrameError(camera.name, "encoding", shown(encoding), expected)
    if width != camera.width:
        raise FrameError(camera.name, "width", f"{width} pixels", f"{camera.width}")
    if height != camera.height:
        raise FrameError(camera.name, "height", f"{height} pixels", f"{camera.height}")
    try:
        return pixels.rgb(data, width, height, step, encoding, big_endian, camera.value_range)
    except PixelError as error:
        raise FrameError(camera.name, error.field, error.found, error.expected) from error


def image_from_compressed(data: Buffer, camera: Camera, form: str = "") -> NDArray[np.uint8]:
    """Pixels [H, W, 3] uint8 RGB of a sensor_msgs/CompressedImage (JPEG, PNG).

    PNG gives exactly what `image_from_buffer` gives of the raw image.

    Args:
        form: the message's format; "": whatever the data say.
    Raises:
        FrameError: it cannot be decoded, or is not as large as the robot file says.
    """
    try:
        return pixels.unpacked(data, form, camera.width, camera.height, camera.value_range)
    except PixelError as error:
        raise FrameError(camera.name, error.field, error.found, error.expected) from error
