"""From the bytes of camera messages to RGB, whatever the camera sends: one way for live images and bags."""

from __future__ import annotations

import importlib
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twinbrain_ros.robot.encodings import ALIASES, CONVERTED
from twinbrain_ros.text import shown

Buffer = bytes | bytearray | memoryview | NDArray[np.uint8] | Sequence[int]
Pixels = NDArray[np.uint8]
Range = tuple[float, float]

# Encodings of one to four channels: type of a channel, their number, and which are red, green and blue.
_U8, _U16 = np.dtype("u1"), np.dtype("<u2")
_CHANNELS: dict[str, tuple[np.dtype[Any], int, list[int]]] = {
    "rgb8": (_U8, 3, [0, 1, 2]),
    "bgr8": (_U8, 3, [2, 1, 0]),
    "rgba8": (_U8, 4, [0, 1, 2]),
    "bgra8": (_U8, 4, [2, 1, 0]),
    "mono8": (_U8, 1, [0, 0, 0]),
    "rgb16": (_U16, 3, [0, 1, 2]),
    "bgr16": (_U16, 3, [2, 1, 0]),
    "rgba16": (_U16, 4, [0, 1, 2]),
    "bgra16": (_U16, 4, [2, 1, 0]),
    "mono16": (_U16, 1, [0, 0, 0]),
}
# Two pixels share their colour: two bytes a pixel.
_YUV422 = {"yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2, "yuv422": cv2.COLOR_YUV2RGB_UYVY}
# Four pixels share it: a plane of brightness, below it one of half the height with the colours.
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
# One colour a pixel, named by the first two of the first row and of the second.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerRGGB2RGB,
    "bayer_bggr": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGBRG2RGB,
    "bayer_grbg": cv2.COLOR_BayerGRBG2RGB,
}
FULL_RANGE: Range = (0.0, 65535.0)

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", 0xDA, 0xD9
# Markers of JPEG that give the size: a frame begins (not 0xC4, 0xC8, 0xCC: tables).
_JPEG_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# What ends the pixels of a scan: any marker but a stuffed byte and those that restart the decoder.
_JPEG_NEXT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_CODECS = re.compile(r"\b(m?jpe?g|png)\b", re.IGNORECASE)
_OTHERS = re.compile(r"compresseddepth|theora|h26[45]|hevc|zstd", re.IGNORECASE)


class PixelError(ValueError):
    """An image that cannot be decoded: which field, what was found and what was expected."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(f"{field} is {found}, expected {expected}")
        self.field, self.found, self.expected = field, found, expected


def rgb(
    data: Buffer,
    width: int,
    height: int,
    step: int,
    encoding: str,
    big_endian: bool = False,
    value_range: Range = FULL_RANGE,
) -> Pixels:
    """Pixels of a sensor_msgs/Image as RGB.

    Args:
        data: anything with the buffer protocol, such as the message's `array.array`.
        width, height: in pixels.
        step: bytes from one row to the next; may be larger than a row (padding).
        encoding: one of those that are converted here; others go through cv_bridge where it imports.
        big_endian: byte order of values of 16 bits.
        value_range: values of 16 bits that become black and white, what lies between in proportion.
    Returns:
        [H, W, 3] uint8, contiguous. rgb8 without padding is a view of `data`, everything else a copy.
    Raises:
        PixelError: no pixels, fields that contradict each other, or an encoding that nothing here converts.
    """
    _expect_pixels(width, height)
    if encoding == "rgb8":
        return np.ascontiguousarray(_channels(data, width, height, step, encoding, False))
    encoding = ALIASES.get(encoding, encoding)
    if encoding in _CHANNELS:
        values = _eight_bits(_channels(data, width, height, step, encoding, big_endian), value_range)
        return np.ascontiguousarray(values[..., _CHANNELS[encoding][2]])
    if encoding in _YUV422:
        _expect_even(encoding, width=width)
        values = _bytes(_rows(data, height, step, width * 2, encoding), step)
        packed = np.ascontiguousarray(values[:, : width * 2]).reshape(height, width, 2)
        return np.asarray(cv2.cvtColor(packed, _YUV422[encoding]), np.uint8)
    if encoding in _YUV420:
        _expect_even(encoding, width=width, height=height)
        values = _bytes(_rows(data, height + height // 2, step, width, encoding), step)
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(values[:, :width]), _YUV420[encoding]), np.uint8)
    if kind := _bayer_values(encoding):
        mosaic = _channels(data, width, height, step, kind, big_endian)[..., 0]
        return _demosaiced(_eight_bits(mosaic, value_range), encoding)
    return _by_cv_bridge(data, width, height, step, encoding, big_endian)


def _expect_pixels(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise PixelError("width, height", f"{width}, {height} pixels", "at least 1")


def _bayer_values(encoding: str) -> str:
    """The encoding of a Bayer pattern's values by themselves, "" where it is no pattern known here."""
    if encoding.startswith("bayer_") and encoding in CONVERTED:
        return "mono16" if encoding.endswith("16") else "mono8"
    return ""


