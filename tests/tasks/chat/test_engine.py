"""The engine's thread: what cannot be loaded, and what comes too late, is told to whoever asks; how it lets all end."""

import threading

import pytest
import torch

from model.generation.settings import Sampling
from storage.errors import InputError
from tasks.chat.conversation import Conversation
from tasks.chat.engine import Engine, Gone, Reply
from tasks.chat.models import Models


def test_models_that_cannot_be_loaded_fail_every_question():
    def load():
        raise InputError("weights are damaged")

    with Engine(load) as engine:
        with pytest.raises(InputError, match="weights are damaged"):
            engine.call(lambda models: 1).result(10)
        reply = engine.reply("3-mc", torch.zeros(2, 4), Sampling(), lambda text: None)
        with pytest.raises(InputError, match="weights are damaged"):
            reply.done.result(10)


def test_who_asks_an_engine_that_has_ended_is_told():
    with Engine(lambda: None) as engine:
        assert engine.call(lambda models: 7).result(10) == 7
    with pytest.raises(Gone):
        engine.call(lambda models: 7).result(10)
    with pytest.raises(Gone):
        engine.reply("3-mc", torch.zeros(2, 4), Sampling(), lambda text: None).done.result(10)


def test_once_replies_are_stopped_all_end_those_under_way_those_that_wait_and_those_to_come(found):
    with Engine(lambda: Models(found), most_at_once=1) as engine:
        prompt = engine.call(lambda models: Conversation(8).prompt(models, "2-ft", "Well?", None, 10)).result(
            60
        )
        begun = threading.Event()

        def ask(limit: int) -> Reply:
            chosen = Sampling(max_new_tokens=limit, temperature=1)
            return engine.reply("2-ft", prompt, chosen, lambda text: begun.set())

        going, waiting = ask(100_000), ask(100_000)
        assert begun.wait(60)
        engine.stop_replies()
        late = ask(100_000)
        for reply in (going, waiting, late):
            reply.done.result(10)
            assert reply.ended == "stopped"
        assert going.row.tokens and not waiting.row.tokens and not late.row.tokens
        assert engine.call(lambda models: 7).result(10) == 7
