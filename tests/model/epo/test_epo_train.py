"""EPO training on a tiny dialogue model: it ranks pairs, leaves the base alone, and repeats itself."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.draws import evenly_apart
from model.epo.settings import EpoSettings
from model.epo.train import (
    REPLIES_AT_ONCE,
    Pairs,
    Shuffled,
    mean_repetition,
    row_margins,
    sampled_replies,
    train_epo,
)
from model.llm import load_llm
from model.settings import TrainingSettings
from model.spoken import Spoken
from model.zoo.resolve import resolve
from tests.support.cut_off import assert_goes_on_as_if_never_cut_off

SETTINGS = EpoSettings(
    training=TrainingSettings(learning_rate=5e-3, batch_size=4, epochs=6, dtype="float32", evaluations=2)
)


def tiny_dialogue() -> DialogueModel:
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["v_proj", "q_proj", "o_proj"])
    return DialogueModel(get_peft_model(llm, lora), tokenizer, "text")


def pairs(count: int) -> list[PreferenceExample]:
    words = ("cat", "dog", "train", "letter", "party", "storm")
    return [
        PreferenceExample(
            DialogueExample(
                f"k{i}", (), f"I lost the {words[i % 6]}.", f"I am sorry about the {words[i % 6]}."
            ),
            "Ha, what a fool.",
        )
        for i in range(count)
    ]


def test_training_ranks_pairs_and_changes_the_adapter_alone(tmp_path):
    model = tiny_dialogue()
    before = {name: p.detach().clone() for name, p in model.llm.named_parameters()}
    report = train_epo(model, pairs(12), pairs(6), SETTINGS, tmp_path)
    assert report["heldout_after"]["epo"] < report["heldout_before"]["epo"] and not report["collapsed"]
    assert report["heldout_after"]["margin"] > report["heldout_before"]["margin"]
    assert report["heldout_after"]["accuracy"] == 1.0
    changed = {name for name, p in model.llm.named_parameters() if not torch.equal(before[name], p)}
    assert changed and all("lora_" in name for name in changed)
    assert json.loads((tmp_path / "report.json").read_text())["train_pairs"] == 12

    base, _ = load_llm(resolve("tiny-llm"), "float32")
    again = PeftModel.from_pretrained(base, tmp_path)
    prompt = model.prompt(pairs(1)[0].example)[None]
    assert torch.allclose(again(inputs_embeds=prompt).logits, model.llm(inputs_embeds=prompt).logits)


def test_the_report_holds_each_pair_and_another_exchanges_pair_in_its_place(tmp_path):
    """The rejected reply is one for all, so a shuffled pair says how much of the margin has nothing to do with the
    exchange: here nearly all."""
    report = train_epo(tiny_dialogue(), pairs(12), pairs(6), SETTINGS, tmp_path)
    rows = report["compared"]
    for when in ("before", "after"):
        held = report[f"heldout_{when}"]
        assert sum(rows[f"epo_{when}"]) / 6 == pytest.approx(held["epo"], abs=1e-4)
        assert sum(rows[f"margin_{when}"]) / 6 == pytest.approx(held["margin"], abs=1e-4)
        assert sum(rows[f"right_{when}"]) / 6 == pytest.approx(held["accuracy"], abs=1e-6)
        assert [m > 0 for m in rows[f"margin_{when}"]] == [right == 1.0 for right in rows[f"right_{when}"]]
    gained = sum(a - b for a, b in zip(rows["margin_after"], rows["margin_before"], strict=True))
    anyway = sum(a - b for a, b in zip(rows["shuffled_after"], rows["shuffled_before"], strict=True))
    assert gained > 0 and anyway > 0.8 * gained


def test_a_shuffled_pair_by_hand():
    """Two exchanges: each one's prompt with the other's two replies, scored as pairs of their own."""
    model, (first, second) = tiny_dialogue(), pairs(2)
    second = PreferenceExample(second.example, "No way, go and look for it.")
    own = Pairs(model, [first, second])
    found = Shuffled(model, own).margins(SETTINGS)
    swapped = [
        PreferenceExample(replace(a.example, reply=b.example.reply), b.counter_emotional)
        for a, b in ((first, second), (second, first))
    ]
    assert found == pytest.approx(row_margins(Pairs(model, swapped), SETTINGS), abs=1e-5)
    assert found != pytest.approx(row_margins(own, SETTINGS), abs=1e-3)
    one = [PreferenceExample(replace(p.example, dialogue="d"), p.counter_emotional) for p in (first, second)]
    assert Shuffled(model, Pairs(model, one)).margins(SETTINGS) == [None, None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU adds up in any order; bytes are a CPU's promise")
def test_same_seed_same_bytes(tmp_path):
    for name in ("a", "b"):
        train_epo(tiny_dialogue(), pairs(8), pairs(4), SETTINGS, tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "card.json", "report.json"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_length_alone_is_reported(tmp_path):
    report = train_epo(tiny_dialogue(), pairs(4), pairs(4), SETTINGS, tmp_path)
    assert report["length_accuracy"] == 1.0  # every true reply is longer here


def test_what_is_logged(tmp_path):
    report = train_epo(tiny_dialogue(), pairs(4), pairs(4), SETTINGS, tmp_path)
    assert report["gamma_over_beta"] == 0.25
    step = report["history"]["train"][0]
    for name in ("reward_chosen", "reward_rejected", "margin", "accuracy", "epo", "nll"):
        assert name in step and name in report["heldout_after"]
    assert step["length_chosen"] > step["length_rejected"] > 1
    assert 0 <= report["repetition_after"] <= 1


def test_the_card_tells_what_was_learnt_from(tmp_path):
    cards = []
    for number, count in enumerate((4, 5)):
        train_epo(tiny_dialogue(), pairs(count), pairs(4), SETTINGS, tmp_path / str(number))
        cards.append(json.loads((tmp_path / str(number) / "card.json").read_text()))
    card, other = cards
    assert card["weights"]["llm"].startswith("random:tiny-llm")
    assert card["settings"] == SETTINGS.model_dump(mode="json")
    assert card["data"]["train"]["rows"] == 4 and card["data"]["heldout"] == other["data"]["heldout"]
    assert card["data"]["train"]["sha256"] != other["data"]["train"]["sha256"]
    digest = hashlib.sha256((tmp_path / "0" / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert card["files"] == {"adapter_model.safetensors": digest}
    assert card["heldout_after"]["epo"] < card["heldout_before"]["epo"]


def test_a_pair_beyond_the_window_is_left_out_and_counted(tmp_path):
    """Room is left for the longer of the two replies; history gives way, a sentence cannot."""
    model = tiny_dialogue()
    long = "so it went on and on " * model.window
    told = PreferenceExample(DialogueExample("told", (), long, "Oh."), "Ha.")
    answered = PreferenceExample(DialogueExample("answered", (), "And?", "Oh."), long)
    half = "so it went on " * (model.window // 8)
    both = PreferenceExample(DialogueExample("both", (Spoken(half, 0),), "And?", "Oh."), half)
    report = train_epo(model, [*pairs(4), told, answered, both], pairs(4), SETTINGS, tmp_path)
    assert (report["train_pairs"], report["train_left_out"]) == (5, {"too_long": 2})
    assert report["heldout_left_out"] == {"too_long": 0}
    with pytest.raises(ValueError, match="none of 1 pairs fits the LLM's window"):
        train_epo(tiny_dialogue(), [told], pairs(4), SETTINGS, tmp_path)


def test_repetition_by_hand():
    # Pairs of "1 2 1 2 1": 12, 21, 12, 21: two of four stood there before.
    assert mean_repetition([[1, 2, 1, 2, 1], [1, 2, 3]]) == 0.25
    assert mean_repetition([[7]]) == 0.0 and mean_repetition([]) is None


def test_the_prompts_that_are_answered_are_of_all_datasets():
    """Held-out pairs stand by dataset and dialogue: the first ones would be of one dataset alone."""
    assert evenly_apart(200, 4) == [0, 50, 100, 150]
    assert evenly_apart(3, 64) == [0, 1, 2] and evenly_apart(5, 0) == []
    assert len(set(evenly_apart(200, 64))) == 64
    many = 2 * REPLIES_AT_ONCE + 1
    heldout = Pairs(tiny_dialogue(), pairs(3 * many))
    asked, prompts = [], heldout.prompts
    heldout.prompts = lambda rows: asked.append(list(rows)) or prompts(rows)
    said = sampled_replies(
        heldout, SETTINGS.model_copy(update={"sampled_replies": many, "sampled_tokens": 1})
    )
    assert len(said) == many and sum(asked, []) == list(range(0, 3 * many, 3))


def test_bad_input_is_refused(tmp_path):
    model = tiny_dialogue()
    empty = PreferenceExample(pairs(1)[0].example, "  ")
    with pytest.raises(ValueError, match="pair k0 has an empty reply"):
        train_epo(model, [empty], pairs(1), SETTINGS, tmp_path)
    with pytest.raises(ValueError, match="0 train"):
        train_epo(model, [], pairs(1), SETTINGS, tmp_path)
    model.llm = model.llm.unload()
    with pytest.raises(ValueError, match="no LoRA adapter"):
        train_epo(model, pairs(1), pairs(1), SETTINGS, tmp_path)


def test_a_run_that_goes_on_keeps_the_rows_of_the_start(tmp_path):
    def train(out, progress, checkpoints) -> dict:
        return train_epo(tiny_dialogue(), pairs(12), pairs(6), SETTINGS, out, progress, checkpoints)

    assert_goes_on_as_if_never_cut_off(train, tmp_path)
