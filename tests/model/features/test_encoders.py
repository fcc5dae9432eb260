"""Encoders against log-mels by librosa, the CLIP processor of transformers, and averages by hand."""

import json

import librosa
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionModel, WhisperForConditionalGeneration

from model.features.encoders import AudioEncoder, FeatureError, load_video_encoder
from model.features.settings import FeatureSettings
from model.zoo.efficientnet import EfficientNetLite0
from model.zoo.resolve import resolve


@pytest.fixture(scope="module")
def audio():
    return AudioEncoder.load(resolve("tiny-whisper"))


@pytest.fixture(scope="module")
def efficientnet_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("efficientnet")
    torch.manual_seed(0)
    save_file(EfficientNetLite0().state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "efficientnet-lite0"}))
    return folder


def chirp(samples: int) -> np.ndarray:
    time = np.arange(samples) / 16_000
    noise = np.random.default_rng(0).normal(0, 0.01, samples)  # so that no band is at the floor of fp32
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time) + noise).astype(np.float32)


def frames(count: int = 8, side: int = 224) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(("samples", "states"), [(1, 1), (320, 1), (321, 2), (16_000, 50), (480_000, 1500)])
def test_one_state_each_twenty_milliseconds(audio, samples, states):
    found = audio.states(chirp(samples))
    assert found.shape == (states, audio.width) and found.dtype == torch.float16


def test_states_equal_the_encoder_on_log_mels_by_librosa(audio):
    samples = chirp(24_000)
    window = np.pad(samples, (0, 480_000 - len(samples)))
    power = (
        np.abs(librosa.stft(window, n_fft=400, hop_length=160, window="hann", pad_mode="reflect")[:, :3000])
        ** 2
    )
    mel = np.log10(np.maximum(librosa.filters.mel(sr=16_000, n_fft=400, n_mels=80) @ power, 1e-10))
    mel = (np.maximum(mel, mel.max() - 8) + 4) / 4
    whisper = WhisperForConditionalGeneration.from_pretrained(resolve("tiny-whisper")).eval()
    with torch.no_grad():
        hidden = whisper.model.encoder(torch.from_numpy(mel[None]).float()).last_hidden_state[0, :75]
    assert torch.allclose(audio.states(samples).float(), hidden, atol=5e-3)


@pytest.fixture(scope="module")
def five():
    return AudioEncoder.load(resolve("tiny-whisper"), window_s=5)


@pytest.mark.parametrize(("seconds", "window"), [(1.5, 250), (5, 250), (5.001, 500), (29, 1500)])
def test_a_shorter_window_is_the_first_part_of_the_networks_own(five, seconds, window):
    """The same mels, and places from the first on; transformers' encoder cut to so many places is the judge."""
    samples = chirp(int(16_000 * seconds))
    mels = five.mel(samples, sampling_rate=16_000, return_tensors="pt").input_features[:, :, : 2 * window]
    encoder = WhisperForConditionalGeneration.from_pretrained(resolve("tiny-whisper")).eval().model.encoder
    encoder.config.max_source_positions = window
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight[:window])
    with torch.no_grad():
        hidden = encoder(mels).last_hidden_state[0]
    found = five.states(samples)
    assert len(found) == -(-len(samples) // 320) and torch.equal(found, hidden[: len(found)].half())


def test_clips_of_different_windows_go_through_together_in_their_order(five):
    sounds = [chirp(96_000), chirp(400), chirp(160_000), chirp(30_000)]
    for alone, together in zip(map(five.states, sounds), five.states_of(sounds), strict=True):
        assert alone.shape == together.shape
        assert torch.allclose(alone.float(), together.float(), atol=2e-3)


def test_the_whole_window_is_transformers_own_forward(audio):
    samples = chirp(24_000)
    mels = audio.mel(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        hidden = audio.encoder(mels).last_hidden_state[0, :75]
    assert torch.equal(audio.states(samples), hidden.half())


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(480_001, np.float32),
        np.zeros((2, 9), np.float32),
        np.array([np.nan]),
    ],
)
def test_audio_that_cannot_be_encoded_is_refused(audio, samples):
    with pytest.raises(FeatureError):
        audio.states(samples)


