"""The compressors that are shipped, with the LLM they were pretrained for."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from model.compressor.compressor import MambaCompressor
from model.compressor.measure import figures
from model.compressor.reader import with_reader
from model.compressor.reconstruction import Reconstruction
from model.compressor.rows import rows_of
from model.compressor.settings import CompressorSettings
from model.llm import load_llm
from model.spoken import alone
from model.zoo.resolve import is_cached, resolve

LLM = "smollm2-135m-instruct"
SPANS = {"memory-smollm2-135m": None, "memory-smollm2-135m-span8": 8}
"""Name -> the tokens that one memory covers; None: the utterance."""
SAID = (
    "You have no idea what that means to me.",
    "I can't believe you did that!",
    "Did you see the game last night?",
    "No, thank you.",
)


@pytest.fixture(params=SPANS)
def name(request) -> str:
    return request.param


def test_it_is_small_and_its_card_names_it(name):
    folder = resolve(name)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 25_000_000
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    weights = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.safetensors")
    }
    assert card["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in weights.items()}
    assert set(weights) == {"model.safetensors", "reader/adapter_model.safetensors"}
    assert card["heldout_after"]["loss"] < card["heldout_before"]["loss"]


def test_nothing_of_a_speaker_is_in_it_yet(name):
    roles = load_file(resolve(name) / "model.safetensors")["roles"]
    assert roles.shape == (8, 576) and roles.dtype == torch.float16 and not roles.any()


@pytest.mark.slow
def test_its_memories_tell_the_llm_what_was_said(name):
    assert is_cached(LLM), "empamba weights pull --profile cpu"
    llm, tokenizer = load_llm(resolve(LLM), "float32")
    compressor = MambaCompressor.load(resolve(name), tokenizer, llm.get_input_embeddings().weight)
    assert compressor.shape.memory_span == SPANS[name]
    task = Reconstruction(with_reader(llm, resolve(name)), tokenizer, dialogue=False, cached=True, bare=True)
    rows, _ = rows_of(alone(SAID), compressor, task, CompressorSettings(), 64)
    nats = {kind: figures(compressor, task, rows, 4, kind)["loss"] for kind in ("own", "none", "other")}
    assert nats["own"] < nats["none"] - 1 and nats["own"] < nats["other"] - 3
