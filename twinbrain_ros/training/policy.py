"""Training the twin on demonstrations: flow matching for the expert, grounding where the truth is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twinbrain_ros.brain.config import TwinBrainConfig
from twinbrain_ros.brain.policy import TwinBrainPolicy
from twinbrain_ros.brain.prompt import PromptBatch, collate
from twinbrain_ros.brain.twin import Prepared, TwinBrain
from twinbrain_ros.training.batch import WHOLE, Grounding, PolicyBatch, Share, Source
from twinbrain_ros.training.dataset import AIM_VALUES
from twinbrain_ros.training.left_cache import LeftCache
from twinbrain_ros.training.loop import LoopConfig, Rehearsal, train_loop
from twinbrain_ros.training.lora import LoraConfig, add_adapters
from twinbrain_ros.training.losses import GroundingHead, flow_matching_loss


@dataclass(frozen=True)
class PolicyLosses:
    """Weights of the policy's losses over the steps of a chunk and the dimensions of an action; () for all 1.

    grounding_weight: of where the named things are, 0 for none (only the simulator knows); noise_repeats:
    draws of noise and time per sample; prefix_steps: each sample is given 0 to so many leading steps as they
    are, as if the arm were already executing them (arXiv 2512.05964): such a policy needs no guidance in real
    time.
    """

    step_weights: tuple[float, ...] = ()
    action_weights: tuple[float, ...] = ()
    grounding_weight: float = 0.0
    noise_repeats: int = 4
    prefix_steps: int = 0


@dataclass(frozen=True)
class PolicyOptions:
    """What is not a loss: lora on the right brain; left_cache_gb: host memory for what the frozen left brain
    thinks of samples, 0: it thinks each time; recompute: activations of the right decoder are computed again
    for the backward pass rather than kept (gradient checkpointing)."""

    losses: PolicyLosses = field(default_factory=PolicyLosses)
    lora: LoraConfig = field(default_factory=LoraConfig)
    left_cache_gb: float = 0.0
    recompute: bool = False


@dataclass(frozen=True)
class Drawn:
    """A share of a step's global batch and its prompts, padded."""

    batch: PolicyBatch
    left: PromptBatch
    right: PromptBatch
    share: Share


