"""Table 8's restorations by the shipped compressor, which reads with an adapter of its own."""

import pytest

from model.compressor.reader import as_trained
from model.metrics.overlap import bleu, bleu_counts
from model.spoken import alone
from model.zoo.resolve import is_cached, resolve
from tasks.stages.reconstruction.restore import _restored

LLM = "smollm2-135m-instruct"
SAID = ("No, thank you.", "I can't believe you did that!", "How are you?", "I love it so much!")


@pytest.mark.slow
def test_what_was_said_comes_back_from_its_own_memories_and_not_from_anothers():
    assert is_cached(LLM), "empamba weights pull --profile cpu"
    task, encoder = as_trained(resolve(LLM), resolve("memory-smollm2-135m"), "float32")
    memories = encoder.compress(alone(SAID))
    sizes = [len(task.target([text])) for text in SAID]
    own = _restored(task, memories, sizes, 2)
    other = _restored(task, [*memories[1:], memories[0]], sizes, 2)
    score = bleu(1)
    assert score(bleu_counts(own, SAID).sum(0)) > 0.6 > 0.3 > score(bleu_counts(other, SAID).sum(0)), (
        own,
        other,
    )
