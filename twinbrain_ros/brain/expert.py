"""The action expert: a flow-matching DiT that turns noise and a condition into an action chunk.

Structure as in the public TwinBrainVLA / GR00T-style heads: blocks alternate cross-attention to the right
brain's hidden states and self-attention, each with an AdaLN modulation by the flow time. Everything that
depends on the condition alone is computed once per chunk (`context`), not once per denoising step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinbrain_ros.brain.config import ExpertConfig


@dataclass(frozen=True)
class Context:
    """The condition, ready for denoising: keys and values [B, heads, L, d] per cross block, a mask."""

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor

    def repeat(self, times: int) -> Context:
        """The same condition for `times` noise draws per sample (tiled: b0 b1 .. b0 b1 ..)."""
        return Context(
            [k.repeat(times, 1, 1, 1) for k in self.keys],
            [v.repeat(times, 1, 1, 1) for v in self.values],
            self.mask.repeat(times, 1, 1, 1),
        )


def _sinusoid(position: Tensor, dims: int) -> Tensor:
    """[cos | sin] features of a position, [..., dims], frequencies exp(-i ln(1e4) / (dims/2))."""
    half = dims // 2
    frequency = torch.exp(torch.arange(half, device=position.device) * (-math.log(10000.0) / half))
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
        self, x: Tensor, time: Tensor, keys_values: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> Tensor:
        scale, shift = self.modulation(F.silu(time))[:, None].chunk(2, dim=-1)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) + shift
        keys, values = self.keys_values(h) if keys_values is None else keys_values
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
        self.decoder = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dims))

    def context(self, condition: Tensor, valid: Tensor) -> Context:
        """Keys and values of the condition for every cross block. condition [B, L, H], valid bool [B, L]."""
        pairs = [b.keys_values(condition) for b in self.blocks if b.is_cross]  # type: ignore[operator]
        return Context([k for k, _ in pairs], [v for _, v in pairs], valid[:, None, None, :])

    def _network(self, context: Context, noisy: Tensor, time: Tensor) -> Tensor:
        """The raw network output for noisy actions [B, T, A] at flow times [B] in [0, 1)."""
        bucket = (time * self.config.time_buckets).floor()
        width = self.config.width
        temb = self.time_out(F.silu(self.time_in(_sinusoid(bucket, 256).to(noisy.dtype))))
        tau = _sinusoid(bucket, width).to(noisy.dtype)[:, None].expand(-1, self.horizon, -1)
        encoded = self.action_time(torch.cat([self.action_in(noisy), tau], dim=-1))
        encoded = self.action_out(F.silu(encoded)) + self.position
        x = torch.cat([self.future.expand(noisy.shape[0], -1, -1), encoded], dim=1)
        cross = 0
        for block in self.blocks:
            if block.is_cross:
                x = block(x, temb, (context.keys[cross], context.values[cross]), context.mask)
                cross += 1
            else:
                x = block(x, temb, None, None)
        shift, scale = self.final_modulation(F.silu(temb))[:, None].chunk(2, dim=-1)
        x = F.layer_norm(x[:, -self.horizon :], x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return self.decoder(x)

    def clean(self, context: Context, noisy: Tensor, time: Tensor) -> Tensor:
        """The actions the network believes the noisy chunk came from."""
        out = self._network(context, noisy, time)
        if self.config.prediction == "clean":
            return out
        return noisy + (1 - time)[:, None, None] * out

    def velocity(self, context: Context, noisy: Tensor, time: Tensor) -> Tensor:
        """dx/dt of the flow from noise (t = 0) to actions (t = 1)."""
        out = self._network(context, noisy, time)
        if self.config.prediction == "velocity":
            return out
        return (out - noisy) / (1 - time)[:, None, None]

    def integrate(self, context: Context, noise: Tensor, steps: int | None = None) -> Tensor:
        """Euler integration of the flow from the given noise [B, T, A] to a chunk of actions."""
        steps = self.config.denoise_steps if steps is None else steps
        x = noise
        for k in range(steps):
            time = torch.full((x.shape[0],), k / steps, device=x.device, dtype=x.dtype)
            x = x + self.velocity(context, x, time) / steps
        return x
