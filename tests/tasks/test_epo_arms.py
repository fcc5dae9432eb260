"""EPO and its random control, from the scores on: the same rows, and no pair in common."""

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
from tasks.stages.pairs.choose import choose_pairs, random_pairs
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
            **place(split, number), "emotion": emotion, "prompt": "p", "text": f"{emotion} {number}",
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
    control = [ref for ref in random_pairs(chosen, scores, PairSettings(), work) if ref.name.startswith("pairs/")]  # fmt: skip
    seen: list = []

    def noted(model, train, heldout, settings, out: Path, progress, checkpoints, left_out):
        seen.append(({"train": train, "heldout": heldout}, left_out))
        (out / "report.json").write_text("{}")

    monkeypatch.setattr("tasks.stages.epo.fit.train_epo", noted)
    monkeypatch.setattr("tasks.stages.epo.fit.load_dialogue", lambda *_, **__: "the model")
    (work.store.root.parent / "tree").mkdir()
    (work.store.root.parent / "tree" / "name").write_text("a tree")
    tree = work.store.put_tree("tree", work.store.root.parent / "tree")
    parts = (tree, tree, None, DialogueSettings(), EpoSettings(), Weights(name="tiny-llm", identity="x"))
    for own, other in ((chosen, control), (control, chosen), (chosen, [])):
        fit_epo(own, utterances, exchanges, [], *parts, work, other_pairs=other)
    (epo, left_out), (random, left_out_there), (alone, told_alone) = seen
    assert left_out == {"train": {"not_in_both": 2}, "heldout": {"not_in_both": 1}}
    assert left_out_there == {"train": {"not_in_both": 0}, "heldout": {"not_in_both": 0}}
    for split, wanted in (("train", 22), ("heldout", 7)):
        keys = [pair.example.key for pair in epo[split]]
        assert keys == [pair.example.key for pair in random[split]] and len(keys) == wanted
        for pair, other in zip(epo[split], random[split], strict=True):
            assert pair.example == other.example and pair.counter_emotional != other.counter_emotional
            assert pair.beside == (other.counter_emotional,) and other.beside == (pair.counter_emotional,)
    assert told_alone is None and [len(alone[split]) for split in alone] == list(SPLITS.values())


def test_both_arms_are_handed_the_others_pairs(tmp_path):
    def ref(name: str, rows: int = 3) -> Ref:
        return Ref(name=name, digest="0" * 32, size=1, rows=rows)

    def outputs(*refs: Ref) -> dict:
        return {"all": refs}

    chosen, drawn = ([ref(f"pairs/meld/{split}/{n}") for split in ("train", "dev")] for n in (0, 1))
    tree = ref("tree").model_copy(update={"tree": True})
    needed = {
        "utterances": outputs(*(ref(f"utterances/meld/{split}/0") for split in ("train", "dev"))),
        "utterances.exchanges": outputs(ref("exchanges/meld/train/0")),
        "pairs": outputs(*chosen, ref("rejects/pairs", 0)),
        "pairs.control": outputs(*drawn, ref("rejects/pairs.control", 0)),
        **dict.fromkeys(("compressor.finetune", "dialogue.memory"), outputs(tree)),
        **dict.fromkeys(("features", "extractor", "dialogue.audiovisual")),
    }
    names = {"epo": (chosen, drawn), "epo.control": (drawn, chosen)}
    for asked in (True, False):
        settings = load_settings("tiny", [f"pairs.control={str(asked).lower()}"])
        graph = build_graph(STAGES, Sources(settings, "tiny", Store(tmp_path / "store"), (), tmp_path))
        nodes = {node.stage.name: node for node in graph if node.stage.name in names}
        assert set(nodes) == (set(names) if asked else {"epo"})
        for name, node in nodes.items():
            (item,) = node.items({need: needed.get(need) for need in node.needs})
            own, other = names[name]
            found = {part: sorted(r.name for r in item.arguments[part]) for part in ("pairs", "other_pairs")}
            assert found["pairs"] == sorted(r.name for r in own)
            assert found["other_pairs"] == (sorted(r.name for r in other) if asked else [])
    needed["pairs.control"] = outputs(ref("pairs/meld/train/1"), ref("rejects/pairs.control", 3))
    store = Store(tmp_path / "store")
    summary = store.put_bytes("pairs.json", b'{"threshold": 0.1}')
    needed["pairs"] = outputs(*chosen, summary)
    settings = load_settings("tiny", ["pairs.control=true"])
    for node in build_graph(STAGES, Sources(settings, "tiny", store, (), tmp_path)):
        if node.stage.name in names:
            found = node.items({need: needed.get(need) for need in node.needs})
            assert isinstance(found, NotRun) and "0 in dev" in found.reason
