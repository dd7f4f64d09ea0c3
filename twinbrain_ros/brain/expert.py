"""The action expert: a flow-matching DiT that turns noise and a condition into an action chunk.

Structure as in the public TwinBrainVLA / GR00T-style heads: blocks alternate cross-attention to the right
brain's hidden states and self-attention, each with an AdaLN modulation by the flow time. What depends on the
condition alone is computed once per chunk (`context`), what depends on the flow time alone once per
checkpoint (`schedule`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinbrain_ros.brain.config import ExpertConfig


@dataclass(frozen=True)
class Context:
    """The condition, ready for denoising: keys and values [B, heads, L, d] per cross block, a mask (None
    where everything is real), and the embedded state [B, 1, width] where the expert takes one."""

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor | None
    state: Tensor | None = None

    def repeat(self, times: int) -> Context:
        """The same condition for `times` noise draws per sample (tiled: b0 b1 .. b0 b1 ..)."""
        return Context(
            [k.repeat(times, 1, 1, 1) for k in self.keys],
            [v.repeat(times, 1, 1, 1) for v in self.values],
            None if self.mask is None else self.mask.repeat(times, 1, 1, 1),
            None if self.state is None else self.state.repeat(times, 1, 1),
        )


@dataclass(frozen=True)
class Ends:
    """Pairs of layers with nothing between them as one each, weight and bias: the first two of the action
    encoder [width, A], and the output projection with the decoder's first [decoder width, width]."""

    encoder: tuple[Tensor, Tensor]
    decoder: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FlowTime:
    """What depends on the flow time alone: [scale | shift] [B, 1, 2 * width] per block and for the output,
    and the time's share of the action encoder [B, 1, width]. Where weights stand still, also `Ends`.

    Where tokens have times of their own, there is a row for each in place of the one for all: of all n tokens
    per block, of the T actions elsewhere.
    """

    modulations: list[Tensor]
    output: Tensor
    encoder: Tensor
    ends: Ends | None = None


def sinusoid(position: Tensor, dims: int, shift: int = 0) -> Tensor:
    """[cos | sin] features of a position, [..., dims], frequencies exp(-i ln(1e4) / (dims/2 - shift))."""
    half = dims // 2
    index = torch.arange(half, device=position.device)
    frequency = torch.exp(index * (-math.log(10000.0) / (half - shift)))
    angle = position[..., None].float() * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class _Block(nn.Module):
    """LN -> AdaLN -> attention -> residual -> LN -> feed-forward -> residual."""

    def __init__(self, width: int, heads: int, ff_mult: int, condition_width: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.is_cross = condition_width is not None
        source = width if condition_width is None else condition_width
        self.modulation = nn.Linear(width, 2 * width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)
        self.out = nn.Linear(width, width)
        self.ff_in = nn.Linear(width, ff_mult * width)
        self.ff_out = nn.Linear(ff_mult * width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        return self.split_heads(self.key(source)), self.split_heads(self.value(source))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        keys_values: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        last: int | None = None,
    ) -> Tensor:
        """x [B, n, width] after the block, or only its `last` rows."""
        scale, shift = modulation.chunk(2, dim=-1)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) + shift
        keys, values = self.keys_values(h) if keys_values is None else keys_values
        if last is not None:
            x, h = x[:, -last:], h[:, -last:]
        attended = F.scaled_dot_product_attention(self.split_heads(self.query(h)), keys, values, mask)
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        h = self.ff_in(F.layer_norm(x, x.shape[-1:], eps=1e-5))
        return x + self.ff_out(F.gelu(h, approximate="tanh"))


