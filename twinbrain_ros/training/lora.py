"""Low-rank adapters on the right brain (LoRA, arXiv 2106.09685), by peft: little to train, nothing left
behind.

A checkpoint has the adapters multiplied in: whoever loads it need not know of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

ADAPTER = "default"


@dataclass(frozen=True)
class LoraConfig:
    """rank 0: none, the whole right brain is trained; targets: names of linear layers."""

    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_adapters(brain: nn.Module, config: LoraConfig) -> None:
    """Freezes a brain and gives its layers adapters, which start as nothing; rank 0 leaves it as it is.

    Raises ValueError if there is no layer of such a name.
    """
    if not config.rank:
        return
    brain.requires_grad_(False)
    settings: Any = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
    )
    inject_adapter_in_model(settings, brain, adapter_name=ADAPTER)


@torch.no_grad()
def merged_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A model's tensors, one at a time, named as without adapters, with these multiplied in."""
    layers = {name: part for name, part in module.named_modules() if isinstance(part, LoraLayer)}
    for name, tensor in module.state_dict().items():
        if ".lora_" in name:
            continue
        owner, _, leaf = name.rpartition(".base_layer.")
        if not owner:
            yield name, tensor
        elif leaf == "weight":
            layer: Any = layers[owner]
            yield f"{owner}.{leaf}", tensor + layer.get_delta_weight(ADAPTER).to(tensor.dtype)
        else:
            yield f"{owner}.{leaf}", tensor
