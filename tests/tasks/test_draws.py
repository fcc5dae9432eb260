"""Every seeded draw has a name of its own, and what chose a checkpoint is kept out of what is evaluated."""

import ast
import hashlib
from pathlib import Path

import numpy as np

import model.draws
import storage.draws
from model.candidates.settings import GENERATION_EMOTIONS, CandidateSettings
from model.compressor.settings import CompressorSettings
from model.dialogue.likelihood import Answered
from model.dialogue.settings import DialogueSettings
from model.extractor.settings import ExtractorSettings
from storage.exchanges import Exchange
from storage.shards import pack_array, read_table, utterance_to_row
from storage.store import Ref, Store
from storage.utterance import Utterance
from tasks.engine.declaration import Weights
from tasks.engine.graph import Sources, build_graph
from tasks.engine.item import Workspace
from tasks.pipeline import STAGES
from tasks.settings import ReplySettings, load_settings
from tasks.stages.compressor.fit import finetune_compressor, pretrain_compressor
from tasks.stages.dialogue.fit import fit_dialogue
from tasks.stages.extractor.fit import fit_extractor
from tasks.stages.replies.write import write_replies
from tasks.stages.selection import smallest_hashed
from tasks.stages.shard_names import of_table
from tasks.stages.shards import write_shard
from tasks.stages.stand_in import choosing, evaluated, stand_ins
from tasks.stages.utterances.exchanges import write_exchanges

ROOT = Path(__file__).resolve().parents[2]
NAME_AT = {
    "draw_number": 1,
    "unit_hash": 1,
    "looked_at": 2,
    "smallest_hashed": 3,
    "spread": 3,
    "hold_out": 4,
}
"""Function -> which of its arguments is the draw's name."""
OTHER_SEEDS = {
    "storage/media/pictures.py": "frames: the seed is made from the clip's own bytes",
    "storage/sample": "the sample corpus: its numbers are named where they are made",
    "model/metrics/bootstrap.py": "resampling: nothing is taken out",
    "tasks/study/score.py": "resampling, too",
    "model/zoo": "random weights for tests",
    "tasks/pretraining.py": "held-out texts of the shipped compressor, which its card names",
}
"""Generators that are seeded otherwise, and why."""

LLM = Weights(name="tiny-llm", identity="random:tiny-llm")
TURNS = 4
DIALOGUES = [f"d{n}" for n in range(7)]


def calls():
    for package in ("storage", "model", "tasks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    yield path.relative_to(ROOT).as_posix(), name, node


def test_no_two_draws_have_one_name():
    named = []
    for path, function, call in calls():
        if function in NAME_AT:
            name = call.args[NAME_AT[function]]
            if isinstance(name, ast.Constant):
                named.append((name.value, path))
    names = {name for name, _ in named}
    wanted = {"subset", "dev", "test", "dev.evaluated", "candidates.exchanges", "candidates.compare"}
    wanted |= {"replies.exchanges", "pairs.control", "scores.calibration", "extractor.inputs"}
    assert wanted | {"compressor", "dialogue", "epo", "extractor"} <= names
    assert len(names) == len(named), sorted(named)


def test_nothing_else_is_drawn_by_a_bare_seed():
    for path, function, call in calls():
        if function in ("Random", "default_rng") and not any(path.startswith(known) for known in OTHER_SEEDS):
            inner = [getattr(n.func, "id", "") for n in ast.walk(call) if isinstance(n, ast.Call)]
            assert "draw_number" in inner, f"{path}:{call.lineno}: seeded without a draw's name"


def test_both_packages_draw_alike():
    text = b"3\0pairs.control\0meld\0007"
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    for module in (model.draws, storage.draws):
        assert module.draw_number(3, "pairs.control", "meld", 7) == number


def test_two_draws_of_one_seed_have_only_chance_in_common():
    rows = [Exchange("meld", "dev", f"{n}", 0, "a", "b", None, None, "x", "y") for n in range(1000)]
    one, other = ({e.key for e in smallest_hashed(rows, 100, 0, draw)} for draw in ("this", "that"))
    assert 0 < len(one & other) < 25  # ten by chance, three standard deviations of 2.85 less or more


# Where dev stands in for test -----------------------------------------------------------------------------


def evaluated_by_hand(dataset: str) -> set[str]:
    """The four of seven dialogues of smallest hash."""

    def number(dialogue: str) -> int:
        text = f"0\0dev.evaluated\0{dataset}\0{dialogue}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")

    return set(sorted(DIALOGUES, key=number)[:4])


