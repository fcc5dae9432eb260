"""The compressor that is shipped, with the LLM it was pretrained for."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.compressor.compressor import MambaCompressor
from model.compressor.reconstruction import Reconstruction
from model.compressor.settings import CompressorSettings
from model.compressor.train import figures, rows_of
from model.llm import load_llm
from model.spoken import alone
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


def test_it_is_what_was_pretrained_and_role_vectors_of_zeros(tmp_path):
    """The digest is of the file as the pretraining left it, which the README of the weights gives too."""
    folder = resolve(NAME)
    weights = load_file(folder / "model.safetensors")
    roles = weights.pop("roles")
    assert roles.shape == (8, 576) and roles.dtype == torch.float16 and not roles.any()
    save_file(weights, tmp_path / "model.safetensors")
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "3bc3fdae612b33aa89e3b67a0f35cefde451c4581c0dcf05171f4bf68289a055"
    assert digest in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_memories_tell_the_llm_what_was_said():
    assert is_cached(LLM), "empamba weights pull --profile cpu"
    llm, tokenizer = load_llm(resolve(LLM), "float32")
    compressor = MambaCompressor.load(resolve(NAME), tokenizer, llm.get_input_embeddings().weight)
    task = Reconstruction(llm, tokenizer, dialogue=False, cached=True)
    rows, _ = rows_of(alone(SAID), compressor, task, CompressorSettings(), 64)
    nats = {kind: figures(compressor, task, rows, 4, kind)["loss"] for kind in ("own", "none", "other")}
    assert nats["own"] < nats["none"] - 0.5 and nats["own"] < nats["other"] - 0.5
