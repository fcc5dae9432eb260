"""Memories of a whole split: none of them stays on a GPU, and of those in fp32 no more than a batch is there at once."""

import weakref

import pytest
import torch

import model.compressor.compressor as module
from model.compressor.compressor import MambaCompressor
from model.compressor.shape import CompressorShape
from model.dialogue.dialogue import DialogueModel
from model.dialogue.mean_memory import MeanMemory
from model.dialogue.settings import DialogueSettings
from model.llm import load_llm
from model.spoken import Spoken

HISTORIES = ((Spoken("I am so happy to see you.", 0), Spoken("Why?", 1)), (Spoken("It is a nice day.", 0),))
SHAPE = CompressorShape(
    kind="small",
    hidden=16,
    layers=1,
    state=4,
    conv=4,
    expand=1,
    llm_width=64,
    roles=2,
    max_utterance_tokens=64,
)


class Watched(MambaCompressor):
    """Notes what is asked of it, and how many memories of earlier batches are still there when the next is made."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked, self.there, self._made = [], [], []

    def compress(self, dialogues, **how):
        self.asked.append(how)
        return super().compress(dialogues, **how)

    def memories(self, *args):
        self.there.append(sum(made() is not None for made in self._made))
        found = super().memories(*args)
        self._made += [weakref.ref(made) for made in found]
        return found


@pytest.fixture(params=["float32", "bfloat16"])
def llm(tiny_llm_folder, request):
    return load_llm(tiny_llm_folder, request.param)


def dialogue_model(llm, learns: bool = False) -> DialogueModel:
    compressor = Watched(SHAPE, llm[1], llm[0].get_input_embeddings().weight).requires_grad_(learns)
    return DialogueModel(*llm, "memory", compressor, settings=DialogueSettings(train_compressor=learns))


def test_memories_are_kept_on_the_cpu_in_the_llms_dtype(llm):
    model = dialogue_model(llm)
    kept = model.memories(HISTORIES)
    assert model.compressor.asked == [{"dtype": model._dtype, "device": "cpu"}]
    whole = model.compressor.compress(HISTORIES)
    for history, expected in zip(HISTORIES, whole, strict=True):
        assert torch.equal(torch.cat(kept[history]), expected.to(model._dtype).cpu())


def test_memories_that_learn_stay_where_their_gradient_is(llm):
    model = dialogue_model(llm, learns=True)
    assert model.memories(HISTORIES)[HISTORIES[0]][0].requires_grad
    with torch.no_grad():
        assert not model.memories(HISTORIES)[HISTORIES[0]][0].requires_grad
    learning, kept = model.compressor.asked
    assert learning == {"dtype": model._dtype, "learning": True}
    assert kept == {"dtype": model._dtype, "device": "cpu"}


def test_memories_are_made_where_they_are_asked_for(llm):
    """Another device than the compressor's: here one that holds no numbers."""
    table = llm[0].get_input_embeddings().weight
    for compressor in (MambaCompressor(SHAPE, llm[1], table), MeanMemory(llm[1], table)):
        (made, _), (as_before, _) = (
            compressor.compress(HISTORIES, dtype=torch.bfloat16, device="meta"),
            compressor.compress(HISTORIES),
        )
        assert (made.device.type, made.dtype) == ("meta", torch.bfloat16)
        assert (as_before.device, as_before.dtype) == (table.device, torch.float32)


def test_of_many_histories_a_batch_is_in_fp32_at_once(tiny_llm_folder, monkeypatch):
    """Each history fills a batch of the compressor by itself."""
    monkeypatch.setattr(module, "BATCH_TOKENS", 8)
    histories = [tuple(Spoken(f"happy {place}", 0) for _ in range(3)) for place in range(4)]
    model = dialogue_model(load_llm(tiny_llm_folder, "bfloat16"))
    model.memories(histories)
    assert model.compressor.there == [0] * 4
