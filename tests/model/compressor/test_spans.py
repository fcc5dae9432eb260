"""Several memories an utterance: what each covers, how many there are, and that all ways of reading agree."""

import json

import pytest
import torch

from model.compressor.compressor import MambaCompressor, new_compressor
from model.compressor.settings import CompressorSettings
from model.compressor.small import TokenPool
from model.llm import load_llm
from model.spoken import Spoken

DIALOGUE = [
    Spoken("I am so happy to see you.", 0),
    Spoken("Why?", 1),
    Spoken("It is a nice day at the beach.", 0),
]
SPAN = 3


@pytest.fixture(scope="module")
def llm(tiny_llm_folder):
    return load_llm(tiny_llm_folder, "float32")


def settings(span: int | None = SPAN, **changes) -> CompressorSettings:
    return CompressorSettings(
        weights="", hidden=32, layers=2, max_utterance_tokens=64, memory_span=span, **changes
    )


@pytest.fixture(params=["small", "checkpoint"])
def compressor(request, llm, tiny_mamba_folder):
    weights = tiny_mamba_folder if request.param == "checkpoint" else None
    made = new_compressor(settings(), llm[1], llm[0].get_input_embeddings().weight, weights)
    with torch.no_grad():
        made.projector[2].weight.normal_(std=0.1)
        made.roles.normal_(std=0.1)
    return made.eval()


def test_counts_are_the_memories_there_are(compressor):
    counts = compressor.counts(DIALOGUE)
    assert counts == [-(-len(compressor.ids(u.text)) // SPAN) for u in DIALOGUE] and max(counts) > 1
    assert [len(m) for m in compressor.compress([DIALOGUE, DIALOGUE[:1], []])] == [sum(counts), counts[0], 0]
    long = torch.arange(10, 110)  # cut at 64 tokens
    assert compressor.counts_of([long]) == [22] and len(compressor.memories([[long]])[0]) == 22


def test_turn_by_turn_equals_the_dialogue_at_once(compressor):
    lines, past, found = DIALOGUE * 4, None, []
    whole = compressor.compress([lines])[0]
    for line, count in zip(lines, compressor.counts(lines), strict=True):
        memories, past = compressor.step(line, past)
        assert memories.shape == (count, 64)
        found.append(memories)
    assert torch.allclose(torch.cat(found), whole, atol=1e-5 * float(whole.detach().abs().max()))


def test_a_memory_knows_nothing_of_later_tokens_of_its_utterance(compressor):
    ids = torch.arange(10, 10 + 3 * SPAN)
    (whole,), (begun,) = compressor.memories([[ids]]), compressor.memories([[ids[: 2 * SPAN]]])
    assert len(whole) == 3 and torch.allclose(whole[:2], begun, atol=2e-7)


def test_all_memories_of_an_utterance_tell_its_role(compressor):
    (told,), (bare,) = (
        compressor.compress([DIALOGUE]),
        compressor.compress([[Spoken(u.text) for u in DIALOGUE]]),
    )
    parts = (told - bare).split(compressor.counts(DIALOGUE))
    for utterance, part in zip(DIALOGUE, parts, strict=True):
        expected = compressor.roles[utterance.role] * compressor.spread
        assert torch.allclose(part, expected.expand_as(part), atol=2e-6)


def test_a_new_one_weighs_the_tokens_of_its_span_alone(llm):
    table = llm[0].get_input_embeddings().weight
    made = new_compressor(settings(2, pool_decay=0.5), llm[1], table, None)
    (found,) = made.memories([[torch.tensor([7, 8, 9])]])
    tokens = ((table - table.mean(0)) / table.std(0))[[7, 8, 9]]
    weight = torch.tensor([1.0, torch.exp(torch.tensor(-0.5))])
    first = weight @ tokens[:2] / weight.square().sum().sqrt()
    expected = table.mean(0) + table.std(0) * torch.stack([first, tokens[2]])
    assert torch.allclose(found, expected, atol=2e-7)


def test_a_wider_span_repeats_the_last_row_of_the_pool(llm):
    table = llm[0].get_input_embeddings().weight
    made = new_compressor(settings(4), llm[1], table, None)
    with torch.no_grad():
        made.pool.logits.normal_()
    four, ids = made.pool.logits.detach().clone(), torch.arange(20, 24)
    (before,) = made.memories([[ids]])
    made.use_span(8)
    assert made.pool.logits.shape == (8, 64) and made.pool.logits.requires_grad
    assert torch.equal(made.pool.logits[:4], four)
    assert torch.equal(made.pool.logits[4:], four[3].expand(4, -1))
    made.use_span(None)
    assert made.shape.memory_span is None and made.pool.logits.shape == (64, 64)
    assert torch.equal(made.pool.logits[8:], four[3].expand(56, -1))
    assert torch.equal(made.memories([[ids]])[0], before)  # what fits a span of four is read as it was


def test_a_span_beyond_the_longest_utterance_is_one_an_utterance(llm):
    made = new_compressor(settings(500), llm[1], llm[0].get_input_embeddings().weight, None)
    assert isinstance(made.pool, TokenPool) and len(made.pool.logits) == 64
    assert made.counts(DIALOGUE) == [1, 1, 1]


def test_span_and_prompt_are_saved_and_a_plain_folder_says_nothing_of_them(llm, tmp_path):
    table = llm[0].get_input_embeddings().weight
    made = new_compressor(settings(prompt="bare"), llm[1], table, None)
    made.save(tmp_path / "spans")
    again = MambaCompressor.load(tmp_path / "spans", llm[1], table)
    assert again.shape == made.shape and again.bare and again.shape.memory_span == SPAN
    assert torch.equal(again.compress([DIALOGUE])[0], made.compress([DIALOGUE])[0])
    new_compressor(settings(None), llm[1], table, None).save(tmp_path / "plain")
    assert not {"memory_span", "prompt"} & json.loads((tmp_path / "plain" / "config.json").read_text()).keys()


@pytest.mark.parametrize(("spans", "last"), [([8, 4], None), ([4, 4], None), ([4, 8], 8)])
def test_a_curriculum_that_does_not_widen_is_refused(spans, last):
    stages = [{"span": span, "max_tokens": 10} for span in spans]
    with pytest.raises(ValueError, match="spans must grow up to memory_span"):
        settings(last, span_curriculum=stages)
