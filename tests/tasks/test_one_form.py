"""What the compressor is given has one form: the same ids for the same utterance, wherever it is given.

Through the stages' own functions on a store of two dialogues, the tiny LLM and compressors that are really trained;
and in the benchmarks.
"""

import sys
from pathlib import Path

import pytest
import torch

from model.compressor.compressor import MambaCompressor, new_compressor
from model.compressor.reconstruction import Reconstruction
from model.compressor.rows import rows_of
from model.compressor.settings import CompressorSettings
from model.dialogue.dialogue import load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import Exchanges
from model.llm import load_llm, token_ids
from model.settings import TrainingSettings
from model.spoken import Spoken
from model.zoo.resolve import resolve
from storage.errors import InputError
from storage.exchanges import cut_exchanges
from storage.shards import exchange_to_row, row_to_utterance, utterance_to_row
from storage.store import Store
from storage.utterance import Utterance
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import load_settings, profile_names
from tasks.stages.compressor.fit import finetune_compressor, pretrain_compressor
from tasks.stages.examples import dialogue_examples, tagged
from tasks.stages.shards import write_shard

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SAID = {
    "train": ("Ross: What a mess.", "Monica: You did it!", "Ross: Did I?", "Joey: gpt: is that pizza?"),
    "dev": ("Joey: Hello there.", "Ross: Good morning, my friend.", "Joey: And good night."),
}
"""Speaker and text; the last of train looks tagged, and is what was said."""
TEXTS = {split: [line.split(": ", 1)[1] for line in lines] for split, lines in SAID.items()}
ROLES = {"train": [0, 1, 0, 2], "dev": [0, 1, 0]}
LLM = Weights(name="tiny-llm", identity="random:tiny-llm")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The store, and its shards of utterances and exchanges."""
    work = Workspace(Store(tmp_path_factory.mktemp("form") / "store"), None, "basis", lambda *_: None)
    utterances, exchanges = [], []
    for split, lines in SAID.items():
        rows = []
        for turn, line in enumerate(lines):
            speaker, text = line.split(": ", 1)
            rows.append(utterance_to_row(Utterance("meld", split, "7", turn, speaker, text)))
        cut, _ = cut_exchanges(map(row_to_utterance, rows))
        place = f"meld/{split}/0"
        utterances.append(write_shard(work.store, "utterances", f"utterances/{place}", rows))
        rows = [exchange_to_row(exchange, True) for exchange in cut]
        exchanges.append(write_shard(work.store, "exchanges", f"exchanges/{place}", rows))
    return work, utterances, exchanges


@pytest.fixture
def given(monkeypatch):
    """What compressors have read, as (ids, role) of every utterance; and what the LLM is to give back."""
    found: dict[str, list] = {"read": [], "back": []}
    read, target = MambaCompressor._read, Reconstruction.target

    def noted(self, dialogues, roles, past):
        for i, dialogue in enumerate(dialogues):
            told = [None] * len(dialogue) if roles is None else roles[i]
            found["read"] += [(tuple(ids.tolist()), role) for ids, role in zip(dialogue, told, strict=True)]
        return read(self, dialogues, roles, past)

    def asked(self, utterances):
        found["back"] += list(utterances)
        return target(self, utterances)

    monkeypatch.setattr(MambaCompressor, "_read", noted)
    monkeypatch.setattr(Reconstruction, "target", asked)
    return found


def small() -> CompressorSettings:
    own = TrainingSettings(batch_size=2, evaluations=1, dtype="float32", threads=1)
    return CompressorSettings(
        weights="", hidden=16, layers=1, free_running_rows=0, pretrain=own, finetune=own
    )


def ids(text: str) -> tuple[int, ...]:
    _, tokenizer = load_llm(resolve(LLM.name), "float32")
    return tuple(token_ids(tokenizer, text).tolist())


def test_pretraining_finetuning_use_and_its_training_give_the_bare_text(store, given):
    work, utterances, exchanges = store
    bare = {text: ids(text) for texts in TEXTS.values() for text in texts}
    with_roles = {
        (bare[text], role) for split in TEXTS for text, role in zip(TEXTS[split], ROLES[split], strict=True)
    }

    (pretrained,) = pretrain_compressor(utterances, small(), None, LLM, work)
    assert set(given["read"]) == {(known, None) for known in bare.values()}
    assert set(given["back"]) == set(bare)

    for kind in given.values():
        kind.clear()
    (finetuned,) = finetune_compressor(utterances, pretrained, small(), LLM, work)
    assert set(given["read"]) == with_roles and set(given["back"]) == set(bare)

    for kind in given.values():
        kind.clear()
    model = load_dialogue(
        resolve(LLM.name), None, work.store.folder(finetuned), None, "memory", "float32", DialogueSettings()
    )
    examples = dialogue_examples(work.store, utterances, exchanges, [], "train", "dev")
    histories = [example.history for example in examples]
    model.prompts(examples)
    last = {bare[texts[-1]] for texts in TEXTS.values()} | {bare[TEXTS["dev"][-2]], bare[TEXTS["train"][-2]]}
    used = set(given["read"])
    assert used <= with_roles and {known for known, _ in used} >= set(bare.values()) - last
    Exchanges(model, examples)  # what is reconstructed beside the replies
    assert set(given["back"]) == {utterance.text for history in histories for utterance in history}


def test_a_history_as_text_still_says_who_spoke(store):
    work, utterances, exchanges = store
    (example,) = dialogue_examples(work.store, utterances, exchanges, [], "train")[-1:]
    assert example.history == tuple(map(Spoken, TEXTS["train"][:2], ROLES["train"]))
    model = load_dialogue(resolve(LLM.name), None, None, None, "text", "float32")
    shown = model.tokenizer.decode(torch.cat(model.pieces([example])[0]))
    assert "history: gpt: What a mess.\nhuman: You did it!\nsentence: Did I?" in shown
    rows = [Utterance("meld", "train", "7", n, s, "Hm.") for n, s in enumerate("ABCDA")]
    assert tagged(rows) == ("gpt: Hm.", "human: Hm.", "human2: Hm.", "human3: Hm.", "gpt: Hm.")


def test_turn_by_turn_is_the_same_form(store, given):
    llm, tokenizer = load_llm(resolve(LLM.name), "float32")
    compressor = new_compressor(small(), tokenizer, llm.get_input_embeddings().weight, None).eval()
    past = None
    for text, role in zip(TEXTS["train"], ROLES["train"], strict=True):
        _, past = compressor.step(Spoken(text, role), past)
    assert given["read"] == [(ids(t), r) for t, r in zip(TEXTS["train"], ROLES["train"], strict=True)]


@pytest.mark.parametrize("data", ["where it lies", "absent"])
def test_the_benchmarks_give_the_bare_text(monkeypatch, tmp_path, data):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("history", "texts"):
        sys.modules.pop(name, None)
    import history
    import texts

    if data == "absent":
        monkeypatch.setattr(history, "TOPICAL_CHAT", tmp_path / "none")
        monkeypatch.setattr(texts, "MELD", tmp_path / "none")
    for dialogue in (*history.dialogues(2), *texts.spoken_dialogues("dev")[:20]):
        assert all(isinstance(utterance, Spoken) for utterance in dialogue)
        assert not any(u.text.startswith(("gpt:", "human:")) for u in dialogue)
        assert dialogue[0].role == 0 and {u.role for u in dialogue} == set(
            range(1 + max(u.role for u in dialogue))
        )
    bare = [[utterance.text for utterance in dialogue] for dialogue in texts.spoken_dialogues("dev")]
    assert texts.dialogues("dev") == bare
    example = DialogueExample("k", tuple(history.dialogues(1)[0][:-1]), "Why?", "")
    assert [len(u) for u in example.history] == [2] * len(example.history)


def test_finetuning_sees_as_many_utterances_as_a_history_has_in_use():
    for profile in profile_names():
        settings = load_settings(profile)
        assert settings.compressor.max_dialogue_utterances >= settings.dialogue.max_history_utterances == 32
    with pytest.raises(InputError, match="max_dialogue_utterances is 32 and dialogue.max_history_utter.* 40"):
        load_settings("cpu", ["dialogue.max_history_utterances=40"])
    both = ["dialogue.max_history_utterances=40", "compressor.max_dialogue_utterances=40"]
    assert load_settings("cpu", both).compressor.max_dialogue_utterances == 40
    llm, tokenizer = load_llm(resolve(LLM.name), "float32")
    compressor = new_compressor(small(), tokenizer, llm.get_input_embeddings().weight, None)
    task = Reconstruction(llm, tokenizer, dialogue=True, cached=False)
    dialogue = [Spoken("No, my friend, not at all.", i % 2) for i in range(70)]
    rows, left_out = rows_of([dialogue], compressor, task, CompressorSettings(weights=""), 128)
    assert [len(row.utterances) for row in rows] == [32, 32, 6] and not any(left_out.values())
