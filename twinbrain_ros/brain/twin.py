"""The twin: a frozen generalist, a trainable specialist that reads it, and the action expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twinbrain_ros.brain import backbone, decoder
from twinbrain_ros.brain.asymot import JointCache, LeftMemory, causal_mask, joint_mask, last_joint_layer
from twinbrain_ros.brain.config import CheckpointError, TwinBrainConfig
from twinbrain_ros.brain.decoder import Side
from twinbrain_ros.brain.expert import ActionExpert, Context
from twinbrain_ros.brain.preprocess import patchify
from twinbrain_ros.brain.prompt import PromptBatch
from twinbrain_ros.brain.vision import VisionPlans, vision_features


@dataclass(frozen=True)
class Prepared:
    """Left and right prompts, ready for any number of observations while the weights stand still."""

    left: Side
    right: Side


class TwinBrain(nn.Module):
    """TwinBrainVLA (arXiv 2601.14133): left brain frozen, right brain, state encoder and expert trainable.

    `TwinBrainConfig.left_brain` has the left one trained too, or left out: then `left` is None. Units: images
    uint8 RGB, states and actions in the model's own units.
    """

    def __init__(self, config: TwinBrainConfig) -> None:
        super().__init__()
        vlm_config = config.vlm_config()
        hidden = vlm_config.get_text_config().hidden_size
        self.config = config
        self.layout = backbone.patch_layout(vlm_config, config.image_mean, config.image_std)
        self.left: Any = None if config.left_brain == "none" else backbone.build_vlm(vlm_config)
        self.right: Any = backbone.build_vlm(config.right_vlm_config())
        self.state_encoder = state_encoder(config, hidden)
        self.expert = ActionExpert(config.expert, hidden, config.action.horizon, len(config.action.names))
        layers = vlm_config.get_text_config().num_hidden_layers
        if (config.condition_layers or 0) > layers:
            raise CheckpointError(
                f"condition_layers: found {config.condition_layers}, the right brain has {layers} layers"
            )
        self.last = (layers if config.condition_layers is None else config.condition_layers) - 1
        self.last_joint = last_joint_layer(self.last + 1, config.interaction_interval)
        self.recompute = False  # gradient checkpointing of the right decoder: less memory, more time
        self._plans = VisionPlans()  # both towers are of one architecture and share them
        if self.left is not None:
            self.left.requires_grad_(self.trains_left)
        self.train()

    @property
    def asks(self) -> bool:
        """Whether query tokens condition the expert."""
        return self.config.conditioning == "action_queries"

    @property
    def trains_left(self) -> bool:
        return self.config.left_brain == "trained"

    def train(self, mode: bool = True) -> TwinBrain:
        """A frozen left brain stays in eval mode whatever the rest does."""
        super().train(mode)
        if self.left is not None and not self.trains_left:
            self.left.eval()
        return self

    def left_gradients(self) -> torch.set_grad_enabled:
        """As a context: gradients in the left brain only where it is trained, and only where they are on."""
        return torch.set_grad_enabled(self.trains_left and torch.is_grad_enabled())

    def seed_from(self, vlm: nn.Module) -> None:
        """Both brains start from the same pretrained VLM (paper, section 4)."""
        for brain in self.brains():
            brain.load_state_dict(vlm.state_dict())

    def brains(self) -> list[Any]:
        """Left and right, or the right one alone."""
        return [self.right] if self.left is None else [self.left, self.right]

    def parts(self) -> dict[str, nn.Module]:
        parts = {
            "left": self.left,
            "right": self.right,
            "state_encoder": self.state_encoder,
            "expert": self.expert,
        }
        return {name: part for name, part in parts.items() if part is not None}

    # -- eyes

    def image_features(
        self,
        brain: Any,
        images: Mapping[str, Tensor],
        cameras: tuple[str, ...],
        deepstack: bool | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Features of the named cameras, in order, [N, tokens of all cameras, H], and deepstack features.

        Cameras of equal size pass through the tower as one batch.
        """
        deepstack = self.config.deepstack if deepstack is None else deepstack
        by_size: dict[tuple[int, int], list[str]] = {}
        for name in cameras:
            by_size.setdefault((images[name].shape[1], images[name].shape[2]), []).append(name)
        found: dict[str, tuple[Tensor, ...]] = {}
        for (height, width), names in by_size.items():
            batch = torch.cat([images[n] for n in names])
            visual = brain.model.visual
            plan = self._plans(visual, *self.layout.grid(height, width), len(batch), batch.device)
            features, extra = vision_features(visual, patchify(batch, self.layout), plan, deepstack)
            split = [f.chunk(len(names)) for f in (features, *extra)]
            found.update(zip(names, zip(*split, strict=True), strict=True))
        features, *extra = (
            torch.cat(level, dim=1) for level in zip(*(found[n] for n in cameras), strict=True)
        )
        return features, extra

    # -- words

    def prepare(self, left: PromptBatch, right: PromptBatch) -> Prepared:
        """Everything about prompts that no observation changes. Gradients flow to the right embeddings."""
        if self.left is None:
            alone = decoder.prepare_side(self.right, right, causal_mask(right.valid))
            return Prepared(decoder.no_words(alone), alone)
        with self.left_gradients():
            left_mask = None if left.unpadded else causal_mask(left.valid)
            left_side = decoder.prepare_side(self.left, left, left_mask)
        mask = joint_mask(left.valid, right.valid, self.config.left_visibility)
        return Prepared(left_side, decoder.prepare_side(self.right, right, mask))

    # -- thought

    def remember_left(self, images: Mapping[str, Tensor], side: Side) -> LeftMemory:
        """Runs the left brain on its views and prompt; what the right brain will read of it.

        images: per camera uint8 [N, H, W, 3], with B / N prompts in a row for each of the N observations. No
        state enters here, and no gradient leaves a frozen brain. Without a left brain: nothing is remembered.
        """
        if self.left is None:
            return LeftMemory()
        with self.left_gradients():
            return self.read_left(*self.image_features(self.left, images, self.config.left_cameras), side)

    def read_left(self, features: Tensor, deepstack: list[Tensor], side: Side) -> LeftMemory:
        """The left decoder, up to the keys and values of its last joint layer."""
        memory = LeftMemory()
        with self.left_gradients():
            x = decoder.fill(side, _for_each_prompt(features, side), None)
            extra = [_for_each_prompt(e, side) for e in deepstack]
            x = decoder.run_layers(self.left, side, x, memory, range(self.last_joint), extra)
            layer = self.left.model.language_model.layers[self.last_joint]
            decoder.remember_keys_values(layer, side, x, memory)
        return memory

    def condition(
        self,
        images: Mapping[str, Tensor],
        state: Tensor | None,
        prepared: Prepared,
        memory: LeftMemory | None = None,
    ) -> Tensor:
        """What the expert attends to: the right brain's final hidden states [B, L_right or K, H]. With
        `ExpertConfig.reads` "layer_wise" so many for each of the C cross blocks, [B, C * (L_right or K), H]:
        the last block's (the final ones) first, then those of the others in their order.

        images: per camera uint8 [N, H, W, 3]; state: [N, state dims] in model units, needed here only where
        the right brain takes it. Each of the N observations serves B / N prompts in a row: several
        instructions share the work of the vision towers. `memory` may be given where the left brain already
        ran.
        """
        if memory is None:
            memory = self.remember_left(images, prepared.left)
        names = tuple(c.name for c in self.config.cameras)
        return self.read_right(*self.image_features(self.right, images, names), state, prepared, memory)

    def read_right(
        self,
        features: Tensor,
        deepstack: list[Tensor],
        state: Tensor | None,
        prepared: Prepared,
        memory: LeftMemory,
    ) -> Tensor:
        """The right decoder on image features [N, n, H], reading what the left one remembers."""
        side = prepared.right
        token = None
        if self.config.state_goes_to == "right":
            assert state is not None and self.state_encoder is not None, "the right brain has a state token"
            token = _for_each_prompt(self.state_encoder(state.to(features.dtype)), side)
        x = decoder.fill(side, _for_each_prompt(features, side), token)
        extra = [_for_each_prompt(e, side) for e in deepstack]
        cache = JointCache(None if self.left is None else memory, self.config.interaction_interval)
        recompute = self.recompute and torch.is_grad_enabled()
        *reads, _ = self.config.expert.layers_read(self.last + 1)
        read: dict[int, Tensor] = {}
        start = 0
        for layer in sorted({r for r in reads if r < self.last}):
            x = decoder.run_layers(self.right, side, x, cache, range(start, layer + 1), extra, recompute)
            read[layer] = decoder.wanted(self.right, side, x)
            start = layer + 1
        x = decoder.run_layers(self.right, side, x, cache, range(start, self.last), extra, recompute)
        final = decoder.finish(self.right, side, x, cache, self.last, extra)
        if self.config.expert.reads == "last_layer":
            return final
        return torch.cat([final, *(read.get(layer, final) for layer in reads)], dim=1)

    def expert_context(self, hidden: Tensor, state: Tensor | None, prepared: Prepared) -> Context:
        """Everything the expert needs to denoise chunks; state [N, dims] or None, where it takes one."""
        token = None
        if self.config.expert_takes_state and state is not None and self.state_encoder is not None:
            token = _for_each_prompt(self.state_encoder(state.to(hidden.dtype)), prepared.right)
        return self.expert.context(hidden, prepared.right.valid, token)

    def context(
        self,
        images: Mapping[str, Tensor],
        state: Tensor | None,
        prepared: Prepared,
        memory: LeftMemory | None = None,
    ) -> Context:
        """From observations to what the expert needs."""
        hidden = self.condition(images, state, prepared, memory)
        return self.expert_context(hidden, state, prepared)


def state_encoder(config: TwinBrainConfig, hidden: int) -> nn.Sequential | None:
    """Two layers from a state to a token of whoever takes it: of the right brain (paper) or of the expert."""
    if not config.state_names:
        return None
    width = config.expert.width if config.expert_takes_state else hidden
    return nn.Sequential(
        nn.Linear(len(config.state_names), config.state_hidden),
        nn.ReLU(),
        nn.Linear(config.state_hidden, width),
    )


def _for_each_prompt(observed: Tensor, side: Side) -> Tensor:
    """What was observed N times [N, ...], once for each of the B prompts [B, ...]; B is a multiple of N."""
    times = len(side.embeds) // len(observed)
    return observed if times == 1 else observed.repeat_interleave(times, dim=0)