class TwoDatasets:
    """MELD with train and dev, IEMOCAP with train, dev and test; seven dialogues of four turns in each."""

    def __init__(self, folder: Path):
        self.work = Workspace(Store(folder / "store"), None, "basis", lambda *_: None)
        self.utterances, self.features = [], []
        for dataset, splits in (("meld", ("train", "dev")), ("iemocap", ("train", "dev", "test"))):
            for split in splits:
                said = [
                    Utterance(dataset, split, d, turn, "AB"[turn % 2], f"{split} {d} {turn}", "sad", "sad")
                    for d in DIALOGUES
                    for turn in range(TURNS)
                ]
                rows = [utterance_to_row(u) for u in said]
                self.utterances.append(self.shard("utterances", dataset, split, rows))
                audio, shape = pack_array(np.ones((2, 3)))
                clips = [
                    {
                        **{name: row[name] for name in ("dataset", "split", "dialogue_id", "turn")},
                        "media_digest": "d", "audio": audio, "audio_shape": shape,
                        "video": None, "video_shape": None,
                    }
                    for row in rows
                ]  # fmt: skip
                self.features.append(self.shard("features", dataset, split, clips))

    def shard(self, table: str, dataset: str, split: str, rows: list[dict]) -> Ref:
        return write_shard(self.work.store, table, f"{table}/{dataset}/{split}/0", rows)

    def of(self, refs: list[Ref], *splits: str) -> list[Ref]:
        return [ref for ref in refs if ref.name.split("/")[2] in splits]


class Model:
    """Stands for the dialogue model; says which dialogues it was asked about."""

    def memories(self, histories):
        return {}


def spied(monkeypatch, target: str, seen: list) -> None:
    """Stand in for a training: note its arguments, and leave something in the folder that is its output."""

    def spy(*given, **named):
        seen.append((given, named))
        folders = [part for part in (*given, *named.values()) if isinstance(part, Path) and part.is_dir()]
        out = next(folder for folder in folders if not any(folder.iterdir()))
        (out / "report.json").write_text("{}")

    monkeypatch.setattr(target, spy)


def test_no_dialogue_both_chooses_and_is_evaluated(tmp_path, monkeypatch):
    """All that reads dev to choose, and the replies, through the stages' own functions."""
    two, lone = TwoDatasets(tmp_path), ("meld",)
    by_hand = evaluated_by_hand("meld")
    assert stand_ins(two.utterances) == lone
    store = two.work.store
    exchanges = of_table(
        write_exchanges(two.utterances, CandidateSettings(budget=None), two.work), "exchanges"
    )
    selected = {
        (r["dataset"], r["dialogue_id"])
        for ref in exchanges
        for r in read_table(store.read(ref), "exchanges")
        if r["selected"] and r["split"] == "dev"
    }
    chose = {"pairs": selected}
    data = (two.of(two.utterances, "train", "dev"), two.of(exchanges, "train", "dev"))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "name").write_text("a tree")
    tree = store.put_tree("tree", tmp_path / "tree")
    seen: list = []

    def dialogues_of(keys) -> set[tuple[str, str]]:
        return {(key.split("/")[0], key.split("/")[2]) for key in keys}

    spied(monkeypatch, "tasks.stages.dialogue.fit.train_dialogue", seen)
    fit_dialogue(*data, [], None, None, "text", DialogueSettings(), LLM, two.work, stand_ins=lone)
    chose["dialogue"] = dialogues_of(e.key for e in seen[-1][0][2])
    spied(monkeypatch, "tasks.stages.extractor.fit.train_extractor", seen)
    features = two.of(two.features, "train", "dev")
    fit_extractor(data[0], features, ExtractorSettings(), LLM, two.work, stand_ins=lone)
    chose["extractor"] = dialogues_of(e.key for e in seen[-1][0][2])
    # IEMOCAP's dialogues come first; a text says its dialogue.
    texts = {f"dev {d} {turn}": d for d in DIALOGUES for turn in range(TURNS)}
    small = CompressorSettings(weights="")
    spied(monkeypatch, "tasks.stages.compressor.fit.pretrain", seen)
    pretrain_compressor(data[0], small, None, LLM, two.work, stand_ins=lone)
    found = [texts[text] for text in seen[-1][0][2]]
    assert found[: len(texts)] == [d for d in DIALOGUES for _ in range(TURNS)]
    chose["pretrain"] = {("iemocap", d) for d in DIALOGUES} | {("meld", d) for d in found[len(texts) :]}
    spied(monkeypatch, "tasks.stages.compressor.fit.finetune", seen)
    finetune_compressor(data[0], tree, small, LLM, two.work, stand_ins=lone)
    found = [texts[dialogue[0].text] for dialogue in seen[-1][0][3]]
    chose["finetune"] = {("iemocap", d) for d in DIALOGUES} | {("meld", d) for d in found[len(DIALOGUES) :]}

    expected = {("iemocap", d) for d in DIALOGUES} | {("meld", d) for d in DIALOGUES if d not in by_hand}
    assert chose == dict.fromkeys(chose, expected)

    monkeypatch.setattr("tasks.stages.replies.write.load_dialogue", lambda *_, **__: Model())
    monkeypatch.setattr(
        "tasks.stages.replies.answers.answered",
        lambda model, examples, *_: [Answered(e.key, 1, [None] * 3) for e in examples],
    )
    (ref,) = write_replies(
        "1-llm", two.of(two.utterances, "dev", "test"), two.of(exchanges, "dev", "test"), [], None, None, None,
        "text", DialogueSettings(), ReplySettings(), LLM, two.work,
    )  # fmt: skip
    answered = {(r["dataset"], r["split"], r["dialogue_id"]) for r in read_table(store.read(ref), "replies")}
    assert answered == {("iemocap", "test", d) for d in DIALOGUES} | {("meld", "dev", d) for d in by_hand}


