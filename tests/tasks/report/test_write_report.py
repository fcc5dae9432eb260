"""The report stage on a small store built by hand: what it says, and that the same artefacts give the same bytes."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest

from model.metrics.verdict import NO_DIFFERENCE, Verdict
from storage.readers.common import Dialogues
from storage.settings import DataSettings
from storage.shards import write_table
from storage.store import Ref, Store, canonical
from storage.utterance import Reject, Utterance
from tasks.engine.declaration import Stage, Weights
from tasks.engine.item import Workspace
from tasks.pipeline import STAGES
from tasks.report import plots, viewer
from tasks.report.figures import FIGURES, MAIN, as_csv, csv_of, figure_rows
from tasks.report.paper_tables import TABLE_1, TABLE_1_RUNGS, TABLE_2, TABLE_2_DATASET
from tasks.report.rungs import generalisation_rows
from tasks.report.weights_and_settings import same_scorer
from tasks.settings import load_settings, weight_names
from tasks.show import system_rows
from tasks.stages.report.write import write_report
from tasks.stages.utterances.cards import make_card

EMOTIONS = ("Happy", "Sad", "Surprised", "Calm", "Neutral", "Disgust", "Angry", "Fearful")
RUNGS = ("1-llm", "2-ft", "3-mc", "4-av", "5-epo")
COMPARED = {"with": {"candidates": 16, "usable": 12}, "without": {"candidates": 16, "usable": 2}}
SIDES = {"chosen": 0.0, "rejected": 0.25}
QUALITY = {
    "pairs": 4, "words": {"chosen": 6.5, "rejected": 13.25}, "longer": 0.75, "shorter": 0.0, "length_gap": 6.75,
    "repetition": SIDES, "echo": SIDES, "overlap": 0.125, "reused": 0.5, "accuracy": {"length": 0.807, "style": 0.61},
    "bound": 0.75, "above": ["length"],
}  # fmt: skip
NO_GAIN = Verdict(NO_DIFFERENCE, 0.01, -0.02, 0.04, rows=37, dialogues=9, detectable=0.043).as_dict()
SCORERS = {"correlation": 0.8765, "replies": 185, "same_encoder": True}
RUNG_FIGURES = (
    "bertscore",
    "emotionscore",
    "emotionscore_second",
    "emotioncontrast",
    "emotioncontrast_second",
    "log_likelihood",
)
REASONS = dict.fromkeys(("features", "extractor", "dialogue.audiovisual"), "no media") | {
    "epo": "no preference pairs"
}
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Text by section id, and whether every tag is closed where it should be."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.classes: list[str] = []
        self.bare_tables = 0
        self.section, self.text, self.images, self.addresses = "", {"": ""}, [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        self.classes.append(facts.get("class") or "")
        if tag == "table" and "scroll" not in self.classes:
            self.bare_tables += 1
        if tag in VOID:
            self.classes.pop()
        self.addresses += [facts[name] for name in ("src", "href") if name in facts]
        if tag == "img":
            self.images.append(facts)
        if tag == "section":
            self.section = facts["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.classes.pop()
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text[self.section] = self.text.get(self.section, "") + " " + " ".join(data.split())


def _key(turn: int, split: str = "train") -> dict:
    return {"dataset": "meld", "split": split, "dialogue_id": "d1", "turn": turn}


def _shard(store: Store, table: str, name: str, rows: list[dict]) -> Ref:
    return store.put_bytes(f"{table}/{name}", write_table(rows, table), rows=len(rows))


def _json(store: Store, name: str, content: dict) -> Ref:
    return store.put_bytes(name, canonical(content))


def _rejects(store: Store, name: str, rows: list[dict]) -> Ref:
    return store.put_bytes(f"rejects/{name}", write_table(rows, "rejects"), rejects=len(rows))


def _utterances(store: Store, notes: list[str]) -> list[Ref]:
    said = [
        Utterance("meld", split, f"d{t % 2}", t, "A", "hello", "happy" if t < 5 else None, "joy", seconds=2.5)
        for split in ("train", "dev")
        for t in range(12)
    ]
    away = Reject("meld", "train", "d1", 30, "no_text", "row 3 has no <text> & more")
    read = Dialogues(said, [away], [away], notes, rows=len(said) + 1)
    rows = [{**_key(t), "speaker": "A", "text": "hello"} for t in range(12)]
    reject = {**_key(3), "stage": "utterances", "reason": "no_text", "detail": "row 3 has no <text> & more"}
    return [
        _shard(store, "utterances", "meld/train/0", rows),
        _rejects(store, "meld", [reject]),
        _json(store, "card/meld", make_card("meld", read, DataSettings(), False)),
    ]


def _exchanges(store: Store) -> list[Ref]:
    rows = [
        {
            **_key(t),
            "sentence": f"sentence {t} with <b>marks</b>",
            "reply": f"true reply {t}",
            "sentence_speaker": "A",
            "reply_speaker": "B",
            "reply_emotion": "happy",
            "selected": True,
        }
        for t in range(8)
    ]
    summary = {
        "selected": {"exchanges/meld/train/0": 8},
        "fallen_out": {"meld/train": {"same_speaker": 41, "gap": 17}},
    }
    return [_shard(store, "exchanges", "meld/train/0", rows), _json(store, "exchanges.json", summary)]


def _cosine(turn: int, place: int) -> float:
    return round(0.9 - 0.1 * ((place + turn) % 8), 6)


def _scores(store: Store) -> list[Ref]:
    rows = [
        {
            **_key(turn),
            "source": "prompted",
            "emotion": emotion,
            "sample": 0,
            "prompt": "p",
            "text": f"{emotion} answer to {turn}",
            "usable": place != 0,
            "reason": None if place else "echo",
            "seed": 1,
            "engine": "transformers 5",
            "weights": "wheel:x",
            "settings": "{}",
            "cosine": _cosine(turn, place),
        }
        for turn in range(8)
        for place, emotion in enumerate(EMOTIONS)
    ]
    return [_shard(store, "scores", "meld/train/0", rows)]


def _pairs(store: Store) -> list[Ref]:
    """Turns 0 to 3 keep their least similar usable candidate, the others are turned away."""
    least = {t: min(range(1, 8), key=lambda place, t=t: _cosine(t, place)) for t in range(8)}
    kept = [
        {
            **_key(t),
            "sentence": "s",
            "reply": "c",
            "chosen": "c",
            "rejected": f"{EMOTIONS[least[t]]} answer to {t}",
            "rejected_emotion": EMOTIONS[least[t]],
            "cosine": _cosine(t, least[t]),
        }
        for t in range(4)
    ]
    rejects = [
        {**_key(t), "stage": "pairs", "reason": "not_below_threshold", "detail": "cosine 0.3"}
        for t in range(4, 8)
    ]
    summary = {
        "paper_threshold": 0.1,
        "threshold": 0.4321,
        "set_threshold": 0.1,
        "train_share_at_set_threshold": 0.0,
        "equal_error": 0.4321,
        "exchanges": 8,
        "candidates": 64,
        "usable": 56,
        "unusable": {"echo": 8},
        "engines": ["transformers 5"],
        "pairs": 4,
        "rejected_emotions": {"Fearful": 4},
        "rejects": {"not_below_threshold": 4},
        "least_cosines": sorted(_cosine(t, least[t]) for t in range(8)),
        "kept_at_paper_threshold": 0,
        "selection": "least_similar",
        "by_dataset": {"meld": {"exchanges": 8, "pairs": 4}},
        "by_reply_emotion": {"happy": {"exchanges": 8, "pairs": 4}},
        "by_asked_emotion": {"Fearful": {"candidates": 8, "usable": 7, "below": 5, "pairs": 4}},
        "cosine_counts": [0] * 24 + [7] * 8 + [0] * 8,
    }
    return [
        _shard(store, "pairs", "meld/train/0", kept),
        _rejects(store, "pairs", rejects),
        _json(store, "pairs.json", summary),
    ]


def _calibration(store: Store) -> list[Ref]:
    facts = {"pairs": 3, "datasets": ["meld"], "same": [0.4, 0.6, 0.8], "different": [0.1, 0.3, 0.5]}
    return [_json(store, "calibration.json", {**facts, "equal_error": 0.4321})]


def _compared(control: str, gain: float | None) -> dict:
    """Eight rows of eight dialogues whose loss fell by about one; with the control it is higher by `gain`."""
    rows = {"dialogue": list(range(8)), "before": [3.0 + i / 50 for i in range(8)], "after": [2.0] * 8}
    return rows if gain is None else rows | {control: [2.0 + gain + (i - 3.5) / 50 for i in range(8)]}


def _trained(
    store: Store, folder, learned: bool | None, control: str = "other_history", **figures
) -> list[Ref]:
    """learned: whether the own does better than the control; None: the report holds no rows."""
    heldout = [{"step": 0, "loss": 3.25}, {"step": 40, "loss": 2.125}]
    report = {
        "history": {
            "train": [{"step": i + 1, "loss": 3 * math.exp(-i / 30)} for i in range(40)],
            "heldout": heldout,
            "tokens": 11873,
            "rows": 320,
            "best_step": 40,
        },
        "heldout_before": heldout[0],
        "heldout_after": heldout[1],
        **({} if learned is None else {"compared": _compared(control, 0.5 if learned else 0.0)}),
        **figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "weights.safetensors").write_bytes(b"weights")
    return [store.put_tree("trained", folder)]


def _replies(store: Store, rungs) -> list[Ref]:
    return [
        _shard(
            store,
            "replies",
            f"all/test/{rung}",
            [
                {
                    **_key(t, "dev"),
                    "rung": rung,
                    "sentence": f"s{t}",
                    "reference": f"reference {t}",
                    "reply": f"{rung} says {t}" if rung != "3-mc" else f"2-ft says {t}",
                }
                for t in range(7)
            ],
        )
        for rung in rungs
    ]


def _system(rung: str, dataset: str, base: float) -> dict:
    row = {
        "rung": rung,
        "system": f"system {rung}",
        "dataset": dataset,
        "split": "dev",
        "n": 37,
        "dialogues": 9,
    }
    for place, name in enumerate(("bertscore", "emotionscore", "emotionscore_second", "dist1")):
        value = base + place / 100
        row |= {name: value, f"{name}_ci": [value - 0.05, value + 0.05]}
    stuck = {"stuck": 0.0541, "stuck_ci": [0.01, 0.12]}
    return {**row, "dist1_corpus": 0.321, "reply_words": 8.25, **stuck}


def _metrics(store: Store, rungs) -> list[Ref]:
    systems = [_system(r, d, 0.2 + i / 10) for i, r in enumerate(rungs) for d in ("meld", "all")]
    identical = {"3-mc": {"rung": "2-ft", "share": 0.96}, "5-epo": {"rung": "3-mc", "share": 0.94}}
    steps = [
        {"rung": after, "against": before, **dict.fromkeys(RUNG_FIGURES, NO_GAIN)}
        for before, after in zip(rungs, rungs[1:], strict=False)
    ]
    facts = {"systems": systems, "identical_to_previous": identical, "steps": steps, "scorers": SCORERS}
    return [_json(store, "metrics.json", facts)]


def _artefacts(store: Store, folder, notes=()) -> dict[str, list[Ref] | None]:
    """A run on text alone: no features, no extractor, no fourth rung; EPO learned nothing."""
    rungs = [rung for rung in RUNGS if rung != "4-av"]
    memory = {
        "nats_recovered": 1.375,
        "heldout_no_memory": {"loss": 3.5},
        "heldout_other_memory": {"loss": 3.0},
    }
    reconstructed = {
        "free_running": {"exact": 0.0, "rows": 1, "examples": [{"original": "o", "reconstructed": "r"}]}
    }
    return {
        "utterances": _utterances(store, list(notes)),
        "utterances.exchanges": _exchanges(store),
        "features": None,
        "candidates": [_json(store, "plain/meld/train/0", COMPARED)],
        "scores": _scores(store),
        "scores.calibration": _calibration(store),
        "pairs": _pairs(store),
        "pairs.quality": [_json(store, "quality.json", QUALITY)],
        "extractor": None,
        "compressor.pretrain": _trained(store, folder / "a", True, **memory),
        "compressor.finetune": _trained(store, folder / "b", True, **memory, **reconstructed),
        "dialogue.text": _trained(store, folder / "c", None),
        "dialogue.memory": _trained(store, folder / "d", True),
        "dialogue.audiovisual": None,
        "epo": _trained(store, folder / "e", False, collapsed=True),
        "replies": _replies(store, rungs),
        "metrics": _metrics(store, rungs),
    }


def _report(
    root, artefacts, store: Store, profile: str = "cpu", more: tuple = (), changes: tuple = (), variants=None
) -> tuple[str, dict]:
    settings = load_settings(profile, changes)
    weights = {role: Weights(name=n, identity=f"wheel:{n}") for role, n in weight_names(settings).items()}
    work = Workspace(store, None, "basis", lambda *_: None)
    stages = [
        {"name": s.name, "title": s.title, "trains": s.trains, "reason": REASONS.get(s.name)}
        for s in (*STAGES, *more)
        if s.name != "report" and (s.enabled(settings) or artefacts.get(s.name))
    ]
    licences = {"weights": {"LLM": "Apache-2.0 (tested)"}, "datasets": {"meld": "GPL-3.0 (tested)"}}
    html, facts, table = write_report(profile, settings, artefacts, weights, stages, licences, work, variants)
    assert (html.name, facts.name, table.name) == ("report.html", "report.json", "report.csv")
    assert store.read(table) == as_csv(json.loads(store.read(facts))["systems"])
    return store.read(html).decode(), json.loads(store.read(facts))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("run")
    store = Store(tmp_path / "store")
    html, facts = _report(tmp_path, _artefacts(store, tmp_path), store)
    return html, Page(html), facts


def test_page_is_well_formed_and_self_contained(text_run):
    _, page, _ = text_run
    assert page.images and all(image["alt"] for image in page.images)
    inside = ("data:image/svg+xml;base64,", "data:text/csv;charset=utf-8;base64,", "#")
    assert all(address.startswith(inside) for address in page.addresses)


def test_the_data_of_figures_are_inside_the_page(text_run):
    """One click away: the same rows as the CSV that stands beside the page."""
    _, page, facts = text_run
    links = [a.split(",", 1)[1] for a in page.addresses if a.startswith("data:text/csv")]
    tables = [base64.b64decode(link) for link in links]
    assert csv_of(figure_rows(facts["systems"])) in tables and len(tables) >= 4
    (steps,) = [t for t in tables if t.startswith(b"rung,against,figure,")]
    assert len(list(csv.DictReader(io.StringIO(steps.decode())))) == len(RUNG_FIGURES) * len(facts["steps"])
    assert set(page.text) >= {"ladder", "datasets", "training", "pairs", "candidates", "replies", "data"}


def test_every_plot_and_table_has_its_data_behind_a_link_below_it(text_run):
    """In the section or the part of it that it stands in, and before the next heading of the page's own."""
    html, _, facts = text_run
    body = re.sub(r'href="data:[^"]+"', 'href="#"', html)
    for section in re.findall(r'<section id="([^"]+)">(.*?)</section>', body, re.DOTALL):
        name, inside = section
        shown = [m.start() for m in re.finditer(r"<table>|<img ", inside)]
        links = [m.start() for m in re.finditer(r'<a download="', inside)]
        assert not shown or (links and max(links) > max(shown[:1])), name
    names = re.findall(r'<a download="([^"]+)\.csv" href="data:text/csv', html)
    assert {
        "systems",
        "ladder",
        "steps",
        "table-1",
        "training",
        "pairs-cosines",
        "pairs-counts",
        "settings",
    } <= set(names)
    assert {"dialogue.memory-loss", "dialogue.memory-judged", "cards", "splits", "weights", "replies"} <= set(
        names
    )


