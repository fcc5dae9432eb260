"""One arm of the memory ladder: own and other histories, and what they take of the prompt."""

import math

import pytest
import torch

from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample
from model.dialogue.ladder import arm_rows, cache_bytes, with_other_histories
from model.dialogue.settings import DialogueSettings
from model.llm import embed, load_llm, reply_ids, token_ids
from model.spoken import Spoken

SAID = {
    "a": ("happy beach", "sad", "train party"),
    "b": ("kitchen friend", "why", "surprise"),
    "c": ("weather", "station sad", "no"),
}


def history(dialogue: str, turns: int) -> tuple[Spoken, ...]:
    return tuple(Spoken(text, k % 2) for k, text in enumerate(SAID[dialogue][:turns]))


def example(dataset: str, dialogue: str, turns: int) -> DialogueExample:
    key = f"{dataset}/test/{dialogue}/{turns}"
    return DialogueExample(
        key,
        history(dialogue, turns),
        f"I like {dialogue}",
        f"yes {dialogue}",
        dialogue=f"{dataset}/test/{dialogue}",
    )


ROWS = [
    *(example("meld", dialogue, turns) for dialogue in ("a", "b") for turns in (1, 2, 3)),
    example("meld", "a", 0),
    example("iemocap", "c", 3),
]
KINDS = [row.key.split("/")[0] for row in ROWS]


@pytest.fixture(scope="module")
def llm(responsive_llm_folder):
    return load_llm(responsive_llm_folder, "float32")


def test_another_history_is_of_another_dialogue_of_the_dataset_and_as_long():
    found = with_other_histories(ROWS, KINDS)
    swap = {"a": "b", "b": "a"}
    for row in ROWS[:6]:
        other = found[row.key]
        assert other.history == history(swap[row.dialogue[-1]], len(row.history))
        assert (other.key, other.sentence, other.reply) == (row.key, row.sentence, row.reply)
    # Without a history there is none to exchange; IEMOCAP has one dialogue.
    assert found.keys() == {row.key for row in ROWS[:6]}


def nats(llm, model, row) -> float:
    """Of the reply, token by token through plain transformers."""
    prompt = embed(llm[0], model.pieces([row])[0])
    ids = reply_ids(llm[1], row.reply)
    table = llm[0].get_input_embeddings().weight
    logits = llm[0](inputs_embeds=torch.cat([prompt, table[ids]])[None]).logits[0]
    log_probs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return -sum(log_probs[i, token].item() for i, token in enumerate(ids.tolist())) / len(ids)


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("text", DialogueSettings()),
        ("text", DialogueSettings(max_history_utterances=1)),
        ("memory", DialogueSettings(memory="mean", recent_utterances=1)),
    ],
)
def test_rows_hold_nats_after_the_own_and_the_other_history(llm, form, settings):
    model = DialogueModel(*llm, form, settings=settings)
    others = with_other_histories(ROWS, KINDS)
    found, _ = arm_rows(model, ROWS, others, 4)
    assert [row.key for row in found] == [row.key for row in ROWS[:6]]
    for row, wanted in zip(found, ROWS[:6], strict=True):
        assert row.own == pytest.approx(nats(llm, model, wanted), abs=1e-4)
        assert row.other == pytest.approx(nats(llm, model, others[wanted.key]), abs=1e-4)
        assert (row.dialogue, row.turn) == (wanted.dialogue, len(wanted.history) + 1)
    assert max(abs(row.own - row.other) for row in found) > 1e-2


def test_the_tokens_that_a_history_takes_by_hand(llm):
    def tokens(form: str, **changes) -> list[int]:
        model = DialogueModel(*llm, form, settings=DialogueSettings(**changes))
        return [row.tokens for row in arm_rows(model, ROWS, with_other_histories(ROWS, KINDS), 4)[0]]

    def size(text: str) -> int:
        return len(token_ids(llm[1], text))

    assert tokens("text", max_history_utterances=0) == [0] * 6
    whole = ["history: gpt: happy beach\n", "history: gpt: happy beach\nhuman: sad\n"]
    assert tokens("text")[:2] == [size(text) for text in whole]
    line = size("history: ") + size("\n")
    assert tokens("memory", memory="mean")[:3] == [line + 1, line + 2, line + 3]
    hybrid = tokens("memory", memory="mean", recent_utterances=1)[:2]
    assert hybrid == [size(whole[0]), size("history: ") + 1 + size("\nhuman: sad\n")]


def test_what_has_no_place_of_the_own_histories_is_counted(llm):
    def dropped(**changes) -> int:
        model = DialogueModel(*llm, "text", settings=DialogueSettings(**changes))
        return arm_rows(model, ROWS, with_other_histories(ROWS, KINDS), 4)[1]

    said = [len(row.history) for row in ROWS[:6]]
    assert dropped() == 0 and dropped(max_history_utterances=0) == sum(said)
    assert dropped(max_history_utterances=1) == sum(said) - 6 > 0


def test_a_history_that_is_never_shown_makes_no_difference(llm):
    model = DialogueModel(*llm, "text", settings=DialogueSettings(max_history_utterances=0))
    assert all(row.own == row.other for row in arm_rows(model, ROWS, with_other_histories(ROWS, KINDS), 4)[0])


def test_bytes_of_a_cached_token_are_those_of_the_cache(llm):
    model = DialogueModel(*llm, "text")
    cache = llm[0](torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert cache_bytes(model) == held / 3 and not math.isnan(held)
