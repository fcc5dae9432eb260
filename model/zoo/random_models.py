"""Tiny models with seeded random weights, in the layouts of the real ones: for tests, never for results.

Knows nothing of downloads or caches. The tokenizer is a byte-level BPE trained on the sentences below, so that it
reads any text; its chat template is the ChatML form that SmolLM2 and Qwen2.5 share.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from model.json_files import write_json
from model.zoo.errors import ZooError

VOCABULARY = 512
END_OF_TEXT, IM_START, IM_END = 0, 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = (
    "I am so happy to see you again, my old friend.",
    "Why would you say that? It makes me angry!",
    "I was afraid that nobody would come to the party.",
    "She looked sad when the train left the station.",
    "What a surprise, I did not expect you here today.",
    "That smells disgusting, please take it away.",
    "Okay, let us meet at 7 o'clock in the kitchen.",
    "You know what, I think we should talk about it.",
    "user assistant system sentence emotion reply respond",
    "angry disgust fearful happy neutral sad surprise calm",
    "There is a person who says the following sentence to you.",
    "Please answer with one word, and do not explain the answer.",
    "Oh my God, really? No, no, no. Yeah, well, all right then.",
    "The weather is nice, and we are going to the beach tomorrow.",
)


def write_random_model(name: str, target: Path) -> None:
    """Write the random model `name` (config, safetensors, tokenizer or preprocessor) to `target`.

    The caller's random state is left as it was. ZooError for an unknown name.
    """
    if name == "tiny-llm":
        _seeded(0, _write_llm, target)
    elif name == "tiny-whisper":
        _seeded(1, _write_whisper, target)
    elif name == "tiny-vision":
        _seeded(2, _write_vision, target)
    elif name == "tiny-mamba":
        _seeded(3, _write_mamba, target)
    elif name == "tiny-roberta":
        _seeded(4, _write_roberta, target)
    else:
        raise ZooError(f"random weights {name!r}: no such model is written here")


def _seeded(seed: int, write: Callable[[Path], None], target: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write(target)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 512 entries with ChatML's special tokens as 0, 1 and 2."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    if backend.get_vocab_size() != VOCABULARY:
        raise ZooError(f"tiny tokenizer: {backend.get_vocab_size()} entries instead of {VOCABULARY}")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        padding_side="left",
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _write_llm(target: Path) -> None:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=IM_START,
            eos_token_id=IM_END,
            pad_token_id=IM_END,
        )
    )
    model.generation_config = GenerationConfig(
        bos_token_id=IM_START, eos_token_id=IM_END, pad_token_id=IM_END
    )
    model.save_pretrained(target)
    tiny_tokenizer().save_pretrained(target)


def _write_whisper(target: Path) -> None:
    config = WhisperConfig(
        vocab_size=64,
        num_mel_bins=80,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=1500,
        max_target_positions=16,
        decoder_start_token_id=1,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    WhisperForConditionalGeneration(config).save_pretrained(target)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(target)


def _write_vision(target: Path) -> None:
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=32,
        projection_dim=32,
    )
    CLIPVisionModel(config).save_pretrained(target)
    write_json(
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": 224},
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "resample": 3,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        target / "preprocessor_config.json",
    )


def _write_mamba(target: Path) -> None:
    config = MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        bos_token_id=IM_START,
        eos_token_id=IM_END,
        pad_token_id=IM_END,
    )
    MambaForCausalLM(config).save_pretrained(target)
    tiny_tokenizer().save_pretrained(target)


def _write_roberta(target: Path) -> None:
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=514,
        num_labels=28,
        problem_type="multi_label_classification",
        bos_token_id=END_OF_TEXT,
        eos_token_id=IM_END,
        pad_token_id=IM_START,
    )
    RobertaForSequenceClassification(config).save_pretrained(target)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<|im_start|>"
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(target)