def read_csv(html: str, name: str) -> list[dict]:
    """The rows behind a link."""
    found = re.search(
        rf'<a download="{re.escape(name)}\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', html
    )
    return list(csv.DictReader(io.StringIO(base64.b64decode(found.group(1)).decode(), newline="")))


def test_the_data_behind_a_plot_are_what_it_draws(text_run):
    html, _, facts = text_run
    cosines = read_csv(html, "pairs-cosines")
    assert [int(row["candidates"]) for row in cosines] == facts["pairs"]["cosine_counts"]
    assert (float(cosines[0]["from"]), float(cosines[-1]["to"])) == (-1.0, 1.0)
    drawn = {row["rung"]: row for row in read_csv(html, "ladder")}
    assert float(drawn["2-ft"]["emotionscore_low"]) == pytest.approx(0.26)
    assert (
        float(drawn["2-ft"]["paper_bertscore"]) == TABLE_2["2-ft"][0]
        and drawn["4-av"]["not_run"] == "no media"
    )
    curve = read_csv(html, "dialogue.memory-loss")
    assert [row["kept"] for row in curve if row["set"] == "heldout"] == ["False", "True"] and len(curve) == 42
    examples = read_csv(html, "candidates")
    assert {row["sentence"] for row in examples} <= {f"sentence {t} with <b>marks</b>" for t in range(8)}