def test_the_only_dialogue_of_dev_has_to_do_both():
    only = {
        ("meld", "dev", "d0"),
        ("meld", "train", "d0"),
        ("iemocap", "dev", "d0"),
        ("iemocap", "dev", "d1"),
    }
    assert evaluated(only, ("meld",)) == {("meld", "dev", "d0")} and choosing(only, ("meld",)) == only
    assert evaluated(only, ()) == set() and choosing(only, ()) == only
    both = evaluated(only, ("meld", "iemocap"))
    assert len(both) == 2 and choosing(only, ("meld", "iemocap")) == only - {
        key for key in both if key[0] == "iemocap"
    }


def test_the_graph_tells_the_stages_whose_dev_stands_in(tmp_path):
    sources = Sources(load_settings("tiny"), "tiny", Store(tmp_path / "store"), (), tmp_path)
    nodes = {node.stage.name: node for node in build_graph(STAGES, sources)}

    def made(table: str, *splits: str):
        shards = [Ref(name=f"{table}/{name}/0", digest="0" * 32, size=1, rows=rows) for name, rows in splits]
        return {"all": tuple(shards)}

    tree = {"all": (Ref(name="tree", digest="0" * 32, size=1, rows=1, tree=True),)}
    for last, wanted in (((), ("meld",)), ((("meld/test", 0),), ("meld",)), ((("meld/test", 1),), ())):
        splits = (("meld/train", 1), ("meld/dev", 1), ("iemocap/test", 1), *last)
        needed = {
            "utterances": made("utterances", *splits),
            "utterances.exchanges": made("exchanges", *splits),
            "features": made("features", *splits),
            **dict.fromkeys(("compressor.pretrain", "compressor.finetune", "extractor"), tree),
        }
        trained = ("compressor.pretrain", "compressor.finetune", "extractor")
        for name in (*trained, "dialogue.text", "dialogue.memory", "dialogue.audiovisual"):
            (item,) = nodes[name].items({need: needed[need] for need in nodes[name].needs})
            assert item.arguments["stand_ins"] == wanted, name


def test_one_in_eight_of_the_budget_is_dev_and_keeps_out_of_what_is_evaluated(tmp_path):
    two = TwoDatasets(tmp_path)
    settings = CandidateSettings(budget=8 * len(GENERATION_EMOTIONS) * 4)
    exchanges = of_table(write_exchanges(two.utterances, settings, two.work), "exchanges")
    rows = [r for ref in exchanges for r in read_table(two.work.store.read(ref), "exchanges")]
    dev = [r for r in rows if r["selected"] and r["split"] == "dev"]
    assert len(dev) == 4 and sum(r["selected"] for r in rows) == 32
    assert not {r["dialogue_id"] for r in dev if r["dataset"] == "meld"} & evaluated_by_hand("meld")
