"""Trainings on other forms of the history: rows without one, the hybrid, mean memories, and a compressor that learns."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from model.branches import reply_log_probs
from model.compressor.compressor import MambaCompressor
from model.dialogue.dialogue import DialogueModel, load_dialogue, load_parts
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import Exchanges, train_dialogue, with_history_dropout
from model.draws import draw_number
from model.llm import load_llm, reply_ids
from model.settings import TrainingSettings
from model.spoken import Spoken

WORDS = "happy sad beach train kitchen party friend surprise weather station".split()


def examples(count: int, past: int = 3) -> list[DialogueExample]:
    """Exchanges of a word a turn; the reply names the first word of the history, or the sentence's."""
    found = []
    for i in range(count):
        turns = [WORDS[(i + k) % len(WORDS)] for k in range(past + 1)]
        history = tuple(Spoken(word, k % 2) for k, word in enumerate(turns[: i % (past + 1)]))
        found.append(
            DialogueExample(f"d/{i}", history, f"I like {turns[-1]}", f"yes {turns[0]}", dialogue=f"d{i}")
        )
    return found


def settings(epochs: int = 1, **changes) -> DialogueSettings:
    training = TrainingSettings(
        learning_rate=1e-2, batch_size=4, epochs=epochs, dtype="float32", threads=1, evaluations=1
    )
    return DialogueSettings(rank=4, alpha=8, training=training, **changes)


def test_the_rows_without_a_history_are_drawn_by_key():
    rows = examples(400)
    given, withheld = with_history_dropout(rows, settings(history_dropout=0.25))
    told = [e for e in rows if e.history]
    lost = {e.key for e in told if draw_number(0, "dialogue.history_dropout", e.key) / 2**64 < 0.25}
    assert withheld == len(lost) and 50 < withheld < 100 and len(told) == 300
    for before, after in zip(rows, given, strict=True):
        assert after == (replace(before, history=()) if before.key in lost else before)
    # By the key alone: fewer rows, or another order, take the history from the same ones. And no others with another seed.
    few, _ = with_history_dropout(rows[::-3], settings(history_dropout=0.25))
    assert {e.key for e in few if not e.history} == {
        e.key for e in rows[::-3] if e.key in lost or not e.history
    }
    assert with_history_dropout(rows, settings()) == (rows, 0)
    other = settings(history_dropout=0.25)
    other = other.model_copy(update={"training": other.training.model_copy(update={"seed": 1})})
    assert {e.key for e in with_history_dropout(rows, other)[0] if not e.history} != {
        e.key for e in given if not e.history
    }


def test_withheld_histories_are_counted_and_none_is_withheld_in_dev(responsive_llm_folder, tmp_path):
    chosen = settings(history_dropout=0.5)
    report = train_dialogue(responsive_llm_folder, examples(16), examples(6), chosen, tmp_path, "text")
    withheld = report["train_histories_withheld"]
    assert withheld == with_history_dropout(examples(16), chosen)[1] and 0 < withheld < 12
    whole = train_dialogue(
        responsive_llm_folder, examples(16), examples(6), settings(), tmp_path / "whole", "text"
    )
    assert report["heldout_before"] == whole["heldout_before"] and whole["train_histories_withheld"] == 0


def test_of_a_hybrid_only_what_stands_as_a_memory_is_reconstructed(responsive_llm_folder, compressor_folder):
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    chosen = settings(recent_utterances=1)
    model = DialogueModel(
        llm, tokenizer, "memory", *load_parts(llm, tokenizer, compressor_folder, None), chosen
    )
    data = Exchanges(model, examples(4))
    assert {h: data.targets[h][0] for h in data.targets} == {
        examples(4)[2].history: [0],
        examples(4)[3].history: [0, 1],
    }
    assert model.counts["unreconstructed_utterances"] == 0
    # The LLM reads prompt and reply, and where something is reconstructed its instruction, memories and words.
    for i, size in enumerate(data.lengths):
        own = data.prompt_sizes[i] + len(data.replies[i])
        places, words = data.targets.get(examples(4)[i].history, ((), ()))
        assert size == own + (data.task.overhead + len(places) + len(words) if places else 0)


def test_means_and_hybrids_train_without_a_compressor(responsive_llm_folder, tmp_path):
    chosen = settings(4, memory="mean", recent_utterances=1)
    report = train_dialogue(responsive_llm_folder, examples(24), examples(6), chosen, tmp_path, "memory")
    assert report["memory"] == "mean" and report["recent_utterances"] == 1
    assert report["heldout_after"]["loss"] < report["heldout_before"]["loss"]
    assert "reconstruction" in report["heldout_after"] and not (tmp_path / "compressor").exists()
    assert set(json.loads((tmp_path / "card.json").read_text())["weights"]) == {"llm"}