def test_table_3_tells_its_own_protocol(store, tmp_path):
    of = {"tokens": 600.5, "tokens_ci": [500.0, 700.0], "bertscore": 0.84, "bertscore_ci": None}
    forms = {"text": {**of, "dropped_utterances": 7, "gigabytes": None, "memory_of": None}}
    forms["memory"] = {**forms["text"], "tokens": 110.25, "dropped_utterances": 0}
    change = {**NO_GAIN, "mean": -490.25, "low": -590.0, "high": -390.0, "share": -0.8164}
    measured = {
        "there": 40, "exchanges": 12, "dialogues": 5, "least_turns": 20, "datasets": ["meld/test"], "stands_in": True,
        "floors": [{"title": 'always "Okay."', "n": 12, "dialogues": 5, "bertscore": 0.625, "bertscore_ci": [0.5, 0.75]}],
        "measured_cost": False, "most_utterances": 32, "most_tokens": 1024, "forms": forms, "changes": {"tokens": change},
    }  # fmt: skip
    artefacts = {**_artefacts(store, tmp_path), "long-history": [_json(store, "long_history.json", measured)]}
    html, facts = _report(tmp_path, artefacts, store)
    text = Page(html).text["table-3"]
    assert facts["long_history"] == measured
    for shown in (
        "600.5 500.0 to 700.0",
        "110.2",
        "−490.2 (−81.6 %)",
        "606.2",
        "0.1112",
        "7 turns left the text prompts",
    ):
        assert shown in text, shown
    assert 'always "Okay." – – – 0.625 0.500 to 0.750 12 of 5 dialogues not in the paper' in " ".join(
        text.split()
    )
    assert "12 of 40 exchanges with 20 turns or more" in text and "which stand in" in text
    assert "memory and time are not measured" in text
    forms["text"] |= {
        "gigabytes": 16.3,
        "memory_of": "the device's allocations",
        "seconds": 0.1,
        "seconds_ci": None,
    }
    forms["memory"] |= {"gigabytes": 15.73, "seconds": 0.08, "seconds_ci": None}
    artefacts["long-history"] = [_json(store, "long_history.json", {**measured, "measured_cost": True})]
    text = Page(_report(tmp_path, artefacts, store)[0]).text["table-3"]
    assert "−0.57 (−3.5 %)" in text and "memory is the device's allocations" in text
    none = {**measured, "exchanges": 0, "forms": {}, "changes": {}}
    artefacts["long-history"] = [_json(store, "long_history.json", none)]
    text = Page(_report(tmp_path, artefacts, store)[0]).text["table-3"]
    assert "not run: no test exchange has 20 turns before its sentence" in text