class ActionExpert(nn.Module):
    """Velocity field over action chunks [B, horizon, dims], conditioned on hidden states [B, L, H]."""

    def __init__(self, config: ExpertConfig, condition_width: int, horizon: int, dims: int) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.horizon, self.dims = horizon, dims
        self.time_in = nn.Linear(256, width)
        self.time_out = nn.Linear(width, width)
        self.action_in = nn.Linear(dims, width)
        self.action_time = nn.Linear(2 * width, width)
        self.action_out = nn.Linear(width, width)
        self.position = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.future = nn.Parameter(torch.randn(config.future_tokens, width) * 0.02)
        self.blocks = nn.ModuleList(
            _Block(width, config.heads, config.ff_mult, condition_width if i % 2 == 0 else None)
            for i in range(config.layers)
        )
        self.final_modulation = nn.Linear(width, 2 * width)
        inner = width if config.output_width is None else config.output_width
        self.output = nn.Identity() if config.output_width is None else nn.Linear(width, inner)
        hidden = width if config.decoder_width is None else config.decoder_width
        self.decoder = nn.Sequential(nn.Linear(inner, hidden), nn.ReLU(), nn.Linear(hidden, dims))

    def context(self, condition: Tensor, valid: Tensor | None, state: Tensor | None = None) -> Context:
        """Keys and values of the condition for every cross block.

        condition [B, L, H], or [B, C * L, H] where each of the C cross blocks reads another layer, the last
        one's in front; valid bool [B, L], None where all is real; state [B, width], already encoded.
        """
        condition = condition.to(self.time_in.weight.dtype)
        count = self.config.cross_blocks
        sources = (condition,) * count
        if self.config.reads == "layer_wise":
            last, *others = condition.chunk(count, dim=1)
            sources = (*others, last)
        cross: Any = [block for block in self.blocks if block.is_cross]
        pairs = [block.keys_values(source) for block, source in zip(cross, sources, strict=True)]
        return Context(
            [k for k, _ in pairs],
            [v for _, v in pairs],
            None if valid is None else valid[:, None, None, :],
            None if state is None else state[:, None].to(condition.dtype),
        )

    def flow_time(self, time: Tensor) -> FlowTime:
        """Modulations and encodings of flow times [B] in [0, 1)."""
        width, dtype = self.config.width, self.time_in.weight.dtype
        bucket = (time.float() * self.config.time_buckets).floor()
        wave = sinusoid(bucket, 256, self.config.time_frequency_shift).to(dtype)
        embedded = F.silu(self.time_out(F.silu(self.time_in(wave))))[:, None]
        tau = sinusoid(bucket, width).to(dtype)[:, None]
        weight = self.action_time.weight[:, width:]
        return FlowTime(
            [block.modulation(embedded) for block in self.blocks],  # type: ignore[operator]
            self.final_modulation(embedded),
            F.linear(tau, weight, self.action_time.bias),
        )

    def _network(self, context: Context, noisy: Tensor, at: FlowTime) -> Tensor:
        """The raw network output [B, T, A] for noisy actions [B, T, A]."""
        actions = noisy.to(at.encoder.dtype)
        if at.ends is None:
            weight = self.action_time.weight[:, : self.config.width]
            encoded = F.linear(self.action_in(actions), weight)
        else:
            encoded = F.linear(actions, *at.ends.encoder)
        encoded = self.action_out(F.silu(encoded + at.encoder)) + self.position
        tokens = [self.future.expand(noisy.shape[0], -1, -1), encoded]
        x = torch.cat(tokens if context.state is None else [context.state, *tokens], dim=1)
        cross = iter(zip(context.keys, context.values, strict=True))
        end = len(self.blocks) - 1
        for i, (block, modulation) in enumerate(zip(self.blocks, at.modulations, strict=True)):
            rows = self.horizon if i == end else None  # of the last block, those that become actions
            if block.is_cross:
                x = block(x, modulation, next(cross), context.mask, rows)
            else:
                x = block(x, modulation, None, None, rows)
        shift, scale = at.output.chunk(2, dim=-1)
        x = F.layer_norm(x[:, -self.horizon :], x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        x = self.decoder[0](self.output(x)) if at.ends is None else F.linear(x, *at.ends.decoder)
        return self.decoder[1:](x).to(noisy.dtype)

    def clean(self, context: Context, noisy: Tensor, time: Tensor, at: FlowTime | None = None) -> Tensor:
        """The actions the network believes the noisy chunk came from; times and `at` as for `velocity`."""
        out = self._network(context, noisy, self.flow_time(time) if at is None else at)
        if self.config.prediction == "clean":
            return out
        return noisy + (1 - time)[:, None, None] * out

    def velocity(self, context: Context, noisy: Tensor, time: Tensor, at: FlowTime | None = None) -> Tensor:
        """dx/dt of the flow from noise (t = 0) to actions (t = 1) at times [B] in [0, 1).

        at: `flow_time(time)`, if at hand, or with times of their own for some tokens.
        """
        out = self._network(context, noisy, self.flow_time(time) if at is None else at)
        if self.config.prediction == "velocity":
            return out
        return (out - noisy) / (1 - time)[:, None, None]

    @torch.no_grad()
    def ends(self) -> Ends:
        """The joined layers at the network's two ends, multiplied in float32."""
        joined = self.action_time.weight[:, : self.config.width]
        encoder = _join(self.action_in, joined, None)
        first: Any = self.decoder[0]
        if isinstance(self.output, nn.Identity):
            return Ends(encoder, (first.weight, first.bias))
        return Ends(encoder, _join(self.output, first.weight, first.bias))

    def schedule(self, steps: int | None = None, ends: Ends | None = None) -> list[tuple[Tensor, FlowTime]]:
        """Times of the Euler steps, each [1], and what depends on them alone; `ends` goes with each.

        It holds for one state of the weights: made once where these stand still, once per chunk elsewhere.
        """
        steps = self.config.denoise_steps if steps is None else steps
        device = self.time_in.weight.device
        times = [torch.full((1,), k / steps, device=device) for k in range(steps)]
        return [(time, dataclasses.replace(self.flow_time(time), ends=ends)) for time in times]

    def integrate(
        self,
        context: Context,
        noise: Tensor,
        steps: int | None = None,
        schedule: list[tuple[Tensor, FlowTime]] | None = None,
    ) -> Tensor:
        """Euler integration of the flow from the given noise [B, T, A] to a chunk of actions."""
        schedule = self.schedule(steps) if schedule is None else schedule
        x = noise
        for time, at in schedule:
            x = x + self.velocity(context, x, time, at) / len(schedule)
        return x


def _join(first: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer followed by this product."""
    inner, offset = first.weight.float(), first.bias.float()
    joined = weight.float() @ offset
    if bias is not None:
        joined = joined + bias.float()
    return (weight.float() @ inner).to(weight.dtype), joined.to(weight.dtype)
