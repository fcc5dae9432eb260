"""Draw next tokens for a batch, each row from its own random numbers.

Knows nothing of models, text or batches' history.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HEAD = 1024
"""Tokens that are sorted first. The nucleus of a trained model nearly always lies within; sorting all of a
large vocabulary would cost as much as a small model's step."""


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751) by inverting the distribution function.

    logits: (rows, vocabulary). uniforms: (rows,) float64 in [0, 1), one number per row. Returns (rows,) token
    ids. The nucleus is the smallest set of likeliest tokens whose mass reaches top_p. A row's token depends
    on that row alone. Temperature 0 takes the likeliest token.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    values, tokens = _nucleus(torch.softmax(logits.double() / temperature, dim=-1), top_p)
    cumulative = values.cumsum(dim=-1)
    last = (values > 0).sum(dim=-1, keepdim=True) - 1
    place = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    return tokens.gather(-1, torch.minimum(place, last)).squeeze(-1)


def keep_nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """Logits with everything outside the nucleus at minus infinity.

    logits: (rows, vocabulary). top_p: (rows,). The same nucleus as in `draw_tokens`.
    """
    values, tokens = _nucleus(torch.softmax(logits, dim=-1), top_p[:, None])
    kept = logits.gather(-1, tokens).masked_fill(values == 0, float("-inf"))
    # By maximum, since padded places name token 0 again.
    return torch.full_like(logits, float("-inf")).scatter_reduce(-1, tokens, kept, "amax")


def _nucleus(probabilities: Tensor, top_p: Tensor | float) -> tuple[Tensor, Tensor]:
    """Likeliest tokens, most likely first: their probabilities, 0 outside the nucleus, and their ids.

    Where one row needs the whole vocabulary, the others are padded with probability 0 and token 0.
    """
    head = min(_HEAD, probabilities.shape[-1])
    values, tokens = probabilities.topk(head, dim=-1)
    flat = (values.sum(dim=-1, keepdim=True) < top_p).squeeze(-1)
    if bool(flat.any()):
        # Only the rows that need it: sort and topk order equal values differently, and a row must not depend on
        # the rows beside it.
        values = torch.nn.functional.pad(values, (0, probabilities.shape[-1] - head))
        tokens = torch.nn.functional.pad(tokens, (0, probabilities.shape[-1] - head))
        values[flat], tokens[flat] = probabilities[flat].sort(dim=-1, descending=True)
    before = values.cumsum(dim=-1) - values
    # The first token always stays: what lies before it has mass 0.
    return values.masked_fill(before >= top_p, 0), tokens
