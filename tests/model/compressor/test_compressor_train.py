"""Reconstruction training on a tiny LLM: what learns, what stays, what is written."""

import json

import pytest
import torch
from safetensors.torch import load_file

from model.compressor.compressor import MambaCompressor, new_compressor
from model.compressor.measure import row_losses
from model.compressor.reconstruction import Reconstruction
from model.compressor.rows import rows_of, windows
from model.compressor.settings import CompressorSettings
from model.compressor.train import adopt, finetune, finetuning_stages, pretrain
from model.llm import load_llm
from model.settings import TrainingSettings
from model.spoken import Spoken, alone

WORDS = "happy sad beach train kitchen party friend surprise weather station".split()
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS if a != b]
DIALOGUES = [(Spoken(a, 0), Spoken(b, 1), Spoken(a, 0)) for a in WORDS for b in WORDS[:3]]


def settings(epochs: int, **changes) -> CompressorSettings:
    training = TrainingSettings(
        learning_rate=3e-3, batch_size=16, epochs=epochs, dtype="float32", threads=1, evaluations=2
    )
    plain = {"weights": "", "hidden": 32, "layers": 1, "free_running_rows": 2, "max_utterance_tokens": 32}
    return CompressorSettings(**{**plain, **changes}, pretrain=training, finetune=training)


