"""The twin: a frozen generalist, a trainable specialist that reads it, and the action expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from twinbrain_ros.brain import backbone
from twinbrain_ros.brain.asymot import JointCache, LeftMemory, causal_mask, joint_mask
from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.expert import ActionExpert, Context
from twinbrain_ros.brain.preprocess import patchify
from twinbrain_ros.brain.prompt import PromptBatch


class TwinBrain(nn.Module):
    """TwinBrainVLA (arXiv 2601.14133): left brain frozen, right brain, state encoder and expert trainable.

    Units: images uint8 RGB, states and actions in the model's own standardised units.
    """

    def __init__(self, config: TwinBrainConfig) -> None:
        super().__init__()
        vlm_config = config.vlm_config()
        hidden = vlm_config.get_text_config().hidden_size
        self.config = config
        self.layout = backbone.patch_layout(vlm_config)
        self.left: Any = backbone.build_vlm(vlm_config)
        self.right: Any = backbone.build_vlm(vlm_config)
        self.state_encoder = nn.Sequential(
            nn.Linear(len(config.state_names), config.state_hidden),
            nn.ReLU(),
            nn.Linear(config.state_hidden, hidden),
        )
        self.expert = ActionExpert(config.expert, hidden, config.action.horizon, len(config.action.names))
        self.left.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> TwinBrain:
        """The left brain stays in eval mode whatever the rest does."""
        super().train(mode)
        self.left.eval()
        return self

    def seed_from(self, vlm: nn.Module) -> None:
        """Both brains start from the same pretrained VLM (paper, section 4)."""
        for brain in (self.left, self.right):
            brain.load_state_dict(vlm.state_dict())

    def parts(self) -> dict[str, nn.Module]:
        return {
            "left": self.left,
            "right": self.right,
            "state_encoder": self.state_encoder,
            "expert": self.expert,
        }

    def _image_features(self, brain: Any, images: Mapping[str, Tensor], cameras: tuple[str, ...]) -> Tensor:
        """Features of the named cameras, in order, [N, tokens of all cameras, H].

        Cameras of equal size pass through the tower as one batch.
        """
        by_size: dict[tuple[int, int], list[str]] = {}
        for name in cameras:
            by_size.setdefault((images[name].shape[1], images[name].shape[2]), []).append(name)
        features: dict[str, Tensor] = {}
        for (height, width), names in by_size.items():
            patches = patchify(torch.cat([images[n] for n in names]), self.layout)
            out = backbone.vision_features(brain, patches, *self.layout.grid(height, width))
            features.update(zip(names, out.chunk(len(names)), strict=True))
        return torch.cat([features[n] for n in cameras], dim=1)

    @torch.no_grad()
    def remember_left(self, images: Mapping[str, Tensor], prompts: PromptBatch) -> LeftMemory:
        """Runs the left brain on its views and prompt; what the right brain will read of it.

        images: per camera uint8 [N, H, W, 3], with B / N prompts in a row for each of the N observations. No
        state enters here, and no gradient leaves.
        """
        memory = LeftMemory()
        features = self._image_features(self.left, images, self.config.left_cameras)
        embeds = backbone.embed_prompts(self.left, prompts, _for_each_prompt(features, prompts), None)
        backbone.decode(self.left, embeds, prompts.positions, causal_mask(prompts.valid), memory)
        return memory

    def condition(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        left_prompts: PromptBatch,
        right_prompts: PromptBatch,
        memory: LeftMemory | None = None,
    ) -> Tensor:
        """The right brain's final hidden states [B, L_right, H] (paper: all of them condition the expert).

        images: per camera uint8 [N, H, W, 3]; state: [N, state dims], standardised. Each of the N
        observations serves B / N prompts in a row: several instructions share the work of the vision towers.
        `memory` may be given where the left brain already ran.
        """
        if memory is None:
            memory = self.remember_left(images, left_prompts)
        names = tuple(c.name for c in self.config.cameras)
        features = self._image_features(self.right, images, names)
        embeds = backbone.embed_prompts(
            self.right,
            right_prompts,
            _for_each_prompt(features, right_prompts),
            _for_each_prompt(self.state_encoder(state), right_prompts),
        )
        mask = joint_mask(left_prompts.valid, right_prompts.valid)
        cache = JointCache(memory, self.config.interaction_interval)
        return backbone.decode(self.right, embeds, right_prompts.positions, mask, cache)

    def context(
        self,
        images: Mapping[str, Tensor],
        state: Tensor,
        left_prompts: PromptBatch,
        right_prompts: PromptBatch,
    ) -> Context:
        """Everything the expert needs to denoise chunks for these observations."""
        hidden = self.condition(images, state, left_prompts, right_prompts)
        return self.expert.context(hidden, right_prompts.valid)


def _for_each_prompt(observed: Tensor, prompts: PromptBatch) -> Tensor:
    """What was observed N times [N, ...], once for each of the B prompts [B, ...]; B is a multiple of N."""
    return observed.repeat_interleave(len(prompts.ids) // len(observed), dim=0)
