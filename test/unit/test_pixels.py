"""What cameras send, as RGB: encodings, padding, byte order, JPEG and PNG; and what is refused by name."""

from __future__ import annotations

import array
import dataclasses
import io
import sys
import types
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from twinbrain_ros.data import pixels
from twinbrain_ros.data.decode import FrameError, image_from_buffer, image_from_compressed
from twinbrain_ros.data.pixels import PixelError, rgb, size_of, to_pack, unpacked
from twinbrain_ros.robot.camera import Camera
from twinbrain_ros.robot.encodings import BY_CV_BRIDGE, CONVERTED, ENCODINGS

SMALL = Camera("front", "camera/front/image_raw", "third_person", 4, 2, "rgb8", 20.0)
RED, GREEN = (200, 30, 40), (20, 180, 60)


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """What is known of cv_bridge is of one test only."""
    pixels._cv_bridge.cache_clear()
    yield
    pixels._cv_bridge.cache_clear()


def picture(width: int = 8, height: int = 6) -> np.ndarray:
    """Red on the left, green on the right, in blocks that share their colour [H, W, 3]."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = RED, GREEN
    return image


def yuv(image: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 of limited range [H, W, 3], from its definition."""
    r, g, b = np.moveaxis(image.astype(float), -1, 0)
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    return np.rint(np.stack([y, u, v], axis=-1)).astype(np.uint8)