@pytest.mark.slow
def test_the_page_stays_small_however_much_was_said(store, tmp_path):
    """Below 10 MB for 10,000 exchanges whose sentences, replies and histories are longer than the page shows of a text."""
    artefacts = _artefacts(store, tmp_path)
    words = "long words, " * 100
    keys = [{**_key(t % 20, "test"), "dialogue_id": f"d{t // 20}"} for t in range(10_000)]
    said = [{**key, "speaker": "A", "text": f"{words}{place}"} for place, key in enumerate(keys)]
    rows = [{**key, "sentence": f"{words}{place}", "reference": words} for place, key in enumerate(keys)]
    artefacts["utterances"].append(_shard(store, "utterances", "meld/test/0", said))
    artefacts["replies"] = [
        _shard(
            store,
            "replies",
            f"all/test/{rung}",
            [
                {**row, "rung": rung, "reply": f"{rung} {place} {words * (9 if place % 2 else 1)}"}
                for place, row in enumerate(rows)
            ],
        )
        for rung in RUNGS
    ]
    html, _ = _report(tmp_path, artefacts, store)
    samples = re.search(r'class="samples">(.*?)</script>', html, re.DOTALL)[1]
    kept = json.loads(samples)["rows"]
    assert 100 < len(kept) < viewer.MOST
    assert len(samples.encode()) <= viewer.BYTES + 1000 and len(html.encode()) < 10_000_000
    text = Page(html).text["replies"]
    assert f"Look through {len(kept)} of 10,000 exchanges" in text
    assert f"Drawn by seed; {10_000 - len(kept):,} exchanges are left out" in text
    cut = sum(
        of.endswith("…")
        for row in kept
        for of in (row["sentence"], row["reference"], *row["replies"].values())
    )
    cut += sum(of.endswith("…") for row in kept for _, of in row["history"])
    assert f"{cut:,} texts of more than 1,000 characters are cut (…)." in text


def test_what_was_never_trained_on_is_out_of_domain(text_run):
    systems = [
        _system(rung, data, 0.3)
        for rung in ("1-llm", "2-ft", "3-mc", "5-epo", "floor-okay", "floor-central", "floor-people")
        for data in ("own", "meld", "all")
    ]
    splits = [
        {"dataset": "meld", "split": "train", "exchanges": 8},
        {"dataset": "own", "split": "test", "exchanges": 5},
    ]
    found = generalisation_rows(systems, splits)
    assert [(part["dataset"], part["train_exchanges"]) for part in found] == [("own", 0), ("meld", 8)]
    assert [row["rung"] for row in found[0]["rows"]] == [
        "1-llm",
        "2-ft",
        "5-epo",
        "floor-okay",
        "floor-people",
    ]
    _, page, facts = text_run
    assert facts["generalisation"][0]["train_exchanges"] == 8 and "Generalisation" in page.text["datasets"]


def test_every_table_scrolls_in_a_box_of_its_own(text_run):
    """On a narrow screen the page itself never does."""
    html, page, _ = text_run
    assert page.bare_tables == 0 and html.count("<table") > 20


def test_text_of_the_data_is_escaped(text_run):
    html, page, _ = text_run
    assert "<b>marks</b>" not in html and "<b>marks</b>" in page.text["candidates"]
    assert "row 3 has no <text> & more" in page.text["data"]


def test_ladder_puts_the_papers_figures_beside_the_runs(text_run):
    _, page, _ = text_run
    text = page.text["ladder"]
    for figures in TABLE_2.values():
        assert all(f"{value:.3f}" in text for value in figures)
    assert "0.310" in text and "0.260 to 0.360" in text  # rung 2: EmotionScore and its interval
    assert "not run: no media" in text and "continues rung 3" in text
    assert "96 % identical to 2-ft" in text and "94 % identical to" not in text


def test_rungs_stand_beside_their_systems_of_table_1(text_run):
    _, page, _ = text_run
    assert (
        "dev stands in for test" in page.text["datasets"] and "MELD: dev stands in for test" in page.text[""]
    )
    for system in TABLE_1_RUNGS.values():
        assert all(f"{value:.3f}" in page.text["datasets"] for value in TABLE_1[system]["meld"])


