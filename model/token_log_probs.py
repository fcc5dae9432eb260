"""Log-probabilities of given tokens from hidden states, a block of tokens at a time.

The logits of a whole batch would be its largest tensor by far: no more than a block of them exists at once. The
gradient for the states is made with the log-probability itself, so a frozen head is asked once; one for the
vocabulary matrix is made only where it is trained, from logits computed again. Knows nothing of prompts or replies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.half_products import HalfLinear

BLOCK = 128
"""Tokens whose logits exist at once."""


def token_log_probs(head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability fp32 [N] of each target, and whether it is the likeliest token [N].

    head: the vocabulary head; hidden: states [N, d]; targets: token ids [N].
    """
    if type(head) is nn.Linear and head.bias is None:
        return _TokenLogProbs.apply(hidden, head.weight, targets)
    if isinstance(head, HalfLinear) and head.bias is None:
        return _TokenLogProbs.apply(hidden.to(head.weight.dtype), head.weight, targets)
    # An adapted head: plain autograd, which computes each block again in the backward instead of keeping it.
    parts = [
        checkpoint(_plain, head, states, ids, use_reentrant=False)
        for states, ids in zip(hidden.split(BLOCK), targets.split(BLOCK), strict=True)
    ]
    return torch.cat([p for p, _ in parts]), torch.cat([hit for _, hit in parts])


def _plain(head: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = head(hidden)
    log_probs = logits.float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    return log_probs, logits.argmax(-1) == targets


class _TokenLogProbs(torch.autograd.Function):
    """log p_t = z_t[y_t] - logsumexp z_t with z_t = W h_t, so d log p_t / d h_t = W[y_t] - W' softmax z_t.

    That row is all the backward needs of the logits: the gradient of log p_t depends on h_t alone.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # hidden [N, d], weight [V, d], targets [N]
        log_probs, hits = hidden.new_empty(len(hidden), dtype=torch.float32), torch.empty_like(targets).bool()
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), BLOCK):
            part = slice(start, start + BLOCK)
            logits = (hidden[part] @ weight.t()).float()
            hits[part] = logits.argmax(-1) == targets[part]
            total = logits.logsumexp(-1)
            log_probs[part] = logits.gather(1, targets[part, None]).squeeze(1) - total
            if slope is not None:
                share = logits.sub_(total[:, None]).exp_().to(weight.dtype)
                torch.sub(weight[targets[part]], share @ weight, out=slope[part])
        ctx.save_for_backward(slope, *((hidden, weight, targets) if ctx.needs_input_grad[1] else ()))
        ctx.mark_non_differentiable(hits)
        return log_probs, hits

    @staticmethod
    def backward(ctx, gradient: Tensor, _: None) -> tuple[Tensor | None, Tensor | None, None]:
        slope, *saved = ctx.saved_tensors
        for_hidden = None if slope is None else gradient[:, None].to(slope.dtype) * slope
        if not saved:
            return for_hidden, None, None
        hidden, weight, targets = saved
        for_weight = torch.zeros_like(weight)
        for start in range(0, len(hidden), BLOCK):
            part = slice(start, start + BLOCK)
            share = (hidden[part] @ weight.t()).float().softmax(-1).neg_()
            share.scatter_add_(1, targets[part, None], torch.ones_like(share[:, :1]))
            for_weight += (gradient[part, None] * share).to(weight.dtype).t() @ hidden[part]
        return for_hidden, for_weight, None
