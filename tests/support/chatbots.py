"""Random two-layer dialogue models in folders, of the architectures of DialoGPT (GPT-2) and BlenderBot."""

from pathlib import Path

import torch
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
)

from model.zoo.random_models import VOCABULARY, tiny_tokenizer

WINDOW = 128
END = 2
"""The end of a turn in the tiny tokenizer."""
KINDS = ("dialogpt", "blenderbot")


def write_chatbot(folder: Path, kind: str, seed: int = 0, chat_template: str | None = None) -> Path:
    """A random model of a kind with the tiny tokenizer, whose replies differ from prompt to prompt and end at different lengths.

    As BlenderBot's, its own settings ask for beams and for replies of some length.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _MODELS[kind]()
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return folder


def _dialogpt() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=WINDOW,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=END,
            eos_token_id=END,
            initializer_range=0.3,
        )
    )


def _blenderbot() -> BlenderbotForConditionalGeneration:
    model = BlenderbotForConditionalGeneration(
        BlenderbotConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=WINDOW,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            bos_token_id=1,
            decoder_start_token_id=1,
            eos_token_id=END,
            forced_eos_token_id=END,
            pad_token_id=0,
            init_std=0.3,
        )
    )
    model.generation_config.update(num_beams=4, min_length=9, no_repeat_ngram_size=3)
    return model


_MODELS = {"dialogpt": _dialogpt, "blenderbot": _blenderbot}
