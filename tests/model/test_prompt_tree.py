"""Prompts that grow out of each other, read once: to the tokens and likelihoods of each prompt read by itself."""

import pytest
import torch
from torch.nn import functional as F

from model.llm import CachedPrefix, embed, load_llm, token_ids
from model.prompt_tree import _check_kind, read_prompts
from model.zoo.resolve import resolve

START = "You answer what is said. history: "
LINES = ("A: Hello there, how are you?\n", "B: I am fine.\n", "A: And your sister, is she well again?\n")
SENTENCE = "sentence: So it rained all day."


@pytest.fixture(scope="module")
def llm():
    return load_llm(resolve("tiny-llm"), "float32")


@torch.no_grad()
def alone(model, prompt, replies, stop_id: int, new: int) -> tuple[list[int], list[torch.Tensor]]:
    """One token after the other and one pass a reply, with nothing kept."""
    table, tokens = model.get_input_embeddings(), []
    while len(tokens) < new and stop_id not in tokens:
        given = torch.cat([prompt, table(torch.tensor(tokens, dtype=torch.long))])
        tokens.append(int(model(inputs_embeds=given[None]).logits[0, -1].argmax()))
    scores = []
    for reply in replies:
        logits = model(inputs_embeds=torch.cat([prompt, table(reply)])[None]).logits[0, len(prompt) - 1 : -1]
        scores.append(-F.cross_entropy(logits, reply, reduction="none"))
    return tokens, scores


def test_tokens_and_likelihoods_are_those_of_each_prompt_by_itself(llm):
    """A dialogue that grows, a memory in it, a prompt twice, one that is the beginning of another, one that shares less than
    what is kept, and one without any reply."""
    model, tokenizer = llm
    kept = CachedPrefix.of(model, token_ids(tokenizer, START))
    memory = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))

    def prompt(*parts) -> torch.Tensor:
        return embed(model, [part if torch.is_tensor(part) else token_ids(tokenizer, part) for part in parts])

    prompts = [
        prompt(START, *LINES[:1], SENTENCE),
        prompt(START, *LINES[:2], SENTENCE, "What then?"),
        prompt(START, *LINES, SENTENCE),
        prompt(START, *LINES, SENTENCE),
        prompt(START, *LINES),
        prompt(START, memory, SENTENCE),
        prompt(START, memory, LINES[0], SENTENCE),
        prompt("You answer", SENTENCE),
        prompt(START),
    ]
    replies = [
        ["No!", "It did."],
        ["Yes."],
        [],
        ["Why not?", "Oh", "I see."],
        ["No!"],
        ["Well."],
        [],
        ["Hm"],
        [],
    ]
    said = [[token_ids(tokenizer, text) for text in row] for row in replies]
    # Some stop earlier than others: the stop is a token that one of them says third.
    stop_id = alone(model, prompts[1], [], -1, 3)[0][-1]
    found = read_prompts(model, kept, prompts, said, stop_id, 7)
    for read, given, row in zip(found, prompts, said, strict=True):
        tokens, scores = alone(model, given, row, stop_id, 7)
        assert read.tokens == tokens
        for got, wanted in zip(read.log_probs, scores, strict=True):
            torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)
    assert len({len(read.tokens) for read in found}) > 1
    unanswered = read_prompts(model, kept, prompts, said, stop_id, 0)
    assert [read.tokens for read in unanswered] == [[]] * len(prompts)
    for read, before in zip(unanswered, found, strict=True):
        assert all(torch.equal(*two) for two in zip(read.log_probs, before.log_probs, strict=True))


def test_what_a_dialogue_shares_is_read_once(llm):
    model, tokenizer = llm
    kept = CachedPrefix.of(model, token_ids(tokenizer, START))
    texts = ["".join(LINES[:n]) + SENTENCE for n in range(1, 4)]
    prompts = [embed(model, [token_ids(tokenizer, START), token_ids(tokenizer, text)]) for text in texts]
    read: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        read_prompts(model, kept, prompts, [[], [], []], -1, 2)
    finally:
        hook.remove()
    lines, sentence = (sum(len(token_ids(tokenizer, text)) for text in part) for part in (LINES, [SENTENCE]))
    assert read == [lines + 3 * sentence, 3]


def test_another_attention_than_the_plain_one_is_refused():
    _check_kind(9, 10, None, None)
    for given, told in (((10, 10, None, None), "sliding window of 10"), ((1, None, 30.0, None), "softcap")):
        with pytest.raises(ValueError, match=told):
            _check_kind(*given)
