"""Mamba (version 1) in plain PyTorch, quick enough to train on a CPU at the length of dialogues.

Knows nothing of tokens: embeddings in, hidden states out. Parameters are named as in transformers' MambaModel.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), algorithm 2.
Every state depends on earlier inputs alone, so right padding changes nothing that stands before it, and no mask
is needed. Left padding would enter the state: never pad on the left.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t and y_t = C_t h_t + D x_t, with h before the start zero.

    x, dt: [b, l, d]; A: [d, n]; B, C: [b, l, n]; D: [d]. Returns y [b, l, d].
    Time is taken apart by one `unbind` per tensor, whose backward is one stack. Indexing step by step would
    allocate a whole zero tensor per step in the backward: quadratic in l.
    """
    decay = torch.exp(dt[..., None] * A).unbind(1)
    inflow = ((dt * x)[..., None] * B[:, :, None, :]).unbind(1)
    state, states = torch.zeros_like(inflow[0]), []
    for decay_t, inflow_t in zip(decay, inflow, strict=True):
        state = torch.addcmul(inflow_t, decay_t, state)
        states.append(state)
    y = torch.matmul(torch.stack(states, 1), C[..., None]).squeeze(-1)
    return y + x * D


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Mixer(nn.Module):
    """Gated causal convolution and selective scan: [b, l, hidden] -> [b, l, hidden]."""

    def __init__(self, hidden: int, state: int, conv: int, expand: int):
        super().__init__()
        inner, self.rank, self.state = hidden * expand, math.ceil(hidden / 16), state
        self.in_proj = nn.Linear(hidden, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, conv, groups=inner, padding=conv - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, hidden, bias=False)
        self._init_time_step()

    @torch.no_grad()
    def _init_time_step(self, shortest: float = 1e-3, longest: float = 0.1) -> None:
        """Time steps between `shortest` and `longest`, log-uniform (section 3.6 of the Mamba paper)."""
        span = math.log(longest) - math.log(shortest)
        dt = torch.exp(torch.rand(self.dt_proj.bias.shape) * span + math.log(shortest)).clamp(min=1e-4)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        x, gate = self.in_proj(hidden).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        dt, B, C = self.x_proj(x).split([self.rank, self.state, self.state], dim=-1)
        y = selective_scan(x, F.softplus(self.dt_proj(dt)), -torch.exp(self.A_log), B, C, self.D)
        return self.out_proj(y * F.silu(gate))


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, hidden: int, state: int, conv: int, expand: int):
        super().__init__()
        self.norm = RMSNorm(hidden)
        self.mixer = Mixer(hidden, state, conv, expand)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.mixer(self.norm(hidden))


class Mamba(nn.Module):
    """A stack of Mamba blocks: embeddings [b, l, hidden] -> hidden states [b, l, hidden]."""

    def __init__(self, hidden: int, layers: int, state: int = 16, conv: int = 4, expand: int = 2):
        super().__init__()
        self.layers = nn.ModuleList([Block(hidden, state, conv, expand) for _ in range(layers)])
        self.norm_f = RMSNorm(hidden)

    def forward(self, embeddings: Tensor) -> Tensor:
        for layer in self.layers:
            embeddings = layer(embeddings)
        return self.norm_f(embeddings)
