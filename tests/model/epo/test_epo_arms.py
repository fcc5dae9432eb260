"""EPO and what it is compared with: the same rows at the same step, whatever the rejected replies are."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.epo.settings import EpoSettings
from model.epo.train import Pairs, train_epo
from model.llm import load_llm
from model.settings import TrainingSettings
from model.spoken import Spoken
from model.zoo.resolve import resolve

ROWS = 40
SHORT, LONG = "No.", "I would rather not say what I think of that just now. "


def model() -> DialogueModel:
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    torch.manual_seed(0)
    return DialogueModel(get_peft_model(llm, LoraConfig(r=2, target_modules=["q_proj"])), tokenizer, "text")


def arms() -> list[list[PreferenceExample]]:
    """The same rows twice: where one arm's rejected reply is long the other's is short, and the other way round."""
    examples = [
        DialogueExample(f"row{i}", (), "Why?" + " Tell me." * (i * 7 % 11), "Because." + " So." * (i % 3))
        for i in range(ROWS)
    ]
    sides = [[SHORT, LONG * (1 + i % 5)][:: 1 if i % 2 else -1] for i in range(ROWS)]
    return [
        [PreferenceExample(e, s[arm], (s[1 - arm],)) for e, s in zip(examples, sides, strict=True)]
        for arm in (0, 1)
    ]


def training(max_tokens: int | None = None) -> EpoSettings:
    own = TrainingSettings(
        batch_size=4, epochs=2, evaluations=1, dtype="float32", threads=1, max_tokens=max_tokens
    )
    return EpoSettings(sampled_replies=0, training=own)


@pytest.fixture
def steps(monkeypatch) -> list[list[str]]:
    """The keys of the rows of every step that is taken, in order."""
    taken: list[list[str]] = []
    fraction = Pairs.fraction

    def noted(self, rows, whole):
        taken.append([self.pairs[i].example.key for i in whole])
        return fraction(self, rows, whole)

    monkeypatch.setattr(Pairs, "fraction", noted)
    return taken


@pytest.mark.parametrize("budget", [None, 1500])
def test_both_arms_take_the_same_rows_at_the_same_step(steps, tmp_path, budget):
    schedules, lengths = [], []
    for number, pairs in enumerate(arms()):
        steps.clear()
        report = train_epo(model(), pairs, pairs[:4], training(budget), tmp_path / str(number))
        schedules.append([list(keys) for keys in steps])
        lengths.append(report["history"]["tokens"])
    assert schedules[0] == schedules[1] and len({*schedules[0][0]}) == 4
    if budget is None:
        assert sorted(key for keys in schedules[0] for key in keys) == sorted(
            [f"row{i}" for i in range(ROWS)] * 2
        )
    else:
        assert 0 < len(schedules[0]) < 2 * ROWS // 4
    # What is computed is another number of tokens: batches planned by it would differ.
    own = [Pairs(model(), pairs) for pairs in arms()]
    assert own[0].lengths != own[1].lengths and own[0].shared_lengths == own[1].shared_lengths


def test_a_row_beyond_the_window_of_one_arm_is_left_out_of_both(steps, tmp_path):
    endless = "so it went on and on " * model().window
    kept = []
    for number, pairs in enumerate(arms()):
        other = [endless, SHORT][:: 1 if number else -1]
        long = PreferenceExample(DialogueExample("endless", (), "Why?", "So."), other[0], (other[1],))
        steps.clear()
        report = train_epo(model(), [*pairs, long], pairs[:4], training(), tmp_path / str(number))
        assert (report["train_pairs"], report["train_left_out"]) == (ROWS, {"too_long": 1})
        kept.append([list(keys) for keys in steps])
    assert kept[0] == kept[1] and not any("endless" in keys for keys in kept[0])


def test_the_prompt_leaves_room_for_the_longest_reply_of_any_arm():
    """History gives way alike, so that both arms learn from the same prompt."""
    dialogue = model()
    history = tuple(Spoken("it was a long day at the beach " * 4, i % 2) for i in range(30))
    dialogue.settings = dialogue.settings.model_copy(update={"max_history_tokens": 10**6})
    half = "so it went on " * (dialogue.window // 8)
    example = DialogueExample("k", history, "Why?", "So.")
    found = [
        Pairs(dialogue, [PreferenceExample(example, a, (b,))]) for a, b in ((half, SHORT), (SHORT, half))
    ]
    assert found[0].shared_lengths == found[1].shared_lengths
    alone = Pairs(dialogue, [PreferenceExample(example, SHORT)])
    assert alone.shared_lengths[0] > found[0].shared_lengths[0]


def test_what_was_left_out_before_is_in_the_report(tmp_path):
    pairs = arms()[0]
    left_out = {"train": {"not_in_all": 3}, "heldout": {"not_in_all": 1}}
    report = train_epo(model(), pairs[:8], pairs[:4], training(), tmp_path, left_out=left_out)
    assert report["train_left_out"] == {"too_long": 0, "not_in_all": 3}
    assert report["heldout_left_out"] == {"too_long": 0, "not_in_all": 1}
