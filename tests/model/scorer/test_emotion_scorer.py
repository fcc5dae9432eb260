"""The scorer: features of the layer GoEmotions trained, order and batches without influence, real separation."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, RobertaForSequenceClassification

from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.network import EmotionNetwork, load_encoder
from model.scorer.scorer import EmotionScorer, cosine
from model.scorer.settings import EmotionNetworkSettings, ScorerSettings
from model.scorer.train import pooled_layers
from model.zoo.errors import ZooError
from model.zoo.resolve import is_cached, resolve

MELD = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "meld" / "dev_sent_emo.csv"
TEXTS = ["I love this!", "Leave me alone, you idiot.", "Okay.", "I love this!", "That is so sad, I am sorry."]
SHIPPED = ["goemotions-minilm", "goemotions-minilm-b", "goemotions-smollm2"]


def load(name):
    try:
        resolve("minilm-l6")
    except ZooError as error:
        if is_cached("minilm-l6"):
            raise
        pytest.skip(str(error))
    return EmotionScorer.load(name)


@pytest.fixture(scope="module")
def scorer():
    return load("goemotions-minilm")


def test_it_computes_in_the_dtype_of_its_settings(scorer):
    half = EmotionScorer.load("goemotions-minilm", ScorerSettings(dtype="bfloat16"))
    found, exact = half.features(TEXTS), scorer.features(TEXTS)
    assert found.dtype == np.float32 and not np.array_equal(found, exact)
    assert (np.sum(found * exact, axis=1) > 0.98).all()
    assert np.allclose(half.probabilities(TEXTS), scorer.probabilities(TEXTS), atol=0.05)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_scorers_know_plain_emotions(name):
    expected = {
        "Thank you so much for your help!": "gratitude",
        "I am so sorry, please forgive me.": "remorse",
        "This is hilarious, lol": "amusement",
        "I love you so much": "love",
        "I am terrified of the dark": "fear",
    }
    found = load(name).probabilities(list(expected))
    assert [GOEMOTIONS_LABELS[index] for index in found.argmax(1)] == list(expected.values())


def test_features_are_unit_vectors_in_the_order_given(scorer):
    features = scorer.features(TEXTS)
    assert features.dtype == np.float32 and features.shape == (5, 28)
    assert np.linalg.norm(features, axis=1).tolist() == pytest.approx([1] * 5, abs=1e-5)
    assert np.array_equal(features[0], features[3])
    np.testing.assert_allclose(scorer.features(TEXTS[::-1]), features[::-1], atol=1e-5)
    assert scorer.features([]).shape == (0, 28) and scorer.probabilities([]).shape == (0, 28)


def test_batch_size_and_empty_texts_do_not_matter(scorer):
    alone = EmotionScorer(scorer.backend, ScorerSettings(batch_size=1))
    texts = [*TEXTS, "", "word " * 400]
    np.testing.assert_allclose(alone.features(texts), scorer.features(texts), atol=1e-4)
    assert np.isfinite(scorer.features(texts)).all()


def test_each_distinct_text_is_computed_once(scorer, monkeypatch):
    seen = []
    real = scorer.backend.hidden_states
    monkeypatch.setattr(
        scorer.backend, "hidden_states", lambda ids, mask: (seen.append(len(ids)), real(ids, mask))[1]
    )
    scorer.features(["a", "b", "a", "a"])
    assert sum(seen) == 2


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("part", ["dense.", "labels.", "adapter."])
def test_rerandomising_what_goemotions_trained_moves_the_cosines(name, part, tmp_path):
    """Other values of the same size in one trained part: the cosines are no longer those of the shipped scorer."""
    before = load(name).features(TEXTS)
    folder = resolve(name)
    state = load_file(folder / "model.safetensors")
    if not any(tensor.startswith(part) for tensor in state):
        pytest.skip(f"{name} has no part {part}")
    generator = torch.Generator().manual_seed(0)
    for tensor, values in state.items():
        if tensor.startswith(part):
            other = torch.randn(values.shape, generator=generator) * values.float().std(correction=0)
            state[tensor] = (other + values.float().mean()).half()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    after = EmotionScorer.load(str(tmp_path)).features(TEXTS)
    # All pairs of texts (features are unit vectors).
    assert np.abs(before @ before.T - after @ after.T).max() > 0.1


def test_roberta_feature_is_the_input_of_the_label_projection(tmp_path):
    folder = resolve("tiny-roberta", tmp_path)
    model = RobertaForSequenceClassification.from_pretrained(folder).eval()
    caught = []
    model.classifier.out_proj.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])
    expected = torch.nn.functional.normalize(torch.cat(caught), dim=1)
    scorer = EmotionScorer.load(str(folder))
    np.testing.assert_allclose(scorer.features(TEXTS), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(scorer.probabilities(TEXTS), logits.sigmoid().numpy(), atol=1e-5)


def test_roberta_columns_follow_label_names(tmp_path):
    folder = resolve("tiny-roberta", tmp_path / "cache")
    model = RobertaForSequenceClassification.from_pretrained(folder)
    model.config.id2label = dict(enumerate(reversed(GOEMOTIONS_LABELS)))
    model.save_pretrained(tmp_path / "turned")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "turned")
    turned = EmotionScorer.load(str(tmp_path / "turned")).probabilities(TEXTS)
    plain = EmotionScorer.load(str(folder)).probabilities(TEXTS)
    np.testing.assert_allclose(turned, plain[:, ::-1], atol=1e-6)


def test_other_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'llama'"):
        EmotionScorer.load(str(resolve("tiny-llm", tmp_path)))


def test_cosine_by_hand():
    first, second = (
        np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]),
        np.array([[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0]]),
    )
    assert cosine(first, second).tolist() == pytest.approx([0.96, -1.0, 0.0])
    with pytest.raises(ValueError, match="differ"):
        cosine(first, second[:2])


def area_under_roc(found, same):
    """From ranks (Mann and Whitney)."""
    ranks = found.argsort().argsort() + 1
    return (ranks[same].sum() - same.sum() * (same.sum() + 1) / 2) / (same.sum() * (~same).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.skipif(not MELD.is_file(), reason="MELD's texts are not beside the repository")
def test_same_emotion_replies_are_told_better_than_by_the_untrained_encoder(name):
    with open(MELD, encoding="utf-8", newline="") as lines:
        rows = [(row["Utterance"], row["Emotion"]) for row in csv.DictReader(lines)]
    texts, emotions = [text for text, _ in rows], np.array([emotion for _, emotion in rows])
    scorer = load(name)
    first, second = np.random.default_rng(0).integers(0, len(rows), (2, 40_000))
    first, second = first[first != second], second[first != second]
    same = emotions[first] == emotions[second]

    def area(features):
        return area_under_roc(cosine(features[first], features[second]), same)

    # MiniLM alone: the mean of its last layer, which is how it is meant to be used.
    plain = EmotionNetwork(load_encoder("minilm-l6"), EmotionNetworkSettings(layers=(6,)))
    pooled = pooled_layers(plain, texts, max_tokens=128).float().numpy()
    assert area(scorer.features(texts)) > area(pooled) + 0.03