def test_clip_tokens_equal_transformers_own_preprocessing():
    processors = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    pictures = frames(3)
    tower = CLIPVisionModel.from_pretrained(resolve("tiny-vision")).eval()
    processor = processors.CLIPImageProcessorPil.from_pretrained(resolve("tiny-vision"))
    with torch.no_grad():
        pixels = processor(list(pictures), return_tensors="pt").pixel_values
        wanted = tower(pixel_values=pixels).last_hidden_state.flatten(0, 1)
    found = load_video_encoder(resolve("tiny-vision")).states(pictures)
    assert found.shape == (3 * 50, 32)
    assert torch.allclose(found.float(), wanted, atol=5e-3)


def test_clip_keeps_the_class_token_beside_averages():
    whole = load_video_encoder(resolve("tiny-vision")).states(frames(2)).float().view(2, 50, 32)
    averaged = load_video_encoder(resolve("tiny-vision"), 1).states(frames(2)).float().view(2, 2, 32)
    assert torch.equal(averaged[:, 0], whole[:, 0])
    assert torch.allclose(averaged[:, 1], whole[:, 1:].mean(1), atol=5e-3)


def test_efficientnet_tokens_and_their_averages(efficientnet_folder):
    whole = load_video_encoder(efficientnet_folder)
    tokens = whole.states(frames(2)).float()
    assert tokens.shape == (2 * 49, whole.width) and whole.width == 1280
    ninth = load_video_encoder(efficientnet_folder, 9).states(frames(2)).float().view(2, 9, 1280)
    grid = tokens.view(2, 7, 7, 1280)
    assert torch.allclose(ninth[:, 0], grid[:, 0:3, 0:3].mean((1, 2)), atol=2e-3)
    assert torch.allclose(ninth[:, 5], grid[:, 2:5, 4:7].mean((1, 2)), atol=2e-3)


def test_frames_stand_in_order_and_any_size_is_read():
    encoder = load_video_encoder(resolve("tiny-vision"))
    pictures = frames(3)
    together = encoder.states(pictures)
    assert torch.allclose(encoder.states(pictures[1:2]).float(), together[50:100].float(), atol=2e-3)
    assert encoder.states(frames(1, 300)).shape == (50, 32)


def test_clips_that_are_encoded_together_are_what_they_are_alone(audio):
    """In a batch, and in the dtype that a profile may say."""
    sounds = [chirp(16_000), chirp(400), chirp(30_000)]
    for alone, together in zip(map(audio.states, sounds), audio.states_of(sounds), strict=True):
        assert torch.allclose(alone.float(), together.float(), atol=2e-3)
    films = [frames(3), frames(1, 300), frames(2)]
    encoder = load_video_encoder(resolve("tiny-vision"))
    assert [len(states) for states in encoder.states_of(films)] == [150, 50, 100]
    for alone, together in zip(map(encoder.states, films), encoder.states_of(films), strict=True):
        assert torch.allclose(alone.float(), together.float(), atol=2e-3)
    half = load_video_encoder(resolve("tiny-vision"), dtype="bfloat16").states_of(films)
    assert torch.allclose(half[2].float(), together.float(), atol=0.1) and not torch.equal(half[2], together)
    assert AudioEncoder.load(resolve("tiny-whisper"), "bfloat16").states(sounds[1]).dtype == torch.float16


def test_frames_that_cannot_be_encoded_are_refused():
    encoder = load_video_encoder(resolve("tiny-vision"))
    for bad in (frames()[:, :100], frames().astype(np.float32), frames(0), frames()[..., :2]):
        with pytest.raises(FeatureError):
            encoder.states(bad)
    with pytest.raises(FeatureError, match="100 tokens per frame"):
        load_video_encoder(resolve("tiny-vision"), 100).states(frames(1))


def test_another_model_is_no_frame_encoder():
    with pytest.raises(FeatureError, match="'llama' is no frame encoder"):
        load_video_encoder(resolve("tiny-llm"))


def test_tokens_per_frame_is_a_square():
    assert FeatureSettings(video_tokens_per_frame=9).video_tokens_per_frame == 9
    with pytest.raises(ValueError, match="square number"):
        FeatureSettings(video_tokens_per_frame=10)