SYSTEMS = [
    {"kind": "endpoint", "name": "o", "title": "Some <o>", "paper": "GPT-4o", "server": {"model": "o"},
     "prices": {"prompt": 2.5, "reply": 10, "currency": "EUR"}},
    {"kind": "endpoint", "name": "down", "server": {"model": "down"}},
    {"kind": "chatbot", "name": "old", "title": "An old chatbot", "weights": "tiny-llm"},
]  # fmt: skip
ASKED = {
    "prompts": 7,
    "retries": 3,
    "uncounted": 0,
    "prompt_tokens": 1_000_000,
    "reply_tokens": 50_000,
    "identity": {},
}

_QUESTION = {
    "agreed": 5,
    "agreement": [0.8333, 0.31, 0.97],
    "tie": 1,
    "second": 1,
    "dialogues": 4,
    "share": [0.75, 0.3, 0.95],
}
JUDGED = {
    "first": "5-epo", "second": "system-o", "judge": "served:judge-7b@77", "common": 7, "exchanges": 7, "identical": 0,
    "failures": {"unreadable": 1}, "judged": 6, "calls": 14, "retries": 0, "prompt_tokens": 1, "reply_tokens": 1,
    "questions": {"empathy": {**_QUESTION, "first": 3, "grade": "no difference seen"},
                  "fit": {**_QUESTION, "first": 3, "share": None, "agreement": [0.5], "grade": "not distinguishable"}},
    "rows": [{"key": ["meld", "dev", "d1", 3], "failure": None, "empathy": "first", "fit": None}],
}  # fmt: skip


@pytest.fixture(scope="module")
def systems_run(tmp_path_factory):
    """One answered some, one nothing, and of one there is nothing."""
    tmp_path = tmp_path_factory.mktemp("systems")
    store = Store(tmp_path / "store")
    artefacts = _artefacts(store, tmp_path)
    rungs = [rung for rung in RUNGS if rung != "4-av"]
    facts = json.loads(store.read(_metrics(store, [*rungs, "system-o"])[0]))
    over = {"rung": "5-epo", "against": "system-o", "system": "Some <o>", "left_out": 3}
    facts["over_systems"] = [{**over, **dict.fromkeys(RUNG_FIGURES, NO_GAIN)}]
    facts["steps"] = facts["steps"][:-1]
    artefacts["metrics"] = [_json(store, "metrics.json", facts)]
    counts = {"exchanges": 7, "answered": 5, "failures": {"filtered": 2}, "model": "served:o@12ab", **ASKED}
    rejects = [{**_key(3, "dev"), "stage": "systems", "reason": "filtered", "detail": "o gave no reply"}]
    artefacts["systems"] = [
        *_replies(store, ["system-o"]),
        _rejects(store, "system-o", rejects),
        _json(store, "o.json", {"name": "o", **counts}),
        _json(store, "old.json", {"name": "old", **counts, "answered": 0, "failures": {"garbled": 7}}),
    ]
    artefacts["judge"] = [_json(store, "judge-system-o.json", JUDGED)]
    judge = {"server": {"model": "judge-7b"}, "exchanges": 7}
    changes = (f"systems={json.dumps(SYSTEMS)}", f"judge={json.dumps(judge)}")
    html, facts = _report(tmp_path, artefacts, store, changes=changes)
    return Page(html), facts


def test_other_systems_stand_in_table_1_with_what_they_answered_and_cost(systems_run):
    page, facts = systems_run
    text = page.text["datasets"]
    assert "Some <o>" in text and "served:o@12ab" in text
    assert "5 of 7" in text and "2 filtered 2" in text and "1,000,000 50,000" in text
    # 2.50 for the million of the prompts, 0.50 for the twentieth of one; three retries told no tokens.
    assert "at least 3.0000 EUR" in text
    assert "its replies are not there" in text and "An old chatbot" in text
    assert "3 answered by one alone left out" in text
    (beside,) = [row for row in facts["other_systems"] if row["row"] == "system-o"]
    assert beside["cost"] == {"amount": 3.0, "currency": "EUR", "least": True}
    assert all(f"{value:.3f}" in text for value in TABLE_1["GPT-4o"]["meld"])


def test_other_systems_are_no_rungs_of_table_2_and_stand_beside_the_replies(systems_run):
    page, facts = systems_run
    assert "Some <o>" not in page.text["ladder"] and all(row["rung"] != "system-o" for row in facts["ladder"])
    assert "system-o says" in page.text["replies"]
    assert "o gave no reply" in page.text["data"]


def test_a_judges_verdicts_stand_with_their_n_failures_and_agreement_and_each_row_is_inside(
    systems_run, text_run
):
    page, facts = systems_run
    text = page.text["datasets"]
    assert (
        "empathy 6 of 7 1 unreadable 1 5 83 %, 0.31 to 0.97 3 1 1 0.75 0.30 to 0.95 no difference seen"
        in text
    )
    assert "fit 6 of 7 1 unreadable 1 5 50 % 3 1 1 – not distinguishable" in text
    assert "served:judge-7b@77" in text and facts["judge"] == [JUDGED]
    links = [base64.b64decode(a.split(",", 1)[1]) for a in page.addresses if a.startswith("data:text/csv")]
    assert b"5-epo,system-o,meld/dev/d1/3,,first,\r\n" in b"".join(links)
    assert "to a judge" not in text_run[1].text["datasets"] and text_run[2]["judge"] == []


def test_a_system_that_was_not_asked_says_what_it_needs(systems_run, text_run):
    asked, none = systems_run[0].text["datasets"], text_run[1].text["datasets"]
    for name in ("Qwen-Audio-Chat†", "LLaVA-NeXT†", "Claude 3.5 haiku", "Gemini 1.5 flash"):
        assert name in asked and name in none
    assert "not run: needs an endpoint" in none and "not run: needs its weights, named in `systems`" in none
    assert "DialoGPT or BlenderBot class" in none and "DialoGPT or BlenderBot class" not in asked
    rows = {row["title"]: row["not_run"] for row in text_run[2]["other_systems"]}
    assert "GPT-4o" in rows and all(rows.values()) and len(rows) == 6