def _expect_even(encoding: str, **sides: int) -> None:
    for side, pixels in sides.items():
        if pixels % 2:
            raise PixelError(side, f"{pixels} pixels", f"an even number for {encoding}")


def _rows(data: Buffer, rows: int, step: int, row_bytes: int, encoding: str) -> memoryview:
    """All bytes [rows * step], a view of `data`."""
    if step < row_bytes:
        raise PixelError("step", f"{step} bytes", f"at least {row_bytes} for {encoding}")
    buffer = memoryview(data)  # type: ignore[arg-type]  # array.array has no common type with the others
    if buffer.nbytes != step * rows:
        what = "step x height" if encoding not in _YUV420 else "step x height x 3/2"
        raise PixelError("length of data", f"{buffer.nbytes} bytes", f"{what} = {step * rows}")
    return buffer


def _bytes(buffer: memoryview, step: int) -> Pixels:
    """The same [rows, step]."""
    return np.frombuffer(buffer, np.uint8).reshape(-1, step)


def _channels(
    data: Buffer, width: int, height: int, step: int, encoding: str, big_endian: bool
) -> NDArray[Any]:
    """[H, W, channels] as they are encoded, a view of `data`."""
    dtype, depth, _ = _CHANNELS[encoding]
    size = dtype.itemsize
    values = _rows(data, height, step, width * depth * size, encoding)
    kind = dtype.newbyteorder(">") if big_endian else dtype
    return np.ndarray((height, width, depth), kind, values, strides=(step, depth * size, size))


def _eight_bits(values: NDArray[Any], value_range: Range) -> Pixels:
    """Values of 16 bits as 8: `value_range` from black to white. Values of 8 bits stay as they are."""
    if values.dtype.itemsize == 1:
        return values
    low, high = value_range
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def _demosaiced(mosaic: Pixels, encoding: str) -> Pixels:
    height, width = mosaic.shape
    if min(height, width) < 2:
        raise PixelError("width, height", f"{width}, {height} pixels", f"at least 2 for {encoding}")
    code = _BAYER[encoding.rstrip("0123456789")]
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(mosaic), code), np.uint8)


# cv_bridge ------------------------------------------------------------------------------------------


@cache
def _cv_bridge() -> Callable[[Any], Pixels] | str:
    """How cv_bridge makes RGB of an image, or why it cannot be asked. Imported when first needed: built for
    another NumPy, it may take the process with it."""
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
    except Exception as error:  # whatever a foreign package fails with
        return f"does not import ({type(error).__name__}: {error})"
    return lambda image: np.asarray(bridge.imgmsg_to_cv2(image, desired_encoding="rgb8"))


