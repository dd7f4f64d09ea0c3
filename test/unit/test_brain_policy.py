"""Checkpoints, preprocessing, prompts, the expert's flow: what a policy promises at its edges."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from brain_fixtures import ACTION, STATE, tiny_config, tiny_policy, views
from safetensors.torch import load_file, save_file
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from twinbrain_ros.brain.config import CheckpointError, CheckpointMismatch, TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.preprocess import PatchLayout, patchify, resize, with_frames
from twinbrain_ros.brain.prompt import InstructionError
from twinbrain_ros.brain.sampling import noise_for

RED = "pick up the red block"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    tiny_policy().save_pretrained(directory)
    return directory


def copy_of(checkpoint: Path, to: Path) -> Path:
    for file in checkpoint.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def robot(**changes: object) -> SimpleNamespace:
    action = {
        "space": "ee_delta",
        "composition": "observation",
        "names": ACTION,
        "horizon": 8,
        "period_s": 0.2,
    }
    top = {"name": "wx250s"} | {k: v for k, v in changes.items() if k == "name"}
    action |= {k: v for k, v in changes.items() if k in action}
    names = changes.get("cameras", ("front", "wrist"))
    return SimpleNamespace(
        **top,
        action=SimpleNamespace(**action),
        cameras=[SimpleNamespace(name=n) for n in names],  # type: ignore[union-attr]
        observation=SimpleNamespace(state_names=STATE),
    )


# -- files


def test_a_saved_policy_acts_bit_identically(checkpoint: Path) -> None:
    before = tiny_policy().act(views(), RED, np.zeros(7), seed=5)
    after = TwinBrainPolicy.from_pretrained(checkpoint).act(views(), RED, np.zeros(7), seed=5)
    np.testing.assert_array_equal(before, after)


def test_config_survives_json(checkpoint: Path) -> None:
    assert TwinBrainConfig.load(checkpoint) == tiny_config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("expert.position"), "missing tensor expert.position"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected tensor extra"),
        (
            lambda t: t.update({"expert.position": torch.zeros(2, 2)}),
            r"expert.position: found shape \(2, 2\)",
        ),
        (lambda t: t["expert.position"].fill_(float("nan")), "expert.position: has non-finite values"),
    ],
)
def test_unsound_weights_are_refused_by_name(checkpoint: Path, tmp_path: Path, change, message: str) -> None:
    broken = copy_of(checkpoint, tmp_path)
    tensors = load_file(broken / "model.safetensors")
    change(tensors)
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        TwinBrainPolicy.from_pretrained(broken)


def test_a_truncated_weights_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    broken = copy_of(checkpoint, tmp_path) / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        TwinBrainPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("robot"), r"key 'robot' is missing"),
        (lambda c: c.update(horizont=8), r"unknown key 'horizont'"),
        (lambda c: c.update(left_cameras=["top"]), r"left_cameras: found \['top'\]"),
        (lambda c: c["expert"].update(prediction="x"), "expert.prediction: found 'x'"),
        (lambda c: c["action_statistics"]["std"].pop(), "expected a finite number of each per dimension"),
        (
            lambda c: c["action_statistics"].update(mean=[float("nan")] * 7),
            "expected a finite number of each",
        ),
        (
            lambda c: c["action_statistics"].update(std=["a"] * 7),
            r"action_statistics: std\[0\]: found 'a', exp",
        ),
        (lambda c: c.update(state_statistics=[1]), r"state_statistics: found \[1\], expected a mapping"),
        (lambda c: c.update(embodiments=None), "embodiments: found None, expected a list"),
        (lambda c: c.update(embodiments=["wx250s"]), r"embodiments\[0\]: found 'wx250s', expected a mapping"),
        (lambda c: c.update(embodiments=[{"robot": "wx250s", "action": None}]), r"\[0\]: action: found None"),
        (
            lambda c: c.update(embodiments=[{"robot": "wx250s", "action": {**c["action"], "period_s": 9.0}}]),
            r"embodiments: wx250s: action: found .*period_s=9.0\), expected the config's own",
        ),
        (lambda c: c.update(robot=None), "robot: found None, expected str"),
        (lambda c: c.update(robot="<|im_end|>"), r"robot: found '<\|im_end\|>', expected a name"),
        (lambda c: c.update(state_names="xyz"), "state_names: found 'xyz', expected a list"),
        (lambda c: c.update(state_names=["x"] * 7), "state_names: found .*, expected different names"),
        (lambda c: c.update(cameras=c["cameras"] * 2), "cameras: found .*, expected different names"),
        (lambda c: c.update(left_cameras=[]), "left_cameras: found 0, expected at least 1"),
        (lambda c: c["cameras"][0].update(width="a"), r"cameras\[0\]: width: found 'a', expected int"),
        (lambda c: c["cameras"][0].update(width=-8), "camera front: found -8x"),
        (lambda c: c["action"].update(horizon=0), "action.horizon: found 0, expected at least 1"),
        (lambda c: c["action"].update(period_s=0), "action.period_s: found 0.0, expected seconds above 0"),
        (lambda c: c.update(interaction_interval=-1), "interaction_interval: found -1, expected at least 0"),
        (lambda c: c.update(condition_layers=5), "condition_layers: found 5, the right brain has 4 layers"),
        (lambda c: c.update(condition_layers=0), "condition_layers: found 0, expected at least 1"),
        (lambda c: c["expert"].update(heads=0), "expert.heads: found 0, expected at least 1"),
        (lambda c: c.update(right_prompt=None), "right_prompt: found None, expected str"),
        (lambda c: c.update(left_prompt="<|image_pad|>"), r"left_prompt: found \['<\|image_pad\|>'\]"),
        (lambda c: c.update(left_prompt="go", right_prompt="<|propri|>"), r"expected \{instruction\}"),
        (lambda c: c.update(image_std=[0, 0, 0]), "image_std: found .*, expected numbers above 0"),
        (lambda c: c.update(pixel_limits=[9, 5]), r"pixel_limits: found \[9, 5\], expected least and most"),
    ],
)
def test_an_unsound_config_is_refused_by_key(checkpoint: Path, tmp_path: Path, change, message: str) -> None:
    broken = copy_of(checkpoint, tmp_path)
    values = json.loads((broken / "config.json").read_text())
    change(values)
    (broken / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        TwinBrainPolicy.from_pretrained(broken)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json here"):
        TwinBrainPolicy.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not a directory"):
        TwinBrainPolicy.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "franka"}, "robot: checkpoint 'wx250s', robot file 'franka'"),
        ({"horizon": 16}, "action horizon: checkpoint 8, robot file 16"),
        ({"space": "joint_position"}, "action space: checkpoint 'ee_delta', robot file 'joint_position'"),
        ({"cameras": ("front",)}, r"cameras: checkpoint needs \['wrist'\], robot file has \['front'\]"),
    ],
)
def test_a_robot_that_does_not_fit_is_refused_with_both_values(changes: dict, message: str) -> None:
    policy = tiny_policy()
    policy.take_robot(robot())  # type: ignore[arg-type]
    with pytest.raises(CheckpointMismatch, match=message):
        policy.take_robot(robot(**changes))  # type: ignore[arg-type]


# -- input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found an empty text"),
        (" \n", "found an empty text"),
        ("block " * 20_000, "found 119999 characters, expected at most 2000"),
        ("pick up the orange block", r"\['orange'\] are not in this checkpoint's vocabulary"),
    ],
)
def test_instructions_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(InstructionError, match=message):
        tiny_policy().act(views(), text, np.zeros(7))


def test_role_tokens_cannot_be_smuggled_in_with_an_instruction() -> None:
    with pytest.raises(InstructionError, match="role token"):
        tiny_policy().act(views(), "pick up <|propri|> the red block", np.zeros(7))


@pytest.mark.parametrize(
    ("state", "message"),
    [(np.zeros(6), "expected 7 finite values"), (np.full(7, np.nan), "expected 7 finite values")],
)
def test_a_bad_state_is_refused(state: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_policy().act(views(), RED, state)


def test_a_missing_or_wrong_image_is_refused_by_camera() -> None:
    images = views()
    with pytest.raises(ValueError, match=r"camera 'wrist' is missing, found \['front'\]"):
        tiny_policy().act({"front": images["front"]}, RED, np.zeros(7))
    with pytest.raises(ValueError, match=r"images\['wrist'\]: found float64"):
        tiny_policy().act(images | {"wrist": images["wrist"] / 255.0}, RED, np.zeros(7))


def test_every_input_matters() -> None:
    policy = tiny_policy()
    base = policy.act(views(), RED, np.zeros(7), seed=1)
    others = [
        policy.act(views() | {"front": views(9)["front"]}, RED, np.zeros(7), seed=1),
        policy.act(views() | {"wrist": views(9)["wrist"]}, RED, np.zeros(7), seed=1),
        policy.act(views(), "pick up the blue block", np.zeros(7), seed=1),
        policy.act(views(), RED, np.ones(7), seed=1),
        policy.act(views(), RED, np.zeros(7), seed=2),
    ]
    assert all(np.abs(base - other).max() > 1e-4 for other in others)
    np.testing.assert_array_equal(base, policy.act(views(), RED, np.zeros(7), seed=1))
    assert base.shape == (8, 7) and base.dtype == np.float64


def test_noise_is_a_function_of_the_seed() -> None:
    np.testing.assert_array_equal(noise_for(7, 8, 7), noise_for(7, 8, 7))
    assert np.abs(noise_for(7, 8, 7) - noise_for(8, 8, 7)).max() > 0.1
    assert noise_for(7, 4, 3).dtype == np.float32
    assert abs(noise_for(1, 200, 50).std() - 1.0) < 0.03


def test_actions_and_states_pass_through_the_statistics() -> None:
    policy = tiny_policy()
    state, actions = policy.standardize(torch.full((1, 7), 4.2), torch.full((1, 8, 7), 0.6))
    torch.testing.assert_close(state, torch.full((1, 7), 2.0))
    torch.testing.assert_close(actions, torch.ones(1, 8, 7))


# -- pixels


@pytest.mark.parametrize("temporal", [1, 2])
def test_patches_equal_those_of_the_stock_processor(temporal: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=6,
        merge_size=2,
        temporal_patch_size=temporal,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 12, "longest_edge": 100_000},
    )
    stock = processor(images=[image], return_tensors="pt")["pixel_values"]
    layout = PatchLayout(6, 2, temporal)
    ours = with_frames(patchify(torch.from_numpy(image)[None], layout), layout)
    torch.testing.assert_close(ours, stock.float(), atol=1e-5, rtol=0)


def test_resizing_equals_the_stock_processor_within_one_grey_level() -> None:
    y, x = np.mgrid[0:480, 0:640]
    wave = np.stack([x * 0.3, y * 0.4, 127 + 120 * np.sin(x / 15) * np.cos(y / 11)], -1)
    image = wave.clip(0, 255).astype(np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=6,
        merge_size=2,
        temporal_patch_size=1,
        image_mean=[0.0] * 3,
        image_std=[1 / 255.0] * 3,
        size={"shortest_edge": 12, "longest_edge": 96 * 72},
    )
    stock = processor(images=[image], return_tensors="pt")
    rows, columns = (int(v) * 6 for v in stock["image_grid_thw"][0, 1:])
    ours = resize(torch.from_numpy(image)[None], rows, columns)
    mine = patchify(ours, PatchLayout(6, 2, 1, (0.0,) * 3, (1 / 255.0,) * 3))
    assert (mine - stock["pixel_values"]).abs().max() <= 1.01


def test_sizes_that_cannot_be_cut_into_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="100x96 pixels: both sides must be multiples of 12"):
        PatchLayout(6, 2, 1).grid(96, 100)


# -- the flow


def test_the_condition_is_computed_once_per_chunk() -> None:
    policy = tiny_policy()
    calls = []
    for block in policy.model.expert.blocks:
        if block.is_cross:
            block.key.register_forward_hook(lambda *a: calls.append(1))
    policy.act(views(), RED, np.zeros(7))
    assert len(calls) == 2  # one per cross block, not one per denoising step


@pytest.mark.parametrize("prediction", ["clean", "velocity"])
def test_velocity_and_clean_actions_are_two_views_of_one_prediction(prediction: str) -> None:
    expert = tiny_policy(prediction=prediction).model.expert
    context = expert.context(torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool))
    noisy, time = torch.randn(2, 8, 7), torch.tensor([0.0, 0.6])
    clean, velocity = expert.clean(context, noisy, time), expert.velocity(context, noisy, time)
    torch.testing.assert_close(noisy + (1 - time)[:, None, None] * velocity, clean, atol=1e-5, rtol=1e-5)


def test_integration_follows_the_field_to_a_known_end() -> None:
    expert = tiny_policy().model.expert
    target = torch.randn(1, 8, 7)
    expert.clean = lambda context, noisy, time: target  # type: ignore[method-assign]
    expert.velocity = lambda context, noisy, time, at: (target - noisy) / (1 - time)[:, None, None]  # type: ignore[method-assign]
    for steps in (1, 3, 10):
        out = expert.integrate(None, torch.randn(1, 8, 7), steps)  # type: ignore[arg-type]
        torch.testing.assert_close(out, target, atol=1e-5, rtol=1e-5)