def test_tables_of_the_paper_agree_where_they_overlap():
    for rung, system in TABLE_1_RUNGS.items():
        assert TABLE_1[system][TABLE_2_DATASET] == TABLE_2[rung]


def test_training_says_loudly_what_did_not_learn(text_run):
    _, page, facts = text_run
    text = page.text["training"]
    assert text.count("loss fell, the own history is not seen to help") == 1 and "collapsed" in text
    assert "does not say whether it learned" in text
    assert (
        "1.375 nats a token recovered by the memories: 2.125 with its own, 3.500 without, 3.000 with another "
        "dialogue's" in text
    )
    assert "−1.125" in text and "11,873 tokens" in text
    verdict = facts["training"]["epo"]["verdict"]
    assert verdict["grade"] == "loss fell, the own history is not seen to help"
    (fell, own) = verdict["findings"]
    assert (fell["grade"], fell["rows"], fell["dialogues"], own["grade"]) == ("learned", 8, 8, NO_DIFFERENCE)
    assert fell["mean"] == pytest.approx(1.07) and f"{own['detectable']:.3f} could have been" in text
    assert "compared" not in facts["training"]["epo"]
    assert facts["training"]["epo"]["history"]["steps"] == 40
    assert facts["training"]["extractor"] == {"not_run": "no media"}


def test_pairs_name_both_thresholds(text_run):
    _, page, facts = text_run
    text = page.text["pairs"]
    assert "0.432" in text and "paper 0.1 , which would keep 0.0 %" in text.replace("0.1,", "0.1 ,")
    assert "87.5 %" in text and "of 8 exchanges, 50.0 %" in text
    assert facts["pairs"]["calibration"]["equal_error"] == 0.4321


def test_candidates_show_every_emotion_and_mark_the_kept_ones(text_run):
    html, page, _ = text_run
    shown = [t for t in range(8) if f"true reply {t}" in page.text["candidates"]]
    assert len(shown) == 6
    for turn in shown:
        assert all(f"{emotion} answer to {turn}" in page.text["candidates"] for emotion in EMOTIONS)
    assert html.count('class="candidate chosen') == sum(turn < 4 for turn in shown)
    assert page.text["candidates"].count("no pair: not_below_threshold") == sum(turn >= 4 for turn in shown)


def test_replies_stand_side_by_side(text_run):
    _, page, _ = text_run
    assert "Replies, side by side: Figure 7" in page.text["replies"]
    assert page.text["replies"].count("as above") == 6  # the third rung says what the second says
    assert page.text["replies"].count("5-epo says") == 6


def test_counts_of_rows_and_rejects(text_run):
    _, page, facts = text_run
    stages = {row["stage"]: row for row in facts["counts"]["stages"]}
    assert (stages["utterances"]["rows"], stages["utterances"]["rejects"]) == (12, 1)
    assert stages["features"]["rows"] is None
    assert stages["pairs"] | {"by": 0} == {
        "stage": "pairs",
        "table": "pairs",
        "rows": 4,
        "rejects": 4,
        "by": 0,
    }
    train = next(row for row in facts["counts"]["splits"] if row["split"] == "train")
    assert facts["counts"]["without_media"] == 24 and "24 utterances have no clip" in page.text["data"]
    assert (train["same_speaker"], train["gap"], train["selected"], train["pairs"]) == (41, 17, 8, 4)
    assert "published counts differ" in page.text["data"] and "-1037" in page.text["data"]
    reasons = {(r["stage"], r["reason"]): r["count"] for r in facts["counts"]["rejects"]}
    assert reasons == {("utterances", "no_text"): 1, ("pairs", "not_below_threshold"): 4}
    assert "no_text" in page.text["data"]


def test_weights_budgets_seeds_and_changed_settings(text_run):
    _, page, facts = text_run
    assert "wheel:smollm2-135m-instruct" in page.text["weights"] and "candidates.seed" in page.text["weights"]
    budget = load_settings("cpu").dialogue.training.max_tokens
    assert f"{budget:,} 11,873, 11,873" in page.text["weights"]  # both dialogue LoRAs that ran
    assert "qwen2.5-7b-instruct smollm2-135m-instruct" in page.text["settings"]
    assert facts["settings"]["candidates"]["budget"] == load_settings("cpu").candidates.budget
    assert facts["weights"]["LLM"]["name"] == "smollm2-135m-instruct"


def test_only_the_papers_own_weights_go_unmarked(store, tmp_path):
    artefacts = _artefacts(store, tmp_path)
    marked, plain = (Page(_report(tmp_path, artefacts, store, p)[0]).text[""] for p in ("cpu", "paper"))
    assert "These are not the paper's models" in marked and "whisper-tiny.en" in marked
    assert "These are not the paper's models" not in plain


def test_tables_of_the_sample_corpus_are_headed_so(store, tmp_path):
    plain, _ = _report(tmp_path, _artefacts(store, tmp_path), store)
    html, facts = _report(
        tmp_path, _artefacts(store, tmp_path, ["synthetic faces and voices: sample"]), store
    )
    assert "synthetic faces and voices" not in plain
    page = Page(html)
    parts = ("", "ladder", "datasets", "training", "pairs", "candidates", "replies", "data")
    assert all("synthetic faces and voices" in page.text[part] for part in parts)
    assert facts["synthetic"] is True and facts["synthetic_datasets"] == ["meld"]


