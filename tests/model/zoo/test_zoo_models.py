"""The resolved folders load with the classes that use them, and the converted weights are right."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from model.zoo.convert_efficientnet import renamed
from model.zoo.efficientnet import EfficientNetLite0, _pad_same
from model.zoo.errors import ZooError
from model.zoo.resolve import is_cached, resolve

DEMO = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "multidialog_demo"
TEXT = "in 2024 Zoë said: “no” 🙂\n\tok"


def resolved(name):
    """The folder of real weights, fetched if need be; skips where neither cache nor network has them."""
    try:
        return resolve(name)
    except ZooError as error:
        if is_cached(name):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def test_tiny_tokenizer_reads_any_text_and_speaks_chatml(cache):
    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny-llm", cache))
    assert len(tokenizer) == 512
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert (
        rendered == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer(rendered)["input_ids"].count(1) == 3


@pytest.mark.parametrize("name", ["tiny-llm", "tiny-mamba"])
def test_tiny_language_models_run(cache, name):
    folder = resolve(name, cache)
    ids = AutoTokenizer.from_pretrained(folder)("hello", return_tensors="pt")["input_ids"]
    logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert logits.shape == (1, ids.shape[1], 512) and torch.isfinite(logits).all()


def test_tiny_classifier_runs(cache):
    folder = resolve("tiny-roberta", cache)
    inputs = AutoTokenizer.from_pretrained(folder)(["a", "b c"], padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model(**inputs).logits.shape == (2, 28)


def test_tiny_encoders_have_the_shapes_of_the_real_ones(cache):
    folder = resolve("tiny-whisper", cache)
    mels = WhisperFeatureExtractor.from_pretrained(folder)(
        np.zeros(16000), sampling_rate=16000, return_tensors="pt"
    ).input_features
    assert mels.shape == (1, 80, 3000)
    assert WhisperModel.from_pretrained(folder).encoder(mels).last_hidden_state.shape == (1, 1500, 32)
    folder = resolve("tiny-vision", cache)
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(
        np.zeros((90, 160, 3), np.uint8), return_tensors="pt"
    )
    assert CLIPVisionModel.from_pretrained(folder)(**pixels).last_hidden_state.shape == (1, 50, 32)


def test_building_random_weights_leaves_the_callers_random_state(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    resolve("tiny-vision", tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_same_padding_gives_ceil_of_size_over_stride():
    ramp = torch.arange(1.0, 7.0).reshape(1, 1, 1, 6)
    padded = _pad_same(ramp, kernel=3, stride=2)
    # 3 positions from 6 columns need one extra column, on the right; one row needs one above and one below.
    assert padded.shape == (1, 1, 3, 7)
    assert padded[0, 0, 1].tolist() == [1, 2, 3, 4, 5, 6, 0]


def test_efficientnet_refuses_another_image_size():
    with pytest.raises(ValueError, match="224"):
        EfficientNetLite0()(torch.zeros(1, 3, 200, 200))


def test_efficientnet_names_and_size_match_the_published_state():
    assert renamed("_blocks.3._depthwise_conv.weight") == "blocks.3.depthwise.conv.weight"
    assert renamed("_bn1.running_var") == "head.norm.running_var"
    # 4.65 M parameters are published for the whole network; its classifier has 1280 × 1000 + 1000 of them.
    parameters = sum(parameter.numel() for parameter in EfficientNetLite0().parameters())
    assert parameters + 1_281_000 == 4_652_008


def test_efficientnet_tells_images_apart_and_is_in_evaluation_mode():
    network = EfficientNetLite0.from_folder(resolved("efficientnet-lite0"))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 224, 224, generator=generator) * 2 - 1
    with torch.inference_mode():
        both, alone = network(images), network(images[1:])
    assert both.shape == (2, 49, 1280) and both.min() >= 0 and both.max() <= 6
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)
    assert (both[0] - both[1]).abs().mean() > 0.01


@pytest.mark.slow
def test_smollm2_answers_and_splits_digits():
    folder = resolved("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"]
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (2, 2)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.slow
def test_whisper_positions_are_the_published_sinusoids():
    folder = resolved("whisper-tiny.en")
    model = WhisperModel.from_pretrained(folder, dtype=torch.float32).eval()
    tone = np.sin(np.arange(16000) * 0.05).astype(np.float32)
    mels = WhisperFeatureExtractor.from_pretrained(folder)(
        tone, sampling_rate=16000, return_tensors="pt"
    ).input_features
    with torch.inference_mode():
        states = model.encoder(mels).last_hidden_state
    assert states.shape == (1, 1500, 384)
    # The sinusoids of Whisper's positions are known in closed form: the conversion kept layout and order.
    positions = model.encoder.embed_positions.weight
    scales = np.exp(-np.log(10000) / 191 * np.arange(192))
    angles = np.arange(1500)[:, None] * scales[None]
    expected = torch.tensor(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), dtype=torch.float32)
    torch.testing.assert_close(positions.detach(), expected, atol=2e-3, rtol=0)


def test_zoo_settings_import_is_light():
    program = "import sys; import model.zoo.settings, model.zoo.catalogue; assert 'torch' not in sys.modules"
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


@pytest.mark.slow
@pytest.mark.skipif(not DEMO.is_dir(), reason="MultiDialog's demo clips are not beside the repository")
def test_whisper_transcribes_the_demo_clip():
    av, soxr = pytest.importorskip("av"), pytest.importorskip("soxr")
    folder = resolved("whisper-tiny.en")
    with av.open(str(DEMO / "demo1_user1.mp4")) as container:
        stream = container.streams.audio[0]
        planar = av.AudioResampler("fltp")
        parts = [part.to_ndarray() for frame in container.decode(stream) for part in planar.resample(frame)]
        samples = soxr.resample(np.concatenate(parts, axis=1).mean(0), stream.rate, 16000)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    mels = WhisperFeatureExtractor.from_pretrained(folder)(
        samples, sampling_rate=16000, return_tensors="pt"
    ).input_features
    heard = AutoTokenizer.from_pretrained(folder).decode(model.generate(mels)[0], skip_special_tokens=True)
    with open(DEMO / "transcripts.tsv", encoding="utf-8", newline="") as lines:
        written = {row["file"]: row["text"] for row in csv.DictReader(lines, delimiter="\t")}
    letters = re.compile(r"[^a-z ]")
    assert (
        letters.sub("", heard.lower()).split() == letters.sub("", written["demo1_user1.mp4"].lower()).split()
    )
