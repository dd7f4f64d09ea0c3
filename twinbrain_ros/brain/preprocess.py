"""From camera pixels to the patches of a Qwen vision tower, in torch on the policy's device, without PIL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ASPECT_RATIO = 200  # of the Qwen processors


@dataclass(frozen=True)
class PatchLayout:
    """How a vision tower cuts an image: patch edge and merge block in pixels and patches."""

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def factor(self) -> int:
        """Image sides must be multiples of this many pixels."""
        return self.patch_size * self.merge_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches; raises ValueError if a side is no multiple of `factor`."""
        if height <= 0 or width <= 0 or height % self.factor or width % self.factor:
            raise ValueError(
                f"image of {width}x{height} pixels: both sides must be multiples of {self.factor}"
            )
        return height // self.patch_size, width // self.patch_size

    def merged_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens, as prompts have them; raises ValueError as `grid`."""
        rows, columns = self.grid(height, width)
        return rows // self.merge_size, columns // self.merge_size

    def tokens(self, height: int, width: int) -> int:
        rows, columns = self.merged_grid(height, width)
        return rows * columns


def check_image(image: np.ndarray, name: str) -> None:
    """Raises ValueError for what is no image uint8 [H, W, 3] with an area, calling it `name`."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"images[{name!r}]: found {image.dtype} {image.shape}, expected uint8 [H, W, 3]")
    if not image.size:
        raise ValueError(f"images[{name!r}]: found {image.shape}, expected an area above 0")


def fitting_size(height: int, width: int, factor: int, limits: tuple[int, int]) -> tuple[int, int]:
    """Height and width that the Qwen processors bring an image to.

    Both are multiples of `factor`; their product is within `limits` (least and most pixels) where rounding
    allows. Raises ValueError for an image without area or of an aspect ratio above 200.
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"image of {width}x{height} pixels: expected an area above 0")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"image of {width}x{height} pixels: expected an aspect ratio of at most {MAX_ASPECT_RATIO}"
        )
    least, most = limits
    rows, columns = round(height / factor), round(width / factor)
    area = rows * columns * factor**2
    if area > most:
        shrink = math.sqrt(height * width / most)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif area < least:
        grow = math.sqrt(least / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return rows * factor, columns * factor


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 [N, H, W, 3] -> uint8 [N, height, width, 3], antialiased bicubic as the Qwen processors do.

    First across, then down, with whole grey levels between, as torchvision and Pillow do it (Pillow 13 goes
    down first where one side grows and the other shrinks).
    """
    if images.shape[1:3] == (height, width):
        return images
    planes = images.permute(0, 3, 1, 2)
    if images.device.type == "cpu":
        out = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)
    else:  # only the CPU kernel takes bytes
        out = resize_in_steps(planes.float(), height, width).to(torch.uint8)
    return out.permute(0, 2, 3, 1)


def resize_in_steps(planes: Tensor, height: int, width: int) -> Tensor:
    """Planes [N, C, H, W] of grey levels in floating point, across and then down."""
    for size in ((planes.shape[2], width), (height, width)):
        planes = F.interpolate(planes, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return planes


@lru_cache(maxsize=16)
def _scale(layout: PatchLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """255 mean and 255 std on the device, made once: a transfer in the hot path would stall it."""
    with torch.inference_mode(False):
        mean = torch.tensor(layout.mean, device=device) * 255.0
        return mean, torch.tensor(layout.std, device=device) * 255.0


def patchify(images: Tensor, layout: PatchLayout) -> Tensor:
    """Normalised patches in merge-block order, feature order (channel, y, x).

    images: uint8 [N, H, W, 3]; returns float32 [N * rows * columns, 3 * patch * patch]. The frames of a
    temporal patch are all this one, so they are left out here and in the tower's first product.
    """
    count, height, width, _ = images.shape
    rows, columns = layout.grid(height, width)
    p, m = layout.patch_size, layout.merge_size
    mean, std = _scale(layout, images.device)
    # As the processors' fused form, (x - 255 mean) / (255 std), which differs in rounding from two steps.
    x = (images.float() - mean) / std
    x = x.view(count, rows // m, m, p, columns // m, m, p, 3)
    return x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(count * rows * columns, -1)


def with_frames(patches: Tensor, layout: PatchLayout) -> Tensor:
    """Patches as a processor gives them, [.., 3 * T * patch * patch] in order (channel, time, y, x)."""
    count, features = patches.shape
    planes = patches.view(count, 3, 1, features // 3)
    return planes.expand(-1, -1, layout.temporal_patch_size, -1).reshape(count, -1)
