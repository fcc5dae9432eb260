"""Batched decoding against transformers' own greedy search, and against itself in other batches."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from model.generation.chat import Chat
from model.generation.protocol import GenerationRequest, request_seed
from model.generation.settings import EngineArgs, EngineSettings, Sampling
from model.generation.transformers_engine import TransformersEngine


def _settings(folder, *, batch_size=8, max_model_len=128, **sampling) -> EngineSettings:
    return EngineSettings(
        model=str(folder),
        engine="transformers",
        args=EngineArgs(dtype="float32", batch_size=batch_size, max_model_len=max_model_len),
        sampling=Sampling(max_new_tokens=12, **sampling),
    )


def _requests(count: int, sampling: Sampling) -> list[GenerationRequest]:
    requests = []
    for n in range(count):
        words = " ".join(f"w{(n * 7 + k) % 58}" for k in range(1 + n % 9))
        messages = ({"role": "user", "content": words},)
        requests.append(GenerationRequest(f"row{n}", messages, request_seed(messages, sampling)))
    return requests


def _texts(engine: TransformersEngine, requests) -> dict[str, tuple[str, str]]:
    return {row.key: (row.text, row.finish_reason) for row in engine.generate(requests)}


def test_rows_do_not_depend_on_their_batch(tiny_chat_model):
    engine = TransformersEngine(_settings(tiny_chat_model, batch_size=16))
    requests = _requests(40, engine.settings.sampling)
    together = _texts(engine, requests)
    assert {reason for _, reason in together.values()} == {"stop", "length"}
    assert len(together) == 40
    small = TransformersEngine(_settings(tiny_chat_model, batch_size=3))
    assert _texts(small, requests[::-1]) == together
    alone = {}
    for request in requests:
        alone.update(_texts(engine, [request]))
    assert alone == together


def test_greedy_equals_transformers_own(tiny_chat_model):
    engine = TransformersEngine(_settings(tiny_chat_model, temperature=0))
    requests = _requests(20, engine.settings.sampling)
    ours = _texts(engine, requests)
    model = AutoModelForCausalLM.from_pretrained(tiny_chat_model, dtype=torch.float32)
    chat = Chat(tiny_chat_model)
    for request in requests:
        prompt = torch.tensor([chat.encode(request.messages)])
        whole = model.generate(
            prompt, do_sample=False, max_new_tokens=12, attention_mask=torch.ones_like(prompt)
        )
        assert ours[request.key][0] == chat.decode(whole[0, prompt.shape[1] :].tolist())


def test_another_seed_gives_other_texts(tiny_chat_model):
    engine = TransformersEngine(_settings(tiny_chat_model))
    first = _texts(engine, _requests(8, Sampling(seed=0)))
    second = _texts(engine, _requests(8, Sampling(seed=1)))
    assert all(first[key] != second[key] for key in first)


def test_a_prompt_that_does_not_fit_is_said_so(tiny_chat_model):
    engine = TransformersEngine(_settings(tiny_chat_model, max_model_len=20))
    short, long = _requests(9, engine.settings.sampling)[::8]
    rows = {row.key: row for row in engine.generate([short, long])}
    assert rows[long.key].finish_reason == "too_long"
    assert rows[long.key].text == "" and rows[long.key].new_tokens == 0
    assert rows[short.key].finish_reason in ("stop", "length") and rows[short.key].new_tokens > 0


def test_a_tokenizer_without_chat_template(tiny_chat_model, tmp_path):
    for file in tiny_chat_model.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="no chat template"):
        Chat(tmp_path)
