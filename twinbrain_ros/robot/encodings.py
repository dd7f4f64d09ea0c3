"""What the pixels of a camera may be encoded as: the names of sensor_msgs/image_encodings."""

from __future__ import annotations

# Other names of the same. The last three name no colours: OpenCV's order is meant.
ALIASES = {
    "yuyv": "yuv422_yuy2",
    "uyvy": "yuv422",
    "16UC1": "mono16",
    "8UC1": "mono8",
    "8UC3": "bgr8",
    "8UC4": "bgra8",
}
_BAYER = tuple(f"bayer_{order}{bits}" for order in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16))
CONVERTED = (
    *("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "rgb16", "bgr16", "rgba16", "bgra16", "mono16"),
    *("yuv422_yuy2", "yuv422", "nv12", "nv21", *_BAYER, *ALIASES),
)
# Known, and converted only where cv_bridge can be imported.
BY_CV_BRIDGE = (
    "nv24",
    *(f"{kind}C{n}" for kind in ("8S", "16S", "32S", "32F", "64F") for n in (1, 2, 3, 4)),
    *("8UC2", "16UC2", "16UC3", "16UC4"),
)
ENCODINGS = CONVERTED + BY_CV_BRIDGE


def same_encoding(one: str, other: str) -> bool:
    """Whether two names mean the same."""
    return ALIASES.get(one, one) == ALIASES.get(other, other)