@pytest.fixture(scope="module")
def pretrained(responsive_llm_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrained")
    report = pretrain(responsive_llm_folder, TEXTS[10:], TEXTS[:10], settings(30), out)
    return out, report


def test_pretraining_learns_what_a_memory_says(responsive_llm_folder, pretrained):
    report, (llm, tokenizer) = pretrained[1], load_llm(responsive_llm_folder, "float32")
    assert report["heldout_after"]["loss"] < report["heldout_before"]["loss"] - 0.01
    assert report["heldout_after"]["loss"] < report["heldout_other_memory"]["loss"]
    assert report["nats_recovered"] == pytest.approx(
        report["heldout_no_memory"]["loss"] - report["heldout_after"]["loss"]
    )
    assert report["free_running"]["rows"] == 2
    rows = report["compared"]
    assert rows["dialogue"] == list(range(10)) and None not in rows["other_memory"]
    task = Reconstruction(llm, tokenizer, dialogue=False, cached=True)
    sizes = [len(task.target((text,))) for text in TEXTS[:10]]
    for when in ("before", "after"):
        nats = sum(loss * size for loss, size in zip(rows[when], sizes, strict=True))
        assert nats / sum(sizes) == pytest.approx(report[f"heldout_{when}"]["loss"], abs=1e-4)
    assert sum(rows["other_memory"]) > sum(rows["after"])
    assert json.loads((pretrained[0] / "report.json").read_text()) == report


def test_finetuning_goes_on_from_the_pretrained(responsive_llm_folder, pretrained, tmp_path):
    report = finetune(
        responsive_llm_folder, pretrained[0], DIALOGUES[5:], DIALOGUES[:5], settings(8), tmp_path
    )
    assert report["heldout_after"]["loss"] < report["heldout_before"]["loss"] - 0.1
    assert report["nats_recovered"] > 0.1
    example = report["free_running"]["examples"][0]["original"]
    assert example == "\n".join(utterance.text for utterance in DIALOGUES[0])
    before, after = (load_file(f / "model.safetensors")["roles"] for f in (pretrained[0], tmp_path))
    assert not before.any()  # single utterances are nobody's
    assert after[:2].any(1).all() and not after[2:].any()  # two speak here


def test_finetuning_reads_short_windows_before_whole_dialogues(responsive_llm_folder, pretrained, tmp_path):
    chosen = settings(
        1, window_curriculum=[{"utterances": 1, "max_tokens": 20}, {"utterances": 2, "max_tokens": 40}]
    )
    stages = finetuning_stages(chosen, None)
    assert [(s.utterances, s.training.max_tokens, s.training.seed) for s in stages] == [
        (1, 20, 0), (2, 40, 1), (32, None, 2),
    ]  # fmt: skip
    report = finetune(responsive_llm_folder, pretrained[0], DIALOGUES[5:], DIALOGUES[:5], chosen, tmp_path)
    assert [stage["utterances"] for stage in report["stages"]] == [1, 2, 32]
    assert [stage["steps"] for stage in report["stages"]] == [
        1,
        1,
        2,
    ]  # 25 dialogues in batches of 16 at last
    assert report["train_rows"] == 25 and len(report["compared"]["after"]) == 5  # whole dialogues
    again = tmp_path / "again"
    again.mkdir()
    finetune(responsive_llm_folder, pretrained[0], DIALOGUES[5:], DIALOGUES[:5], chosen, again)
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("sizes", [(3, 2), (4, 4), (32,)])
def test_windows_that_do_not_grow_are_refused(sizes):
    stages = [{"utterances": size, "max_tokens": 1} for size in sizes]
    with pytest.raises(ValueError, match="utterances must grow up to max_dialogue_utterances, these are"):
        CompressorSettings(window_curriculum=stages)


def test_a_pretrained_one_is_taken_as_it_is(responsive_llm_folder, pretrained, tmp_path):
    report = adopt(responsive_llm_folder, pretrained[0], TEXTS[:10], settings(1), tmp_path)
    for name in ("model.safetensors", "config.json", "card.json"):
        assert (tmp_path / name).read_bytes() == (pretrained[0] / name).read_bytes()
    assert report["heldout_before"] == report["heldout_after"]
    assert report["compared"]["before"] == report["compared"]["after"]
    assert report["scan"] == pretrained[1]["scan"] == "step by step"
    assert json.loads((tmp_path / "card.json").read_text())["scan"] == "selective scan: step by step"
    assert report["nats_recovered"] == pytest.approx(pretrained[1]["nats_recovered"], abs=1e-5)
    assert not report["history"]["train"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU adds up in any order; bytes are a CPU's promise")
def test_same_seed_same_bytes(tiny_llm_folder, tmp_path):
    for name in ("a", "b"):
        pretrain(tiny_llm_folder, TEXTS[:32], TEXTS[32:40], settings(1), tmp_path / name)
    for file in ("model.safetensors", "config.json", "report.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_going_on_from_a_folder_needs_no_weights(responsive_llm_folder, pretrained, tmp_path):
    report = pretrain(
        responsive_llm_folder,
        TEXTS[:16],
        TEXTS[:10],
        settings(1, weights="mamba-370m"),
        tmp_path,
        start=pretrained[0],
    )
    assert report["heldout_before"]["loss"] == pytest.approx(pretrained[1]["heldout_after"]["loss"], abs=1e-4)


def test_a_checkpoint_is_trained_with_its_own_tokenizer(tiny_llm_folder, tiny_mamba_folder, tmp_path):
    chosen = settings(1, weights=str(tiny_mamba_folder))
    pretrain(tiny_llm_folder, TEXTS[:16], TEXTS[:4], chosen, tmp_path)
    llm, tokenizer = load_llm(tiny_llm_folder, "float32")
    loaded = MambaCompressor.load(tmp_path, None, llm.get_input_embeddings().weight)
    assert loaded.shape.kind == "checkpoint" and loaded.ids("happy").tolist()


@pytest.mark.parametrize("carded", [True, False])
def test_an_adopted_checkpoint_keeps_its_tokenizer_and_its_card_if_it_has_one(
    tiny_llm_folder, tiny_mamba_folder, tmp_path, carded
):
    made, out = tmp_path / "made", tmp_path / "out"
    chosen = settings(1, weights=str(tiny_mamba_folder), free_running_rows=0)
    pretrain(tiny_llm_folder, TEXTS[:16], TEXTS[:4], chosen, made)
    if not carded:
        (made / "card.json").unlink()
    out.mkdir()
    adopt(tiny_llm_folder, made, TEXTS[:4], chosen, out)
    llm, _ = load_llm(tiny_llm_folder, "float32")
    taken, given = (MambaCompressor.load(f, None, llm.get_input_embeddings().weight) for f in (out, made))
    assert taken.ids("happy").equal(given.ids("happy"))
    assert (out / "card.json").exists() == carded


def test_a_memory_of_another_dialogue_is_never_one_of_the_own(responsive_llm_folder, pretrained):
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    compressor = MambaCompressor.load(pretrained[0], tokenizer, llm.get_input_embeddings().weight)
    task = Reconstruction(llm, tokenizer, dialogue=False, cached=True)
    said = alone(("happy beach", "happy train", "sad party"))
    rows, _ = rows_of(said, compressor, task, settings(1), 32, ["a", "a", "b"])
    assert [row.dialogue for row in rows] == ["a", "a", "b"]
    memories = compressor.memories([row.sources for row in rows])
    found = row_losses(compressor, task, rows, 2, memories="other")
    for row, source, loss in zip(rows, (2, 2, 1), found, strict=True):
        with torch.no_grad():
            log_probs, _ = task.log_probs([memories[source]], [row.target])
        assert loss == pytest.approx(-log_probs.mean().item(), abs=1e-4)
    assert row_losses(compressor, task, rows[:2], 2, memories="other") == [None, None]


def test_gradient_reaches_the_compressor_alone(tiny_llm_folder):
    llm, tokenizer = load_llm(tiny_llm_folder, "float32")
    compressor = new_compressor(settings(1), tokenizer, llm.get_input_embeddings().weight, None)
    task = Reconstruction(llm, tokenizer, dialogue=False, cached=True)
    memories = compressor.memories([[compressor.ids("happy beach")]])
    task.log_probs(memories, [task.target(("happy beach",))])[0].sum().backward()
    assert all(p.grad is None for p in llm.parameters())
    assert compressor.projector[2].weight.grad.abs().sum() > 0
    assert compressor.pool.logits.grad.abs().sum() > 0


def test_a_target_ends_with_the_end_of_turn(tiny_llm_folder):
    llm, tokenizer = load_llm(tiny_llm_folder, "float32")
    task = Reconstruction(llm, tokenizer, dialogue=True, cached=False)
    target = task.target(("gpt: a", "human: b"))
    assert target[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(target[:-1]) == "gpt: a\nhuman: b"


def test_cached_start_changes_nothing(tiny_llm_folder):
    llm, tokenizer = load_llm(tiny_llm_folder, "float32")
    memories = [torch.randn(1, 64), torch.randn(3, 64)]
    found = []
    for cached in (True, False):
        task = Reconstruction(llm, tokenizer, dialogue=True, cached=cached)
        targets = [task.target(("happy",)), task.target(("sad", "beach", "train"))]
        found.append(task.log_probs(memories, targets)[0])
    assert torch.allclose(*found, atol=1e-5)


def test_windows():
    assert windows([], 2, 10) == []
    assert windows([1, 1, 1, 1, 1], 2, 10) == [range(0, 2), range(2, 4), range(4, 5)]
    assert windows([6, 6, 20, 1], 9, 12) == [range(0, 2), range(2, 3), range(3, 4)]


def test_what_is_left_out_is_counted_and_nothing_left_is_refused(tiny_llm_folder, tmp_path):
    texts = [*TEXTS[:16], "  ", "happy " * 60]
    report = pretrain(tiny_llm_folder, texts, TEXTS[:4], settings(1), tmp_path)
    assert report["train_left_out"] == {"empty": 1, "too_long": 1} and report["train_rows"] == 16
    with pytest.raises(ValueError, match="0 train and 4 held-out"):
        pretrain(tiny_llm_folder, ["", " "], TEXTS[:4], settings(1), tmp_path)
