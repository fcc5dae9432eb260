"""The engine's thread: what cannot be loaded, and what comes too late, is told to whoever asks."""

import pytest
import torch

from model.generation.settings import Sampling
from storage.errors import InputError
from tasks.chat.engine import Engine, Gone


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
