"""One step of a causal LLM over rows that are padded on the left: from what is given to the next token's logits.

Knows nothing of how a token is drawn, nor of which rows go on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache


@torch.inference_mode()
def next_logits(model: nn.Module, given: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Logits of the next token, (rows, vocabulary), float32; the cache takes in what was given.

    given: token ids [rows, n], or input embeddings [rows, n, d]. mask: [rows, cached + n], 0 where a row is padded.
    """
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -given.shape[1] :]
    kind = "inputs_embeds" if given.is_floating_point() else "input_ids"
    output = model(
        **{kind: given},
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()
