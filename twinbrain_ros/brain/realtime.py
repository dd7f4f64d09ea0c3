"""Chunks that agree with what the arm is doing: real-time chunking (arXiv 2506.07339, arXiv 2512.05964).

The condition is constant, so all of this goes through the action expert alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from twinbrain_ros.brain.expert import ActionExpert, Context, FlowTime

# beta of arXiv 2506.07339 is 5. With it the demo policy, whose distant steps are its poorest, is held to them
# too long: see the README's figures of late chunks. What is frozen is met closely enough with less.
MOST_GUIDANCE = 1.0

Schedule = list[tuple[Tensor, FlowTime]]


@dataclass(frozen=True)
class Target:
    """A `robot.chunk.Guide` in model units: actions [1, T, A], weights [T]; a tensor of frozen is int64."""

    actions: Tensor
    weights: Tensor
    frozen: int | Tensor
    guidance: float = MOST_GUIDANCE


def guidance_weight(time: Tensor, most: float = MOST_GUIDANCE) -> Tensor:
    """How strongly the flow at time t in [0, 1) is drawn to the target: min(most, (1 - t) / (t r^2))."""
    spread = (1 - time).square() / (time.square() + (1 - time).square())
    return ((1 - time) / (time * spread)).clamp(max=most)  # at t = 0 infinite, and therefore this


def guided(
    expert: ActionExpert, context: Context, noise: Tensor, target: Target, schedule: Schedule
) -> Tensor:
    """Euler integration [B, T, A] of a flow that is drawn to a target (equations 2 to 4 of the paper).

    Context and schedule must not be inference tensors: the gradient of the expected actions by the noisy ones
    passes them.
    """
    x, weights = noise, target.weights[:, None]
    for time, at in schedule:
        with torch.enable_grad():
            noisy = x.detach().requires_grad_(True)
            velocity = expert.velocity(context, noisy, time, at)
            expected = noisy + (1 - time)[:, None, None] * velocity
            gap = (weights * (target.actions - expected)).detach()
            pull = torch.autograd.grad(expected, noisy, gap)[0]
        x = x + (velocity.detach() + guidance_weight(time, target.guidance)[:, None, None] * pull) / len(
            schedule
        )
    return x


def prefixed(
    expert: ActionExpert, context: Context, noise: Tensor, target: Target, schedule: Schedule
) -> Tensor:
    """Euler integration [B, T, A] for an expert that was trained with prefixes: the frozen steps are given to
    it as they are, at flow time 1, and the others follow from them."""
    given = torch.arange(expert.horizon, device=noise.device)[None] < target.frozen
    x = torch.where(given[..., None], target.actions, noise)
    end = expert.flow_time(torch.ones_like(schedule[0][0]))
    for time, at in schedule:
        velocity = expert.velocity(context, x, time, with_ends(expert, context, at, end, given))
        x = torch.where(given[..., None], x, x + velocity / len(schedule))
    return x


def with_ends(
    expert: ActionExpert, context: Context, now: FlowTime, end: FlowTime, given: Tensor
) -> FlowTime:
    """A flow time for each token: `end` for the actions that are given, bool [B, T], `now` for all others."""
    actions = given[..., None]
    # In front stand the state, where there is one, and the future tokens: they have the chunk's own time.
    tokens = F.pad(given, (expert.config.future_tokens + (context.state is not None), 0))[..., None]
    return replace(
        now,
        modulations=[
            torch.where(tokens, b, a) for a, b in zip(now.modulations, end.modulations, strict=True)
        ],
        output=torch.where(actions, end.output, now.output),
        encoder=torch.where(actions, end.encoder, now.encoder),
    )
