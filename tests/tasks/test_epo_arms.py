"""EPO and its controls, from the scores on: the same rows, and EPO's own steps."""

import json
from pathlib import Path

import pytest

from model.candidates.settings import GENERATION_EMOTIONS
from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from model.pairs.settings import PairSettings
from storage.shards import utterance_to_row
from storage.store import Ref, Store
from storage.utterance import Utterance
from tasks.engine.declaration import NotRun, Weights
from tasks.engine.graph import Sources, build_graph
from tasks.engine.item import Workspace
from tasks.pipeline import STAGES
from tasks.settings import load_settings
from tasks.stages.epo.fit import fit_epo
from tasks.stages.pairs.choose import choose_pairs, control_pairs
from tasks.stages.shards import write_shard

SPLITS = {"train": 24, "dev": 8}
LONE = {"train": {"d3", "d5"}, "dev": {"d1"}}
"""Dialogues whose exchange has one usable candidate alone."""


@pytest.fixture
def work(tmp_path) -> Workspace:
    return Workspace(Store(tmp_path / "store"), None, "basis", lambda *_: None)


def shards(work: Workspace, table: str, rows_of) -> list[Ref]:
    return [
        write_shard(work.store, table, f"{table}/meld/{split}/0", [r for n in range(count) for r in rows_of(split, n)])
        for split, count in SPLITS.items()
    ]  # fmt: skip


def place(split: str, number: int, turn: int = 0) -> dict:
    return {"dataset": "meld", "split": split, "dialogue_id": f"d{number}", "turn": turn}


def spoken(split: str, number: int) -> list[dict]:
    return [
        utterance_to_row(Utterance(**place(split, number, turn), speaker="AB"[turn], text=f"{number} {turn}"))
        for turn in (0, 1)
    ]


def exchange(split: str, number: int) -> list[dict]:
    texts = {"sentence": f"{number} 0", "reply": f"{number} 1"}
    speakers = {"sentence_speaker": "A", "reply_speaker": "B", "selected": True}
    return [{**place(split, number), **texts, **speakers}]


def scored(split: str, number: int) -> list[dict]:
    return [
        {
            **place(split, number), "source": "prompted", "emotion": emotion, "sample": 0, "prompt": "p", "text": f"{emotion} {number}",
            "usable": n == 2 or f"d{number}" not in LONE[split], "reason": None, "seed": n, "engine": "e",
            "weights": "w", "settings": "{}", "cosine": ((n * 5 + number) % 8) / 100,
        }
        for n, emotion in enumerate(GENERATION_EMOTIONS)
    ]  # fmt: skip


def test_the_arms_share_their_rows_and_no_pair(work, monkeypatch):
    utterances, exchanges, scores = (
        shards(work, *of) for of in (("utterances", spoken), ("exchanges", exchange), ("scores", scored))
    )
    chosen = choose_pairs(scores, exchanges, None, PairSettings(), work)
    chosen = [ref for ref in chosen if ref.name.startswith("pairs/")]
    arms = {"pairs": chosen}
    for name in ("random", "most_similar"):
        drawn = control_pairs(name, chosen, scores, PairSettings(), work)
        arms[f"pairs.{name}"] = [ref for ref in drawn if ref.name.startswith("pairs/")]
    seen: list = []

    def noted(model, train, heldout, settings, out: Path, progress, checkpoints, left_out, follows):
        seen.append(({"train": train, "heldout": heldout}, left_out, settings.preference_weight, follows))
        (out / "report.json").write_text(json.dumps({"history": {"best_step": 7}}))

    monkeypatch.setattr("tasks.stages.epo.fit.train_epo", noted)
    monkeypatch.setattr("tasks.stages.epo.fit.load_dialogue", lambda *_, **__: "the model")
    (work.store.root.parent / "tree").mkdir()
    (work.store.root.parent / "tree" / "name").write_text("a tree")
    tree = work.store.put_tree("tree", work.store.root.parent / "tree")
    parts = (tree, tree, None, DialogueSettings(), EpoSettings(), Weights(name="tiny-llm", identity="x"))

    def fit(own: str, **asked):
        others = {name: refs for name, refs in arms.items() if name != own}
        (adapter,) = fit_epo(arms[own], utterances, exchanges, [], *parts, work, other_pairs=others, **asked)
        return adapter

    adapter = fit("pairs")
    fit("pairs.random", follows=adapter)
    fit("pairs.most_similar", follows=adapter)
    fit("pairs", follows=adapter, preference=False)
    fit_epo(chosen, utterances, exchanges, [], *parts, work)
    (epo, left_out, *_), (random, left_out_there, *_), (similar, *_), nll, (alone, told_alone, *_) = seen
    assert [(weight, follows) for *_, weight, follows in seen] == [
        (1.0, None), (1.0, 7), (1.0, 7), (0.0, 7), (1.0, None),
    ]  # fmt: skip
    assert nll[:2] == (epo, left_out)
    assert left_out == {"train": {"not_in_all": 2}, "heldout": {"not_in_all": 1}}
    assert left_out_there == {"train": {"not_in_all": 0}, "heldout": {"not_in_all": 0}}
    for split, wanted in (("train", 22), ("heldout", 7)):
        keys = [pair.example.key for pair in epo[split]]
        assert len(keys) == wanted
        for arm in (random, similar):
            assert keys == [pair.example.key for pair in arm[split]]
        for own, drawn, most in zip(epo[split], random[split], similar[split], strict=True):
            assert own.example == drawn.example == most.example and own.chosen is None
            assert own.counter_emotional not in (drawn.counter_emotional, most.counter_emotional)
            true = own.example.reply
            assert own.beside == (true, most.counter_emotional, true, drawn.counter_emotional)
            assert drawn.beside == (true, own.counter_emotional, true, most.counter_emotional)
    assert told_alone is None and [len(alone[split]) for split in alone] == list(SPLITS.values())