def test_audio_visual_run_shows_accuracy_by_input(store, tmp_path):
    accuracy = {
        name: {
            "clips": 59,
            "dialogues": 11,
            "accuracy": share,
            "accuracy_ci": [share - 0.1, share + 0.1],
            "balanced": 0.4,
            "balanced_ci": [0.29, 0.51],
            "majority": 0.271,
            "other": None if name == "T" else 0.25,
            "over_other": None if name == "T" else NO_GAIN,
            "over_text": None if name == "T" else NO_GAIN,
            "confusion": {"sad": {"happy": 3, "sad": 56}},
        }
        for name, share in (("A", 0.413), ("V", 0.333), ("A+V", 0.537), ("T", 0.311))
    }
    recognition = {
        "clips": 59, "dialogues": 11, "there": 83, "splits": {"meld": "test", "ravdess": "dev"},
        "accuracy": accuracy, "accuracy_by_dataset": {"meld": accuracy}, "answers": ["happy", "neutral", "sad"],
        "mcnemar": [{"first": "A", "second": "A+V", "n": 59, "only_first": 2, "only_second": 11, "p": 0.022461}],
    }  # fmt: skip
    artefacts = _artefacts(store, tmp_path)
    clips = make_card("ravdess", Dialogues([], [], [], [], rows=0), DataSettings(), False)
    artefacts["utterances"].append(_json(store, "card/ravdess", clips))
    artefacts["extractor"] = _trained(store, tmp_path / "x", True, "other_clip")
    artefacts["extractor.test"] = [_json(store, "recognition.json", recognition)]
    artefacts["dialogue.audiovisual"] = artefacts["dialogue.memory"]
    artefacts["metrics"] = _metrics(store, RUNGS)
    html, facts = _report(tmp_path, artefacts, store)
    page = Page(html)
    text = page.text["recognition"]
    assert "53.7 % 43.7 % to 63.7 %" in text and "59 of 83 test clips" in text
    assert "of RAVDESS, which has no test split, dev stands in" in text
    words = " ".join(text.split())
    assert words.count("Label happy neutral sad sad 3 · 56") == 4  # one confusion matrix an input setting
    assert "A and A+V 59 2 11 0.022" in words
    assert text.count("+0.010 −0.020 to 0.040") == 6  # beyond another clip's features, and beyond text alone
    assert facts["recognition"] == recognition
    assert "continues rung 3" not in page.text["ladder"] and "not run" not in page.text["ladder"]


def test_a_run_that_stopped_early_still_reports(store, tmp_path):
    artefacts = dict.fromkeys(_artefacts(store, tmp_path))
    artefacts["utterances"] = _utterances(store, [])
    html, facts = _report(tmp_path, artefacts, store)
    page = Page(html)
    assert page.text["ladder"].count("not run") == 5 and "Not run." in page.text["pairs"]
    assert facts["systems"] == [] and facts["pairs"] is None


def test_without_pairs_the_fifth_rung_says_so(store, tmp_path):
    artefacts = {**_artefacts(store, tmp_path), "epo": None, "metrics": _metrics(store, RUNGS[:3])}
    assert "not run: no preference pairs" in Page(_report(tmp_path, artefacts, store)[0]).text["ladder"]


def test_same_artefacts_give_the_same_bytes(tmp_path):
    made = []
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        made.append(_report(tmp_path, _artefacts(store, tmp_path), store))
    assert made[0] == made[1]


def test_pairs_say_what_else_tells_the_replies_apart(text_run):
    _, page, facts = text_run
    text = page.text["pairs"]
    assert "These pairs can be told apart without their emotion." in text
    assert "sees only length ranks 80.7 % of held-out pairs right : above the bound of 75 %" in text.replace(
        "right:", "right :"
    )
    assert "6.5, 13.2" in text and "75.0 % of candidates usable with them, 12.5 % without" in text
    assert "4 of 8" in text and "62 %" in text  # by dataset and emotion; below the threshold
    assert facts["quality"]["accuracy"]["length"] == 0.807
    assert facts["examples_compared"]["without"]["share"] == 0.125


def test_a_figure_of_the_table_stands_in_json_csv_and_terminal(text_run):
    _, page, facts = text_run
    lines = list(csv.DictReader(io.StringIO(as_csv(facts["systems"]).decode(), newline="")))
    keys = [figure["key"] for figure in facts["figures"]]
    assert keys == [figure.key for figure in FIGURES]
    assert {line["figure"] for line in lines} == set(keys) & facts["systems"][
        0
    ].keys()  # those in metrics.json here
    one = next(x for x in lines if (x["rung"], x["dataset"], x["figure"]) == ("2-ft", "meld", "emotionscore"))
    assert (float(one["value"]), float(one["low"]), float(one["high"])) == pytest.approx((0.31, 0.26, 0.36))
    assert (one["n"], one["dialogues"], one["better"], one["split"]) == ("37", "9", "higher", "dev")
    assert all(figure.title in page.text["ladder"] for figure in FIGURES)
    stuck = next(x for x in lines if (x["rung"], x["dataset"], x["figure"]) == ("5-epo", "all", "stuck"))
    assert (stuck["title"], stuck["value"], stuck["low"]) == ("Empty or looped", "0.0541", "0.01")
    assert "0.054 0.010 to 0.120" in page.text["ladder"] and facts["systems"][0]["stuck"] == 0.0541
    columns, rows = system_rows(facts["systems"])
    assert columns[-3:] == ("BERTScore", "EmotionScore", "Dist-1")
    assert {row["EmotionScore"] for row in rows if row["rung"] == "2-ft"} == {"0.310 (0.260 to 0.360)"}


def test_a_stage_that_no_section_is_about_gets_one_of_its_own(store, tmp_path):
    judge = Stage("replies.judge", "lab:judge", title="How <long> the replies are")
    artefacts = _artefacts(store, tmp_path)
    artefacts["replies.judge"] = [_json(store, "judge.json", {"n": 37, "share": {"long": 0.25}})]
    page = Page(_report(tmp_path, artefacts, store, more=(judge,))[0])
    text = page.text["stage-1"]
    assert "How <long> the replies are" in text and "judge.json" in text
    assert "n 37" in text and "share · long 0.2500" in text and "#stage-1" in page.addresses
    facts = _report(tmp_path, artefacts, store, more=(judge,))[1]
    assert facts["other_stages"]["replies.judge"]["figures"] == {
        "judge.json": {"n": 37, "share": {"long": 0.25}}
    }
    assert set(facts["other_stages"]) == {"replies.judge"}  # every stage of the pipeline has its place
    assert "stage-1" not in Page(_report(tmp_path, _artefacts(store, tmp_path), store)[0]).text


