"""Dialogue models of before chat LLMs, against a greedy search by hand, with random models of their architectures."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from model.generation.chatbot_engine import ChatbotEngine
from model.generation.client import GenerationEngine
from model.generation.protocol import GenerationRequest
from model.generation.reply import reply_of
from model.generation.settings import EngineArgs, EngineSettings, Sampling
from tests.support.chatbots import END, KINDS, WINDOW, write_chatbot

NEW = 10
TURNS = (
    "I am so happy to see you again.",
    "Why would you say that?",
    "Okay, let us meet at 7 o'clock.",
    "No, no, no.",
    "She looked sad when the train left.",
)


@pytest.fixture(scope="module", params=KINDS)
def chatbot(request, tmp_path_factory):
    """(kind, folder)"""
    return request.param, write_chatbot(tmp_path_factory.mktemp("chatbot") / request.param, request.param)


def _settings(folder, batch_size: int = 8, new: int = NEW) -> EngineSettings:
    return EngineSettings(
        model=str(folder),
        engine="chatbot",
        args=EngineArgs(dtype="float32", batch_size=batch_size),
        sampling=Sampling(temperature=0, top_p=1, max_new_tokens=new),
    )


def _request(key: str, *turns: str) -> GenerationRequest:
    roles = ("user", "assistant")
    return GenerationRequest(key, tuple({"role": roles[i % 2], "content": t} for i, t in enumerate(turns)), 0)


def _requests() -> list[GenerationRequest]:
    return [_request(f"row{n}", *TURNS[n % 5 : n % 5 + 1 + n % 3]) for n in range(8)]


def _by_hand(kind: str, tokenizer, model, turns: list[str]) -> tuple[str, str]:
    """The likeliest token after the likeliest token, of a whole forward pass each."""
    end = tokenizer.eos_token
    if kind == "dialogpt":
        text = "".join(f"{turn}{end}" for turn in turns)
    else:
        text = "  ".join(f" {turn}" for turn in turns) + end
    given = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    said = given if kind == "dialogpt" else torch.tensor([[1]])
    new: list[int] = []
    while len(new) < NEW and END not in new:
        inputs = (
            {"input_ids": said} if kind == "dialogpt" else {"input_ids": given, "decoder_input_ids": said}
        )
        with torch.no_grad():
            new.append(int(model(**inputs).logits[0, -1].argmax()))
        said = torch.cat([said, torch.tensor([new[-1:]])], dim=1)
    text = tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd")  # a character that the limit cut
    return text.strip(), "stop" if END in new else "length"


def test_replies_are_the_likeliest_tokens_after_the_turns_whatever_the_batch(chatbot):
    kind, folder = chatbot
    rows = {row.key: row for row in ChatbotEngine(_settings(folder)).generate(_requests())}
    assert len({row.text for row in rows.values()}) > 3
    alone = {row.key: row for row in ChatbotEngine(_settings(folder, batch_size=1)).generate(_requests())}
    assert alone == rows
    loaded = AutoModelForCausalLM if kind == "dialogpt" else AutoModelForSeq2SeqLM
    model = loaded.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for request in _requests()[:4]:
        text, ending = _by_hand(kind, tokenizer, model, [message["content"] for message in request.messages])
        row = rows[request.key]
        expected = reply_of(
            text, ending
        )  # a random model writes bytes, which any engine's answers are rid of
        assert (row.text, row.finish_reason) == (expected.text, expected.finish_reason)


def test_a_dialogue_beyond_the_window_loses_its_oldest_turns_and_a_turn_beyond_it_is_told(chatbot):
    _, folder = chatbot
    engine = ChatbotEngine(_settings(folder))
    long = [f"{turn} {turn}" for turn in TURNS] * 3
    rows = {
        row.key: row
        for row in engine.generate(
            [_request("long", *long), _request("last", *long[-2:]), _request("never", "word " * WINDOW)]
        )
    }
    assert (rows["never"].text, rows["never"].finish_reason) == ("", "too_long")
    room = WINDOW if engine.reads_apart else WINDOW - NEW
    assert rows["last"].prompt_tokens < rows["long"].prompt_tokens <= room
    shown = next(
        long[first:]
        for first in range(len(long))
        if len(engine.tokenizer.apply_chat_template(_request("", *long[first:]).messages, return_dict=False))
        <= room
    )
    (again,) = engine.generate([_request("long", *shown)])
    assert again == rows["long"] and len(shown) < len(long)


def test_the_tokenizers_own_template_comes_first(tmp_path):
    template = "{% for m in messages %}{{ m['role'] }} {% endfor %}"
    engine = ChatbotEngine(_settings(write_chatbot(tmp_path, "dialogpt", chat_template=template)))
    (row,) = engine.generate([_request("a", *TURNS[:2])])
    assert row.prompt_tokens == len(engine.tokenizer("user assistant ")["input_ids"])


def test_weights_that_are_not_whole_are_refused_and_the_engines_process_says_so(tmp_path, chatbot):
    kind, folder = chatbot
    with GenerationEngine(_settings(folder)) as engine:
        (row,) = engine.generate([_request("a", TURNS[0])])
    assert row.engine == "chatbot" and row.new_tokens <= NEW
    with pytest.raises(ValueError, match="config.json"):
        GenerationEngine(_settings(tmp_path))
    broken = write_chatbot(tmp_path / "broken", kind)
    (broken / "config.json").write_text(
        (broken / "config.json").read_text().replace('"vocab_size": 512', '"vocab_size": 640')
    )
    with pytest.raises(ValueError, match="not whole"):
        ChatbotEngine(_settings(broken))
