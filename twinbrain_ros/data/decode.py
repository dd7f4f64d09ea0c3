"""From the fields of image and joint messages to arrays, with the checks that belong to the robot file."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.robot_file import Camera, RobotFile

Buffer = bytes | bytearray | memoryview | NDArray[np.uint8] | Sequence[int]

# Bytes per pixel, and which of them are red, green and blue.
_CHANNELS: dict[str, tuple[int, list[int]]] = {
    "rgb8": (3, [0, 1, 2]),
    "bgr8": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "mono8": (1, [0, 0, 0]),
}


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
) -> NDArray[np.uint8]:
    """Pixels of a sensor_msgs/Image as RGB.

    Args:
        data: anything with the buffer protocol, such as the message's `array.array`.
        width, height: in pixels.
        step: bytes from one row to the next; may be larger than a row (padding).
        encoding: must be the one that the robot file states for this camera.
        camera: what the robot file says.
    Returns:
        [H, W, 3] uint8, contiguous. rgb8 without padding is a view of `data`, everything else one copy.
    Raises:
        FrameError: any field differs from what is expected; names camera, field, found and expected.
    """
    if encoding != camera.encoding or encoding not in _CHANNELS:
        known = repr(camera.encoding) if camera.encoding in _CHANNELS else f"one of {sorted(_CHANNELS)}"
        raise FrameError(camera.name, "encoding", repr(encoding), f"{known} (robot file)")
    if width != camera.width:
        raise FrameError(camera.name, "width", f"{width} pixels", f"{camera.width}")
    if height != camera.height:
        raise FrameError(camera.name, "height", f"{height} pixels", f"{camera.height}")
    pixels = _pixels(camera.name, data, width, height, step, encoding)
    return np.ascontiguousarray(pixels if encoding == "rgb8" else pixels[..., _CHANNELS[encoding][1]])


def _pixels(
    stream: str, data: Buffer, width: int, height: int, step: int, encoding: str
) -> NDArray[np.uint8]:
    """[H, W, channels] as they are encoded, a view of `data`."""
    depth, _ = _CHANNELS[encoding]
    if step < width * depth:
        raise FrameError(stream, "step", f"{step} bytes", f"at least {width * depth} for {encoding}")
    buffer = memoryview(data)  # type: ignore[arg-type]  # array.array has no common type with the others
    if buffer.nbytes != step * height:
        raise FrameError(
            stream, "length of data", f"{buffer.nbytes} bytes", f"step x height = {step * height}"
        )
    return np.ndarray((height, width, depth), np.uint8, buffer, strides=(step, depth, 1))


def to_bgr(data: Buffer, width: int, height: int, step: int, encoding: str) -> NDArray[np.uint8]:
    """Pixels of a sensor_msgs/Image as OpenCV compresses them: [H, W] grey, or [H, W, 3 or 4] BGR(A) uint8.

    Raises:
        FrameError: the fields contradict each other, or the encoding is none of those of robot files.
    """
    if encoding not in _CHANNELS:
        raise FrameError("image", "encoding", repr(encoding), f"one of {sorted(_CHANNELS)}")
    pixels = _pixels("image", data, width, height, step, encoding)
    if encoding == "mono8":
        return np.ascontiguousarray(pixels[..., 0])
    if encoding in ("bgr8", "bgra8"):
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])


def image_from_compressed(data: Buffer, camera: Camera) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] uint8 RGB of a sensor_msgs/CompressedImage (JPEG, PNG).

    PNG gives exactly what `image_from_buffer` gives of the raw image.

    Raises:
        FrameError: it cannot be decoded, or is not as large as the robot file says.
    """
    packed = np.frombuffer(memoryview(data), np.uint8)  # type: ignore[arg-type]  # as above
    decoded = cv2.imdecode(packed, cv2.IMREAD_COLOR) if packed.size else None
    if decoded is None:
        raise FrameError(camera.name, "data", f"{packed.size} bytes that no image is", "JPEG or PNG")
    expected = (camera.height, camera.width)
    if decoded.shape[:2] != expected:
        raise FrameError(camera.name, "height, width", str(decoded.shape[:2]), f"{expected} pixels")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def joints_from_names(
    names: Sequence[str], positions: Sequence[float], robot: RobotFile
) -> NDArray[np.float64]:
    """Joint positions in robot-file order, found by name and never by index.

    Args:
        names, positions: of a sensor_msgs/JointState; other joints may be among them.
    Returns:
        [J+1]: the arm's joints [rad], then the gripper joint [m].
    Raises:
        FrameError: lengths differ, a joint is missing or named twice, or a position is not finite.
    """
    stream = "joint_states"
    if len(positions) != len(names):
        raise FrameError(
            stream, "number of positions", str(len(positions)), f"{len(names)}, one for each name"
        )
    wanted = [*robot.arm_joints, robot.gripper.joint]
    index = {name: i for i, name in enumerate(names)}
    missing = [name for name in wanted if name not in index]
    if missing:
        raise FrameError(stream, "name", f"{list(names)} without {missing}", f"all of {wanted}")
    repeated = [name for name in wanted if list(names).count(name) > 1]
    if repeated:
        raise FrameError(stream, "name", f"{list(names)} with {repeated} repeated", "each joint once")
    found = np.array([positions[index[name]] for name in wanted], dtype=np.float64)
    if not np.all(np.isfinite(found)):
        bad = int(np.flatnonzero(~np.isfinite(found))[0])
        raise FrameError(stream, f"position of {wanted[bad]!r}", str(found[bad]), "a finite number")
    return found
