"""What the policy is trained on: flow matching for the actions, and where the named things are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinbrain_ros.brain.expert import ActionExpert, Context, FlowTime
from twinbrain_ros.brain.realtime import with_ends
from twinbrain_ros.training.batch import WHOLE, Share
from twinbrain_ros.training.processes import mean_over

# Flow times are drawn towards the noisy end, as the reference does: t = (s - Beta(1.5, 1)) / s.
BETA_ALPHA, BETA_BETA, TIME_SCALE = 1.5, 1.0, 0.999

_RARE_LOGIT = -3.5  # about one cell in 36


def draws(
    count: int, repeats: int, shape: tuple[int, ...], generator: torch.Generator, share: Share = WHOLE
) -> tuple[Tensor, Tensor]:
    """Noise [repeats * count, *shape] and flow times [repeats * count] of a share of `count` samples, all
    samples `repeats` times over: drawn for the global batch, so that they do not depend on who shares it."""
    whole, mine = count * share.count, share.of(count)
    noise = torch.randn((repeats * whole, *shape), generator=generator)
    times = flow_times(repeats * whole, generator)
    return (
        noise.view(repeats, whole, *shape)[:, mine].reshape(repeats * count, *shape),
        times.view(repeats, whole)[:, mine].reshape(-1),
    )


def flow_times(count: int, generator: torch.Generator) -> Tensor:
    """Flow times in [0, 1], mean 0.4 (reference: Beta(1.5, 1) reversed and scaled by 0.999)."""
    # Beta(a, 1) is U^(1/a); drawing it so keeps the generator explicit.
    uniform = torch.rand(count, generator=generator)
    beta = uniform ** (1.0 / BETA_ALPHA)
    return (TIME_SCALE - beta.clamp(max=TIME_SCALE)) / TIME_SCALE


def flow_matching_loss(
    expert: ActionExpert,
    context: Context,
    actions: Tensor,
    weights: Tensor,
    repeats: int,
    generator: torch.Generator,
    prefix: Tensor | None = None,
    share: Share = WHOLE,
) -> Tensor:
    """Weighted squared error of the expert on noised actions.

    actions [B, T, A] standardised; weights [T, A] or [B, T, A]. Each sample gets `repeats` draws of noise and
    time, from a generator of the CPU's. With a clean-predicting expert the error is taken on the actions,
    which is the velocity error times (1 - t)^2. prefix: int [B], how many leading steps of each sample are
    given as they are, at flow time 1, and do not count (arXiv 2512.05964). share: of the global batch; the
    mean over all shares is the global batch's loss, in which a weight counts alike in whichever share it is.
    """
    device = actions.device
    target = actions.repeat(repeats, 1, 1)
    weights = weights.expand(actions.shape).repeat(repeats, 1, 1)
    noise, time = (t.to(device) for t in draws(len(actions), repeats, actions.shape[1:], generator, share))
    mixed = time[:, None, None]
    repeated = context.repeat(repeats)
    own_times: tuple[FlowTime, ...] = ()
    if prefix is not None:
        given = torch.arange(expert.horizon, device=device) < prefix.to(device).repeat(repeats)[:, None]
        mixed = torch.where(given[..., None], 1.0, mixed)
        weights = weights * ~given[..., None]
        end = expert.flow_time(torch.ones(1, device=device))
        own_times = (with_ends(expert, repeated, expert.flow_time(time), end, given),)
    noisy = (1 - mixed) * noise + mixed * target
    if expert.config.prediction == "clean":
        error = expert.clean(repeated, noisy, time, *own_times) - target
    else:
        error = expert.velocity(repeated, noisy, time, *own_times) - (target - noise)
    # Where nothing is left to count the loss is 0, not nan.
    return (error.square() * weights).sum() / mean_over(share, weights.sum()).clamp(min=1e-6)


class GroundingHead(nn.Module):
    """Asks every image token: is the named block (the named plate) in your cell, and where?

    "Where" is the place in the cell, and any further values that belong to the thing. Used only while
    training; it makes the condition carry what the instruction refers to, where the expert can read it.
    """

    def __init__(self, hidden: int, things: int = 2, values: int = 0) -> None:
        super().__init__()
        self.things, self.answers = things, 3 + values  # is it here, its place in the cell, its values
        outputs = nn.Linear(hidden, self.answers * things)
        with torch.no_grad():  # few cells hold a thing: without this, the first steps go into saying no
            outputs.bias.view(things, self.answers)[:, 0] = _RARE_LOGIT
        self.head = nn.Sequential(nn.LayerNorm(hidden), outputs)

    def forward(self, tokens: Tensor, cells: Tensor, offsets: Tensor, values: Tensor | None = None) -> Tensor:
        """Mean over views of the sum over things.

        tokens [B, n, H]; cells long [B, things], -1 out of view; offsets [B, things, 2] in [0, 1]; values
        [B, things, values] of the things.
        """
        out = self.head(tokens).view(*tokens.shape[:2], self.things, self.answers)
        wanted = F.one_hot(cells.clamp(min=0), tokens.shape[1]).transpose(1, 2).float()
        wanted = wanted * (cells >= 0)[:, None].float()
        here = F.binary_cross_entropy_with_logits(out[..., 0], wanted, reduction="none").sum(1)
        target = offsets if values is None else torch.cat([offsets, values], dim=-1)
        where = ((out[..., 1:] - target[:, None]).square().sum(-1) * wanted).sum(1)
        return (here + 4.0 * where).sum(1).mean()
