"""The compressor that starts from a pretrained Mamba: its own tokenizer and embeddings, and a projector to the LLM."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, MambaModel

from model.compressor.mamba import Mamba, MambaShape
from model.compressor.shape import CompressorError, CompressorShape
from model.pretrained import from_folder
from model.weights import named


def checkpoint_parts(shape: CompressorShape) -> dict[str, nn.Module]:
    """What a compressor on a checkpoint is built of, by name."""
    mamba = Mamba(shape.mamba, shape.checkpoint["vocab_size"])
    projector = nn.Sequential(
        nn.Linear(shape.hidden, shape.llm_width), nn.GELU(), nn.Linear(shape.llm_width, shape.llm_width)
    )
    return {"mamba": mamba, "projector": projector}


def checkpoint_memories(states: Tensor, projector: nn.Module) -> Tensor:
    """Memories [M, llm_width] in spreads, of the Mamba's `states` [M, hidden] at <MEM>."""
    memories = projector(states)
    return F.layer_norm(memories, memories.shape[-1:])


OLDER_NAMES = {r"^(backbone\.)?embedding\.": "embeddings."}
"""Of a checkpoint's tensors: mamba-ssm and some conversions name the embeddings in the singular."""


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights in fp32 of any Mamba (version 1) checkpoint of transformers, and the sizes that rebuild it.

    CompressorError for another architecture, and where weights are absent, unknown or of another shape: the
    library would fill them in at random. A vocabulary head is not needed and left out.
    """
    config = from_folder(AutoConfig, folder)
    if config.model_type != "mamba" or config.hidden_act != "silu":
        raise CompressorError(
            f"{folder}: a {config.model_type} model with {getattr(config, 'hidden_act', 'no')} activation; "
            f"wanted mamba with silu"
        )
    model, loading = from_folder(
        MambaModel, folder, dtype=torch.float32, output_loading_info=True, key_mapping=OLDER_NAMES
    )
    wrong = {
        "missing": sorted(loading["missing_keys"]),
        "unknown": sorted(key for key in loading["unexpected_keys"] if not key.startswith("lm_head.")),
        "of another shape": sorted(str(key[0]) for key in loading["mismatched_keys"]),
    }
    if any(wrong.values()):
        raise CompressorError(f"{folder}: {named(wrong)}; the checkpoint is partial or of another model")
    names = (*MambaShape.model_fields, "vocab_size")
    return model.state_dict(), {name: getattr(config, name) for name in names}
