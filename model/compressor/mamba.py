"""Mamba (version 1) in plain PyTorch, quick enough to train on a CPU at the length of dialogues.

Knows nothing of tokens: embeddings in, hidden states out. Parameters are named as in transformers' MambaModel.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), algorithm 2.
Every state depends on earlier inputs alone, so right padding changes nothing that stands before it, and no mask
is needed. Left padding would enter the state: never pad on the left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional as F

from model.compressor.scans import scan_of


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


@dataclass(frozen=True)
class LayerState:
    """All that a layer needs of what it has read: its last inputs to the convolution, and the state space.

    window [b, conv - 1, inner]; state [b, n, inner]. Its size does not depend on how much was read.
    """

    window: Tensor
    state: Tensor


class MambaShape(BaseModel, frozen=True, extra="forbid"):
    """Sizes of a Mamba, named as in transformers' MambaConfig."""

    hidden_size: int
    num_hidden_layers: int
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    time_step_rank: int = Field(0, description="0: a sixteenth of hidden_size, rounded up.")
    layer_norm_epsilon: float = 1e-5
    use_bias: bool = False
    use_conv_bias: bool = True

    @property
    def inner(self) -> int:
        return self.hidden_size * self.expand

    @property
    def rank(self) -> int:
        return self.time_step_rank or math.ceil(self.hidden_size / 16)


class Mixer(nn.Module):
    """Gated causal convolution and selective scan: [b, l, hidden] -> [b, l, hidden]."""

    def __init__(self, shape: MambaShape):
        super().__init__()
        inner, state, conv = shape.inner, shape.state_size, shape.conv_kernel
        self.rank, self.state = shape.rank, state
        self.in_proj = nn.Linear(shape.hidden_size, 2 * inner, bias=shape.use_bias)
        self.conv1d = nn.Conv1d(inner, inner, conv, groups=inner, bias=shape.use_conv_bias)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, shape.hidden_size, bias=shape.use_bias)
        self._init_time_step()

    @torch.no_grad()
    def _init_time_step(self, shortest: float = 1e-3, longest: float = 0.1) -> None:
        """Time steps between `shortest` and `longest`, log-uniform (section 3.6 of the Mamba paper)."""
        span = math.log(longest) - math.log(shortest)
        dt = torch.exp(torch.rand(self.dt_proj.bias.shape) * span + math.log(shortest)).clamp(min=1e-4)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)

    def forward(self, hidden: Tensor, past: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """Outputs for `hidden`, which goes on from `past`, and the state after it."""
        x, gate = self.in_proj(hidden).chunk(2, dim=-1)
        width = self.conv1d.kernel_size[0] - 1
        window = x.new_zeros(x.shape[0], width, x.shape[2]) if past is None else past.window
        padded = torch.cat([window, x], 1)
        x = F.silu(causal_convolution(padded, self.conv1d.weight, self.conv1d.bias))
        dt, B, C = self.x_proj(x).split([self.rank, self.state, self.state], dim=-1)
        scan, before = scan_of(x.device.type).function, None if past is None else past.state
        y, state = scan(x, F.softplus(self.dt_proj(dt)), -torch.exp(self.A_log), B, C, self.D, before)
        return self.out_proj(y * F.silu(gate)), LayerState(padded[:, padded.shape[1] - width :], state)


def causal_convolution(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each channel's own filter: [b, width - 1 + l, d], the past first, with weight [d, 1, width] -> [b, l, d].

    A sum of a few shifted copies: a depthwise convolution that wants channels first would copy all there and
    back.
    """
    length = padded.shape[1] - weight.shape[2] + 1
    taps = weight[:, 0].unbind(1)
    out = padded[:, :length] * taps[0]
    for shift, tap in enumerate(taps[1:], 1):
        out = torch.addcmul(out, padded[:, shift : shift + length], tap)
    return out if bias is None else out + bias


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, shape: MambaShape):
        super().__init__()
        self.norm = RMSNorm(shape.hidden_size, shape.layer_norm_epsilon)
        self.mixer = Mixer(shape)

    def forward(self, hidden: Tensor, past: LayerState | None = None) -> tuple[Tensor, LayerState]:
        mixed, state = self.mixer(self.norm(hidden), past)
        return hidden + mixed, state


class Mamba(nn.Module):
    """A stack of Mamba blocks: embeddings [b, l, hidden] -> hidden states [b, l, hidden].

    vocabulary: number of token embeddings of its own (`embeddings`, of a checkpoint); 0 has none.
    """

    def __init__(self, shape: MambaShape, vocabulary: int = 0):
        super().__init__()
        self.shape = shape
        if vocabulary:
            self.embeddings = nn.Embedding(vocabulary, shape.hidden_size)
        self.layers = nn.ModuleList([Block(shape) for _ in range(shape.num_hidden_layers)])
        self.norm_f = RMSNorm(shape.hidden_size, shape.layer_norm_epsilon)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.advance(embeddings)[0]

    def advance(
        self, embeddings: Tensor, past: Sequence[LayerState] | None = None
    ) -> tuple[Tensor, list[LayerState]]:
        """Hidden states of `embeddings`, read after what left the states `past`, and the states after them."""
        states = []
        for number, layer in enumerate(self.layers):
            embeddings, state = layer(embeddings, None if past is None else past[number])
            states.append(state)
        return self.norm_f(embeddings), states
