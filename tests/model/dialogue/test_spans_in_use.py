"""Several memories an utterance in the dialogue model: all of an utterance's stand in the prompt, or none."""

import pytest
import torch

from model.compressor.compressor import new_compressor
from model.compressor.settings import CompressorSettings
from model.dialogue.dialogue import WINDOW_MARGIN, DialogueModel
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import Exchanges
from model.llm import load_llm
from model.settings import TrainingSettings
from model.spoken import Spoken

HISTORY = (
    Spoken("I am so happy to see you.", 0),
    Spoken("Why?", 1),
    Spoken("It is a nice day at the beach.", 0),
)
EXAMPLE = DialogueExample("k", HISTORY, "And you?", "So am I.")


@pytest.fixture(scope="module")
def parts(tiny_llm_folder):
    llm, tokenizer = load_llm(tiny_llm_folder, "float32")
    small = CompressorSettings(
        weights="", hidden=16, layers=1, max_utterance_tokens=64, memory_span=3, prompt="bare"
    )
    compressor = new_compressor(small, tokenizer, llm.get_input_embeddings().weight, None)
    return llm, tokenizer, compressor.requires_grad_(False).eval()


def model(parts, **changes) -> DialogueModel:
    training = TrainingSettings(batch_size=2, dtype="float32", threads=1)
    return DialogueModel(*parts[:2], "memory", parts[2], None, DialogueSettings(training=training, **changes))


def embeddings(pieces) -> torch.Tensor:
    (found,) = [piece for piece in pieces if piece.is_floating_point()]
    return found


def test_histories_that_begin_alike_share_their_memories(parts):
    found = model(parts).memories([HISTORY, HISTORY[:2]])
    counts = parts[2].counts(HISTORY)
    assert [len(m) for m in found[HISTORY]] == counts and max(counts) > 1
    (whole,) = parts[2].compress([HISTORY])
    assert torch.equal(torch.cat(found[HISTORY]), whole)
    assert torch.equal(torch.cat(found[HISTORY[:2]]), whole[: sum(counts[:2])])


def test_the_prompt_holds_all_memories_of_the_utterances_it_holds(parts):
    counts, (whole,) = parts[2].counts(HISTORY), parts[2].compress([HISTORY])
    for kept in (1, 2, 3):
        limited = model(parts, max_history_utterances=kept)
        (pieces,) = limited.pieces([EXAMPLE])
        assert torch.equal(embeddings(pieces), whole[-sum(counts[-kept:]) :])
        assert limited.counts["dropped_utterances"] == 3 - kept


def test_an_utterance_whose_memories_have_no_room_together_is_dropped(parts):
    """One more token of room than the last two utterances need is not enough for a part of the first."""
    counts, whole = parts[2].counts(HISTORY), model(parts)
    assert counts[0] > 2
    (pieces,), (bare,) = whole.pieces([EXAMPLE]), whole.pieces([EXAMPLE.without_history()])
    beyond = sum(map(len, pieces)) - sum(map(len, bare)) - sum(counts)  # the words around them
    assert beyond > 0
    config, window = parts[0].config, parts[0].config.max_position_embeddings
    try:
        reply = 64
        config.max_position_embeddings = sum(map(len, bare)) + reply + WINDOW_MARGIN + sum(counts[1:]) + 1
        (pieces,) = whole.pieces([EXAMPLE], reply=reply)
    finally:
        config.max_position_embeddings = window
    assert len(embeddings(pieces)) == sum(counts[1:])


def test_what_is_reconstructed_is_told_by_its_own_memories_in_the_compressors_form(parts):
    exchanges = Exchanges(model(parts, max_reconstruction_tokens=12), [EXAMPLE])
    places, target = exchanges.targets[HISTORY]
    assert 0 < len(places) < 3 and exchanges.task.bare
    memories = torch.cat([exchanges.memories[HISTORY][place] for place in places])
    expected = -exchanges.task.log_probs([memories], [target])[0].mean()
    assert exchanges.reconstruction_loss([0]) == pytest.approx(expected.item(), abs=1e-5)
    counts = parts[2].counts(HISTORY)
    read = exchanges.prompt_sizes[0] + len(exchanges.replies[0])
    told = exchanges.task.overhead + sum(counts[place] for place in places) + len(target)
    assert exchanges.lengths == [read + told]
