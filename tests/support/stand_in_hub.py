"""The paper profile's six repositories under their real names, with their real layouts and configuration fields, tiny.

What a loader could stumble on is as it is there: Qwen2's weights in four files with an index, its chat template, its
vocabulary padded; CLIP whole and pickled, with position ids that newer versions do not have; Whisper with the suppressed
tokens of its generation; Mamba in transformers' form, whose head is tied; a classifier of RoBERTa with GoEmotions'
labels; a RoBERTa of 24 layers. The weights are random, the tokenizers trained on the sample corpus.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from model import prompts
from model.scorer.labels import GOEMOTIONS_LABELS

ROOT = Path(__file__).resolve().parents[2]
QWEN, WHISPER, CLIP = "Qwen/Qwen2.5-7B-Instruct", "openai/whisper-tiny", "openai/clip-vit-base-patch32"
MAMBA, GOEMOTIONS = "state-spaces/mamba-370m-hf", "SamLowe/roberta-base-go_emotions"
ROBERTA = "FacebookAI/roberta-large"
REPOSITORIES = (QWEN, WHISPER, CLIP, MAMBA, GOEMOTIONS, ROBERTA)
QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN_PLAIN = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>",
)  # fmt: skip
LLM_FILES = 4


def write_hub(root: Path) -> None:
    """All six under `root`, as OWNER/NAME."""
    torch.manual_seed(0)
    for name, write in (
        (QWEN, _qwen), (WHISPER, _whisper), (CLIP, _clip), (MAMBA, _mamba), (GOEMOTIONS, _goemotions), (ROBERTA, _roberta),
    ):  # fmt: skip
        (root / name).mkdir(parents=True)
        write(root / name)


def _texts() -> list[str]:
    """What the tokenizers learn: the sample corpus, and the words of the prompts."""
    dialogues = json.loads((ROOT / "storage/sample/dialogues.json").read_text(encoding="utf-8"))
    asked = (
        prompts.EMOTION_RECOGNITION,
        prompts.RECONSTRUCT_UTTERANCE,
        prompts.RECONSTRUCT_DIALOGUE,
        prompts.DIALOGUE,
    )
    return [json.dumps(dialogues), *asked, "user assistant system history: memory embeddings: sentence:"]


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _byte_level(size: int, special: list[str], split: pre_tokenizers.PreTokenizer | None = None) -> Tokenizer:
    """A byte-level BPE of `size` tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learnt = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(_texts(), learnt)
    return made


