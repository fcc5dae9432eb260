"""Metrics against hand calculation and upstream bert-score."""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest

from model.metrics.bertscore import bert_score, encode_sentence, signature
from model.metrics.dist import dist_corpus, dist_per_reply, words
from model.metrics.emotion_score import emotion_contrasts, emotion_scores
from model.zoo.errors import ZooError
from model.zoo.resolve import is_cached, resolve

GOLDEN = json.loads(Path(__file__).with_name("bertscore.json").read_text(encoding="utf-8"))
CANDIDATES = ["I am so happy to see you.", "No.", "What a lovely, lovely day", "Where were you at 10:45?"]
REFERENCES = [
    "Great to see you again!",
    "Yes, of course.",
    "It rains",
    "I was in the kitchen, why do you ask?",
]


@pytest.fixture(scope="module")
def minilm():
    try:
        return resolve("minilm-l6")
    except ZooError as error:
        if is_cached("minilm-l6"):
            raise
        pytest.skip(str(error))


def test_words_are_lower_cased_runs_with_inner_apostrophes():
    assert words("Don't stop -- DON’T, 'tis Zoë's 2nd_try!") == [
        "don't",
        "stop",
        "don't",
        "tis",
        "zoë's",
        "2nd",
        "try",
    ]


def test_dist1_by_hand():
    replies = ["No, no, no!", "yes", "...", "yes I do, I do"]
    assert dist_per_reply(replies).tolist() == pytest.approx([1 / 3, 1.0, 0.0, 3 / 5])
    # no no no yes yes I do I do: 4 distinct of 9.
    assert dist_corpus(replies) == pytest.approx(4 / 9)
    assert dist_corpus([]) == 0.0


class SignScorer:
    """Features known by hand: happy, sad and mixed."""

    vectors = {"happy": [1.0, 0.0], "sad": [-1.0, 0.0], "mixed": [0.6, 0.8]}

    def features(self, texts):
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)


def test_emotion_scores_by_hand():
    found = emotion_scores(["happy", "sad", "mixed"], ["mixed", "happy", "mixed"], SignScorer())
    assert found.tolist() == pytest.approx([0.6, -1.0, 1.0], abs=1e-6)
    assert emotion_scores([], [], SignScorer()).shape == (0,)
    with pytest.raises(ValueError, match="1 replies but 2 references"):
        emotion_scores(["happy"], ["sad", "sad"], SignScorer())


def test_emotion_contrasts_by_hand():
    """Own cosine less the mean of those with the other references of the dataset."""
    said, true = ["happy", "mixed", "happy"], ["happy", "sad", "mixed"]
    # happy: 1 - (-1 + 0.6) / 2; mixed: -0.6 - (0.6 + 1) / 2; happy: 0.6 - (1 - 1) / 2.
    assert emotion_contrasts(said, true, ["a"] * 3, SignScorer()).tolist() == pytest.approx([1.2, -1.4, 0.6])
    apart = emotion_contrasts(said, true, ["a", "b", "a"], SignScorer())
    assert apart[[0, 2]].tolist() == pytest.approx([1 - 0.6, 0.6 - 1]) and np.isnan(apart[1])
    assert emotion_contrasts([], [], [], SignScorer()).shape == (0,)


def test_one_reply_for_everything_has_no_contrast_however_usual_its_emotion():
    true = ["happy", "happy", "happy", "mixed", "sad"]
    assert emotion_scores(["happy"] * 5, true, SignScorer()).mean() == pytest.approx(0.52)
    assert emotion_contrasts(["happy"] * 5, true, ["a"] * 5, SignScorer()).mean() == pytest.approx(
        0, abs=1e-6
    )


def test_bertscore_equals_upstream_where_upstream_works(minilm):
    from bert_score import BERTScorer

    ours = bert_score(CANDIDATES, REFERENCES, minilm, num_layers=6)
    upstream = BERTScorer(model_type=str(minilm), num_layers=6, device="cpu").score(CANDIDATES, REFERENCES)
    for mine, theirs in zip(ours, upstream, strict=True):
        assert mine.tolist() == pytest.approx(theirs.tolist(), abs=1e-6)


@pytest.mark.parametrize("layer", GOLDEN["layers"])
def test_bertscore_is_what_the_package_gave_under_the_transformers_it_was_written_for(minilm, layer):
    """Kept values, so that a change of transformers here does not move both sides; emoji, an empty reply, a long one."""
    ours = bert_score(GOLDEN["replies"], GOLDEN["references"], minilm, num_layers=int(layer))
    for name, values in GOLDEN["layers"][layer].items():
        assert getattr(ours, name).tolist() == pytest.approx(values, abs=5e-6), name


def test_bertscore_of_same_empty_and_long_texts(minilm, capsys):
    candidates = ["the same words", "", "something", " ", "word " * 900]
    references = ["the same words", "something", "", "", "word " * 900]
    precision, recall, f1 = bert_score(candidates, references, minilm, num_layers=6)
    assert f1[[0, 4]].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert f1[1:4].tolist() == precision[1:4].tolist() == recall[1:4].tolist() == [0.0, 0.0, 0.0]
    assert not np.isnan(f1).any()
    assert "Empty" not in capsys.readouterr().err


def test_the_signature_is_written_as_bert_score_writes_its_hash(monkeypatch):
    """The hash in its README, of the versions there."""
    there = {"bert-score": "0.3.0", "transformers": "2.3.0"}
    monkeypatch.setattr(importlib.metadata, "version", there.__getitem__)
    assert signature("roberta-large", 17) == "roberta-large_L17_no-idf_version=0.3.0(hug_trans=2.3.0)"


def test_bertscore_leaves_the_package_as_it_was(minilm):
    import bert_score.utils as upstream

    before = upstream.sent_encode
    bert_score(["a"], ["b"], minilm, num_layers=6)
    assert upstream.sent_encode is before


def test_bertscore_needs_pairs(minilm):
    with pytest.raises(ValueError, match="2 candidates but 1 references"):
        bert_score(["a", "b"], ["a"], minilm, num_layers=6)
    assert [part.shape for part in bert_score([], [], minilm, num_layers=6)] == [(0,)] * 3


def test_roberta_texts_are_read_as_after_a_space():
    from transformers import RobertaTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "h", "i", "Ġ", "hi", "Ġhi"]
    tokenizer = RobertaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[("h", "i"), ("Ġ", "hi")],
    )
    assert tokenizer.convert_ids_to_tokens(encode_sentence(tokenizer, "hi hi")) == [
        "<s>",
        "Ġhi",
        "Ġhi",
        "</s>",
    ]
    assert tokenizer.convert_ids_to_tokens(encode_sentence(tokenizer, "  ")) == ["<s>", "</s>"]
    # What the package would do without the change under transformers 5.
    assert tokenizer.convert_ids_to_tokens(tokenizer("hi hi")["input_ids"]) == ["<s>", "hi", "Ġhi", "</s>"]


def test_a_text_is_cut_at_512_tokens_or_where_its_model_ends():
    class Tokenizer:
        def __init__(self, model_max_length):
            self.model_max_length = model_max_length

        def __call__(self, sentence, truncation, max_length):
            return {"input_ids": [sentence, truncation, max_length]}

    assert encode_sentence(Tokenizer(10**30), " hi ") == ["hi", True, 512]
    assert encode_sentence(Tokenizer(256), "hi") == ["hi", True, 256]