class PolicyTrainer:
    """The losses of one step, for the twin and its training-only grounding heads.

    Raises ValueError for weights that do not fit the chunk.
    """

    def __init__(self, policy: TwinBrainPolicy, source: Source, options: PolicyOptions, seed: int) -> None:
        self.policy, self.source, self.options, self.seed = policy, source, options, seed
        model, losses = policy.model, options.losses
        hidden = policy.config.vlm_config().get_text_config().hidden_size
        asked = policy.config.cameras if losses.grounding_weight else ()
        self.heads = torch.nn.ModuleDict({c.name: GroundingHead(hidden, values=AIM_VALUES) for c in asked})
        self.weights = torch.outer(
            _weights("step_weights", losses.step_weights, policy.config.action.horizon),
            _weights("action_weights", losses.action_weights, len(policy.config.action.names)),
        )
        if not 0 <= losses.prefix_steps < policy.config.action.horizon:
            raise ValueError(
                f"prefix_steps: found {losses.prefix_steps}, expected 0 to {policy.config.action.horizon - 1}"
            )
        if options.left_cache_gb and policy.config.left_brain != "frozen":
            raise ValueError(
                f"left_cache_gb: found {options.left_cache_gb} with left_brain {policy.config.left_brain!r}; "
                "only a frozen one can be remembered"
            )
        self.cache = LeftCache(model, int(options.left_cache_gb * 1e9)) if options.left_cache_gb else None
        model.recompute = options.recompute

    def draw(self, step: int, size: int, share: Share = WHOLE) -> Drawn:
        """A share of a step's global batch; touches no device, so that another process can do it."""
        batch = self.source.batch(self.seed, step, size, share)
        robots = batch.robots or [self.policy.config.robot] * len(batch.instructions)
        pairs = [
            self.policy.prompts(text, robot=robot)
            for text, robot in zip(batch.instructions, robots, strict=True)
        ]
        pad = self.policy.tokenizer.pad_token_id or 0
        left, right = (collate([pair[side] for pair in pairs], pad) for side in (0, 1))
        return Drawn(batch, left, right, share)

    def losses(self, drawn: Drawn, step: int) -> dict[str, Tensor]:
        policy, model, device = self.policy, self.policy.model, self.device
        batch, left, right = drawn.batch, drawn.left.to(device), drawn.right.to(device)
        images = {name: image.to(device) for name, image in batch.images.items()}
        state, actions = policy.standardize(batch.state.to(device), batch.actions.to(device), batch.robots)
        prepared = model.prepare(left, right)
        memory = None
        if self.cache is not None:
            memory = self.cache.remember(batch.keys, images, left, prepared.left)
        hidden = model.condition(images, state, prepared, memory)
        flow = self.flow(hidden, state, actions, prepared, drawn, step)
        if batch.grounding is None or not self.heads:
            return {"flow": flow}
        grounding = self._grounding(hidden, right, batch.grounding)
        return {"flow": flow, "grounding": self.options.losses.grounding_weight * grounding}

    def flow(
        self,
        hidden: Tensor,
        state: Tensor | None,
        actions: Tensor,
        prepared: Prepared,
        drawn: Drawn,
        step: int,
    ) -> Tensor:
        """The flow-matching loss of a batch's actions [B, T, A], in model units, given what was thought."""
        model, device = self.policy.model, self.device
        generator = self.generator(step)
        with torch.autocast(device.type, enabled=False):  # the reference's expert is in float32 too
            hidden = hidden.to(next(model.expert.parameters()).dtype)
            return flow_matching_loss(
                model.expert,
                model.expert_context(hidden, state, prepared),
                actions,
                self._sample_weights(drawn.batch).to(device),
                self.options.losses.noise_repeats,
                generator,
                self._prefix(len(actions), generator, drawn.share),
                drawn.share,
            )

    def generator(self, step: int) -> torch.Generator:
        """Where noise and flow times of a step's global batch come from."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    @property
    def device(self) -> torch.device:
        return next(self.policy.model.expert.parameters()).device

    def _sample_weights(self, batch: PolicyBatch) -> Tensor:
        """[B, T, A]: what steps and dimensions count, without those past an episode's end."""
        return self.weights * batch.known[..., None] * batch.weights[:, None, None]

    def _prefix(self, count: int, generator: torch.Generator, share: Share) -> Tensor | None:
        steps = self.options.losses.prefix_steps
        if not steps:
            return None
        return torch.randint(0, steps + 1, (count * share.count,), generator=generator)[share.of(count)]

    def _grounding(self, hidden: Tensor, right: PromptBatch, truth: Grounding) -> Tensor:
        """Each camera's image tokens are asked where the named things are."""
        policy, start = self.policy, 0
        total = torch.zeros((), device=hidden.device)
        for camera in policy.config.cameras:  # all, or the first alone
            count = policy.model.layout.tokens(camera.height, camera.width)
            index = right.image_slots[:, start : start + count, None].expand(-1, -1, hidden.shape[-1])
            start += count
            if camera.name not in truth.cells:
                continue
            seen = truth.cells[camera.name], truth.offsets[camera.name], truth.aims
            total = total + self.heads[camera.name](
                hidden.gather(1, index), *(t.to(hidden.device) for t in seen)
            )
        return total


def _weights(key: str, given: Sequence[float], count: int) -> Tensor:
    if len(given) not in (0, count):
        raise ValueError(f"{key}: found {len(given)} entries, expected {count}, or none for all 1")
    return torch.tensor(given) if given else torch.ones(count)


def train_policy(
    policy: TwinBrainPolicy,
    source: Source,
    options: PolicyOptions,
    loop: LoopConfig,
    out: Path,
    rehearsal: Rehearsal | None = None,
    stoppable: bool = False,
) -> PolicyTrainer:
    """Trains a policy in place on what a source gives; it must have statistics.

    Learning rates may be set for the parts vlm (the brains that are trained), state_encoder and expert.
    """
    model = policy.model
    add_adapters(model.right, options.lora)
    trainer = PolicyTrainer(policy, source, options, loop.seed)
    parts = {
        "vlm": torch.nn.ModuleList(model.brains()),
        "state_encoder": model.state_encoder,
        "expert": model.expert,
    }
    train_loop(
        "policy",
        model,
        trainer.losses,
        lambda step, share: trainer.draw(step, loop.batch_size, share),
        loop,
        out,
        extra=[trainer.heads],
        parts={name: part for name, part in parts.items() if part is not None},
        rehearsal=rehearsal,
        stoppable=stoppable,
    )
    return trainer


def twin_of(
    vlm: Any, tokenizer: Any, source: Source, twin: TwinBrainConfig, seed: int, device: str | None = None
) -> TwinBrainPolicy:
    """A policy whose brains start from `vlm`, with a source's statistics; the rest is drawn from a seed."""
    actions, states = source.statistics()
    config = dataclasses.replace(twin, action_statistics=actions, state_statistics=states)
    torch.manual_seed(seed)
    model = TwinBrain(config)
    model.seed_from(vlm)
    return TwinBrainPolicy(model, tokenizer, device)
