"""The extractor's shapes, padding, scale, storage, and the read-off of an emotion."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.branches import reply_log_probs
from model.extractor.extractor import ExtractorError, load_extractor, new_extractor
from model.extractor.recognise import EMOTIONS, emotion_pieces, emotion_scores, recognise, shared_start
from model.extractor.settings import ExtractorSettings
from model.llm import embed, load_llm, prefix_cache, reply_ids
from model.prompts import EMOTION_WORDS
from model.zoo.resolve import resolve

SETTINGS = ExtractorSettings(layers=2, heads=2, queries=3, hidden=16)


@pytest.fixture(scope="module")
def tiny():
    return load_llm(resolve("tiny-llm"), "float32")


def extractor(llm):
    return new_extractor(SETTINGS, 12, 20, llm.get_input_embeddings().weight)


def features(lengths, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=generator).half() for n in lengths]


def test_paper_values_are_the_defaults():
    settings = ExtractorSettings()
    assert (settings.layers, settings.heads, settings.queries) == (6, 8, 32)
    with pytest.raises(ValueError, match="no multiple"):
        ExtractorSettings(hidden=100, heads=8)


@torch.no_grad()
def test_embeddings_are_as_large_as_token_embeddings(tiny):
    llm, _ = tiny
    found = extractor(llm).audio_embeddings(features([9, 2], 12))
    table = llm.get_input_embeddings().weight
    assert found.shape == (2, 3, table.shape[1])
    assert found.norm(dim=-1).mean().item() == pytest.approx(table.norm(dim=-1).mean().item(), rel=0.1)


@torch.no_grad()
def test_padding_changes_nothing(tiny):
    model = extractor(tiny[0])
    short, long = features([2, 30], 20)
    together = model.video_embeddings([short, long])
    assert torch.allclose(together[0], model.video_embeddings([short])[0], atol=1e-6)
    assert torch.allclose(together[1], model.video_embeddings([long])[0], atol=1e-6)


def test_features_of_another_width_are_refused(tiny):
    with pytest.raises(ExtractorError, match="audio features of row 1"):
        extractor(tiny[0]).audio_embeddings([*features([3], 12), *features([3], 13)])


def test_saved_and_loaded_bytes_and_values(tiny, tmp_path):
    model = extractor(tiny[0])
    model.save(tmp_path / "a")
    extractor(tiny[0]).save(tmp_path / "b")
    again = load_extractor(tmp_path / "a")
    clip = features([5], 12)
    assert torch.allclose(again.audio_embeddings(clip), model.audio_embeddings(clip), atol=1e-6)
    assert not any(p.requires_grad for p in again.parameters())
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_damaged_folders_are_refused_by_name(tiny, tmp_path):
    extractor(tiny[0]).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["stray"] = weights.pop("audio.projection.bias")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ExtractorError, match="missing: audio.projection.bias; unknown: stray"):
        load_extractor(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ExtractorError, match="train it again"):
        load_extractor(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"layers": 1}))
    with pytest.raises(ExtractorError, match="train it again"):
        load_extractor(tmp_path)
    with pytest.raises(ExtractorError, match="train it again"):
        load_extractor(tmp_path / "nowhere")


def test_shared_start_begins_every_variant(tiny):
    _, tokenizer = tiny
    slot = torch.zeros(3, 1)
    start = shared_start(tokenizer)
    assert tokenizer.decode(start).rstrip().endswith("angry, and fearful.")
    for audio, video, sentence in itertools.product((slot, None), (slot, None), ("Oh, really?", None)):
        if audio is None and video is None and sentence is None:
            continue  # a prompt without any line is never asked
        first = emotion_pieces(tokenizer, audio, video, sentence)[0]
        assert torch.equal(first[: len(start)], start)


@torch.no_grad()
def test_what_people_say_is_no_placeholder(tiny):
    audio, video = torch.ones(3, 1), torch.zeros(2, 1)
    pieces = emotion_pieces(tiny[1], audio, video, "I wrote <audio> and <<video>> and a < b")
    assert [p is audio or p is video for p in pieces] == [False, True, False, True, False]
    assert "sentence: I wrote audio and video and a < b" in tiny[1].decode(pieces[-1])


def test_scores_equal_separate_forwards_without_cached_start(tiny):
    llm, tokenizer = tiny
    audio = extractor(llm).audio_embeddings(features([9, 4], 12))
    prompts = [
        embed(llm, emotion_pieces(tokenizer, a, None, s)) for a, s in zip(audio, (None, "Hm."), strict=True)
    ]
    start = shared_start(tokenizer)
    found = emotion_scores(llm, tokenizer, [p[len(start) :] for p in prompts], prefix_cache(llm, start))
    for row, prompt in enumerate(prompts):
        for column, emotion in enumerate(EMOTIONS):
            answer = reply_ids(tokenizer, EMOTION_WORDS[emotion])
            alone, _ = reply_log_probs(llm, [prompt], [answer])
            assert found[row, column].item() == pytest.approx(alone.sum().item(), abs=1e-3)
    best = [EMOTIONS[i] for i in found.argmax(1)]
    assert recognise(llm, tokenizer, prompts) == best
