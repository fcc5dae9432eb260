"""Q-Former: learnable queries read a sequence of features through a transformer encoder.

Paper, section 4.2: "transformer encoders with 6 layers and 8 attention heads, utilizing 32 learnable
queries". Read as one encoder over [queries ; features] whose query states are the output, not as BLIP-2's
cross-attention. Knows nothing of language models, emotions, or where features come from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QFormer(nn.Module):
    """Features [T_i, width] -> query states [queries, hidden].

    Features are standardised with `center` and `spread` [width], buffers that training sets from its own
    data: encoder states differ far more between their dimensions than between clips. No positions are added:
    a state carries its encoder's.
    """

    def __init__(self, width: int, hidden: int, layers: int, heads: int, queries: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        # Small, so that what a query reads outweighs the query itself from the start.
        self.queries = nn.Parameter(0.1 * torch.randn(queries, hidden))
        self.inputs = nn.Linear(width, hidden)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, 4 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(hidden), enable_nested_tensor=False
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Query states [B, queries, hidden] of sequences [T_i, width], each T_i >= 1."""
        device = self.queries.device
        lengths = torch.tensor([len(f) for f in features], device=device)
        padded = nn.utils.rnn.pad_sequence(
            [f.to(device=device, dtype=self.center.dtype) for f in features], True
        )
        states = self.inputs((padded - self.center) / self.spread)
        count = len(self.queries)
        sequence = torch.cat([self.queries.expand(len(features), -1, -1), states], dim=1)
        outside = torch.arange(padded.shape[1], device=device)[None] >= lengths[:, None]
        outside = torch.cat([outside.new_zeros(len(features), count), outside], dim=1)
        return self.encoder(sequence, src_key_padding_mask=outside)[:, :count]
