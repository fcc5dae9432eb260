"""The selective scan of scan.py on a GPU, as one Triton kernel each way: same arguments, same results up to rounding.

A program owns one row of the batch and CHANNELS channels, holds their states in registers and goes through time; rows
and channels run side by side. Kept for the backward is the state before every CHUNK-th step; it recomputes the states
of one chunk at a time into a buffer and goes through them in reverse. Sums over channels (of B's and C's gradients)
are left as one part a program and added outside, so that the result does not depend on which program ends first.

Triton comes with torch where there is a GPU. With TRITON_INTERPRET=1 the kernels run on a CPU, which is how they are
tested. Source: Gu and Dao, "Mamba" (2023), algorithm 2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 16
"""Steps between two states that are kept: memory of the kept against that of the recomputed."""
CHANNELS = 32
"""Channels a program owns."""


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output y [b, l, d] and the last state [b, n, d]; see scan.selective_scan. Computes in fp32."""
    if state is None:
        state = x.new_zeros(x.shape[0], A.shape[1], x.shape[2])
    numbers = (t.float() for t in (dt * x, dt, A.t(), B, C, state))
    y, last = _Scan.apply(*(t.contiguous() for t in numbers))
    return y + x * D, last


class _Scan(torch.autograd.Function):
    """y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + B_t u_t, where u = dt x. All fp32 and contiguous."""

    @staticmethod
    def forward(ctx, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor):
        # u, dt: [b, l, d]; A: [n, d]; B, C: [b, l, n]; state: [b, n, d]
        rows, length, width = u.shape
        states = A.shape[0]
        y, last = torch.empty_like(u), torch.empty_like(state)
        kept = u.new_empty(rows, triton.cdiv(length, CHUNK), states, width)
        _forward[_grid(rows, width)](
            u, dt, A, B, C, state, y, last, kept, length, width, kept.shape[1],
            STATES=states, PADDED=triton.next_power_of_2(states), CHANNELS=CHANNELS, CHUNK=CHUNK,
        )  # fmt: skip
        ctx.save_for_backward(u, dt, A, B, C, kept)
        return y, last

    @staticmethod
    def backward(ctx, for_y: Tensor, for_last: Tensor):
        u, dt, A, B, C, kept = ctx.saved_tensors
        rows, length, width = u.shape
        states, programs = A.shape[0], triton.cdiv(width, CHANNELS)
        for_u, for_dt, for_state = torch.empty_like(u), torch.empty_like(dt), torch.empty_like(for_last)
        for_A = A.new_empty(rows, states, width)
        for_B, for_C = (B.new_empty(programs, rows, length, states) for _ in range(2))
        before = u.new_empty(rows, CHUNK, states, width)  # the states before each step of the chunk at hand
        _backward[_grid(rows, width)](
            u, dt, A, B, C, kept, before, for_y.contiguous(), for_last.contiguous(),
            for_u, for_dt, for_A, for_B, for_C, for_state, length, width, rows, kept.shape[1],
            STATES=states, PADDED=triton.next_power_of_2(states), CHANNELS=CHANNELS, CHUNK=CHUNK,
        )  # fmt: skip
        return for_u, for_dt, for_A.sum(0), for_B.sum(0), for_C.sum(0), for_state


def _grid(rows: int, width: int) -> tuple[int, int]:
    return rows, triton.cdiv(width, CHANNELS)