def _save_tokenizer(made: Tokenizer, folder: Path, config: dict) -> None:
    """tokenizer.json, the older pair of vocabulary and merges, and the configuration."""
    made.save(str(folder / "tokenizer.json"))
    parts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in parts["merges"]]
    _json(folder / "vocab.json", parts["vocab"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    _json(folder / "tokenizer_config.json", config)


def _added(made: Tokenizer, words: tuple[str, ...], special: bool) -> dict[str, dict]:
    """The entries of "added_tokens_decoder"."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special}
    return {str(made.token_to_id(word)): {"content": word, **flags} for word in words}


def _tensors(model: torch.nn.Module, without: str = "") -> dict[str, torch.Tensor]:
    state = model.state_dict().items()
    return {name: t.contiguous() for name, t in state if not without or not name.startswith(without)}


# Qwen2.5 -------------------------------------------------------------------------------------------------------


def _qwen(folder: Path) -> None:
    words = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")
    split = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made = _byte_level(800, [], split)
    made.normalizer, made.post_processor = normalizers.NFC(), processors.ByteLevel(trim_offsets=False)
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in QWEN_SPECIAL])
    made.add_tokens([AddedToken(word, special=False, normalized=False) for word in QWEN_PLAIN])
    end_of_text, end_of_turn = made.token_to_id("<|endoftext|>"), made.token_to_id("<|im_end|>")
    config = {
        "add_bos_token": False, "add_prefix_space": False, "additional_special_tokens": list(QWEN_SPECIAL[1:]),
        "added_tokens_decoder": {**_added(made, QWEN_SPECIAL, True), **_added(made, QWEN_PLAIN, False)},
        "bos_token": None, "chat_template": _chat_template(), "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }  # fmt: skip
    _save_tokenizer(made, folder, config)
    padded = ((made.get_vocab_size() + 127) // 128 + 1) * 128  # as 151,665 are padded to 152,064
    shape = {
        "attention_dropout": 0.0, "bos_token_id": end_of_text, "eos_token_id": end_of_turn, "hidden_act": "silu",
        "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": 512, "max_position_embeddings": 32768,
        "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 4, "num_hidden_layers": 3,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
        "tie_word_embeddings": False, "use_cache": True, "use_sliding_window": False, "vocab_size": padded,
    }  # fmt: skip
    _json(
        folder / "config.json",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "torch_dtype": "bfloat16",
            "transformers_version": "4.43.1",
            **shape,
        },
    )
    _json(
        folder / "generation_config.json",
        {"bos_token_id": end_of_text, "pad_token_id": end_of_text, "do_sample": True, "top_k": 20, "top_p": 0.8,
         "eos_token_id": [end_of_turn, end_of_text], "repetition_penalty": 1.05, "temperature": 0.7},
    )  # fmt: skip
    state = _tensors(Qwen2ForCausalLM(Qwen2Config(**shape)).to(torch.bfloat16))
    names, places = sorted(state), {}
    for number in range(LLM_FILES):
        file = f"model-{number + 1:05d}-of-{LLM_FILES:05d}.safetensors"
        part = names[number::LLM_FILES]
        save_file({name: state[name] for name in part}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in state.values())
    _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _chat_template() -> str:
    """Qwen2.5's own, which trl carries."""
    spec = find_spec("trl")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates/qwen2_5.jinja").read_text(encoding="utf-8")


# The encoders --------------------------------------------------------------------------------------------------


def _whisper(folder: Path) -> None:
    shape = WhisperConfig(
        vocab_size=300, num_mel_bins=80, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=1500,
        max_target_positions=448, decoder_start_token_id=1, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    state = _tensors(WhisperForConditionalGeneration(shape), without="proj_out")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    older = {
        "architectures": ["WhisperForConditionalGeneration"], "torch_dtype": "float32", "use_cache": True,
        "begin_suppress_tokens": [220, 250], "forced_decoder_ids": [[1, 259], [2, 259], [3, 263]],
        "suppress_tokens": [1, 2, 7], "transformers_version": "4.27.0.dev0",
    }  # fmt: skip
    _json(folder / "config.json", {**{k: v for k, v in shape.to_dict().items() if k != "dtype"}, **older})
    filters = WhisperFeatureExtractor(feature_size=80).mel_filters.T.tolist()
    _json(
        folder / "preprocessor_config.json",
        {"chunk_length": 30, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "hop_length": 160,
         "mel_filters": filters, "n_fft": 400, "n_samples": 480000, "nb_max_frames": 3000, "padding_side": "right",
         "padding_value": 0.0, "processor_class": "WhisperProcessor", "return_attention_mask": False,
         "sampling_rate": 16000},
    )  # fmt: skip


def _clip(folder: Path) -> None:
    """Text and vision, pickled alone, as the revision that is pinned has it."""
    small = {"attention_dropout": 0.0, "hidden_act": "quick_gelu", "intermediate_size": 64, "layer_norm_eps": 1e-05,
             "num_attention_heads": 2, "num_hidden_layers": 2, "projection_dim": 32}  # fmt: skip
    text = {**small, "hidden_size": 32, "vocab_size": 300, "max_position_embeddings": 77, "model_type": "clip_text_model",
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
    vision = {**small, "hidden_size": 64, "intermediate_size": 128, "image_size": 224, "patch_size": 32,
              "model_type": "clip_vision_model"}  # fmt: skip
    state = dict(
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).state_dict()
    )
    for part, positions in (("text", 77), ("vision", 50)):
        state[f"{part}_model.embeddings.position_ids"] = torch.arange(positions)[None]
    torch.save(state, folder / "pytorch_model.bin")
    # Configurations of that time name what generation would take, in both halves.
    then = {"_name_or_path": "", "do_sample": False, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "max_length": 20,
            "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "num_beams": 1, "temperature": 1.0, "top_k": 50, "torch_dtype": None,
            "torchscript": False, "transformers_version": "4.16.0.dev0", "use_bfloat16": False}  # fmt: skip
    _json(
        folder / "config.json",
        {"_name_or_path": CLIP, "architectures": ["CLIPModel"], "initializer_factor": 1.0, "model_type": "clip",
         "logit_scale_init_value": 2.6592, "projection_dim": 32, "text_config": {**then, **text},
         "text_config_dict": None, "torch_dtype": "float32", "transformers_version": None,
         "vision_config": {**then, **vision}, "vision_config_dict": None},
    )  # fmt: skip
    _json(
        folder / "preprocessor_config.json",
        {"crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
         "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
         "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224},
    )  # fmt: skip


# Mamba and the RoBERTas ----------------------------------------------------------------------------------------


def _mamba(folder: Path) -> None:
    made = _byte_level(600, ["<|endoftext|>", "<|padding|>"])
    made.normalizer, made.post_processor = normalizers.NFC(), processors.ByteLevel(trim_offsets=False)
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    config = {"add_prefix_space": False, "added_tokens_decoder": _added(made, ("<|endoftext|>", "<|padding|>"), True),
              **ends, "model_max_length": 1000000000000000019884624838656, "tokenizer_class": "GPTNeoXTokenizer"}  # fmt: skip
    _save_tokenizer(made, folder, config)
    _json(folder / "special_tokens_map.json", ends)
    shape = {"hidden_size": 64, "num_hidden_layers": 4, "state_size": 16, "vocab_size": 608, "time_step_rank": 4,
             "initializer_range": 0.1}  # fmt: skip
    _json(
        folder / "config.json",
        {"architectures": ["MambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4, "d_inner": 128, "d_model": 64,
         "eos_token_id": 0, "expand": 2, "fused_add_norm": True, "hidden_act": "silu", "intermediate_size": 128,
         "layer_norm_epsilon": 1e-05, "model_type": "mamba", "n_layer": 4, "pad_token_id": 0,
         "pad_vocab_size_multiple": 8, "rescale_prenorm_residual": False, "residual_in_fp32": True, "rms_norm": True,
         "ssm_cfg": {}, "time_step_floor": 0.0001, "time_step_init_scheme": "random", "time_step_max": 0.1,
         "time_step_min": 0.001, "time_step_scale": 1.0, "torch_dtype": "float32", "use_bias": False, "use_cache": True,
         "transformers_version": "4.39.0.dev0", "use_conv_bias": True, **shape},
    )  # fmt: skip
    state = _tensors(MambaForCausalLM(MambaConfig(**shape)), without="lm_head")
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def _roberta_shape(vocabulary: int, layers: int, heads: int) -> dict:
    return {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": layers, "num_attention_heads": heads,
            "max_position_embeddings": 514, "type_vocab_size": 1, "vocab_size": vocabulary, "pad_token_id": 1,
            "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5}  # fmt: skip


def _roberta_tokenizer(folder: Path, config: dict) -> int:
    """Writes it; returns its size."""
    made = _byte_level(600, ["<s>", "<pad>", "</s>", "<unk>"])
    made.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    ends = ("</s>", 2), ("<s>", 0)
    made.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    _save_tokenizer(made, folder, config)
    return made.get_vocab_size()


def _goemotions(folder: Path) -> None:
    words = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>",
             "sep_token": "</s>", "unk_token": "<unk>"}  # fmt: skip
    config = {"add_prefix_space": False, "errors": "replace", "model_max_length": 512, "name_or_path": "roberta-base",
              "tokenizer_class": "RobertaTokenizer", "trim_offsets": True, **words}  # fmt: skip
    shape = _roberta_shape(_roberta_tokenizer(folder, config), layers=2, heads=2)
    _json(folder / "special_tokens_map.json", words)
    kind = "multi_label_classification"
    model = RobertaForSequenceClassification(RobertaConfig(**shape, num_labels=28, problem_type=kind))
    older = {"roberta.embeddings.position_ids": torch.arange(514)[None]}
    save_file({**_tensors(model), **older}, folder / "model.safetensors", {"format": "pt"})
    labels = {str(number): label for number, label in enumerate(GOEMOTIONS_LABELS)}
    _json(
        folder / "config.json",
        {"_name_or_path": "roberta-base", "architectures": ["RobertaForSequenceClassification"], "id2label": labels,
         "label2id": {label: int(number) for number, label in labels.items()}, "model_type": "roberta",
         "position_embedding_type": "absolute", "problem_type": kind, "torch_dtype": "float32", "use_cache": True,
         "transformers_version": "4.21.3", **shape},
    )  # fmt: skip


def _roberta(folder: Path) -> None:
    shape = _roberta_shape(_roberta_tokenizer(folder, {"model_max_length": 512}), layers=24, heads=4)
    state = _tensors(RobertaForMaskedLM(RobertaConfig(**shape)), without="lm_head.decoder")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    _json(folder / "config.json", {"architectures": ["RobertaForMaskedLM"], "model_type": "roberta", **shape})
