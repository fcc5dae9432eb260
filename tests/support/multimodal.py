"""Random two-layer multimodal LLMs in folders, of the architectures of Qwen2-Audio and LLaVA-NeXT."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from model.zoo.random_models import VOCABULARY, tiny_tokenizer

KINDS = ("qwen2_audio", "llava_next")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Of LLaVA-NeXT, which has one in its tokenizer's folder; Qwen2-Audio's processor brings its own."""
SIDE, PATCH = 28, 14
WIDTH = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_multimodal(folder: Path, kind: str) -> Path:
    """A random model of a kind, whose replies differ from clip to clip."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        {"qwen2_audio": _qwen2_audio, "llava_next": _llava_next}[kind](folder)
    return folder


def _tokenizer(*further: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(further)})
    return tokenizer


def _qwen2_audio(folder: Path) -> None:
    tokenizer = _tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    tokenizer.chat_template = None
    text = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.3, **WIDTH)
    heard = Qwen2AudioEncoderConfig(
        d_model=32,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        num_mel_bins=80,
        init_std=0.3,
    )
    config = Qwen2AudioConfig(audio_config=heard, text_config=text, audio_token_index=VOCABULARY)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    _named_as_released(folder / "model.safetensors", "language_model.model.model.", "language_model.model.")
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)


def _named_as_released(file: Path, written: str, released: str) -> None:
    """transformers reads the names of the released weights, as vLLM does, and writes other ones."""
    weights = load_file(file)
    save_file({name.replace(written, released): one for name, one in weights.items()}, file, {"format": "pt"})


def _llava_next(folder: Path) -> None:
    tokenizer = _tokenizer("<image>")
    tokenizer.chat_template = TEMPLATE
    text = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.3, **WIDTH)
    seen = CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, projection_dim=32, **WIDTH)
    grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    config = LlavaNextConfig(
        vision_config=seen, text_config=text, image_token_index=VOCABULARY, image_grid_pinpoints=grid,
        vision_feature_layer=-2, tie_word_embeddings=False,
    )  # fmt: skip
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    _named_as_released(folder / "model.safetensors", "vision_tower.", "vision_tower.vision_model.")
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=grid
    )
    LlavaNextProcessor(
        pictures, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
