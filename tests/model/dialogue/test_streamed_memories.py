"""Memories turn by turn are those of the whole dialogue, at a state that does not grow."""

import pytest
import torch

from model.compressor.compressor import MambaCompressor
from model.dialogue.mean_memory import MeanMemory
from model.dialogue.streamed_memories import StreamedMemories
from model.llm import load_llm
from model.spoken import Spoken

DIALOGUE = [Spoken(f"Sentence number {n} is said.", n % 2) for n in range(9)]


@pytest.fixture(params=["mamba", "spans", "mean"])
def compressor(request, responsive_llm_folder, compressor_folder):
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    table = llm.get_input_embeddings().weight
    if request.param == "mean":
        return MeanMemory(tokenizer, table)
    made = MambaCompressor.load(compressor_folder, tokenizer, table)
    if request.param == "spans":
        made.use_span(3)
    return made


def test_turn_by_turn_is_the_whole(compressor):
    streamed = StreamedMemories(compressor, kept=4)
    sizes = set()
    for said in range(1, len(DIALOGUE) + 1):
        memories = streamed.read(DIALOGUE[:said])
        sizes.add(streamed.state_bytes)
    assert streamed.heard == 9 and len(memories) == 4 and len(sizes) == 1
    with torch.no_grad():
        (whole,) = compressor.compress([DIALOGUE])
    wanted = whole.split(compressor.counts(DIALOGUE))[-4:]
    for found, want in zip(memories, wanted, strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def test_a_branch_goes_its_own_way(compressor):
    streamed = StreamedMemories(compressor, kept=9)
    before = streamed.read(DIALOGUE[:3])
    other = streamed.branch()
    other.read([*DIALOGUE[:3], Spoken("Something else altogether.", 1)])
    assert streamed.read(DIALOGUE[:3]) == before and (streamed.heard, other.heard) == (3, 4)
