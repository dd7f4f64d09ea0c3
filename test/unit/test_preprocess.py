"""From a camera's buffer to patches: sizes and values as the transformers processors have them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from published_run import BASE
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from twinbrain_ros.brain.preprocess import (
    PatchLayout,
    fitting_size,
    patchify,
    resize,
    resize_in_steps,
    with_frames,
)
from twinbrain_ros.brain.presets import CLIP_MEAN, CLIP_STD

QWEN3 = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2} | {
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}
QWEN2_5 = json.loads((BASE / "preprocessor_config.json").read_text())


@pytest.mark.parametrize("factor", [28, 32])
def test_sizes_are_those_of_the_processors(factor: int) -> None:
    limits = (65536, 1_003_520)
    rng = np.random.default_rng(0)
    for height, width in [*rng.integers(8, 2000, (300, 2)).tolist(), [224, 224], [1, 200], [16, 16]]:
        expected = smart_resize(height, width, factor, *limits)
        assert fitting_size(height, width, factor, limits) == expected, (height, width)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 64), "64x0 pixels: expected an area"),
        ((1, 201), "201x1 pixels: expected an aspect ratio of at most"),
    ],
)
def test_images_that_no_size_fits_are_refused(size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitting_size(*size, 28, (3136, 1_003_520))


# Sizes whose sides both grow or both shrink; the installed Pillow does the others in another order.
@pytest.mark.parametrize(
    ("rules", "size"),
    [
        *((QWEN3, size) for size in ((224, 224), (96, 96), (490, 650), (140, 210))),
        *((QWEN2_5, size) for size in ((224, 224), (490, 650), (1080, 1920), (47, 61), (333, 205))),
    ],
)
def test_patches_equal_the_processors_within_one_grey_level(
    rules: dict[str, Any], size: tuple[int, int]
) -> None:
    image = picture(*size)
    keys = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "size")
    stock = Qwen2VLImageProcessorPil(**{k: rules[k] for k in keys})(images=[image], return_tensors="pt")

    mean, std = tuple(rules["image_mean"]), tuple(rules["image_std"])
    layout = PatchLayout(rules["patch_size"], 2, 2, mean, std)
    limits = rules["size"]["shortest_edge"], rules["size"]["longest_edge"]
    fitted = fitting_size(*size, layout.factor, limits)
    assert [1, *layout.grid(*fitted)] == stock["image_grid_thw"][0].tolist()
    ours = with_frames(patchify(resize(torch.from_numpy(image)[None], *fitted), layout), layout)
    difference = (ours - stock["pixel_values"]).view(len(ours), 3, -1)
    assert_close_in_grey(difference.numpy() * np.array(std)[:, None] * 255)


def assert_close_in_grey(difference: np.ndarray) -> None:
    """Within one grey level; where an image grows, two on a few values in 100,000 (both kernels work with
    whole numbers, and not with the same ones)."""
    difference = np.abs(difference)
    assert difference.max() < 2.01 and (difference > 1.01).mean() < 3e-5
    assert (difference > 0.5).mean() < 0.02, "almost everywhere it is the same grey level"


def picture(height: int, width: int) -> np.ndarray:
    """Waves and some noise, uint8 RGB."""
    y, x = np.mgrid[0:height, 0:width]
    wave = np.stack([x * 0.3, y * 0.4, 127 + 120 * np.sin(x / 15) * np.cos(y / 11)], -1)
    noise = np.random.default_rng(1).integers(-8, 8, wave.shape)
    return (wave + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(476, 644), (256, 256), (728, 1288)])
def test_resizing_goes_across_and_then_down(size: tuple[int, int]) -> None:
    image, (height, width) = picture(480, 640), size
    across = Image.fromarray(image).resize((width, 480), Image.Resampling.BICUBIC)
    down = np.asarray(across.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    ours = resize(torch.from_numpy(image)[None], height, width)[0].int().numpy()
    assert_close_in_grey(ours - down)


def test_the_means_of_the_presets_are_those_of_the_processor() -> None:
    np.testing.assert_allclose(CLIP_MEAN, QWEN2_5["image_mean"])
    np.testing.assert_allclose(CLIP_STD, QWEN2_5["image_std"])


@pytest.mark.parametrize("size", [(56, 84), (140, 140), (300, 200)])
def test_resizing_in_floating_point_gives_the_same_grey_levels(size: tuple[int, int]) -> None:
    """Devices other than a CPU have no kernel for bytes."""
    image = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (1, 120, 160, 3), dtype=np.uint8))
    steps = resize_in_steps(image.permute(0, 3, 1, 2).float(), *size).permute(0, 2, 3, 1)
    assert_close_in_grey((resize(image, *size).float() - steps).numpy())