def encoded(image: np.ndarray, encoding: str) -> np.ndarray:
    """Rows of bytes [rows, bytes] of an image in an encoding of shared colours."""
    y, u, v = np.moveaxis(yuv(image), -1, 0)
    height, width = y.shape
    if encoding in ("yuv422_yuy2", "yuyv", "yuv422", "uyvy"):
        packed = np.empty((height, width, 2), np.uint8)
        first = 0 if encoding in ("yuv422_yuy2", "yuyv") else 1
        packed[..., first] = y
        packed[:, 0::2, 1 - first], packed[:, 1::2, 1 - first] = u[:, 0::2], v[:, 0::2]
        return packed.reshape(height, -1)
    colours = (u, v) if encoding == "nv12" else (v, u)
    plane = np.stack([c[0::2, 0::2] for c in colours], axis=-1).reshape(height // 2, width)
    return np.concatenate([y, plane])


def padded(rows: np.ndarray, more: int) -> tuple[bytes, int]:
    return np.pad(rows, ((0, 0), (0, more)), constant_values=77).tobytes(), rows.shape[1] + more


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "yuyv", "yuv422", "uyvy", "nv12", "nv21"])
def test_images_of_shared_colours_become_rgb(encoding: str, padding: int) -> None:
    data, step = padded(encoded(picture(), encoding), padding)
    found = rgb(data, 8, 6, step, encoding)
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found.astype(int), picture().astype(int), atol=3)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_become_rgb(order: str, bits: int, padding: int) -> None:
    mosaic = np.empty((6, 8), np.uint8)
    for i, colour in enumerate(order):
        mosaic[i // 2 :: 2, i % 2 :: 2] = RED["rgb".index(colour)]
    rows = mosaic if bits == 8 else (mosaic.astype("<u2") * 257).view(np.uint8)
    data, step = padded(rows, padding)
    found = rgb(data, 8, 6, step, f"bayer_{order}{bits}")
    np.testing.assert_array_equal(found, np.broadcast_to(RED, (6, 8, 3)))


@pytest.mark.parametrize("padding", [0, 2, 3])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16", "mono16", "16UC1"])
def test_sixteen_bits_in_either_byte_order_become_eight(
    encoding: str, big_endian: bool, padding: int
) -> None:
    pixel = {"rgb": [*RED, 9], "bgr": [*RED[::-1], 9]}.get(encoding[:3], [90])[: 4 if "a" in encoding else 3]
    values = np.full((2, 4, len(pixel)), pixel, ">u2" if big_endian else "<u2") * 257
    values = values.astype(">u2" if big_endian else "<u2")
    data, step = padded(values.reshape(2, -1).view(np.uint8), padding)
    found = rgb(data, 4, 2, step, encoding, big_endian)
    np.testing.assert_array_equal(found, np.broadcast_to(RED if len(pixel) > 1 else 90, (2, 4, 3)))


def test_a_range_of_values_becomes_black_to_white() -> None:
    values = np.array([[0, 100, 600, 1100, 5000]], "<u2")
    found = rgb(values.tobytes(), 5, 1, 10, "mono16", value_range=(100, 1100))
    assert found[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(("encoding", "like"), [("8UC1", "mono8"), ("8UC3", "bgr8"), ("8UC4", "bgra8")])
def test_types_without_colours_are_of_opencvs_order(encoding: str, like: str) -> None:
    data = bytes(range(32))
    depth = 4 * int(encoding[-1])
    found = rgb(data[: 2 * depth], 4, 2, depth, encoding)
    np.testing.assert_array_equal(found, rgb(data[: 2 * depth], 4, 2, depth, like))


YUV, NV12, MONO16 = {"encoding": "yuv422_yuy2"}, {"encoding": "nv12", "step": 4}, {"encoding": "mono16"}
TINY_BAYER = {"encoding": "bayer_rggb8", "width": 1, "height": 16, "step": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (YUV | {"width": 5}, "width is 5 pixels, expected an even number for yuv422_yuy2"),
        (NV12 | {"height": 3}, "height is 3 pixels, expected an even number for nv12"),
        (NV12 | {"data": bytes(8)}, "length of data is 8 bytes, expected step x height x 3/2 = 12"),
        ({"encoding": "yuyv", "step": 7}, "step is 7 bytes, expected at least 8 for yuv422_yuy2"),
        (MONO16 | {"step": 7}, "step is 7 bytes, expected at least 8 for mono16"),
        (MONO16 | {"data": bytes(15)}, "length of data is 15 bytes, expected step x height = 16"),
        (TINY_BAYER, "width, height is 1, 16 pixels"),
        ({"encoding": "bayer_x8"}, "encoding is 'bayer_x8', expected one of rgb8, "),
        ({"encoding": "bayer_rggb10"}, "encoding is 'bayer_rggb10', expected one of rgb8, "),
        ({"encoding": "bayer_rggb"}, "encoding is 'bayer_rggb', expected one of rgb8, "),
        ({"encoding": "32FC1"}, r"encoding is '32FC1', expected one of rgb8, .*; cv_bridge, for others, "),
        ({"encoding": "x\n" * 500_000}, r"encoding is 'x\\nx\\n.*\(1000000 characters\), expected"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_field(changes: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"data": bytes(16), "width": 4, "height": 2, "step": 8, "encoding": "mono16"}
    for convert in (rgb, to_pack):
        if convert is to_pack and changes is TINY_BAYER:
            continue  # it is packed as it is
        with pytest.raises(PixelError, match=words):
            convert(**(good | changes))


@pytest.mark.parametrize(("width", "height"), [(0, 0), (2, 0), (0, 2)])
@pytest.mark.parametrize("encoding", CONVERTED)
def test_an_image_without_pixels_is_refused(encoding: str, width: int, height: int) -> None:
    words = f"width, height is {width}, {height} pixels, expected at least 1"
    for convert in (rgb, to_pack):
        with pytest.raises(PixelError, match=words):
            convert(b"", width, height, 0, encoding)


def test_an_encoding_that_is_not_the_robot_files_is_named_with_what_to_write() -> None:
    with pytest.raises(FrameError, match=r"front: encoding is 'yuv422_yuy2', expected 'rgb8' \(robot file\)"):
        image_from_buffer(bytes(16), 4, 2, 8, "yuv422_yuy2", SMALL)
    with pytest.raises(FrameError, match="with `encoding: yuyv` there it is converted"):
        image_from_buffer(bytes(16), 4, 2, 8, "yuyv", SMALL)
    with pytest.raises(FrameError) as refused:
        image_from_buffer(bytes(16), 4, 2, 8, "sepia\n" * 100_000, SMALL)
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)


def test_other_names_of_an_encoding_are_the_same() -> None:
    camera = dataclasses.replace(SMALL, encoding="yuyv")
    image_from_buffer(bytes(16), 4, 2, 8, "yuv422_yuy2", camera)
    assert set(CONVERTED) | set(BY_CV_BRIDGE) == set(ENCODINGS) and len(set(ENCODINGS)) == len(ENCODINGS)


# cv_bridge ------------------------------------------------------------------------------------------


def stand_in_bridge(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    """A module of the name whose bridge answers with `answer(image)`; gives what it was asked."""
    asked: list[Any] = []

    class CvBridge:
        def imgmsg_to_cv2(self, image: Any, desired_encoding: str) -> Any:
            asked.append((image, desired_encoding))
            return answer(image)

    module = types.ModuleType("cv_bridge")
    module.CvBridge = CvBridge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    return asked


def test_what_is_not_converted_here_goes_through_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in_bridge(monkeypatch, lambda image: np.full((2, 4, 3), 7, np.uint8))
    found = rgb(bytes(32), 4, 2, 16, "32FC1", big_endian=True)
    assert (found == 7).all()
    ((image, desired),) = asked
    assert (image.encoding, image.step, image.is_bigendian, desired) == ("32FC1", 16, 1, "rgb8")


def test_cv_bridge_is_not_asked_for_what_is_converted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in_bridge(monkeypatch, lambda image: 1 / 0)
    for encoding in ("rgb8", "mono8", "yuyv"):
        rgb(bytes(24), 4, 2, 12, encoding)
    assert not asked


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda image: 1 / 0, "cv_bridge fails with 'ZeroDivisionError: division by zero'"),
        (lambda image: np.zeros((2, 4), np.float32), r"float32 \(2, 4\) by cv_bridge"),
    ],
)
def test_what_cv_bridge_makes_nothing_of_is_refused(
    monkeypatch: pytest.MonkeyPatch, answer: Any, words: str
) -> None:
    stand_in_bridge(monkeypatch, answer)
    with pytest.raises(PixelError, match=words):
        rgb(bytes(32), 4, 2, 16, "32FC1")


def test_a_cv_bridge_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(PixelError, match="cv_bridge, for others, 'does not import"):
        rgb(bytes(32), 4, 2, 16, "32FC1")


# JPEG and PNG ---------------------------------------------------------------------------------------


def packed(kind: str, image: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(f".{kind}", image, list(options))
    assert done
    return bytes(data.tobytes())


@pytest.mark.parametrize(
    "form",
    ["", "jpeg", "JPEG", "jpg", "mjpeg", "MJPG", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed "],
)
def test_jpeg_becomes_rgb(form: str) -> None:
    found = unpacked(array.array("B", packed("jpg", picture()[..., ::-1])), form, 8, 6)
    np.testing.assert_allclose(found[:, :2].astype(int), picture()[:, :2].astype(int), atol=12)


@pytest.mark.parametrize("form", ["", "png", "rgb8; png compressed bgr8", "rgba8; png compressed bgra8"])
@pytest.mark.parametrize("alpha", [False, True])
def test_png_becomes_rgb_with_or_without_alpha(form: str, alpha: bool) -> None:
    image = picture()[..., ::-1]
    if alpha:
        image = np.dstack([image, np.full((6, 8), 3, np.uint8)])
    np.testing.assert_array_equal(unpacked(packed("png", image), form, 8, 6), picture())


def test_grey_images_become_grey_rgb() -> None:
    grey = picture()[..., 0]
    for kind in ("png", "jpg"):
        found = unpacked(packed(kind, grey), "mono8; png compressed", 8, 6)
        assert (found == found[..., :1]).all() and abs(int(found[0, 0, 0]) - RED[0]) < 12


def test_png_of_sixteen_bits_is_taken_as_the_raw_image_is() -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    for value_range in (pixels.FULL_RANGE, (5000.0, 9000.0)):
        raw = rgb(values.tobytes(), 8, 6, 16, "mono16", value_range=value_range)
        np.testing.assert_array_equal(
            unpacked(packed("png", values), "mono16; png compressed", 8, 6, value_range), raw
        )


@pytest.mark.parametrize("encoding", [e for e in CONVERTED if e not in ("8UC3", "8UC4")])
def test_what_is_packed_as_png_comes_out_as_the_raw_image(encoding: str) -> None:
    rng = np.random.default_rng(5)
    bytes_per_pixel = {
        "rgba16": 8,
        "bgra16": 8,
        "rgb16": 6,
        "bgr16": 6,
        "rgba8": 4,
        "bgra8": 4,
        "rgb8": 3,
        "bgr8": 3,
    }
    step = 8 * bytes_per_pixel.get(encoding, 1 if encoding in ("mono8", "8UC1", "nv12", "nv21") else 2) + 4
    rows = 9 if encoding.startswith("nv") else 6
    data = rng.integers(0, 256, step * rows, dtype=np.uint8)
    if encoding.startswith("bayer") and encoding.endswith("8"):
        step, data = 12, data[: 12 * rows]
    for big_endian in (False, True):
        raw = rgb(data, 8, 6, step, encoding, big_endian)
        again = packed("png", to_pack(data, 8, 6, step, encoding, big_endian))
        np.testing.assert_array_equal(unpacked(again, f"{encoding}; png compressed ", 8, 6), raw)


@pytest.mark.parametrize(
    "form", ["theora", "h264", "16UC1; compressedDepth png", "rgb8; tiff compressed", "x" * 10**6]
)
def test_other_formats_are_refused_by_name(form: str) -> None:
    with pytest.raises(FrameError, match=r"front: format is '.*, expected JPEG or PNG") as refused:
        image_from_compressed(packed("png", picture()), dataclasses.replace(SMALL, width=8, height=6), form)
    assert form[:20] in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_truncated_images_are_refused(kind: str, share: float) -> None:
    whole = packed(kind, np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    assert size_of(whole) == (64, 48)
    unpacked(whole + bytes(20), kind.replace("jpg", "jpeg"), 64, 48)  # drivers fill up with zeros
    with pytest.raises(PixelError, match=r"bytes (without the end of the image|that end before)"):
        unpacked(whole[: int(len(whole) * share)], "", 64, 48)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("progressive", [0, 1])
def test_what_follows_a_whole_image_does_not_matter(kind: str, progressive: int) -> None:
    """Drivers hand out their whole buffer, with the rest of an image before."""
    options = (cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    whole = packed(kind, image, *(options if kind == "jpg" else ()))
    for rest in (b"\xff\xda\x00\x0c", b"\xff\xd8\xff\xda" + whole[-500:-50], whole[len(whole) // 2 : -12]):
        np.testing.assert_array_equal(unpacked(whole + rest, "", 64, 48), unpacked(whole, "", 64, 48))
        with pytest.raises(PixelError, match="without the end of the image"):
            unpacked(whole[:-12] + bytes(20), "", 64, 48)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no image is"),
        (b"\xff\xd8" + b"\x00" * 50, "no image is"),
        (b"\xff\xd8\xff", "end before they say how large the image is"),
        (b"\xff\xd8" + b"\xff" * 50, "end before they say how large the image is"),
        (b"\x89PNG\r\n\x1a\n", "end before they say how large the image is"),
        (b"GIF89a" * 9, "are GIF"),
        (packed("bmp", picture()), "are BMP"),
        (packed("webp", picture()), "are WebP"),
        (packed("tiff", picture()), "are TIFF"),
    ],
)
def test_what_is_neither_jpeg_nor_png_is_refused_as_what_it_is(data: bytes, what: str) -> None:
    with pytest.raises(PixelError, match=f"data is {len(data)} bytes that {what}, expected JPEG or PNG"):
        unpacked(data, "jpeg", 8, 6)


def test_an_image_of_another_size_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was unpacked"))
    bomb = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + (60_000).to_bytes(4, "big") * 2 + bytes(5)
    with pytest.raises(PixelError, match=r"height, width is \(60000, 60000\), expected \(6, 8\) pixels"):
        unpacked(bomb, "png", 8, 6)
    for kind, progressive in (("jpg", 0), ("jpg", 1), ("png", 0)):
        options = (cv2.IMWRITE_JPEG_PROGRESSIVE, progressive) if kind == "jpg" else ()
        with pytest.raises(PixelError, match=r"height, width is \(6, 8\), expected \(8, 6\) pixels"):
            unpacked(packed(kind, picture(), *options), "", 6, 8)


def test_jpeg_of_printers_colours_becomes_rgb() -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(picture(16, 16)).convert("CMYK").save(file, "JPEG", quality=95)
    found = unpacked(file.getvalue(), "jpeg", 16, 16)
    np.testing.assert_allclose(found[:, :4].astype(int), picture(16, 16)[:, :4].astype(int), atol=15)
