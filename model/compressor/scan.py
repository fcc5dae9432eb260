"""The selective scan (Gu and Dao, "Mamba", 2023, algorithm 2) on a CPU, linear in length in time and memory.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t        y_t = C_t h_t + D x_t

One step after the other, for the batch gives work enough. Kept for the backward are the inputs and every
CHUNK-th state; it recomputes the states of one chunk at a time and goes through them in reverse. Knows nothing
of convolutions, gates or tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 8
"""Steps between two states that are kept: memory of the kept against that of the recomputed."""


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output y [b, l, d] and the last state [b, n, d], from which the scan of what follows goes on.

    x, dt: [b, l, d]; A: [d, n]; B, C: [b, l, n]; D: [d]; state: the state before the first step, zero without.
    Every argument may carry a gradient.
    """
    if state is None:
        state = x.new_zeros(x.shape[0], A.shape[1], x.shape[2])
    y, last = _Scan.apply(dt * x, dt, A.t().contiguous(), B, C, state)
    return y + x * D, last


class _Scan(torch.autograd.Function):
    """y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + B_t u_t, where u = dt x.

    States are [b, n, d], channels last: they are long, and every operation runs along them.
    """

    @staticmethod
    def forward(ctx, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor):
        # u, dt: [b, l, d]; A: [n, d]; B, C: [b, l, n]; state: [b, n, d]
        y, h, decay = torch.empty_like(u), state.clone(), torch.empty_like(state)
        kept = []
        for t in range(u.shape[1]):
            if t % CHUNK == 0 and any(ctx.needs_input_grad):
                kept.append(h.clone())
            step(h, decay, u[:, t], dt[:, t], A, B[:, t])
            torch.bmm(C[:, t, None], h, out=y[:, t, None])
        ctx.save_for_backward(u, dt, A, B, C, *kept)
        return y, h

    @staticmethod
    def backward(ctx, for_y: Tensor, for_last: Tensor):
        u, dt, A, B, C, *kept = ctx.saved_tensors
        for_u, for_dt, for_B, for_C = (torch.empty_like(t) for t in (u, dt, B, C))
        g = for_last.clone()  # gradient of h_t from all that comes after it
        for_A, work = torch.zeros_like(g), torch.empty_like(g)
        states = g.new_empty(CHUNK + 1, *g.shape)
        decays = g.new_empty(CHUNK, *g.shape)
        for number in reversed(range(len(kept))):
            start, end = number * CHUNK, min((number + 1) * CHUNK, u.shape[1])
            states[0] = kept[number]
            for i, t in enumerate(range(start, end)):
                states[i + 1] = states[i]
                step(states[i + 1], decays[i], u[:, t], dt[:, t], A, B[:, t])
            for i, t in reversed(list(enumerate(range(start, end)))):
                g.addcmul_(C[:, t, :, None], for_y[:, t, None])
                torch.bmm(states[i + 1], for_y[:, t, :, None], out=for_C[:, t, :, None])
                torch.bmm(g, u[:, t, :, None], out=for_B[:, t, :, None])
                torch.bmm(B[:, t, None], g, out=for_u[:, t, None])
                g.mul_(decays[i])
                torch.mul(g, states[i], out=work)  # gradient of dt_t A
                for_A.addcmul_(work, dt[:, t, None])
                torch.sum(work.mul_(A), 1, out=for_dt[:, t])
        return for_u, for_dt, for_A.sum(0), for_B, for_C, g


def step(h: Tensor, decay: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> None:
    """Move states h [b, n, d] on by one step, in place; `decay` [b, n, d] becomes exp(dt A)."""
    torch.mul(dt[:, None], A, out=decay).exp_()
    h.mul_(decay).addcmul_(B[:, :, None], u[:, None])
