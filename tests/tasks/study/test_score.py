"""Means, intervals and pairs from judgements, against hand calculations and simulated studies."""

import json
from contextlib import closing

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.metrics.settings import BootstrapSettings
from storage.errors import InputError
from storage.preferences import PREFERENCES
from tasks.study.export import beside_judge, export_preferences, preferences
from tasks.study.journal import opened
from tasks.study.judgements import Judgements, Row, collect, read_judgements
from tasks.study.participants import begin, invited, judge
from tasks.study.power import Power
from tasks.study.score import crossed, scored
from tasks.study.study import CHECK
from tests.support.small_study import SYSTEMS, item, small_study

PEOPLE, ITEMS = range(1, 6), [f"i{n:02}" for n in range(1, 6)]


def judgements(value, counted=PEOPLE, people=PEOPLE) -> Judgements:
    """value(participant, item, system, question)."""
    return Judgements(
        title="t", run="r", systems=SYSTEMS, compared="5-epo", questions={"semantics": "?", "empathy": "?"},
        scale={1: "bad", 2: "medium", 3: "good"},
        keys={name: item(n, "meld" if n < 4 else "iemocap").key for n, name in enumerate(ITEMS, 1)},
        counted=tuple(counted), counts={"places": 5, "came": 5, "done": 5, "returned": 0, "inattentive": 0},
        rows=tuple(
            Row(p, i, s, q, value(p, i, s, q))
            for p in people for i in ITEMS for s in SYSTEMS for q in ("semantics", "empathy")
        ),
    )  # fmt: skip


def test_means_by_hand():
    """The last system gets 3 in empathy from all but the first person, who says 1 as to all else: (4 * 3 + 1) / 5."""
    found = judgements(lambda p, i, s, q: 3 if s == "5-epo" and q == "empathy" and p > 1 else 1)
    facts = scored(found)
    by_name = {system["system"]: system["questions"] for system in facts["systems"]}
    best = by_name["5-epo"]["empathy"]["all"]
    assert best["mean"] == pytest.approx(2.6) and best["low"] < 2.6 < best["high"]
    assert (best["judgements"], best["participants"], best["items"]) == (25, 5, 5)
    assert by_name["5-epo"]["empathy"]["by_dataset"]["iemocap"]["judgements"] == 10
    assert by_name["1-llm"]["empathy"]["all"]["mean"] == 1 and by_name["1-llm"]["empathy"]["all"]["low"] == 1
    differences = {(d["second"], d["question"]): d for d in facts["differences"]}
    assert set(differences) == {(s, q) for s in ("1-llm", "4-av") for q in ("semantics", "empathy")}
    better = differences["1-llm", "empathy"]
    assert better["mean"] == pytest.approx(1.6) and better["first"] == "5-epo" and better["grade"] == "first"
    spread = np.std([2] * 20 + [0] * 5, ddof=1)
    assert better["needed"] == int(np.ceil((Power().reach * spread / 0.1) ** 2))
    assert differences["4-av", "semantics"]["grade"] == "no difference seen"
    # Of the fifteen replies five are given 3, 3, 3, 3, 1, all others 1 throughout.
    assert facts["alpha"]["semantics"]["alpha"] is None and 0 < facts["alpha"]["empathy"]["alpha"] < 1
    assert facts["alpha"]["empathy"]["judged_by_several"] == 15
    # Every conversation is rated alike, so drawing others changes nothing: how far others would agree is not seen.
    assert [facts["alpha"]["empathy"][end] for end in ("low", "high")] == [None, None]
    varied = scored(judgements(lambda p, i, s, q: 1 + (p * int(i[1:]) + (s == "5-epo")) % 3))["alpha"][
        "empathy"
    ]
    assert -1 <= varied["low"] < varied["alpha"] < varied["high"] <= 1


def test_who_fails_most_attention_checks_counts_only_where_asked_for(tmp_path):
    """Of two checks each: the first passes both, the second fails one, the third fails both and says 1 of everything."""
    study, access = small_study(tmp_path, participants=3, checks=2)
    with closing(opened(tmp_path / "judgements.sqlite")) as journal:
        for place, (token, fails) in enumerate(zip(access.tokens, range(3), strict=True)):
            person = invited(journal, access.tokens, token, now=0)
            begin(journal, person, now=0)
            for seen in study.places[place]:
                fails_this = seen.check is not None and fails > 0
                fails -= fails_this
                for system in seen.order:
                    right = seen.check if system == CHECK else 1 if place == 2 else 3
                    value = 4 - right if system == CHECK and fails_this else right
                    for question in study.questions:
                        judge(journal, person, seen.item, system, question, value, "a-click", None, now=0)
    strict, kept = collect(tmp_path, study), collect(tmp_path, study, keep_inattentive=True)
    assert strict.counted == (1, 2) and kept.counted == (1, 2, 3)
    assert strict.counts["inattentive"] == kept.counts["inattentive"] == 1 and strict.rows == kept.rows
    assert len(kept.rows) == 3 * 5 * 3 * 2  # the checks are nobody's reply
    for found, mean in ((strict, 3), (kept, 7 / 3)):
        for system in scored(found)["systems"]:
            assert system["questions"]["empathy"]["all"]["mean"] == pytest.approx(mean, abs=1e-5)


