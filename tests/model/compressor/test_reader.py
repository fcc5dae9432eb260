"""The reader: it learns beside the compressor, is part of its folder, and is plain peft."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.adapter import AdapterError
from model.compressor.compressor import MambaCompressor
from model.compressor.reader import with_reader
from model.compressor.reconstruction import Reconstruction
from model.compressor.settings import CompressorSettings
from model.compressor.train import adopt, finetune, pretrain, pretraining_stages
from model.llm import load_llm
from model.settings import TrainingSettings
from model.spoken import Spoken, alone

WORDS = "happy sad beach train kitchen party friend surprise weather station".split()
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS if a != b]
DIALOGUES = [(Spoken(a, 0), Spoken(b, 1), Spoken(a, 0)) for a in WORDS for b in WORDS[:3]]


def settings(**changes) -> CompressorSettings:
    training = TrainingSettings(
        learning_rate=3e-3, batch_size=16, epochs=2, dtype="float32", threads=1, evaluations=1
    )
    plain = {"weights": "", "hidden": 32, "layers": 1, "free_running_rows": 2, "max_utterance_tokens": 32}
    reader = {"reader_rank": 4, "reader_alpha": 8, "reader_learning_rate": 1e-2, "prompt": "bare"}
    return CompressorSettings(**{**plain, **reader, "pretrain": training, "finetune": training, **changes})


@pytest.fixture(scope="module")
def pretrained(responsive_llm_folder, tmp_path_factory):
    """A folder of a compressor of span two with its reader, in fp16."""
    out = tmp_path_factory.mktemp("read")
    chosen = settings(memory_span=2, saved_as="float16")
    return out, pretrain(responsive_llm_folder, TEXTS[10:], TEXTS[:10], chosen, out)


def reader_bytes(folder: Path) -> bytes:
    return (folder / "reader" / "adapter_model.safetensors").read_bytes()


def test_it_learns_and_its_weights_are_what_is_stored(pretrained):
    out, report = pretrained
    assert report["heldout_after"]["loss"] < report["heldout_before"]["loss"] - 0.1
    weights = load_file(out / "reader" / "adapter_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert all(w.any() for w in weights.values())  # B is zero until it learns
    assert set(json.loads((out / "card.json").read_text())["files"]) == {
        "model.safetensors",
        "reader/adapter_model.safetensors",
    }


def test_plain_peft_loads_it_and_gives_equal_log_probs(responsive_llm_folder, pretrained):
    """Written out by hand: the token that begins, the memories, a new line, the target."""
    out, _ = pretrained
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    compressor = MambaCompressor.load(out, tokenizer, llm.get_input_embeddings().weight)
    texts = ("happy beach", "sad party")
    memories = compressor.compress(alone(texts))
    task = Reconstruction(with_reader(llm, out), tokenizer, dialogue=False, cached=True, bare=compressor.bare)
    targets = [task.target((text,)) for text in texts]
    with torch.no_grad():
        ours, _ = task.log_probs(memories, targets)

    theirs = AutoModelForCausalLM.from_pretrained(responsive_llm_folder, dtype=torch.float32)
    theirs, names = (
        PeftModel.from_pretrained(theirs, out / "reader").eval(),
        AutoTokenizer.from_pretrained(responsive_llm_folder),
    )
    table, found = theirs.get_input_embeddings().weight, []
    for memory, target in zip(memories, targets, strict=True):
        line = torch.tensor(names("\n", add_special_tokens=False)["input_ids"])
        begin = names.bos_token_id if names.bos_token_id is not None else names.eos_token_id
        prompt = torch.cat([table[[begin]], memory, table[line], table[target]])
        with torch.no_grad():
            logits = theirs(inputs_embeds=prompt[None]).logits[0, -len(target) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(1, target[:, None]).squeeze(1))
    assert torch.allclose(ours, torch.cat(found), atol=1e-4)


def test_a_frozen_reader_goes_along_unchanged(responsive_llm_folder, pretrained, tmp_path):
    frozen = settings(reader_rank=0)
    report = finetune(responsive_llm_folder, pretrained[0], DIALOGUES[5:], DIALOGUES[:5], frozen, tmp_path)
    assert reader_bytes(tmp_path) == reader_bytes(pretrained[0])
    assert MambaCompressor.load(tmp_path, *loaded(responsive_llm_folder)).shape.memory_span == 2
    assert report["heldout_after"]["loss"] < report["heldout_before"]["loss"]


def test_finetuning_trains_it_on(responsive_llm_folder, pretrained, tmp_path):
    report = finetune(
        responsive_llm_folder, pretrained[0], DIALOGUES[5:], DIALOGUES[:5], settings(), tmp_path
    )
    assert reader_bytes(tmp_path) != reader_bytes(pretrained[0])
    assert report["heldout_after"]["loss"] < report["heldout_before"]["loss"]


def test_an_adopted_one_keeps_and_is_measured_with_it(responsive_llm_folder, pretrained, tmp_path):
    report = adopt(responsive_llm_folder, pretrained[0], TEXTS[:10], settings(reader_rank=0), tmp_path)
    assert reader_bytes(tmp_path) == reader_bytes(pretrained[0])
    before = pretrained[1]
    assert report["heldout_after"]["loss"] == pytest.approx(before["heldout_after"]["loss"], abs=0.01)
    assert report["heldout_no_memory"]["loss"] == pytest.approx(before["heldout_no_memory"]["loss"], abs=0.01)


def test_one_of_another_rank_is_refused(responsive_llm_folder, pretrained, tmp_path):
    with pytest.raises(AdapterError, match="the adapter has rank 4, alpha 8, targets k_proj, .*reader_rank"):
        pretrain(
            responsive_llm_folder,
            TEXTS[10:],
            TEXTS[:10],
            settings(reader_rank=2),
            tmp_path,
            start=pretrained[0],
        )


def test_the_reader_has_a_rate_of_its_own(responsive_llm_folder, tmp_path):
    """Adam's first step moves every weight that has a gradient by the rate, whatever the gradient."""
    one_step = settings(
        reader_learning_rate=4e-2,
        pretrain=TrainingSettings(
            learning_rate=1e-3, batch_size=90, warmup_share=0, dtype="float32", threads=1, evaluations=1
        ),
    )
    report = pretrain(responsive_llm_folder, TEXTS, TEXTS, one_step, tmp_path)
    assert report["history"]["best_step"] == 1 == len(report["history"]["train"])
    weights = load_file(tmp_path / "reader" / "adapter_model.safetensors")
    moved = torch.cat([w.abs().flatten() for name, w in weights.items() if "lora_B" in name])
    assert moved.median() == pytest.approx(4e-2, rel=0.01)
    bias = load_file(tmp_path / "model.safetensors")["projector.2.bias"]  # zero before
    assert bias.abs().median() == pytest.approx(1e-3, rel=0.01)


def test_a_frozen_llm_is_the_default_and_leaves_no_reader(tiny_llm_folder, tmp_path):
    pretrain(tiny_llm_folder, TEXTS[:16], TEXTS[:4], settings(reader_rank=0, prompt="paper"), tmp_path)
    assert CompressorSettings().reader_rank == 0 and CompressorSettings().prompt == "paper"
    assert CompressorSettings().memory_span is None and not CompressorSettings().span_curriculum
    assert not (tmp_path / "reader").exists()
    assert "stages" not in json.loads((tmp_path / "report.json").read_text())


def test_stages_have_budgets_and_seeds_of_their_own():
    chosen = settings(
        memory_span=8, span_curriculum=[{"span": 2, "max_tokens": 50}, {"span": 4, "max_tokens": 60}]
    )
    stages = pretraining_stages(chosen)
    assert [stage.span for stage in stages] == [2, 4, 8]
    assert [stage.training.max_tokens for stage in stages] == [50, 60, None]
    assert [stage.training.seed for stage in stages] == [0, 1, 2]
    assert pretraining_stages(settings())[0].training == settings().pretrain


def loaded(folder):
    llm, tokenizer = load_llm(folder, "float32")
    return tokenizer, llm.get_input_embeddings().weight
