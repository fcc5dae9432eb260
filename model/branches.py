"""Several replies to one prompt in one forward pass: the prompt is encoded once, each reply sees it alone.

A row holds the prompt and all its replies one after another; positions restart after the prompt and a mask
keeps the replies apart. Knows nothing of preferences or emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.llm import body_and_head, expanded_cache

PADDING = -1
PROMPT = 0


@dataclass(frozen=True)
class Layout:
    """Where everything stands in the packed rows.

    segments [B, L]: PADDING, PROMPT, or 1 + the reply's number in its row; positions [B, L] as the model
    counts them. rows, columns [N]: the state that predicts each reply token; owner [N]: number of the reply
    the token belongs to, replies counted over all rows.
    """

    segments: Tensor
    positions: Tensor
    rows: Tensor
    columns: Tensor
    owner: Tensor


def branched_log_probs(
    llm: nn.Module,
    prompts: Sequence[Tensor],
    replies: Sequence[Sequence[Tensor]],
    prefix: list[tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of every token of every reply given its prompt, equal to one forward per reply.

    prompts: input embeddings [T_i, d]; replies: for each prompt its token ids [n] (n >= 1); prefix: a cached
    constant start before every prompt (frozen model only). Returns log-probabilities [N] in fp32 and owner
    [N], tokens in the order of `replies`. ValueError for an empty prompt or reply. The attention must take a
    mask of its own (eager or sdpa, not flash-attention).
    """
    body, head = body_and_head(llm)
    table = llm.get_input_embeddings()
    device, dtype = table.weight.device, table.weight.dtype
    start = 0 if prefix is None else prefix[0][0].shape[2]
    layout = plan_layout([len(p) for p in prompts], [[len(r) for r in row] for row in replies], start)
    targets = torch.cat([r for row in replies for r in row]).to(device)
    packed = [
        torch.cat([p.to(device), table(torch.cat(list(row)).to(device))])
        for p, row in zip(prompts, replies, strict=True)
    ]
    hidden = body(
        inputs_embeds=torch.nn.utils.rnn.pad_sequence(packed, batch_first=True),
        attention_mask=attention_mask(layout.segments, start, dtype).to(device),
        position_ids=layout.positions.to(device),
        past_key_values=None if prefix is None else expanded_cache(prefix, len(packed)),
        use_cache=prefix is not None,
    ).last_hidden_state
    # Rows are gathered first: a head applied to a 3-d slice would copy the vocabulary matrix per row.
    logits = head(hidden[layout.rows.to(device), layout.columns.to(device)]).float()
    return -F.cross_entropy(logits, targets, reduction="none"), layout.owner.to(device)


def plan_layout(prompts: Sequence[int], replies: Sequence[Sequence[int]], start: int = 0) -> Layout:
    """The layout of rows from lengths alone; `start`: tokens cached before every prompt."""
    if any(n < 1 for n in prompts):
        raise ValueError(
            f"prompt {next(i for i, n in enumerate(prompts) if n < 1)} is empty; give it a token"
        )
    totals = [p + sum(row) for p, row in zip(prompts, replies, strict=True)]
    segments = torch.full((len(totals), max(totals)), PADDING)
    positions = torch.zeros(len(totals), max(totals), dtype=torch.long)
    rows, columns, owner, number = [], [], [], 0
    for i, (prompt, lengths) in enumerate(zip(prompts, replies, strict=True)):
        segments[i, :prompt] = PROMPT
        positions[i, :prompt] = torch.arange(start, start + prompt)
        column = prompt
        for branch, length in enumerate(lengths, 1):
            if length < 1:
                raise ValueError(
                    f"reply {branch} to prompt {i} is empty; leave such rows out before training"
                )
            segments[i, column : column + length] = branch
            positions[i, column : column + length] = torch.arange(start + prompt, start + prompt + length)
            rows += [i] * length
            # The first token is predicted from the prompt's last state, the others from the token before.
            columns += [prompt - 1, *range(column, column + length - 1)]
            owner += [number] * length
            column, number = column + length, number + 1
    return Layout(segments, positions, torch.tensor(rows), torch.tensor(columns), torch.tensor(owner))


def attention_mask(segments: Tensor, start: int, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, L, start + L]: the cached start, the prompt and the own segment, all causal.

    Padding sees the prompt and itself, so no row of the mask is empty.
    """
    batch, length = segments.shape
    own = (segments[:, None, :] == segments[:, :, None]) | (segments[:, None, :] == PROMPT)
    seen = own & torch.ones(length, length, dtype=torch.bool).tril()
    seen = torch.cat([torch.ones(batch, length, start, dtype=torch.bool), seen], dim=2)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return mask[:, None]