def test_who_does_not_count_is_counted_and_changes_nothing():
    value = lambda p, i, s, q: 1 + (p + int(i[1:])) % 3  # noqa: E731
    whole, more = judgements(value), judgements(value, people=range(1, 8))
    assert scored(more)["systems"] == scored(whole)["systems"]
    assert scored(more)["counts"]["not_counted"] == 2 * 5 * 3 * 2 and scored(more) == scored(more)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Ten people and ten conversations, each with a habit of its own: an interval that drew rows one by one would hold the
    mean in far fewer than 95 of 100 studies."""
    draws, held, naive = np.random.default_rng(0), 0, 0
    people, items = (part.ravel().tolist() for part in np.meshgrid(range(10), range(10)))
    names = [f"i{i}" for i in items]
    for _ in range(200):
        values = (
            draws.normal(0, 0.5, 10)[people] + draws.normal(0, 0.5, 10)[items] + draws.normal(0, 0.5, 100)
        )
        found = crossed(values, people, names, BootstrapSettings(resamples=200))
        held += found.low <= 0 <= found.high
        naive += abs(values.mean()) <= 1.96 * values.std(ddof=1) / 10
    assert 0.92 <= held / 200 <= 1 and naive / 200 < 0.7
    alone = crossed([1, 2], [1, 1], ["a", "b"])
    assert (alone.mean, alone.low) == (1.5, None) and crossed([], [], []).mean is None


def test_pairs_are_the_best_and_the_worst(tmp_path):
    study, _ = small_study(tmp_path / "study")

    def value(p, i, s, q):
        if i == "i01":
            return {"5-epo": 3, "1-llm": 1}.get(s, 2)
        if i == "i02":
            return 2
        if i == "i03":
            return {"5-epo": 3, "1-llm": 3, "4-av": 1}[s] if p > 1 else 2
        return 1 if s == "4-av" else 2 + (q == "empathy" and s == "1-llm")

    found = judgements(value)
    pairs, without = preferences(study, found, margin=0.5, people=2)
    assert [(p.item.id, p.chosen, p.rejected) for p in pairs[:2]] == [
        ("i01", "5-epo", "1-llm"), ("i03", "1-llm", "4-av"),
    ]  # fmt: skip
    assert pairs[1].margin == pytest.approx((4 * 2 + 0) / 5) and dict(without) == {"no clear preference": 1}
    done = export_preferences(study, found, tmp_path / "out", 0.5, 2)
    assert done == {"pairs": 4, "without": {"no clear preference": 1}}
    table = pq.read_table(tmp_path / "out" / "test.parquet")
    assert table.schema.equals(PREFERENCES)
    (row,) = [row for row in table.to_pylist() if row["dialogue_id"] == "d1"]
    assert row["prompt"] == [{"role": "user", "content": "I lost my keys, all 1 of them."}]
    assert row["chosen"][0]["content"] == "+ EPO says 1" and row["history"] == ["gpt: Hello, number 1."]
    assert row["rejected"][0]["content"] == "LLM as it is says 1" and row["engine"] == "1-llm"
    assert (row["reply"], row["cosine"], row["scorer"], row["turn"]) == ("Oh no.", None, None, 1)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| test | 4 |" in card and "must be measured elsewhere" in card
    with pytest.raises(InputError, match="is not empty"):
        export_preferences(study, found, tmp_path / "out", 0.5, 2)
    with pytest.raises(InputError, match="5 too few judgements.*ask more people"):
        export_preferences(study, found, tmp_path / "none", 0.5, 9)


def test_pairs_train_trl_as_they_are(tmp_path):
    datasets = pytest.importorskip("datasets")
    study, _ = small_study(tmp_path / "study")
    export_preferences(
        study, judgements(lambda p, i, s, q: 3 if s == "5-epo" else 1), tmp_path / "out", 0.5, 2
    )
    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "out/test.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert loaded.num_rows == 5 and loaded[0]["chosen"][0]["role"] == "assistant"


def test_people_beside_a_judge():
    """The judge says of each exchange that the first is better; people that it is, is not, or neither, by hand."""
    sign = {"i01": 1, "i02": 1, "i03": -1, "i04": 0}
    found = judgements(lambda p, i, s, q: 2 + (sign.get(i, 1) if s == "5-epo" and q == "empathy" else 0))
    keys = [item(n, "meld" if n < 4 else "iemocap").key for n in range(1, 5)]
    wins = ("first", "tie", "second", "first")
    rows = [
        {"key": list(k), "failure": None, "empathy": w, "fit": "first"}
        for k, w in zip(keys, wins, strict=True)
    ]
    rows[0] = {**rows[0], "fit": None}
    judged = [
        {"first": "5-epo", "second": "1-llm", "rows": rows},
        {"first": "5-epo", "second": "x", "rows": rows},
    ]
    empathy, fit = beside_judge(found, judged)
    # People: first, first, second, tie. Weighted disagreements 0 + 1 + 0 + 1, of 0, 1, 4 for each step; by chance
    # rows (second, tie, first) 1, 1, 2 beside columns 1, 1, 2 of 4: (1*1*1 + 1*2*4 + 1*1*1 + 1*2*1 + 2*1*4 + 2*1*1) / 4.
    assert empathy["kappa"] == pytest.approx(1 - 2 / (22 / 4), abs=1e-6)
    assert (empathy["exchanges"], empathy["same"], empathy["question"]) == (4, 2, "empathy")
    assert -1 <= empathy["low"] < empathy["kappa"] < empathy["high"] <= 1
    assert beside_judge(found, judged, BootstrapSettings(level=0.5))[0]["low"] > empathy["low"]
    assert (fit["exchanges"], fit["same"], fit["question"]) == (3, 0, "semantics")


def test_the_file_that_a_run_reads(tmp_path):
    found = judgements(lambda *_: 2)
    path = tmp_path / "judgements.json"
    path.write_bytes(found.as_bytes())
    assert read_judgements(path) == found and read_judgements(path).as_bytes() == found.as_bytes()
    path.write_text(json.dumps({"format": 9}))
    with pytest.raises(InputError, match="judgements.json: .*`empamba study score` writes it") as told:
        read_judgements(path)
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_judgements(tmp_path / "none.json")
