"""The command that makes the shipped compressor, on the tiny LLM."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from model.checkpoints import Checkpoints
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


def test_a_folder_half_the_size_that_loads_exactly(tmp_path, texts, capsys):
    out = tmp_path / "out"
    report = pretrain_on_texts([texts], out, settings(tmp_path), "tiny-llm")
    said = capsys.readouterr().err
    assert said.count("of weights (") == 1 and said.index("needs ") < said.index("step ")
    stored = load_file(out / "model.safetensors")
    assert {str(t.dtype) for t in stored.values()} == {"torch.float16"}
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    loaded = MambaCompressor.load(out, tokenizer, llm.get_input_embeddings().weight)
    for name, weight in loaded.state_dict().items():
        assert weight.dtype.is_floating_point and weight.equal(stored[name].float())
    assert report["train_rows"] == 8 * 8 * 6 - HELDOUT and report["heldout_rows"] == 8
    assert not (out / "unfinished").exists()
    assert json.loads((out / "card.json").read_text())["tokens"] == report["history"]["tokens"]


class Killed(BaseException):
    """Stands for a kill: nothing of the training runs after it."""


@pytest.fixture
def cut_off(tmp_path, texts, monkeypatch):
    """A folder whose training was cut off after its fourth step, with each step saved."""

    def kill(step, steps, logs):
        if step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "due", lambda _: True)
        patch.setattr("tasks.pretraining._on_step", kill)
        with pytest.raises(Killed):
            pretrain_on_texts([texts], tmp_path / "out", settings(tmp_path), "tiny-llm")
    return tmp_path / "out"


def test_what_was_cut_off_goes_on_to_the_same_bytes(tmp_path, texts, cut_off, monkeypatch):
    pretrain_on_texts([texts], tmp_path / "whole", settings(tmp_path), "tiny-llm")
    ran = []
    monkeypatch.setattr("tasks.pretraining._on_step", lambda step, *_: ran.append(step))
    pretrain_on_texts([texts], cut_off, settings(tmp_path), "tiny-llm")
    assert ran[0] == 4  # the one told last had not been saved
    for name in ("model.safetensors", "config.json", "report.json", "card.json"):
        assert (cut_off / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


CURRICULUM = {
    "memory_span": None,
    "span_curriculum": [{"span": 1, "max_tokens": 200}, {"span": 2, "max_tokens": 200}],
    "reader_rank": 2,
    "reader_alpha": 4,
    "prompt": "bare",
    "half_products": True,
}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_curriculum_cut_off_in_any_stage_goes_on_to_the_same_bytes(tmp_path, texts, monkeypatch, stage):
    chosen = settings(tmp_path)
    chosen.write_text(json.dumps({**json.loads(chosen.read_text()), **CURRICULUM}), encoding="utf-8")
    began = []

    def kill(step, steps, logs):
        began.append(step)
        if began.count(1) == stage and step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "due", lambda _: True)
        patch.setattr("tasks.pretraining._on_step", kill)
        with pytest.raises(Killed):
            pretrain_on_texts([texts], tmp_path / "cut", chosen, "tiny-llm")
    other = tmp_path / "other.json"
    changed = [{"span": 1, "max_tokens": 200}, {"span": 3, "max_tokens": 200}]
    other.write_text(json.dumps({**json.loads(chosen.read_text()), "span_curriculum": changed}))
    with monkeypatch.context() as patch:
        patch.setattr("model.zoo.resolve.resolve", None)  # it is refused before any weights are looked for
        with pytest.raises(InputError, match=r"\(differing: settings\.span_curriculum\); remove the folder"):
            pretrain_on_texts([texts], tmp_path / "cut", other, "tiny-llm")
    ran = []
    monkeypatch.setattr("tasks.pretraining._on_step", lambda step, *_: ran.append(step))
    report = pretrain_on_texts([texts], tmp_path / "cut", chosen, "tiny-llm")
    assert ran[0] == 4 and ran.count(1) == 3 - stage  # finished stages are not run again
    pretrain_on_texts([texts], tmp_path / "whole", chosen, "tiny-llm")
    names = (
        "model.safetensors",
        "config.json",
        "report.json",
        "card.json",
        "reader/adapter_model.safetensors",
    )
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert [s["span"] for s in report["stages"]] == [1, 2, None]
    assert report["stages"][-1]["heldout_after"]["loss"] == report["heldout_after"]["loss"]
    assert report["history"]["tokens"] == sum(s["tokens"] for s in report["stages"])
    assert set(json.loads((tmp_path / "cut" / "card.json").read_text())["files"]) == {
        "model.safetensors",
        "reader/adapter_model.safetensors",
    }


def test_another_training_does_not_go_on_from_what_was_cut_off(tmp_path, texts, cut_off):
    """Neither under another corpus, setting, LLM or start, nor by starting over without a word."""
    more = tmp_path / "more.txt"
    more.write_text("one more line", encoding="utf-8")
    other = tmp_path / "other"
    pretrain_on_texts([texts], other, settings(tmp_path), "tiny-llm")
    before = (cut_off / "unfinished" / "step.safetensors").read_bytes()
    for files, training, start, told in (
        ([texts, more], {}, None, "texts"),
        (
            [texts],
            {"learning_rate": 1e-3, "seed": 1},
            None,
            r"settings.pretrain.learning_rate, settings.pretrain.seed",
        ),
        ([texts], {}, other, "start, weights"),
    ):
        with pytest.raises(
            InputError, match=rf"not the same training \(differing: {told}\); remove the folder .*unfinished"
        ):
            pretrain_on_texts(files, cut_off, settings(tmp_path, **training), "tiny-llm", start)
    assert (cut_off / "unfinished" / "step.safetensors").read_bytes() == before
    shutil.rmtree(cut_off / "unfinished")
    pretrain_on_texts([texts], cut_off, settings(tmp_path, seed=1), "tiny-llm")


def test_going_on_from_the_folder_that_is_written_is_refused(tmp_path, texts):
    with pytest.raises(InputError, match="use another OUT"):
        pretrain_on_texts([texts], tmp_path, settings(tmp_path), "tiny-llm", tmp_path)


def test_too_little_text_is_told(tmp_path):
    (tmp_path / "few.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(InputError, match="2 distinct texts; more than"):
        pretrain_on_texts([tmp_path / "few.txt"], tmp_path / "out", None, "tiny-llm")


def test_a_wrong_setting_is_named(tmp_path, texts):
    with pytest.raises(InputError, match=r"setting pretrain\.batch_size"):
        pretrain_on_texts([texts], tmp_path / "out", settings(tmp_path, batch_size=0), "tiny-llm")


def test_names_that_are_no_weights(tmp_path, texts):
    for llm, start in (("nosuch", None), ("tiny-llm", tmp_path / "nosuch")):
        with pytest.raises(InputError, match="nosuch': neither a known name nor an existing folder") as told:
            pretrain_on_texts([texts], tmp_path / "out", settings(tmp_path), llm, start)
        assert "\n" not in str(told.value) and not (tmp_path / "out").exists()