def test_each_arm_is_handed_the_others_pairs_and_controls_wait_for_epo(tmp_path):
    def ref(name: str, rows: int = 3) -> Ref:
        return Ref(name=name, digest="0" * 32, size=1, rows=rows)

    def outputs(*refs: Ref) -> dict:
        return {"all": refs}

    names = ("pairs", "pairs.random", "pairs.shuffled")
    shards = {
        name: [ref(f"pairs/meld/{split}/{n}") for split in ("dev", "train")] for n, name in enumerate(names)
    }
    tree = ref("tree").model_copy(update={"tree": True})
    needed = {
        "utterances": outputs(*(ref(f"utterances/meld/{split}/0") for split in ("train", "dev"))),
        "utterances.exchanges": outputs(ref("exchanges/meld/train/0")),
        **{name: outputs(*refs, ref(f"rejects/{name}", 0)) for name, refs in shards.items()},
        **dict.fromkeys(("compressor.finetune", "dialogue.memory", "epo"), outputs(tree)),
        **dict.fromkeys(("features", "extractor", "dialogue.audiovisual")),
    }

    def items(asked: list[str], **changed) -> dict:
        settings = load_settings("tiny", [f"pairs.control={json.dumps(asked)}"])
        graph = build_graph(STAGES, Sources(settings, "tiny", Store(tmp_path / "store"), (), tmp_path))
        given = {**needed, **changed}
        return {
            node.stage.name: node.items({need: given.get(need) for need in node.needs})
            for node in graph
            if node.stage.name.split(".")[0] == "epo" and node.stage.name != "epo.test"
        }

    own = {"epo": "pairs", "epo.random": "pairs.random", "epo.shuffled": "pairs.shuffled", "epo.nll": "pairs"}
    for asked in (["random", "shuffled", "nll"], ["nll"], []):
        found = items(asked)
        arms = {name: shards[name] for name in names if name == "pairs" or name[6:] in asked}
        assert set(found) == {"epo", *(f"epo.{name}" for name in asked)}
        for name, (item,) in found.items():
            given = item.arguments
            assert sorted(given["pairs"], key=str) == sorted(arms[own[name]], key=str)
            assert given["other_pairs"].keys() == arms.keys() - {own[name]}
            assert given["follows"] == (None if name == "epo" else tree)
            assert given["preference"] is (name != "epo.nll")
    store = Store(tmp_path / "store")
    summary = store.put_bytes("pairs.json", b'{"threshold": 0.1}')
    without = {"pairs.random": outputs(ref("pairs/meld/train/1"), ref("rejects/pairs.random", 3))}
    without["pairs"] = outputs(*shards["pairs"], summary)
    for found in items(["random"], **without).values():
        assert isinstance(found, NotRun) and "0 in dev" in found.reason
    assert items(["random"], epo=None)["epo.random"].reason == "epo was not run"
