"""A compressor that learnt with a dialogue adapter goes with it: into EPO's folder, and into what is loaded."""

import pytest

from model.dialogue.dialogue import own_compressor
from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from tasks.engine.declaration import Weights
from tasks.stages.epo.fit import fit_epo
from tests.support.two_dialogues import two_dialogues

LLM = Weights(name="tiny-llm", identity="random:tiny-llm")


@pytest.mark.parametrize("learnt", [True, False])
def test_epo_hands_on_the_compressor_of_the_adapter_that_it_goes_on_from(tmp_path, monkeypatch, learnt):
    two = two_dialogues(tmp_path, ["train", "dev"], [])
    folder = tmp_path / "dialogue-adapter"
    (folder / "compressor").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    if learnt:
        (folder / "compressor" / "model.safetensors").write_bytes(b"learnt")
    adapter = two.store.put_tree("adapter", folder)  # a tree knows files: an empty folder is none
    assert (own_compressor(two.store.folder(adapter)) is not None) == learnt
    monkeypatch.setattr("tasks.stages.epo.fit.load_dialogue", lambda *_, **__: "the model")

    def train(model, train, heldout, settings, out, *_) -> None:
        (out / "adapter_model.safetensors").write_bytes(b"preferred")

    monkeypatch.setattr("tasks.stages.epo.fit.train_epo", train)
    (made,) = fit_epo(
        [], two.utterances, two.exchanges, [], adapter, None, None, DialogueSettings(), EpoSettings(), LLM,
        two.work,
    )  # fmt: skip
    files = {member.name: two.store.read(member) for member in two.store.members(made)}
    handed_on = {"compressor/model.safetensors": b"learnt"} if learnt else {}
    assert files == {"adapter_model.safetensors": b"preferred"} | handed_on