def test_trainings_on_one_schedule_take_the_same_rows(responsive_llm_folder, compressor_folder, tmp_path):
    """Whatever each form costs: with a budget of sentences and replies, not of what the LLM reads."""

    def rows_of(history: str, **changes) -> int:
        own = settings(**changes)
        budget = own.training.model_copy(update={"max_tokens": 60})
        own = own.model_copy(update={"training": budget})
        out = tmp_path / f"{history}{changes}"
        report = train_dialogue(
            responsive_llm_folder, examples(24), examples(4), own, out, history, compressor_folder,
            shared_schedule=True,
        )  # fmt: skip
        return report["history"]["rows"], len(report["history"]["train"])

    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    found = {rows_of("text"), rows_of("text", max_history_utterances=0), rows_of("memory"),
             rows_of("memory", memory="mean", recent_utterances=1)}  # fmt: skip
    ((rows, _),) = found
    size = [
        len(tokenizer(e.sentence)["input_ids"]) + len(reply_ids(tokenizer, e.reply)) for e in examples(24)
    ]
    assert 0 < rows < 24 and rows * min(size) <= 60


def test_a_compressor_that_learns_is_given_the_replies_gradient(responsive_llm_folder, compressor_folder):
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    chosen = settings(train_compressor=True, recent_utterances=1)
    parts = load_parts(llm, tokenizer, compressor_folder, None)
    model = DialogueModel(llm, tokenizer, "memory", *parts, chosen)
    assert not model.compressor_learns
    model.compressor.requires_grad_(True)
    row = examples(4)[3]
    data = Exchanges(model, [row])
    loss = data.reply_loss([0])
    loss.backward()
    # By hand: the loss where one weight is a little larger and a little smaller.
    weight = model.compressor.projector[2].bias
    found, place = weight.grad.clone(), int(weight.grad.abs().argmax())

    def at(step: float) -> float:
        with torch.no_grad():
            weight[place] += step
            prompt = model.prompt(row)
            weight[place] -= step
            log_probs, _ = reply_log_probs(llm, [prompt], [reply_ids(tokenizer, row.reply)])
        return -log_probs.mean().item()

    step = 1e-2
    assert found[place].abs() > 1e-4
    assert (at(step) - at(-step)) / (2 * step) == pytest.approx(found[place].item(), rel=0.05)
    assert loss.item() == pytest.approx(at(0.0), abs=1e-5)


def test_a_learnt_compressor_is_saved_with_its_adapter_and_goes_with_it(
    responsive_llm_folder, compressor_folder, tmp_path
):
    chosen = settings(4, train_compressor=True)
    report = train_dialogue(
        responsive_llm_folder, examples(24), examples(6), chosen, tmp_path, "memory", compressor_folder
    )
    assert report["compressor_learnt"] and report["heldout_after"]["loss"] < report["heldout_before"]["loss"]
    before, after = (
        load_file(folder / "model.safetensors") for folder in (compressor_folder, tmp_path / "compressor")
    )
    assert before.keys() == after.keys()
    assert max((before[name] - after[name]).abs().max() for name in before) > 1e-3
    loaded = load_dialogue(
        responsive_llm_folder, tmp_path, compressor_folder, None, "memory", "float32", chosen
    )
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    own = MambaCompressor.load(tmp_path / "compressor", tokenizer, llm.get_input_embeddings().weight)
    history = examples(4)[3].history
    assert torch.allclose(torch.cat(loaded.memories([history])[history]), own.compress([history])[0])
    # What is loaded gives the held-out loss that was reported.
    losses = Exchanges(loaded, examples(6)).row_losses(4)
    assert losses == pytest.approx(report["compared"]["after"], abs=1e-4)
    # Going on from the adapter, its compressor goes on too.
    again = train_dialogue(
        responsive_llm_folder, examples(24), examples(6), settings(1, train_compressor=True), tmp_path / "on",
        "memory", compressor_folder, start=tmp_path,
    )  # fmt: skip
    assert again["heldout_before"]["loss"] == pytest.approx(report["heldout_after"]["loss"], abs=1e-5)
    frozen = train_dialogue(
        responsive_llm_folder, examples(8), examples(4), settings(), tmp_path / "frozen", "memory",
        compressor_folder,
    )  # fmt: skip
    assert not frozen["compressor_learnt"] and not (tmp_path / "frozen" / "compressor").exists()
