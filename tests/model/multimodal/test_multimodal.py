"""Multimodal LLMs on random models of their architectures: prompts with a clip, replies, likelihoods, and LoRA."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.generation.settings import EngineArgs
from model.multimodal.engines import load_multimodal, vllm_prompt
from model.multimodal.kinds import vllm_lora_fault
from model.multimodal.model import HERTZ, MultimodalModel, Shown, sense_of
from model.multimodal.settings import MultimodalTraining
from model.multimodal.train import MultimodalExample, train_multimodal
from model.settings import TrainingSettings
from model.zoo.resolve import resolve
from tests.support.multimodal import KINDS, write_multimodal

WITHOUT_TORCHVISION = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None,
    reason="no torchvision here, which vLLM wants for LLaVA-NeXT",
)
THROUGH_VLLM = [
    pytest.param(kind, marks=[WITHOUT_TORCHVISION] if kind == "llava_next" else []) for kind in KINDS
]
SENTENCES = ("I lost my keys again.", "She said yes!")


def clip(sense: str, number: int) -> Shown:
    """A tone, or a picture of noise; each number another."""
    if sense == "audio":
        times = np.arange(HERTZ * (1 + number)) / HERTZ
        return Shown(audio=np.sin(2 * np.pi * 220 * (1 + number) * times).astype(np.float32))
    return Shown(image=np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory) -> Path:
    return write_multimodal(tmp_path_factory.mktemp("multimodal") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder) -> MultimodalModel:
    return MultimodalModel(folder, "float32")


def test_a_prompt_has_its_clip_once_and_ends_where_the_assistant_begins(model):
    prompter = model.prompter
    placeholder = {"audio": "<|AUDIO|>", "image": "<image>"}[prompter.sense]
    prompt, answer = prompter.prompt(SENTENCES[0], True), prompter.answer(SENTENCES[0], True, "Oh no.")
    assert prompt.count(placeholder) == 1 and placeholder not in prompter.prompt(SENTENCES[0], False)
    assert prompt.index(placeholder) < prompt.index(SENTENCES[0])
    assert prompt.endswith("<|im_start|>assistant\n") and answer == "Oh no.<|im_end|>"
    given = prompter.inputs([prompt], [clip(prompter.sense, 0)])
    ids = given["input_ids"][0]
    stands_for_the_clip = int((ids == prompter.tokenizer.convert_tokens_to_ids(placeholder)).sum())
    # By hand: a second is 100 frames, halved twice; a picture of 28 px is 2 x 2 patches, beside it those of its parts.
    assert stands_for_the_clip == 25 if prompter.sense == "audio" else stands_for_the_clip >= 4


def test_a_batch_answers_as_each_alone_and_what_is_shown_counts(model):
    sense = model.prompter.sense
    prompts = [model.prompter.prompt(text, True) for text in SENTENCES]
    shown = [clip(sense, 0), clip(sense, 1)]
    together = model.replies(prompts, shown, 6)
    assert together == [model.replies([p], [s], 6)[0] for p, s in zip(prompts, shown, strict=True)]
    assert model.replies(prompts[:1], [clip(sense, 2)], 6)[0].reply != together[0].reply
    (bare,) = model.replies([model.prompter.prompt(SENTENCES[0], False)], [None], 6)
    assert 0 < bare.new_tokens <= 6 and bare.prompt_tokens < together[0].prompt_tokens


def test_a_prompt_beyond_the_window_is_too_long_and_fails_no_other(folder, model):
    """The window holds the short prompt, its clip's tokens and the reply to the token; one token less and it is too long."""
    sense = model.prompter.sense
    prompts = [model.prompter.prompt(text, True) for text in (SENTENCES[0], 20 * SENTENCES[1])]
    shown = [clip(sense, 0), clip(sense, 1)]
    (alone,) = model.replies(prompts[:1], shown[:1], 6)
    held = MultimodalModel(folder, "float32", window=alone.prompt_tokens + 6)
    short, long = held.replies(prompts, shown, 6)
    assert short == alone
    assert (long.reply.text, long.reply.finish_reason, long.new_tokens) == ("", "too_long", 0)
    assert long.prompt_tokens == model.replies(prompts[1:], shown[1:], 6)[0].prompt_tokens
    held.window -= 1
    assert [one.reply.finish_reason for one in held.replies(prompts, shown, 6)] == ["too_long"] * 2


def test_no_window_is_wider_than_the_models_positions(folder, model):
    """Those that transformers gives a Qwen2, and a Llama, of which nothing is said."""
    positions = {"audio": 32_768, "image": 2_048}[model.prompter.sense]
    args = EngineArgs(dtype="float32", max_model_len=40_000, max_num_batched_tokens=40_000)
    assert model.window == positions == load_multimodal("transformers", folder, args, None).window
    narrow = args.model_copy(update={"max_model_len": 100})
    assert load_multimodal("transformers", folder, narrow, None).window == 100


def test_nats_are_those_of_the_models_own_loss(model):
    """transformers', over labels that cover the answer alone."""
    prompt, answer = model.prompter.prompt(SENTENCES[1], True), "Good for you.<|im_end|>"
    shown = clip(model.prompter.sense, 1)
    nats = model.nats(prompt, answer, shown)
    given = model.prompter.inputs([prompt + answer], [shown])
    labels = given["input_ids"].clone()
    labels[:, : -len(nats)] = -100
    with torch.no_grad():
        expected = model.model(**given, labels=labels).loss.item()
    assert nats.mean().item() == pytest.approx(expected, rel=1e-4)


