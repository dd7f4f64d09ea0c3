"""Folders of tiny VLMs with random weights, as transformers writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from published_run import BASE, QWEN3
from transformers import AutoConfig, AutoModelForImageTextToText

FAMILIES = ("qwen3_vl", "qwen2_5_vl")


def vlm_folder(folder: Path, family: str, seed: int = 0) -> Path:
    """A folder of one family: config, tokenizer, processor, weights, and a generation_config.json like the
    published ones, which samples and punishes repetition."""
    shutil.copytree(BASE, folder)
    if family == "qwen3_vl":
        (folder / "config.json").write_text(json.dumps(QWEN3))
        rules = {"size": {"shortest_edge": 4096, "longest_edge": 65536}, "patch_size": 16, "merge_size": 2}
        rules |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "temporal_patch_size": 2}
        (folder / "preprocessor_config.json").write_text(json.dumps(rules))
        template = json.loads((BASE / "chat_template.json").read_text())["chat_template"]
        without_system = template[template.index("{% for") :]
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": without_system}))
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # transformers' default init is so small that hardly anything would matter
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.2, generator=generator)
    model.save_pretrained(folder)
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 5.0}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    return folder