def test_licences_stand_beside_weights_and_datasets(text_run):
    _, page, facts = text_run
    assert "Apache-2.0 (tested)" in page.text["weights"] and "GPL-3.0 (tested)" in page.text["data"]
    assert facts["licences"]["datasets"] == {"meld": "GPL-3.0 (tested)"}


@pytest.mark.parametrize("same", [(), ("emotionscore",), ("bertscore", "emotionscore")])
def test_figures_of_two_scorers_share_no_axis(monkeypatch, same):
    """Each panel holds the paper's points or this run's, unless one scorer measured both."""
    figures = dict.fromkeys(("bertscore", "emotionscore", "dist1"), 0.5)
    drawn = []
    monkeypatch.setattr(plots, "_uri", lambda figure: drawn.append(figure) or "")
    rows = [{"label": "1", "paper": figures, "run": dict.fromkeys(figures, 0.25)}]
    plots.ladder(rows, [(f, f.key in (*same, "dist1")) for f in MAIN])
    shown = [sorted({float(x) for line in a.lines for x in line.get_xdata()}) for a in drawn[0].axes]
    apart, together = [[0.25], [0.5]], [[0.25, 0.5]]
    expected = [panel for f in MAIN for panel in (together if f.key in (*same, "dist1") else apart)]
    assert shown == expected


def test_bertscore_of_the_paper_shares_an_axis_in_no_profile():
    for profile, emotion in (("cpu", False), ("paper", True)):
        names = weight_names(load_settings(profile))
        same = same_scorer({role: Weights(name=n, identity="x") for role, n in names.items()})
        assert "bertscore" not in same and "dist1" in same and ("emotionscore" in same) is emotion


def test_quality_within_the_bound_is_not_loud(store, tmp_path):
    artefacts = _artefacts(store, tmp_path)
    artefacts["pairs.quality"] = [_json(store, "quality.json", {**QUALITY, "above": []})]
    text = Page(_report(tmp_path, artefacts, store)[0]).text["pairs"]
    assert "told apart without" not in text and "80.7 %" in text


def test_pairs_that_people_chose_are_counted_apart(store, tmp_path):
    judged = {
        "rows": 9, "pairs": 6, "by_split": {"dev": 2, "train": 4}, "by_dataset": {"meld": 6},
        "true_reply": {"chosen": 5, "rejected": 1}, "rejects": {"evaluated": 2, "other_reply": 1},
    }  # fmt: skip
    rejects = [{**_key(0), "stage": "pairs.judged", "reason": "evaluated", "detail": "test.parquet row 1: x"}]
    artefacts = _artefacts(store, tmp_path)
    artefacts["pairs.judged"] = [
        _json(store, "judged.json", judged),
        _rejects(store, "pairs.judged", rejects),
    ]
    alone = Page(_report(tmp_path, artefacts, store)[0]).text["pairs"]
    told = "6 of the 9 that were given (2 in dev, 4 in train); people preferred the true reply in 5"
    assert told in alone and "The scored pairs below take no part." in alone
    assert "Turned away: 2 evaluated, 1 other_reply." in alone
    artefacts["pairs.joined"] = [_json(store, "joined.json", {"judged": 6, "scored": 3, "replaced": 1})]
    html, facts = _report(tmp_path, artefacts, store)
    text = Page(html).text["pairs"]
    assert (
        told in text and "Beside them stand 3 scored pairs; 1 more gave way" in text and "no part" not in text
    )
    assert facts["judged_pairs"] == judged and facts["joined_pairs"]["scored"] == 3
    assert [r["example"] for r in facts["counts"]["rejects"] if r["stage"] == "pairs.judged"] == [
        "test.parquet row 1: x"
    ]
    bare, without = _report(tmp_path, _artefacts(store, tmp_path), store)
    assert "people chose" not in Page(bare).text["pairs"] and without["judged_pairs"] is None


@pytest.mark.parametrize("shown", [True, False])
def test_the_control_stands_beside_epos_gain(store, tmp_path, shown):
    gains = dict.fromkeys(("epo", "control", "difference"), NO_GAIN)
    artefacts = {**_artefacts(store, tmp_path), "epo.random": _trained(store, tmp_path / "c2", True)}
    metrics = json.loads(store.read(_metrics(store, [*RUNGS, "6-random"])[0]))
    told = {"base": "3-mc", "rung": "5-epo", "control": "6-random", "shown": shown}
    told |= {"exchange_shown": shown, **dict.fromkeys(RUNG_FIGURES, gains)}
    metrics["controls"] = {"random": told, "shuffled": {**told, "control": "8-shuffled"}}
    artefacts["metrics"] = [_json(store, "metrics.json", metrics)]
    html, facts = _report(tmp_path, artefacts, store)
    page = Page(html)
    assert ("The emotion signal is not shown." in page.text["ladder"]) is not shown
    assert "Gain over 3-mc" in page.text["ladder"] and "0.010 −0.020 to 0.040" in page.text["ladder"]
    assert ("and not the one that is usual, is not shown" in page.text["ladder"]) is not shown
    assert "EPO on random replies" in page.text["training"] and facts["controls"]["random"]["shown"] is shown
    assert "not in the paper" in page.text["ladder"]


def test_rows_dialogues_and_what_a_rung_adds_are_told(text_run):
    _, page, facts = text_run
    text = page.text["ladder"]
    assert text.count("37 of 9 dialogues") >= 7  # four rungs, and three steps between them
    assert "2 over 1: finetuned (LoRA)" in text and "no difference seen 0.043 could have been" in text
    assert all(row["n"] == 37 and row["dialogues"] == 9 for row in facts["systems"])
    assert [(s["rung"], s["against"]) for s in facts["steps"]][-1] == ("5-epo", "3-mc")


def test_the_second_scorers_word_is_told_with_what_it_is_worth(text_run):
    _, page, facts = text_run
    alike = "the two scorers correlate 0.88 on this run's 185 replies and share an encoder"
    assert page.text["ladder"].lower().count(alike) == 2  # beside the figures, and beside what rungs add
    assert facts["scorers"] == SCORERS