@triton.jit
def _forward(
    u_at, dt_at, a_at, b_at, c_at, state_at, y_at, last_at, kept_at, length, width, chunks,
    STATES: tl.constexpr, PADDED: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, PADDED)
    channel, entry = d < width, n < STATES
    square = entry[:, None] & channel[None, :]
    place = n[:, None] * width + d[None, :]  # of an entry in a state [n, d]
    a = tl.load(a_at + place, mask=square, other=0.0)
    h = tl.load(state_at + row * STATES * width + place, mask=square, other=0.0)
    for t in range(length):
        step = row * length + t
        if t % CHUNK == 0:
            tl.store(kept_at + (row * chunks + t // CHUNK) * STATES * width + place, h, mask=square)
        u = tl.load(u_at + step * width + d, mask=channel, other=0.0)
        dt = tl.load(dt_at + step * width + d, mask=channel, other=0.0)
        b = tl.load(b_at + step * STATES + n, mask=entry, other=0.0)
        c = tl.load(c_at + step * STATES + n, mask=entry, other=0.0)
        h = tl.exp(dt[None, :] * a) * h + b[:, None] * u[None, :]
        tl.store(y_at + step * width + d, tl.sum(h * c[:, None], 0), mask=channel)
    tl.store(last_at + row * STATES * width + place, h, mask=square)


@triton.jit
def _backward(
    u_at, dt_at, a_at, b_at, c_at, kept_at, before_at, for_y_at, for_last_at,
    for_u_at, for_dt_at, for_a_at, for_b_at, for_c_at, for_state_at, length, width, rows, chunks,
    STATES: tl.constexpr, PADDED: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64) * rows * length * STATES
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, PADDED)
    channel, entry = d < width, n < STATES
    square = entry[:, None] & channel[None, :]
    place = n[:, None] * width + d[None, :]
    a = tl.load(a_at + place, mask=square, other=0.0)
    g = tl.load(for_last_at + row * STATES * width + place, mask=square, other=0.0)
    for_a = tl.zeros((PADDED, CHANNELS), dtype=tl.float32)
    for back in range(chunks):
        chunk = chunks - 1 - back
        start = chunk * CHUNK
        steps = tl.minimum(CHUNK, length - start)
        h = tl.load(kept_at + (row * chunks + chunk) * STATES * width + place, mask=square, other=0.0)
        for i in range(steps):
            step = row * length + start + i
            tl.store(before_at + (row * CHUNK + i) * STATES * width + place, h, mask=square)
            u = tl.load(u_at + step * width + d, mask=channel, other=0.0)
            dt = tl.load(dt_at + step * width + d, mask=channel, other=0.0)
            b = tl.load(b_at + step * STATES + n, mask=entry, other=0.0)
            h = tl.exp(dt[None, :] * a) * h + b[:, None] * u[None, :]
        tl.debug_barrier()  # what was written is read back by other threads
        for j in range(steps):
            i = steps - 1 - j
            step = row * length + start + i
            u = tl.load(u_at + step * width + d, mask=channel, other=0.0)
            dt = tl.load(dt_at + step * width + d, mask=channel, other=0.0)
            b = tl.load(b_at + step * STATES + n, mask=entry, other=0.0)
            c = tl.load(c_at + step * STATES + n, mask=entry, other=0.0)
            for_y = tl.load(for_y_at + step * width + d, mask=channel, other=0.0)
            before = tl.load(before_at + (row * CHUNK + i) * STATES * width + place, mask=square, other=0.0)
            decay = tl.exp(dt[None, :] * a)
            h = decay * before + b[:, None] * u[None, :]
            g += c[:, None] * for_y[None, :]  # gradient of h_t from all that comes after it
            tl.store(for_c_at + part + step * STATES + n, tl.sum(h * for_y[None, :], 1), mask=entry)
            tl.store(for_b_at + part + step * STATES + n, tl.sum(g * u[None, :], 1), mask=entry)
            tl.store(for_u_at + step * width + d, tl.sum(g * b[:, None], 0), mask=channel)
            g = g * decay
            through = g * before  # gradient of dt_t A
            for_a += through * dt[None, :]
            tl.store(for_dt_at + step * width + d, tl.sum(through * a, 0), mask=channel)
        tl.debug_barrier()  # the next chunk's states are written where these were read
    tl.store(for_a_at + row * STATES * width + place, for_a, mask=square)
    tl.store(for_state_at + row * STATES * width + place, g, mask=square)
