"""Chunks that agree with what the arm is doing: real-time chunking (arXiv 2506.07339, arXiv 2512.05964).

The condition is constant, so all of this goes through the action expert alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from twinbrain_ros.brain.expert import ActionExpert, Context, FlowTime

MOST_GUIDANCE = 5.0  # beta of arXiv 2506.07339, section 4.1: more makes few-step integration diverge

Schedule = list[tuple[Tensor, FlowTime]]


@dataclass(frozen=True)
class Target:
    """A `robot.chunk.Guide` in model units: actions [1, T, A], weights [T]."""

    actions: Tensor
    weights: Tensor
    frozen: int


def guidance_weight(time: Tensor) -> Tensor:
    """How strongly the flow at time t in [0, 1) is drawn to the target: min(beta, (1 - t) / (t r^2))."""
    spread = (1 - time).square() / (time.square() + (1 - time).square())
    return ((1 - time) / (time * spread)).clamp(max=MOST_GUIDANCE)  # at t = 0 infinite, and therefore beta


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
        x = x + (velocity.detach() + guidance_weight(time)[:, None, None] * pull) / len(schedule)
    return x


def prefixed(
    expert: ActionExpert, context: Context, noise: Tensor, target: Target, schedule: Schedule
) -> Tensor:
    """Euler integration [B, T, A] for an expert that was trained with prefixes: the frozen steps are given to
    it as they are, at flow time 1, and the others follow from them."""
    frozen = target.frozen
    given, x = target.actions[:, :frozen].expand(len(noise), -1, -1), noise
    end = expert.flow_time(torch.ones_like(schedule[0][0]))
    for time, at in schedule:
        x = torch.cat([given, x[:, frozen:]], dim=1)
        x = x + expert.velocity(context, x, time, _split(expert, context, at, end, frozen)) / len(schedule)
    return torch.cat([given, x[:, frozen:]], dim=1)


def _split(expert: ActionExpert, context: Context, at: FlowTime, end: FlowTime, frozen: int) -> FlowTime:
    """A flow time for each token: the end for frozen actions, the present one for everything else."""
    before = expert.config.future_tokens + (context.state is not None)
    free = expert.horizon - frozen

    def rows(now: Tensor, done: Tensor, first: int) -> Tensor:
        parts = [now.expand(-1, first, -1), done.expand(-1, frozen, -1), now.expand(-1, free, -1)]
        return torch.cat(parts, dim=1)

    modulations = [rows(a, b, before) for a, b in zip(at.modulations, end.modulations, strict=True)]
    output, encoder = rows(at.output, end.output, 0), rows(at.encoder, end.encoder, 0)
    return replace(at, modulations=modulations, output=output, encoder=encoder)
