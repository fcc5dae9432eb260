"""Training the extractor on made-up features: it learns what is there, in every input setting."""

from dataclasses import replace

import pytest
import torch

from model.extractor.extractor import load_extractor, new_extractor
from model.extractor.recognition import recognised
from model.extractor.rows import (
    INPUT_SETTINGS,
    EmotionExample,
    Recogniser,
    Row,
    drawn_rows,
    rows_with_other_clips,
)
from model.extractor.settings import ExtractorSettings
from model.extractor.train import train_extractor
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
    assert report["heldout_after"]["loss"] < report["heldout_before"]["loss"]
    rows = report["compared"]
    gains = [b - a for b, a in zip(rows["before"], rows["after"], strict=True)]
    assert len(gains) == 21 and sum(gains) > 0
    shown = [(other, own) for other, own in zip(rows["other_clip"], rows["after"], strict=True) if other]
    # Of the rows that show a clip, another clip's features are no help; text alone has no clip to exchange.
    assert 10 < len(shown) < 21 and sum(other - own for other, own in shown) / len(shown) > 0.1
    assert set(report["train_rows_of"]) == set(INPUT_SETTINGS)
    assert sum(report["train_rows_of"].values()) == report["history"]["rows"]
    assert load_extractor(tmp_path).audio.qformer.center[0].item() == pytest.approx(5.3, abs=0.1)


def test_one_modality_alone(llm_folder, tmp_path):
    report = train(llm_folder, tmp_path, quick(1), video=False)
    assert set(report["train_rows_of"]) == {"A", "T", "A+T"}
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
    assert {row.setting for row in rows} == {"A", "T", "A+T"}
    for setting in ("T", "A+T"):
        assert sum(row.setting == setting for row in rows) / len(rows) == pytest.approx(0.125, abs=0.04)
    both = drawn_rows(clips(70, 3), SETTINGS)
    for setting in INPUT_SETTINGS:
        share = 0.25 if "T" not in setting else 0.25 / 4
        assert sum(row.setting == setting for row in both) / len(both) == pytest.approx(share, abs=0.04)


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


def test_text_alone_is_trained_by_embeddings_that_read_nothing(llm_folder, tmp_path):
    """Where every clip has one emotion, that is all there is to learn, and text alone learns it too."""
    sad = [replace(clip, emotion="sad") for clip in clips(24, 5)]
    spoken = SETTINGS.model_copy(update={"text_share": 0.9})
    train_extractor(llm_folder, sad, sad, spoken, tmp_path)
    llm, tokenizer = load_llm(llm_folder, "float32")
    rows = [Row(clip, "T") for clip in sad[:4]]
    losses = []
    for extractor in (new_like(llm), load_extractor(tmp_path)):
        losses.append(Recogniser(llm, tokenizer, extractor.to(llm.device)).row_losses(rows, 2))
    assert len(set(losses[1])) == 1  # one sentence, and nothing else to read
    assert losses[1][0] < losses[0][0] - 0.5


def new_like(llm):
    return new_extractor(SETTINGS, 12, 16, llm.get_input_embeddings().weight)


@torch.no_grad()
def test_a_rows_loss_is_its_share_of_the_batch(llm_folder):
    llm, tokenizer = load_llm(llm_folder, "float32")
    recogniser = Recogniser(llm, tokenizer, new_like(llm).to(llm.device))
    rows = [Row(clip, setting) for clip, setting in zip(clips(7, 4), INPUT_SETTINGS, strict=True)]
    found = recogniser.row_losses(rows, 3)
    for row, loss in zip(rows, found, strict=True):
        assert recogniser.loss([row], [row])[0].item() == pytest.approx(loss, abs=1e-4)


def test_another_clip_is_of_another_dialogue_and_has_the_same_modalities():
    made = [replace(clip, dialogue=f"d{i // 2}") for i, clip in enumerate(clips(8, 1))]
    made[5] = replace(made[5], video=None)
    rows = [Row(clip, "T" if i == 1 else "A") for i, clip in enumerate(made)]
    found = rows_with_other_clips(rows)
    assert found[1] is None and found[5] is None  # no clip shown; no other with sound alone
    one = [Row(replace(row.example, dialogue="d"), "A") for row in rows[:2]]
    other, first = rows_with_other_clips(one)  # of one dialogue each has the other's
    assert other.example.audio is made[1].audio and first.example.audio is made[0].audio
    for row, other in zip(rows, found, strict=True):
        if other is not None:
            source = next(clip for clip in made if clip.audio is other.example.audio)
            assert source.dialogue != row.example.dialogue and source.video is other.example.video
            assert other.example.emotion == row.example.emotion and other.setting == row.setting


def test_figure_6_asks_every_setting_of_every_clip_and_its_controls(llm_folder, tmp_path):
    train(llm_folder, tmp_path)
    seen = clips(14, 9)
    seen[3] = replace(seen[3], video=None)
    own, other = recognised(llm_folder, tmp_path, seen, 4, "float32")
    assert [set(answers) for answers in own] == [set(INPUT_SETTINGS)] * 14
    assert own[3]["V"] is own[3]["A+V+T"] is None and own[3]["A"] in EMOTIONS and own[3]["T"] in EMOTIONS
    assert all(answers["T"] is None for answers in other) and other[0]["A+V"] in EMOTIONS
    # All are of one length, so the next one that can is heard and seen instead, and the answer is its own.
    both = [i for i in range(14) if i != 3]
    for i, following in zip(both, [*both[1:], both[-2]], strict=True):
        assert other[i]["A+V"] == own[following]["A+V"]
    assert len({answers["A+V"] for answers in own}) > 1
    assert len({answers["T"] for answers in own}) == 1  # one sentence for all
