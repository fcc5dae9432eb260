"""Whose replies stand beside the true one, and that all are scored as one forward pass each would score them."""

import pytest
import torch

from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample
from model.dialogue.likelihood import answered
from model.llm import embed, load_llm, reply_ids
from model.spoken import Spoken
from model.zoo.resolve import resolve
from storage.exchanges import Exchange
from tasks.stages.replies.likely import asked_of, likely, other_replies


def exchange(dialogue: str, turn: int, reply: str, label: str | None, dataset: str = "meld") -> Exchange:
    return Exchange(dataset, "test", dialogue, turn, "?", reply, None, label, "A", "B")


def test_others_are_of_another_dialogue_as_long_and_never_neutral():
    pool = [
        exchange("a", 0, "I am glad.", "happy"),
        exchange("a", 1, "I am sad..", "sad"),
        exchange("b", 0, "I am sad!!", "sad"),
        exchange("c", 0, "I am angry at you all.", "angry"),
        exchange("c", 1, "So very happy", "happy"),
        exchange("d", 0, "I am calm.", "neutral"),
        exchange("e", 0, "I am mad..", "angry", dataset="iemocap"),
    ]
    found = dict(zip([e.key[2:] for e in pool], other_replies(pool, pool), strict=True))
    assert found[("a", 0)] == ("I am sad!!", "So very happy")  # the sad one of its own dialogue is as long
    assert found[("c", 0)] == ("I am glad.", None)  # of "happy" the nearer one is its own dialogue's
    assert found[("d", 0)] == (None, None)
    assert found[("e", 0)] == (None, None)  # alone in its dataset


def test_likelihoods_are_those_of_a_pass_of_its_own():
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    model = DialogueModel(llm, tokenizer, "text")
    history = (Spoken("Hello there", 0), Spoken("Hi", 1))
    examples = [
        DialogueExample("x", history, "How are you?", "I am fine."),
        DialogueExample("y", (), "Well?", "   "),
        DialogueExample("z", (), "And?", "Yes, and it rained."),
    ]
    others = [("No!", "Fine."), ("No!", None), (None, "word " * 300)]
    asked = [asked_of(e.reply, pair) for e, pair in zip(examples, others, strict=True)]
    read = answered(model, examples, asked, 6)
    assert [answer.reply for answer in read] == model.reply(examples, 6)
    assert [answer.prompt_tokens for answer in read] == [len(prompt) for prompt in model.prompts(examples)]
    found = [likely(answer.nats) for answer in read]
    assert found[1] == (None, None, None, None) and found[2].opposed is None and found[2].same is None
    (prompt,) = [embed(llm, pieces) for pieces in model.pieces(examples[:1])]
    for text, told in (("I am fine.", found[0].nats), ("No!", found[0].opposed), ("Fine.", found[0].same)):
        ids = reply_ids(tokenizer, text)
        with torch.no_grad():
            both = torch.cat([prompt, llm.get_input_embeddings()(ids)])[None]
            logits = llm(inputs_embeds=both).logits[0, len(prompt) - 1 : -1].float()
        nats = -logits.log_softmax(-1).gather(1, ids[:, None]).sum().item()
        scale = 1 if text == "I am fine." else len(ids)
        assert told == pytest.approx(nats / scale, abs=1e-4)
    assert found[0].tokens == len(reply_ids(tokenizer, "I am fine."))
