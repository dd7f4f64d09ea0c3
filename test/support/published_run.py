"""The tiny published run of test/data, imported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from twinbrain_ros.brain.importing import Imported, import_checkpoint
from twinbrain_ros.resources import robot_file_path
from twinbrain_ros.robot.robot_file import load_robot

DATA = Path(__file__).parents[1] / "data" / "published"
BASE = DATA / "base" / "Qwen2.5-VL-tiny"
CASES = ("one_image", "two_images_with_state", "raw_size_with_state")
WEIGHTS = Path("checkpoints") / "steps_100_model.safetensors"


def run_copy(to: Path, name: str = "run") -> Path:
    """A copy of a run that a test may change."""
    folder = to / name
    shutil.copytree(DATA / "run", folder)
    if name != "run":
        shutil.copy(DATA / name / "config.yaml", folder / "config.yaml")
    return folder


def imported(run: Path, out: Path, **options: Any) -> Imported:
    base = str(options.pop("base", BASE))
    robot = options.pop("robot", None) or load_robot(robot_file_path("wx250s"))
    return import_checkpoint(run, base, robot, out, **options)


def case(name: str) -> dict[str, Any]:
    """A case with its files read: images RGB, state or None, noise and expected [8, 7]."""
    folder = DATA / "cases" / name
    facts = json.loads((folder / "case.json").read_text())
    state = facts.get("normalized_state")
    return facts | {
        "paths": [folder / image for image in facts["images"]],
        "images": [
            cv2.cvtColor(cv2.imread(str(folder / image)), cv2.COLOR_BGR2RGB) for image in facts["images"]
        ],
        "state": None if state is None else np.array(state),
        "noise_path": folder / facts["noise"],
        "expected": np.load(folder / facts["expected"]),
    }


QWEN3 = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "tie_word_embeddings": True,
    "image_token_id": 268,
    "video_token_id": 269,
    "vision_start_token_id": 265,
    "vision_end_token_id": 266,
    "text_config": {
        "model_type": "qwen3_vl_text",
        "vocab_size": 288,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5000000,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [3, 3, 2], "rope_type": "default"},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "vision_config": {
        "model_type": "qwen3_vl",
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 36,
        "out_hidden_size": 48,
        "deepstack_visual_indexes": [0, 2],
        "hidden_act": "gelu_pytorch_tanh",
    },
}


def qwen3_run(folder: Path) -> tuple[Path, Path]:
    """A run on a Qwen3-VL and its base folder, with random weights, in the published layout."""
    base, run = folder / "Qwen3-VL-tiny", folder / "run"
    shutil.copytree(BASE, base)
    (base / "config.json").write_text(json.dumps(QWEN3))
    rules = {"size": {"shortest_edge": 4096, "longest_edge": 65536}, "patch_size": 16, "merge_size": 2}
    rules |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "temporal_patch_size": 2}
    (base / "preprocessor_config.json").write_text(json.dumps(rules))
    template = json.loads((BASE / "chat_template.json").read_text())["chat_template"]
    without_system = template[template.index("{% for") :]
    (base / "chat_template.json").write_text(json.dumps({"chat_template": without_system}))
    shutil.copytree(DATA / "run", run)
    text = (run / "config.yaml").read_text()
    text = text.replace("Qwen2.5-VL-tiny", "models/Qwen3-VL-tiny").replace("dim: 64", "dim: 48")
    (run / "config.yaml").write_text(text)
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        spread = 0.2 if len(shape) > 1 else 0.05
        return (torch.randn(shape, generator=generator) * spread + (len(shape) == 1)).bfloat16()

    stock = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(base))
    for brain, rows in (("frozen_vlm", 288), ("trainable_vlm", 290)):
        for name, tensor in stock.state_dict().items():
            shape = tuple(tensor.shape)
            if "embed_tokens" in name or "lm_head" in name:
                shape = (rows, shape[1])
            tensors[f"qwen_vl_interface.{brain}.model.{name}"] = draw(shape)
    for name in [n for n in tensors if ".trainable_vlm." in n]:
        tensors[name.replace("trainable_vlm.model", "model")] = tensors[name].clone()
    for name, tensor in load_file(DATA / "run" / WEIGHTS).items():
        if name.startswith("action_model."):
            condition = name.endswith(("to_k.weight", "to_v.weight")) and tensor.shape[1] == 64
            tensors[name] = tensor[:, :48].clone() if condition else tensor
    save_file(tensors, run / WEIGHTS)
    return run, base


def imported_families(folder: Path) -> dict[str, Path]:
    """Checkpoints imported from a run of each family."""
    run, base = qwen3_run(folder)
    imported(run, folder / "qwen3_vl", base=base)
    imported(run_copy(folder / "runs", "run_raw"), folder / "qwen2_5_vl")
    return {name: folder / name for name in ("qwen3_vl", "qwen2_5_vl")}