def examples(count: int, split: str) -> list[MultimodalExample]:
    """All but one have a clip, and a dialogue each."""
    return [
        MultimodalExample(f"{split}/{n}", f"sentence: {SENTENCES[n % 2]}", f"reply {n}", None if n == 2 else str(n), f"{split}/{n}")
        for n in range(count)
    ]  # fmt: skip


def test_a_lora_of_the_language_model_learns_and_answers_the_same_when_loaded_again(folder, model, tmp_path):
    training = TrainingSettings(
        learning_rate=3e-3, batch_size=2, epochs=4, evaluations=1, dtype="float32", threads=1, heldout_rows=3
    )
    settings = MultimodalTraining(rank=4, alpha=8, training=training)
    sense = sense_of(folder)

    def trained(name: str) -> dict:
        train, heldout = examples(4, "train"), examples(3, "dev")
        return train_multimodal(
            folder, train, heldout, lambda digest: clip(sense, int(digest)), settings, tmp_path / name
        )

    report = trained("first")
    losses = [entry["loss"] for entry in report["history"]["train"]]
    assert len(losses) == 8 and np.mean(losses[-2:]) < np.mean(losses[:2])
    assert report["train_with_clip"] == 3
    away, own = report["compared"]["other_clip"], report["compared"]["after"]
    assert [value is None for value in away] == [False, False, True] and away[:2] != own[:2]
    weights = load_file(tmp_path / "first" / "adapter_model.safetensors")
    assert weights and all("language_model" in name for name in weights)
    adapted = MultimodalModel(folder, "float32", tmp_path / "first")
    prompt = model.prompter.prompt(SENTENCES[0], True)
    answers = [m.nats(prompt, "reply 0<|im_end|>", clip(sense, 0)).sum().item() for m in (model, adapted)]
    assert answers[1] < answers[0]
    trained("second")
    for name in ("adapter_model.safetensors", "adapter_config.json", "report.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_another_kind_of_model_is_one_line():
    with pytest.raises(
        ValueError, match="a model of kind 'llama'; multimodal systems are of kind qwen2_audio or"
    ):
        sense_of(resolve("tiny-llm"))


def test_vllm_is_given_the_same_prompt_and_the_clip_that_stands_for_its_placeholder():
    heard, seen = clip("audio", 0), clip("image", 0)
    data = vllm_prompt("text", heard, "audio")["multi_modal_data"]["audio"]
    assert data[0] is heard.audio and data[1] == 16_000
    picture = vllm_prompt("text", seen, "image")["multi_modal_data"]["image"]
    assert picture.size == (60, 40) and (np.asarray(picture) == seen.image).all()
    assert vllm_prompt("text", None, "audio") == {"prompt": "text"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("kind", THROUGH_VLLM)
def test_vllm_answers_as_transformers_does(tmp_path, kind):
    """In a process of its own, as a stage's is; as it came, and with a LoRA where vLLM puts one on its kind."""
    import subprocess
    import sys

    folder = write_multimodal(tmp_path / kind, kind)
    adapters = [""] if vllm_lora_fault(folder) else ["", str(finetuned(folder, tmp_path / "adapter"))]
    code = (
        "import json, sys; from pathlib import Path; from model.generation.settings import EngineArgs;"
        "from model.multimodal.engines import load_multimodal;"
        "from tests.model.multimodal.test_multimodal import SENTENCES, clip;"
        "args = EngineArgs(dtype='float32', max_model_len=2048);"
        "m = load_multimodal(sys.argv[2], Path(sys.argv[1]), args, Path(sys.argv[3]) if sys.argv[3] else None);"
        "p = [m.prompter.prompt(t, True) for t in SENTENCES];"
        "s = m.prompter.sense;"
        "p.append(m.prompter.prompt(500 * SENTENCES[0], True));"
        "r = m.replies(p, [clip(s, 0), clip(s, 1), clip(s, 0)], 6);"
        "print(json.dumps([[a.reply.text, a.reply.finish_reason, a.prompt_tokens] for a in r]))"
    )
    told = {}
    for adapter in adapters:
        for engine in ("transformers", "vllm"):
            asked = [sys.executable, "-c", code, str(folder), engine, adapter]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            told[adapter, engine] = json.loads(done.stdout.splitlines()[-1])
        assert told[adapter, "transformers"] == told[adapter, "vllm"]
        assert [ending == "too_long" for _, ending, _ in told[adapter, "vllm"]] == [False, False, True]
    assert len({json.dumps(said) for said in told.values()}) == len(adapters)  # the LoRA is heeded


def finetuned(folder: Path, out: Path) -> Path:
    """A LoRA that changes what is answered."""
    training = TrainingSettings(
        learning_rate=3e-2, batch_size=2, epochs=4, evaluations=1, dtype="float32", threads=1, heldout_rows=2
    )
    train_multimodal(
        folder,
        examples(4, "train"),
        examples(2, "dev"),
        lambda digest: clip(sense_of(folder), int(digest)),
        MultimodalTraining(rank=4, alpha=8, training=training),
        out,
    )
    return out


def test_which_kinds_vllm_puts_a_lora_on_is_said_from_the_folder_alone(tmp_path):
    for kind, refused in (("qwen2_audio", True), ("llava_next", False)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        assert (vllm_lora_fault(tmp_path) is not None) is refused
    (tmp_path / "config.json").write_text("{")
    assert vllm_lora_fault(tmp_path) is None and vllm_lora_fault(tmp_path / "nowhere") is None
