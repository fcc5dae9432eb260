"""Pairs that people chose: which rows of an export stand, and EPO trained on them from a study's first page on."""

import html
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.candidates.settings import GENERATION_EMOTIONS
from model.pairs.settings import PairSettings, stage_name
from storage.answers import Candidate, Pair
from storage.errors import InputError
from storage.preferences import PREFERENCES, write_preferences
from storage.shards import candidate_to_row, pair_to_row, read_table
from storage.store import digest_bytes
from tasks.engine.declaration import RawFiles
from tasks.engine.run import RunRequest
from tasks.settings import load_settings
from tasks.show import table_rows
from tasks.stages.pairs.choose import control_pairs
from tasks.stages.pairs.judged import MOST_CHARS, joined_pairs, judged_pairs
from tasks.stages.pairs.stage import exported_files
from tasks.stages.shard_names import of_table
from tasks.stages.shards import write_shard
from tasks.stages.verdicts import verdict_line
from tasks.study.export import export_preferences
from tasks.study.judgements import collect
from tasks.study.make import StudySettings, make_study
from tests.support.participants import begin, client, judge_all, served
from tests.support.rerun import run
from tests.support.two_dialogues import DIALOGUE, FIRST, SECOND, exchange, two_dialogues


def row(
    dataset: str, split: str, turn: int, chosen: str | None = None, rejected: str = "Bah.", **other
) -> dict:
    """A row of an export, its words written out by hand from the two dialogues; chosen: None: the true reply."""
    lines, roles = {
        "meld": (FIRST, {"Ross": "gpt", "Monica": "human", "Joey": "human2"}),
        "iemocap": (SECOND, {"F": "gpt", "M": "human"}),
    }[dataset]
    following = min((t for t in lines if t > turn), default=turn)
    reply = lines[following][1]
    return {
        "prompt": [{"role": "user", "content": lines[turn][1]}],
        "chosen": [{"role": "assistant", "content": chosen or reply}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "reply": reply,
        "history": [f"{roles[lines[t][0]]}: {lines[t][1]}" for t in lines if t < turn],
        "dataset": dataset, "split": split, "dialogue_id": DIALOGUE[dataset], "turn": turn, "engine": "rejected",
    } | other  # fmt: skip


def file(folder, rows: list[dict], name: str = "train.parquet") -> None:
    """As rows come from elsewhere: in no order, and with whatever is null."""
    folder.mkdir(exist_ok=True)
    loose = pa.schema([pa.field(one.name, one.type) for one in PREFERENCES])
    pq.write_table(pa.Table.from_pylist(rows, schema=loose), folder / name)


def judged(two, folder, stand_ins: tuple[str, ...] = ()):
    files = exported_files(folder)
    return judged_pairs(files, two.utterances, two.exchanges, stand_ins, two.work)


def rows_of(store, refs, table: str) -> list[dict]:
    return [r for ref in of_table(refs, table) for r in read_table(store.read(ref), table)]


def why(store, refs) -> list[tuple[str, str]]:
    return [
        (r["detail"].split(":")[0], r["reason"])
        for ref in refs if ref.name == "rejects/pairs.judged"
        for r in read_table(store.read(ref), "rejects")
    ]  # fmt: skip


def test_rows_that_fit_the_store_are_pairs(tmp_path):
    """Train teaches, dev chooses; the true reply may be what people turned down. A split is this run's, not the file's."""
    two = two_dialogues(tmp_path, ["train", "dev", "test"], ["train"])
    file(
        tmp_path / "out",
        [
            row("meld", "train", 0),
            row("meld", "dev", 5, chosen="How kind.", rejected="Nobody here ordered any, send that awful man away."),
            row("iemocap", "test", 1, chosen="Good.", rejected="Bad."),  # a run that left this session out
        ],
    )  # fmt: skip
    refs = judged(two, tmp_path / "out")
    found = rows_of(two.store, refs, "pairs")
    assert [(r["dataset"], r["split"], r["turn"], r["chosen"], r["rejected"]) for r in found] == [
        ("iemocap", "train", 1, "Good.", "Bad."),
        ("meld", "dev", 5, "How kind.", "Nobody here ordered any, send that awful man away."),
        ("meld", "train", 0, "It burned in the fireplace, I am afraid.", "Bah."),
    ]
    assert [r["reply"] for r in found] == [
        "The late one from Denver.",
        "Nobody here ordered any, send that awful man away.",
        "It burned in the fireplace, I am afraid.",
    ]
    assert all(math.isnan(r["cosine"]) and r["chosen_cosine"] is None for r in found)
    assert [r["cosine"] for r in table_rows(two.store, "pairs", of_table(refs, "pairs"), 9)[1]] == [None] * 3
    facts = json.loads(two.store.read(next(r for r in refs if r.name == "judged.json")))
    assert facts == {
        "rows": 3, "pairs": 3, "by_split": {"dev": 1, "train": 2}, "by_dataset": {"iemocap": 1, "meld": 2},
        "true_reply": {"chosen": 1, "rejected": 1}, "rejects": {},
    }  # fmt: skip
    assert verdict_line(two.store, tuple(refs)) == (
        "3 of 3 pairs that people chose (1 in dev, 2 in train); turned away: none"
    )


def test_rows_that_do_not_fit_are_named_with_their_reason(tmp_path):
    two = two_dialogues(tmp_path, ["train", "dev", "test"], ["train"])
    bad = [
        (row("meld", "train", 1, dialogue_id="99"), "unknown_utterance"),
        (row("meld", "train", 2), "unknown_utterance"),  # its speaker goes on: no exchange
        (row("meld", "test", 0), "evaluated"),
        (row("meld", "train", 0, prompt=[{"role": "user", "content": "Where?"}]), "other_sentence"),
        (row("meld", "train", 0, reply="It did not."), "other_reply"),
        (row("meld", "train", 1, history=["human: Where did my umbrella go?"]), "other_history"),
        (row("meld", "dev", 1, chosen="Oh.", rejected="Oh."), "same_reply"),
        (row("meld", "dev", 1, cosine=-0.2), "chosen_by_a_scorer"),
        (row("meld", "dev", 1, scorer="s"), "chosen_by_a_scorer"),
        (row("meld", "dev", 1, chosen="  "), "malformed"),
        (row("meld", "dev", 1, rejected="x" * (MOST_CHARS + 1)), "malformed"),
        (row("meld", "dev", 1, prompt=[]), "malformed"),
        (row("meld", "dev", 1) | {"chosen": [{"role": "user", "content": "me"}]}, "malformed"),
        (row("meld", "dev", 1) | {"turn": None}, "malformed"),
        (row("meld", "dev", 1) | {"dataset": None}, "malformed"),
        (row("meld", "dev", 1, history=None), "malformed"),
    ]  # fmt: skip
    several = [
        row("meld", "train", 0, "A.", "B."), row("meld", "train", 0, "A.", "B."), row("meld", "train", 0, "C.", "D."),
        row("iemocap", "train", 0, "A.", "B."), row("iemocap", "train", 0, "B.", "A."), row("iemocap", "train", 0, "B.", "C."),
    ]  # fmt: skip
    file(tmp_path / "out", [one for one, _ in bad], "dev.parquet")
    file(tmp_path / "out", several)
    refs = judged(two, tmp_path / "out")
    expected = {(f"dev.parquet row {n}", reason) for n, (_, reason) in enumerate(bad, start=1)}
    expected |= {("train.parquet row 2", "duplicate"), ("train.parquet row 3", "second_of_its_exchange")}
    expected |= {(f"train.parquet row {n}", "contradictory") for n in (4, 5, 6)}
    assert sorted(why(two.store, refs)) == sorted(expected)
    assert [(r["chosen"], r["rejected"]) for r in rows_of(two.store, refs, "pairs")] == [("A.", "B.")]
    facts = json.loads(two.store.read(next(r for r in refs if r.name == "judged.json")))
    assert facts["rows"] == len(bad) + 6 == facts["pairs"] + sum(facts["rejects"].values())
    (table,) = (ref for ref in refs if ref.name.startswith("rejects/"))
    assert table.rejects == len(expected)


def test_where_dev_gives_the_numbers_its_evaluated_dialogues_teach_nothing(tmp_path):
    """A dataset's only dialogue of dev both chooses and is evaluated; with test there it only chooses."""
    two = two_dialogues(tmp_path, ["train", "dev"], [])
    file(tmp_path / "out", [row("meld", "dev", 0), row("meld", "train", 1)])
    assert len(rows_of(two.store, judged(two, tmp_path / "out", ("meld",)), "pairs")) == 2
    (mine,) = (ref for ref in two.utterances if "/dev/" in ref.name)
    ids = [f"d{n}" for n in range(6)]
    several = [
        r | {"dialogue_id": name} for name in ids for r in read_table(two.store.read(mine), "utterances")
    ]
    exchanges = [exchange("meld", "dev", 0) | {"dialogue_id": name} for name in ids]
    shards = [
        write_shard(two.store, table, f"{table}/meld/dev/0", rows)
        for table, rows in (("utterances", several), ("exchanges", exchanges))
    ]
    file(tmp_path / "out", [row("meld", "dev", 0, dialogue_id=name) for name in ids])
    files = exported_files(tmp_path / "out")
    refs = judged_pairs(files, shards[:1], shards[1:], ("meld",), two.work)
    kept = {r["dialogue_id"] for r in rows_of(two.store, refs, "pairs")}
    assert len(kept) == 3 and [reason for _, reason in why(two.store, refs)] == ["evaluated"] * 3


def test_beside_the_scored_pairs_peoples_stand_first(tmp_path):
    two = two_dialogues(tmp_path, ["train", "dev", "test"], [])
    file(tmp_path / "out", [row("meld", "train", 0, "A.", "B."), row("meld", "dev", 1, "C.", "D.")])
    people = [ref for ref in judged(two, tmp_path / "out") if ref.name.startswith("pairs/")]
    scored = [
        Pair("meld", "train", "17", turn, f"s{turn}", f"r{turn}", f"r{turn}", f"c{turn}", "Sad", 0.01) for turn in (0, 1, 5)
    ]  # fmt: skip
    shard = write_shard(two.store, "pairs", "pairs/meld/train/0", list(map(pair_to_row, scored)))
    refs = joined_pairs(people, [shard], two.work)
    assert [(r["split"], r["turn"], r["chosen"], r["rejected"]) for r in rows_of(two.store, refs, "pairs")] == [
        ("dev", 1, "C.", "D."), ("train", 0, "A.", "B."), ("train", 1, "r1", "c1"), ("train", 5, "r5", "c5"),
    ]  # fmt: skip
    assert json.loads(two.store.read(refs[-1])) == {"judged": 2, "scored": 2, "replaced": 1}
    assert verdict_line(two.store, tuple(refs)) == (
        "2 pairs that people chose beside 2 scored ones (1 gave way)"
    )


def test_a_bad_file_is_one_line(tmp_path):
    two = two_dialogues(tmp_path, ["train"], [])
    good = write_preferences([row("meld", "train", 0)])
    table = pq.read_table(pa.BufferReader(good))
    files = {
        "text.parquet": b"chosen,rejected\n",
        "cut.parquet": good[: len(good) // 2],
        "lacks.parquet": _bytes(table.drop_columns(["reply", "history"])),
        "more.parquet": _bytes(table.append_column("extra", pa.array(["x"]))),
        "kind.parquet": _bytes(table.set_column(0, "prompt", pa.array(["a"]))),
        "twice.parquet": _bytes(table.append_column("reply", table["reply"])),
    }
    told = {
        "text.parquet": "Parquet magic bytes not found",
        "cut.parquet": "Parquet magic bytes not found",
        "lacks.parquet": "it lacks reply, history",
        "more.parquet": "it has extra too",
        "kind.parquet": "prompt is string and not list",
        "twice.parquet": "a column stands there twice",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=told[name]) as failure:
            judged(two, tmp_path / name)
        assert "\n" not in str(failure.value) and "give what `empamba study export` wrote" in str(
            failure.value
        )
    for absent in (tmp_path / "nothing", tmp_path / "store"):
        with pytest.raises(InputError, match=r"study.pairs: there are no pairs in .* name the folder that"):
            exported_files(absent)
    (tmp_path / "good.parquet").write_bytes(good)
    planned = RawFiles(dataset="study", folder=str(tmp_path), files={"good.parquet": digest_bytes(b"other")})
    with pytest.raises(InputError, match="changed while the run began"):
        judged_pairs(planned, two.utterances, two.exchanges, (), two.work)


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "changes, told",
    [
        (["study.beside_scored=true"], "name study.judgements, study.pairs or both"),
        (["study.judgements=j", "study.beside_scored=true"], "study.beside_scored is of study.pairs"),
        (["study.pairs=p", "pairs.control=shuffled"], "who chose by no reply; leave one of them out"),
    ],
)  # fmt: skip
def test_settings_that_say_nothing_are_refused(changes, told):
    with pytest.raises(InputError, match=told):
        load_settings("tiny", changes)
    others = '["random", "most_similar", "nll"]'
    assert load_settings("tiny", ["study.pairs=p", f"pairs.control={others}"]).study.judgements is None


def test_a_control_of_people_s_pairs_keeps_what_they_chose(tmp_path):
    """Turned down is another candidate than theirs; an exchange that has none is named."""
    two = two_dialogues(tmp_path, ["train", "dev", "test"], [])
    file(
        tmp_path / "out",
        [row("meld", "train", 0, "A.", "B."), row("meld", "train", 1), row("meld", "dev", 5)],
    )
    people = of_table(judged(two, tmp_path / "out"), "pairs")
    texts = {0: {"A.": 0.9, "B.": 0.1, "C.": 0.5, "D.": 0.8}, 1: {"Bah.": 0.2}, 5: {"E.": 0.3}}
    scores = [
        write_shard(two.store, "scores", f"scores/meld/{split}/0", [
            candidate_to_row(Candidate(
                "meld", split, "17", turn, "prompted", emotion, 0, "", text, "stop", text != "D.", None, 0, "", "", "", cosine,
            ))
            for turn in turns
            for emotion, (text, cosine) in zip(GENERATION_EMOTIONS, texts[turn].items(), strict=False)
        ])
        for split, turns in (("train", (0, 1)), ("dev", (5,)))
    ]  # fmt: skip
    for control in ("random", "most_similar"):
        refs = control_pairs(control, people, scores, PairSettings(), two.work)
        found = [(r["turn"], r["chosen"], r["rejected"]) for r in rows_of(two.store, refs, "pairs")]
        assert found == [(5, FIRST[6][1], "E."), (0, "A.", "C.")]
        (lone,) = (r for ref in refs if ref.name == f"rejects/{stage_name('pairs', control)}"
                   for r in read_table(two.store.read(ref), "rejects"))  # fmt: skip
        assert (lone["turn"], lone["reason"]) == (1, "no_other_candidate")


# From a study's first page to EPO -------------------------------------------------------------------------

SMALL = (
    *(f"compressor.{name}.max_tokens=200" for name in ("pretrain", "finetune")),
    "dialogue.training.max_tokens=200", "epo.training.max_tokens=300", "epo.training.heldout_rows=99", "compressor.free_running_rows=1",
    "epo.sampled_replies=0", "replies.exchanges=2", "replies.max_new_tokens=4",
)  # fmt: skip
UNTIL = "replies.5-epo"
TRAINED_ANEW = ["epo all", "pairs.judged all", "pairs.quality all", "replies.5-epo all"]


@pytest.mark.slow
def test_epo_trains_on_exactly_what_people_chose(pipeline, tmp_path):
    request = RunRequest(
        profile="tiny",
        changes=(*pipeline.changes, *SMALL),
        raw=str(pipeline.raw),
        store=str(pipeline.folder / "store"),
    )
    asked = StudySettings(pairs=True, participants=2, each=6, media=False)
    with pytest.raises(InputError, match="there are no pairs to judge: pairs is stale; `empamba run"):
        make_study(request, tmp_path / "study", asked)
    with pipeline.session(*SMALL) as opened:
        run(opened, UNTIL)
    study = make_study(request, tmp_path / "study", asked)
    assert set(study.systems) == {"human", "rejected"} and {item.split for item in study.items} == {
        "train",
        "dev",
    }

    # People prefer the counter-emotional reply in every other conversation.
    liked = {
        item.id: ("rejected", "human") if number % 2 else ("human", "rejected")
        for number, item in enumerate(study.items)
    }
    good = {item.replies[liked[item.id][0]] for item in study.items}
    expected = {
        (item.split, item.dialogue_id, item.turn): tuple(item.replies[name] for name in liked[item.id])
        for item in study.items
    }
    with served(tmp_path / "study") as address, client(address) as http:
        for token in json.loads((tmp_path / "study/access.json").read_text())["tokens"]:
            begin(http, token)
            judge_all(http, token, lambda number, text, question: 3 if html.unescape(text) in good else 1)
    found = collect(tmp_path / "study", study)
    done = export_preferences(study, found, tmp_path / "pairs", 0.5, 2)
    assert done == {"pairs": 6, "without": {}}
    assert "May train EPO" in (tmp_path / "pairs/README.md").read_text()

    named = f"study.pairs={tmp_path / 'pairs'}"
    with pipeline.session(*SMALL, named) as opened:
        assert run(opened, UNTIL) == TRAINED_ANEW
        assert trained_on(opened) == expected
    with pipeline.session(*SMALL, named) as opened:
        assert run(opened, UNTIL) == []
    with pipeline.session(*SMALL) as opened:  # and nothing became stale for who names none
        assert run(opened, UNTIL) == []

    # A new export, of fewer pairs: what learned from the old one, and nothing else.
    for split in ("train", "dev"):
        rows = pq.read_table(tmp_path / f"pairs/{split}.parquet").to_pylist()
        if split == "train":
            gone = rows.pop()
            (tmp_path / "pairs/train.parquet").write_bytes(write_preferences(rows))
    del expected[gone["split"], gone["dialogue_id"], gone["turn"]]
    with pipeline.session(*SMALL, named) as opened:
        assert run(opened, UNTIL) == TRAINED_ANEW
        assert trained_on(opened) == expected

    # Beside the scored ones: all of those, and people's where there is one.
    with pipeline.session(*SMALL, named, "study.beside_scored=true") as opened:
        assert run(opened, UNTIL) == sorted({*TRAINED_ANEW, "pairs.joined all"} - {"pairs.judged all"})
        both = trained_on(opened)
        scored = pairs_of(opened, "pairs")
        assert len(scored) > len(expected)
    # And its controls are of what it trains on.
    with pipeline.session(*SMALL, named, "study.beside_scored=true", "pairs.control=random") as opened:
        (item,) = next(plan for plan in opened.plan(UNTIL) if plan.stage.name == "pairs.random").items
        assert texts_of(opened.store, item.arguments["pairs"]) == both
    assert both == {key: expected.get(key, texts) for key, texts in scored.items()}


def trained_on(opened) -> dict[tuple, tuple[str, str]]:
    """(split, dialogue, turn) -> chosen and rejected of the pairs that EPO was handed; its report says that it took them all."""
    plans = {plan.stage.name: plan for plan in opened.plan(UNTIL)}
    (item,) = plans["epo"].items
    found = texts_of(opened.store, item.arguments["pairs"])
    (tree,) = (ref for refs in plans["epo"].outputs.values() for ref in refs)
    report = json.loads((opened.store.folder(tree) / "report.json").read_text())
    counts = [sum(key[0] == split for key in found) for split in ("train", "dev")]
    assert [report["train_pairs"], report["heldout_pairs"]] == counts
    return found


def pairs_of(opened, stage: str) -> dict[tuple, tuple[str, str]]:
    plans = {plan.stage.name: plan for plan in opened.plan(UNTIL)}
    return texts_of(opened.store, [ref for refs in plans[stage].outputs.values() for ref in refs])


def texts_of(store, refs) -> dict[tuple, tuple[str, str]]:
    return {
        (r["split"], r["dialogue_id"], r["turn"]): (r["chosen"], r["rejected"]) for r in rows_of(store, refs, "pairs")
    }  # fmt: skip
