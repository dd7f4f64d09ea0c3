"""Training the twin on demonstrations: flow matching for the expert, grounding for the condition."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.twin import TwinBrain
from twinbrain_ros.training.dataset import AIM_VALUES, Demonstrations
from twinbrain_ros.training.loop import LoopConfig, train_loop
from twinbrain_ros.training.losses import GroundingHead, flow_matching_loss


@dataclass(frozen=True)
class PolicyLosses:
    """Weights of the policy's losses over the steps of a chunk and the dimensions of an action."""

    step_weights: tuple[float, ...] = (1.0, 1.0, 0.7, 0.5, 0.4, 0.3, 0.3, 0.3)
    # Rotation is hardly predictable at this resolution; at full weight it would drown the aim.
    action_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 0.1, 0.1, 0.2, 1.0)
    grounding_weight: float = 0.1
    noise_repeats: int = 2


class PolicyTrainer:
    """The losses of one step, for the twin and its training-only grounding heads."""

    def __init__(self, policy: TwinBrainPolicy, data: Demonstrations, losses: PolicyLosses) -> None:
        self.policy, self.data, self.config = policy, data, losses
        model = policy.model
        hidden = policy.config.vlm_config().get_text_config().hidden_size
        self.heads = torch.nn.ModuleDict(
            {c.name: GroundingHead(hidden, values=AIM_VALUES) for c in policy.config.cameras}
        )
        self.cell_px = model.layout.factor
        self.weights = torch.outer(torch.tensor(losses.step_weights), torch.tensor(losses.action_weights))

    def losses(self, step: int, loop: LoopConfig) -> dict[str, Tensor]:
        policy, model = self.policy, self.policy.model
        batch = self.data.batch(loop.seed, step, loop.batch_size, self.cell_px)
        pairs = [policy.prompts(text) for text in batch.instructions]
        left, right = policy.collate([p[0] for p in pairs]), policy.collate([p[1] for p in pairs])
        state, actions = policy.standardize(batch.state, batch.actions)
        prepared = model.prepare(left, right)
        hidden = model.condition(batch.images, state, prepared)
        context = model.expert_context(hidden, state, prepared)
        generator = torch.Generator().manual_seed(loop.seed * 1_000_003 + step)
        flow = flow_matching_loss(
            model.expert, context, actions, self.weights, self.config.noise_repeats, generator
        )
        grounding = torch.zeros(())
        slots, start = right.image_slots, 0
        for camera in policy.config.cameras:
            count = model.layout.tokens(camera.height, camera.width)
            index = slots[:, start : start + count, None].expand(-1, -1, hidden.shape[-1])
            tokens = hidden.gather(1, index)
            head = self.heads[camera.name]
            seen = batch.cells[camera.name], batch.offsets[camera.name]
            grounding = grounding + head(tokens, *seen, batch.aims)
            start += count
        return {"flow": flow, "grounding": self.config.grounding_weight * grounding}


def train_policy(
    vlm: Any,
    tokenizer: Any,
    data: Demonstrations,
    twin: TwinBrainConfig,
    losses: PolicyLosses,
    loop: LoopConfig,
    out: Path,
) -> TwinBrainPolicy:
    """A twin whose brains both start from `vlm`, trained on the demonstrations."""
    actions, states = data.statistics()
    config = dataclasses.replace(twin, action_statistics=actions, state_statistics=states)
    torch.manual_seed(loop.seed)
    model = TwinBrain(config)
    model.seed_from(vlm)
    policy = TwinBrainPolicy(model, tokenizer)
    trainer = PolicyTrainer(policy, data, losses)
    train_loop("policy", model, lambda step: trainer.losses(step, loop), loop, out, extra=[trainer.heads])
    return policy
