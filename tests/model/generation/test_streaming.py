"""Replies token by token are those that transformers' own `generate` makes, whoever joins or leaves meanwhile."""

import pytest

from model.generation.settings import Sampling
from model.generation.streaming import Row, StreamingDecoder, readable
from model.llm import CachedPrefix, embed, greedy_replies, load_llm, token_ids

GREEDY = Sampling(temperature=0, max_new_tokens=12)
TEXTS = ("Hello.", "What a day it was, and nobody said so before.", "Why not?")
START = "You are asked: "


@pytest.fixture(scope="module")
def llm(responsive_llm_folder):
    return load_llm(responsive_llm_folder, "float32")


@pytest.fixture(scope="module")
def prompts(llm):
    model, tokenizer = llm
    return [embed(model, [token_ids(tokenizer, START + text)]) for text in TEXTS]


def texts(llm, rows) -> list[str]:
    return [readable(llm[1], row.tokens, ended=True) for row in rows]


def test_rows_that_join_and_leave_at_different_times_say_what_generate_says(llm, prompts):
    model, tokenizer = llm
    kept = CachedPrefix.of(model, token_ids(tokenizer, START))
    decoder = StreamingDecoder(model, [tokenizer.eos_token_id], kept)
    rows = [Row(prompt, GREEDY) for prompt in prompts]
    cut = Row(prompts[0], GREEDY)
    decoder.join(rows[0])
    decoder.step()
    decoder.join(cut)
    decoder.join(rows[1])
    decoder.step()
    decoder.leave([cut])
    decoder.join(rows[2])
    while decoder.step():
        pass
    assert texts(llm, rows) == greedy_replies(model, tokenizer, prompts, 12)
    assert all(row.ended in ("stop", "length") and len(row.tokens) <= 12 for row in rows)
    assert cut.ended is None and cut.tokens == rows[0].tokens[: len(cut.tokens)] and len(cut.tokens) == 2
    assert decoder.rows == []


def test_a_draw_depends_on_its_seed_and_not_on_its_neighbours(llm, prompts):
    model, tokenizer = llm

    def drawn(*seeds: int) -> list[list[int]]:
        decoder = StreamingDecoder(model, [tokenizer.eos_token_id])
        rows = [Row(prompts[1], Sampling(temperature=1.0, seed=seed, max_new_tokens=8)) for seed in seeds]
        for row in rows:
            decoder.join(row)
        while decoder.step():
            pass
        return [row.tokens for row in rows]

    (alone,) = drawn(5)
    beside = drawn(4, 5, 6)
    assert beside[1] == alone and len({tuple(tokens) for tokens in beside}) == 3


def test_an_unfinished_character_waits(llm):
    _, tokenizer = llm
    tokens = token_ids(tokenizer, "so 🙂 it is").tolist()
    shown = [readable(tokenizer, tokens[:n], ended=False) for n in range(1, len(tokens) + 1)]
    assert shown[-1] == "so 🙂 it is" and "so" in shown
    assert all("\ufffd" not in text for text in shown)
    assert all(later.startswith(text) for text, later in zip(shown, shown[1:], strict=False))
