"""Windows of a vision tower that do not divide the image: one mask, laid out as GPU kernels want it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twinbrain_ros.brain.asymot import _segment_attention
from twinbrain_ros.brain.backbone import build_vlm
from twinbrain_ros.brain.checkpoint import _shallow
from twinbrain_ros.brain.presets import preset
from twinbrain_ros.brain.vision import VisionPlans, _segments

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unequal_windows_see_themselves_alone(dtype: torch.dtype) -> None:
    lengths = [8, 8, 2]
    segments = _segments(lengths, CPU, dtype)
    assert segments.length == 18 and segments.mask is not None and segments.mask.dtype == dtype
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 18, 16).to(dtype)
    found, _ = _segment_attention(
        torch.nn.Identity(), query, key, value, None, max_length_q=18, segment_mask=segments.mask
    )
    windows = zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True)
    alone = torch.cat([F.scaled_dot_product_attention(*window) for window in windows], dim=2)
    bound = {"atol": 1e-5 if dtype == torch.float32 else 1e-2, "rtol": 0.0}
    torch.testing.assert_close(found, alone.transpose(1, 2), **bound)


def test_windows_at_252_pixels_have_an_added_mask_with_aligned_rows() -> None:
    """Rows of 324 patches: 4 short of a multiple of 8, and not converted again in each of 28 blocks."""
    config = preset("qwen2_5_vl_3b", ("front", "wrist"), "action_queries")
    visual = build_vlm(_shallow(config)).to(torch.bfloat16).model.visual
    plans = VisionPlans()
    mask = plans(visual, 18, 18, 2, CPU).window.mask
    assert mask is not None and mask.shape == (324, 324) and mask.dtype == torch.bfloat16
    assert mask.stride() == (328, 1) and mask.storage_offset() == 0
    assert plans(visual, 16, 16, 2, CPU).window.mask is None, "at 224 pixels all windows are equal"
    again = plans(visual.float(), 18, 18, 2, CPU).window.mask
    assert again is not None and again.dtype == torch.float32, "a tower in another type has its own"


def test_equal_windows_need_no_mask() -> None:
    assert _segments([16, 16, 16], CPU, torch.float32).mask is None
