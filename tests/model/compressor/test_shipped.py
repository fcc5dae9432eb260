"""The compressor that is shipped, with the LLM it was pretrained for."""

import hashlib
import json

import pytest

from model.compressor.compressor import MambaCompressor
from model.compressor.reconstruction import Reconstruction
from model.compressor.settings import CompressorSettings
from model.compressor.train import figures, rows_of
from model.llm import load_llm
from model.zoo.resolve import is_cached, resolve

NAME, LLM = "memory-smollm2-135m", "smollm2-135m-instruct"
SAID = (
    "You have no idea what that means to me.",
    "I can't believe you did that!",
    "Did you see the game last night?",
    "No, thank you.",
)


def test_it_is_small_and_its_card_names_it():
    folder = resolve(NAME)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 20_000_000
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    content = (folder / "model.safetensors").read_bytes()
    assert card["files"] == {"model.safetensors": hashlib.sha256(content).hexdigest()}
    assert card["heldout_after"]["loss"] < card["heldout_before"]["loss"]


@pytest.mark.slow
def test_its_memories_tell_the_llm_what_was_said():
    assert is_cached(LLM), "empamba weights pull --profile cpu"
    llm, tokenizer = load_llm(resolve(LLM), "float32")
    compressor = MambaCompressor.load(resolve(NAME), tokenizer, llm.get_input_embeddings().weight)
    task = Reconstruction(llm, tokenizer, dialogue=False, cached=True)
    rows, _ = rows_of([(text,) for text in SAID], compressor, task, CompressorSettings(), 64)
    nats = {kind: figures(compressor, task, rows, 4, kind)["loss"] for kind in ("own", "none", "other")}
    assert nats["own"] < nats["none"] - 0.5 and nats["own"] < nats["other"] - 0.5
