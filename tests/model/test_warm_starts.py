"""Each training goes on from the weights it is handed: it begins with the held-out figures at which those ended."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from model.compressor.settings import CompressorSettings
from model.compressor.train import finetune, pretrain
from model.dialogue.dialogue import DialogueModel, load_dialogue
from model.dialogue.examples import PreferenceExample
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import train_dialogue
from model.epo.settings import EpoSettings
from model.epo.train import train_epo
from model.llm import load_llm
from model.settings import TrainingSettings
from model.spoken import Spoken
from tests.support.trainings import HELDOUT, ROWS, TEXTS, exchanges

TRAINING = TrainingSettings(learning_rate=5e-3, batch_size=4, epochs=3, dtype="float32", threads=1)


def goes_on(first: dict, second: dict) -> None:
    assert first["heldout_after"]["loss"] < first["heldout_before"]["loss"] - 1e-3, "or nothing is told here"
    assert second["heldout_before"]["loss"] == pytest.approx(first["heldout_after"]["loss"], abs=2e-5)


@pytest.fixture(scope="module")
def llm(responsive_llm_folder) -> Path:
    return responsive_llm_folder


def test_the_compressor(llm, tmp_path):
    small = CompressorSettings(
        weights="",
        hidden=32,
        layers=1,
        max_utterance_tokens=32,
        free_running_rows=0,
        pretrain=TRAINING,
        finetune=TRAINING,
    )
    lines = TEXTS[:ROWS], TEXTS[ROWS : ROWS + HELDOUT]
    first = pretrain(llm, *lines, small, tmp_path / "pretrained")
    goes_on(first, pretrain(llm, *lines, small, tmp_path / "again", start=tmp_path / "pretrained"))
    said = [[Spoken(text) for text in TEXTS[i : i + 3]] for i in range(9)]
    dialogues = said[:6], said[6:]
    tuned = finetune(llm, tmp_path / "pretrained", *dialogues, small, tmp_path / "tuned")
    goes_on(tuned, finetune(llm, tmp_path / "tuned", *dialogues, small, tmp_path / "more"))
    bare = finetune(llm, tmp_path / "again", *dialogues, small, tmp_path / "other")
    assert bare["heldout_before"]["loss"] != tuned["heldout_before"]["loss"]


def test_dialogue(llm, tmp_path):
    rows, small = exchanges(ROWS + HELDOUT), DialogueSettings(rank=4, alpha=8, training=TRAINING)
    data = rows[:ROWS], rows[ROWS:]
    first = train_dialogue(llm, *data, small, tmp_path / "first", "text")
    goes_on(first, train_dialogue(llm, *data, small, tmp_path / "on", "text", start=tmp_path / "first"))


def test_epo(llm, tmp_path):
    pairs = [PreferenceExample(e, TEXTS[-1 - i]) for i, e in enumerate(exchanges(ROWS + HELDOUT))]
    small = EpoSettings(training=TRAINING, sampled_replies=0)
    base, tokenizer = load_llm(llm, "float32")
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    new = DialogueModel(get_peft_model(base, lora), tokenizer, "text")
    first = train_epo(new, pairs[:ROWS], pairs[ROWS:], small, tmp_path / "first")
    again = load_dialogue(llm, tmp_path / "first", None, None, "text", "float32", trainable=True)
    goes_on(first, train_epo(again, pairs[:ROWS], pairs[ROWS:], small, tmp_path / "second"))
