"""Training the extractor on made-up features: it learns what is there, in every input setting."""

import pytest
import torch

from model.extractor.extractor import load_extractor
from model.extractor.settings import ExtractorSettings
from model.extractor.train import EmotionExample, drawn_rows, train_extractor
from model.llm import load_llm
from model.prompts import EMOTION_WORDS
from model.settings import TrainingSettings
from model.zoo.resolve import resolve

EMOTIONS = list(EMOTION_WORDS)
SETTINGS = ExtractorSettings(
    layers=1,
    heads=2,
    queries=2,
    hidden=32,
    training=TrainingSettings(learning_rate=3e-3, batch_size=8, epochs=16, dtype="float32", evaluations=2),
)


def clips(count: int, seed: int, audio: bool = True, video: bool = True) -> list[EmotionExample]:
    """Features whose mean tells the emotion, around one large mean common to all."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        emotion = i % len(EMOTIONS)

        def made(width, emotion=emotion):
            states = torch.randn(6, width, generator=generator) * 0.3 + 5.0
            states[:, emotion] += 2.0
            return states.half()

        rows.append(
            EmotionExample(
                f"{seed}/{i}", made(12) if audio else None, made(16) if video else None,
                "So it goes.", EMOTIONS[emotion], ("one", "two")[i % 2],
            )
        )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory):
    """The tiny LLM with larger weights: as it comes, what it says hardly depends on what it reads."""
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.mul_(8.0 if parameter.ndim == 2 else 1.0)
    folder = tmp_path_factory.mktemp("llm")
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(llm_folder, out, settings=SETTINGS, **modalities):
    return train_extractor(llm_folder, clips(56, 1, **modalities), clips(21, 2, **modalities), settings, out)


def quick(epochs: int) -> ExtractorSettings:
    return SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"epochs": epochs})})


def test_it_learns_and_reports_every_input_setting(llm_folder, tmp_path):
    report = train(llm_folder, tmp_path)
    assert report["learned"]
    assert set(report["accuracy"]) == {"A", "V", "A+V", "T", "A+T", "V+T", "A+V+T"}
    assert report["accuracy"]["A+V"]["accuracy"] > 0.3
    assert report["accuracy"]["T"]["accuracy"] == pytest.approx(1 / 7)  # one sentence for all
    assert report["accuracy"]["A"]["majority"] == pytest.approx(1 / 7)
    assert [report["accuracy_by_dataset"][d]["A"]["clips"] for d in ("one", "two")] == [11, 10]
    assert load_extractor(tmp_path).audio.qformer.center[0].item() == pytest.approx(5.3, abs=0.1)


def test_one_modality_alone(llm_folder, tmp_path):
    report = train(llm_folder, tmp_path, quick(1), video=False)
    assert set(report["accuracy"]) == {"A", "T", "A+T"}
    assert load_extractor(tmp_path).shape.video_width == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU adds up in any order; bytes are a CPU's promise")
def test_same_seed_same_bytes(llm_folder, tmp_path):
    for name in ("a", "b"):
        train(llm_folder, tmp_path / name, quick(1))
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["card.json", "config.json", "model.safetensors", "report.json"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_each_epoch_draws_each_clip_once_in_a_setting_it_has():
    rows = drawn_rows(clips(70, 3, video=False), SETTINGS)
    assert len(rows) == 16 * 70
    assert {row.setting for row in rows} == {"A", "A+T"}
    assert sum(row.setting == "A+T" for row in rows) / len(rows) == pytest.approx(0.25, abs=0.06)
    both = drawn_rows(clips(70, 3), SETTINGS)
    for setting in ("A", "V", "A+V"):
        assert sum(row.setting == setting for row in both) / len(both) == pytest.approx(0.25, abs=0.06)


def test_bad_clips_are_refused_by_key(tmp_path):
    good = clips(7, 1)
    calm = EmotionExample("k1", *([good[0].audio] * 2), "Hm.", "calm", "one")
    with pytest.raises(ValueError, match="k1 has emotion 'calm'"):
        train_extractor(resolve("tiny-llm"), [calm], good, SETTINGS, tmp_path)
    bare = EmotionExample("k2", None, None, "Hm.", "sad", "one")
    with pytest.raises(ValueError, match="k2 has neither"):
        train_extractor(resolve("tiny-llm"), good, [bare], SETTINGS, tmp_path)
    silent = EmotionExample("k3", good[0].audio[:0], None, "Hm.", "sad", "one")
    with pytest.raises(ValueError, match="the audio of k3 has length zero"):
        train_extractor(resolve("tiny-llm"), [silent], good, SETTINGS, tmp_path)
    with pytest.raises(ValueError, match="no heldout clips"):
        train_extractor(resolve("tiny-llm"), good, [], SETTINGS, tmp_path)


def test_training_goes_on_from_an_extractor(llm_folder, tmp_path):
    first = train(llm_folder, tmp_path / "first")
    again = train_extractor(
        llm_folder, clips(56, 1), clips(21, 2), SETTINGS, tmp_path / "again", start=tmp_path / "first"
    )
    assert again["heldout_before"]["loss"] == pytest.approx(first["heldout_after"]["loss"], abs=1e-5)
