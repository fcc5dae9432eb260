"""The small compressor, trained from scratch: a Mamba that reads the LLM's own token embeddings.

Its memory is a weighted mean of those embeddings, corrected by what the Mamba makes of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.compressor.mamba import Mamba
from model.compressor.packing import Packed
from model.compressor.shape import CompressorShape

POOL_GAIN = 10.0
"""AdamW moves every number by about the learning rate a step; the pool's logits have further to go."""


class TokenPool(nn.Module):
    """The memory a small compressor starts from: a weighted mean of the token embeddings it covers.

    Each dimension weighs positions by itself; weights start as a geometric series, the first token heaviest,
    for it is the one the LLM cannot guess from those before it. A Mamba from scratch learns the rest. Not in
    the paper, and not used with a pretrained checkpoint.
    """

    def __init__(self, positions: int, width: int, decay: float = 0.7):
        super().__init__()
        start = -decay * torch.arange(positions, dtype=torch.float32)
        self.logits = nn.Parameter(start.clamp_min(-16)[:, None].repeat(1, width) / POOL_GAIN)

    def forward(self, embeddings: Tensor, position: Tensor, owner: Tensor, memories: int) -> Tensor:
        """embeddings [N, d] of tokens at `position` [N] of what memory `owner` [N] covers -> [memories, d]."""
        weight = torch.exp(POOL_GAIN * self.logits[position])
        zeros = torch.zeros(memories, embeddings.shape[1], dtype=weight.dtype, device=weight.device)
        total = zeros.index_add(0, owner, weight * embeddings)
        # The plain sum of squares keeps the variance of a weighted mean of unit-variance tokens at one.
        return total / zeros.index_add(0, owner, weight.square()).sqrt()

    @torch.no_grad()
    def resize(self, positions: int) -> None:
        """As many positions; new ones weigh what the last one did."""
        old, more = self.logits, positions - len(self.logits)
        if not more:
            return
        rows = torch.cat([old, old[-1:].repeat(more, 1)]) if more > 0 else old[:positions].clone()
        self.logits = nn.Parameter(rows, old.requires_grad)


def small_parts(shape: CompressorShape, decay: float) -> dict[str, nn.Module]:
    """What a small compressor is built of, by name; before training its memory is the pool's alone."""
    inlet = nn.Linear(shape.llm_width, shape.hidden, bias=False)
    nn.init.orthogonal_(inlet.weight)
    mamba = Mamba(shape.mamba)
    pool = TokenPool(shape.places, shape.llm_width, decay)
    projector = nn.Sequential(
        nn.Linear(shape.hidden, shape.llm_width), nn.GELU(), nn.Linear(shape.llm_width, shape.llm_width)
    )
    nn.init.zeros_(projector[2].weight)
    nn.init.zeros_(projector[2].bias)
    return {"inlet": inlet, "mamba": mamba, "pool": pool, "projector": projector}


def small_memories(
    states: Tensor, tokens: Tensor, packed: Packed, pool: TokenPool, projector: nn.Module
) -> Tensor:
    """Memories [M, llm_width] in spreads, of the Mamba's `states` [M, hidden] at <MEM> and the `tokens` [N, llm_width]."""
    return projector(states) + pool(tokens, packed.position, packed.owner, len(packed.covered))
