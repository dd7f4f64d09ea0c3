"""From camera pixels to the patches of a Qwen vision tower, in torch on the policy's device, without PIL."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


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
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"image of {width}x{height} pixels: both sides must be multiples of {self.factor}"
            )
        return height // self.patch_size, width // self.patch_size

    def tokens(self, height: int, width: int) -> int:
        rows, columns = self.grid(height, width)
        return rows * columns // self.merge_size**2


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 [N, H, W, 3] -> uint8 [N, height, width, 3], antialiased bicubic as the Qwen processors do."""
    if images.shape[1:3] == (height, width):
        return images
    planes = images.permute(0, 3, 1, 2)
    out = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)
    return out.permute(0, 2, 3, 1)


def patchify(images: Tensor, layout: PatchLayout) -> Tensor:
    """Normalised patches in merge-block order, feature order (channel, time, y, x).

    images: uint8 [N, H, W, 3]; returns float32 [N * rows * columns, 3 * T * patch * patch]. A still image
    fills all T frames of a temporal patch.
    """
    count, height, width, _ = images.shape
    rows, columns = layout.grid(height, width)
    p, m = layout.patch_size, layout.merge_size
    mean = torch.tensor(layout.mean, device=images.device)
    std = torch.tensor(layout.std, device=images.device)
    # As the processors' fused form, (x - 255 mean) / (255 std), which differs in rounding from two steps.
    x = (images.float() - 255.0 * mean) / (255.0 * std)
    x = x.view(count, rows // m, m, p, columns // m, m, p, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(count * rows * columns, 3, 1, p, p)
    x = x.expand(-1, -1, layout.temporal_patch_size, -1, -1)
    return x.reshape(count * rows * columns, -1)