def _by_cv_bridge(
    data: Buffer, width: int, height: int, step: int, encoding: str, big_endian: bool
) -> Pixels:
    convert = _cv_bridge()
    ours = f"one of {', '.join(CONVERTED)}"
    if isinstance(convert, str):
        raise PixelError("encoding", shown(encoding), f"{ours}; cv_bridge, for others, {shown(convert)}")
    image = SimpleNamespace(
        data=data, width=width, height=height, step=step, encoding=encoding, is_bigendian=int(big_endian)
    )
    try:
        pixels = convert(image)
    except Exception as error:
        why = shown(f"{type(error).__name__}: {error}")
        raise PixelError("encoding", shown(encoding), f"{ours}; cv_bridge fails with {why}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (height, width, 3):
        what = f"{pixels.dtype} {pixels.shape} by cv_bridge"
        raise PixelError("encoding", f"{shown(encoding)}, {what}", f"uint8 {(height, width, 3)}")
    return np.ascontiguousarray(pixels)


# Compressed images ----------------------------------------------------------------------------------


def size_of(packed: bytes) -> tuple[int, int] | None:
    """Width and height [pixels] that a PNG or JPEG says it has, None if it is neither or has no size."""
    if packed.startswith(_PNG):
        return struct.unpack(">II", packed[16:24]) if len(packed) >= 24 else None
    for marker, at in _jpeg_markers(packed):
        if marker in _JPEG_FRAME and at + 7 <= len(packed):
            height, width = struct.unpack(">HH", packed[at + 3 : at + 7])
            return width, height
    return None


def _jpeg_markers(packed: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG up to its end, each with the place after it; what follows the end is not read."""
    at = 2 if packed.startswith(_JPEG) else len(packed)
    while at + 2 <= len(packed) and packed[at] == 0xFF:
        marker = packed[at + 1]
        if marker == 0xFF:  # fills
            at += 1
            continue
        yield marker, at + 2
        if marker == _JPEG_END:
            return
        # These stand alone; all others say how long they are.
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD8
        at += 2 if alone else 2 + int.from_bytes(packed[at + 2 : at + 4], "big")
        if marker == _JPEG_SCAN:
            following = _JPEG_NEXT.search(packed, at)
            at = following.start() if following else len(packed)


def _is_whole(packed: bytes) -> bool:
    """Whether an image has its end, whatever a driver has put after it."""
    if packed.startswith(_PNG):
        return _PNG_END in packed
    return any(marker == _JPEG_END for marker, _ in _jpeg_markers(packed))


def _looks_like(packed: bytes) -> str:
    """What data that are neither JPEG nor PNG are."""
    if packed.startswith((_PNG, _JPEG)):
        return "end before they say how large the image is"
    if packed[8:12] == b"WEBP":
        return "are WebP"
    kinds = {b"BM": "BMP", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
    return next((f"are {kind}" for start, kind in kinds.items() if packed.startswith(start)), "no image is")


def unpacked(data: Buffer, form: str, width: int, height: int, value_range: Range = FULL_RANGE) -> Pixels:
    """Pixels [H, W, 3] uint8 RGB of a sensor_msgs/CompressedImage: JPEG or PNG of 8 or 16 bits.

    Args:
        data: the packed image.
        form: the message's format, as image_transport or a driver writes it: "jpeg", "mjpeg", "rgb8; jpeg
            compressed bgr8", "mono16; png compressed"; "": whatever the data say.
        width, height: that it must have [pixels]; seen to before it is unpacked.
        value_range: as of `rgb`.
    Raises:
        PixelError: it is neither, truncated or damaged, or of another size.
    """
    if _OTHERS.search(form[:200]) or (form and not _CODECS.search(form[:200])):
        raise PixelError("format", shown(form), "JPEG or PNG, such as 'jpeg' or 'rgb8; png compressed bgr8'")
    packed = memoryview(data).tobytes()  # type: ignore[arg-type]  # as above
    size = size_of(packed)
    if size is None:
        raise PixelError("data", f"{len(packed)} bytes that {_looks_like(packed)}", "JPEG or PNG")
    if size != (width, height):
        raise PixelError("height, width", f"{size[::-1]}", f"{(height, width)} pixels")
    # Of a truncated one OpenCV gives the rest in grey, without a word.
    if not _is_whole(packed):
        raise PixelError("data", f"{len(packed)} bytes without the end of the image", "a whole JPEG or PNG")
    decoded = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.shape[:2] != (height, width):
        raise PixelError("data", f"{len(packed)} bytes that cannot be decoded", "a whole JPEG or PNG")
    if decoded.dtype not in (np.uint8, np.uint16):
        raise PixelError("data", f"an image of {decoded.dtype}", "8 or 16 bits")
    pixels = _eight_bits(decoded, value_range)
    if pixels.ndim == 2:
        source = form.partition(";")[0].strip()
        if _bayer_values(source):  # image_transport packs the mosaic itself
            return _demosaiced(pixels, source)
        return np.ascontiguousarray(np.broadcast_to(pixels[..., None], (height, width, 3)))
    if pixels.shape[2] not in (3, 4):
        raise PixelError("data", f"an image of {pixels.shape[2]} channels", "1, 3 or 4")
    return np.ascontiguousarray(pixels[..., [2, 1, 0]])


def to_pack(
    data: Buffer, width: int, height: int, step: int, encoding: str, big_endian: bool = False
) -> NDArray[Any]:
    """Pixels of a sensor_msgs/Image as OpenCV packs them, so that `unpacked` of a PNG gives what `rgb` gives:
    [H, W] grey or Bayer, or [H, W, 3 or 4] BGR(A); uint8 or uint16.

    Raises:
        PixelError: as of `rgb`.
    """
    _expect_pixels(width, height)
    name = ALIASES.get(encoding, encoding)
    name = _bayer_values(name) or name
    if name not in _CHANNELS:
        return np.ascontiguousarray(rgb(data, width, height, step, name, big_endian)[..., ::-1])
    values = _channels(data, width, height, step, name, big_endian)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.shape[2] == 1:
        return np.ascontiguousarray(values[..., 0])
    order = [0, 1, 2, 3] if name.startswith("bgr") else [2, 1, 0, 3]
    return np.ascontiguousarray(values[..., order[: values.shape[2]]])
