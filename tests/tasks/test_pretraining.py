"""The command that makes the shipped compressor, on the tiny LLM."""

import json

import pytest
from safetensors.torch import load_file

from model.compressor.compressor import MambaCompressor
from model.llm import load_llm
from model.zoo.resolve import resolve
from storage.errors import InputError
from tasks.pretraining import HELDOUT, pretrain_on_texts


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    words = [f"{a} {b} {c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuv"]
    file.write_text("\n".join(words), encoding="utf-8")
    return file


def settings(folder, **training):
    chosen = {
        "batch_size": 8,
        "max_tokens": 400,
        "evaluations": 1,
        "heldout_rows": 8,
        "dtype": "float32",
        **training,
    }
    file = folder / "settings.json"
    small = {"weights": "", "hidden": 32, "layers": 1, "saved_as": "float16", "max_utterance_tokens": 32}
    file.write_text(json.dumps({**small, "pretrain": chosen}), encoding="utf-8")
    return file


def test_a_folder_half_the_size_that_loads_exactly(tmp_path, texts):
    out = tmp_path / "out"
    report = pretrain_on_texts([texts], out, settings(tmp_path), "tiny-llm")
    stored = load_file(out / "model.safetensors")
    assert {str(t.dtype) for t in stored.values()} == {"torch.float16"}
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    loaded = MambaCompressor.load(out, tokenizer, llm.get_input_embeddings().weight)
    for name, weight in loaded.state_dict().items():
        assert weight.dtype.is_floating_point and weight.equal(stored[name].float())
    assert report["train_rows"] == 8 * 8 * 6 - HELDOUT and report["heldout_rows"] == 8
    assert not (out / "unfinished").exists()
    assert json.loads((out / "card.json").read_text())["tokens"] == report["history"]["tokens"]


def test_too_little_text_is_told(tmp_path):
    (tmp_path / "few.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(InputError, match="2 distinct texts; more than"):
        pretrain_on_texts([tmp_path / "few.txt"], tmp_path / "out", None, "tiny-llm")


def test_a_wrong_setting_is_named(tmp_path, texts):
    with pytest.raises(InputError, match=r"setting pretrain\.batch_size"):
        pretrain_on_texts([texts], tmp_path / "out", settings(tmp_path, batch_size=0), "tiny-llm")
