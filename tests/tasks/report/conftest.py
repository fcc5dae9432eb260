"""A run that has every table of the report, made up by hand: its page, and its report.json."""

import json

import pytest

from storage.store import Store
from tasks.study.score import scored
from tests.tasks.report.test_epo_test_page import epo_test
from tests.tasks.report.test_memory_ladder_page import ladder
from tests.tasks.report.test_write_report import (
    ASKED,
    JUDGED,
    NO_GAIN,
    RUNG_FIGURES,
    RUNGS,
    SYSTEMS,
    _artefacts,
    _json,
    _metrics,
    _replies,
    _report,
    _trained,
)
from tests.tasks.study.test_score import judgements

CI = [0.4, 0.6]
FORM = {"tokens": 600.5, "tokens_ci": [500.0, 700.0], "gigabytes": 16.3, "memory_of": "it", "seconds": 0.1112,
        "seconds_ci": [0.1, 0.12], "bertscore": 0.84, "bertscore_ci": [0.83, 0.85], "dropped_utterances": 7}  # fmt: skip
LONG = {
    "there": 40, "exchanges": 12, "dialogues": 5, "least_turns": 20, "datasets": ["meld/test"], "stands_in": False,
    "measured_cost": True, "most_utterances": 32, "most_tokens": 1024,
    "forms": {"text": FORM, "memory": {**FORM, "tokens": 110.25, "gigabytes": 15.73}},
    "floors": [{"title": 'always "Okay."', "n": 12, "dialogues": 5, "bertscore": 0.625, "bertscore_ci": None}],
    "changes": {"tokens": {**NO_GAIN, "mean": -490.25, "low": -590.0, "high": -390.0, "share": -0.8164}},
}  # fmt: skip
RIGHT = {"clips": 59, "dialogues": 11, "accuracy": 0.413, "accuracy_ci": [0.313, 0.513], "balanced": 0.4, "balanced_ci": [0.29, 0.51],
         "majority": 0.271, "other": 0.25, "over_other": NO_GAIN, "over_text": None, "confusion": {}}  # fmt: skip
RECOGNITION = {"clips": 59, "dialogues": 11, "there": 83, "splits": {"meld": "test"}, "answers": [],
               "accuracy": {"A": RIGHT}, "accuracy_by_dataset": {"meld": {"A": RIGHT}}, "mcnemar": []}  # fmt: skip
KIND = {"bleu_1": 0.5, "bleu_4": 0.125, "bertscore": 0.75, "exact": 0.25, "n": 37}
KIND |= {f"{name}_ci": CI for name in ("bleu_1", "bleu_4", "bertscore", "exact")}
RESTORED = {"conversations": 37, "there": 40, "left_out": {"longer": 3}, "utterances": 80, "datasets": ["meld"],
            "dev_stands_in": [], "own": KIND, "other": {**KIND, "bleu_1": 0.0625}, "examples": []}  # fmt: skip


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run that has every table: its page as HTML, and its report.json."""
    tmp_path = tmp_path_factory.mktemp("whole")
    store = Store(tmp_path / "store")
    artefacts = _artefacts(store, tmp_path)
    metrics = json.loads(store.read(_metrics(store, [*RUNGS, "system-o"])[0]))
    over = {"rung": "5-epo", "left_out": 3, **dict.fromkeys(RUNG_FIGURES, NO_GAIN)}
    metrics["over_floors"] = [{**over, "against": "floor-okay", "system": 'always "Okay."'}]
    over["log_likelihood"] = {**NO_GAIN, "rows": 30, "dialogues": 8}
    metrics["over_systems"] = [{**over, "against": "system-o", "system": "Some <o>"}]
    gains = dict.fromkeys(RUNG_FIGURES, dict.fromkeys(("epo", "control", "difference"), NO_GAIN))
    metrics["controls"] = {
        "random": {
            "base": "3-mc",
            "rung": "5-epo",
            "control": "6-random",
            "shown": False,
            "exchange_shown": False,
            **gains,
        }
    }
    counts = {"exchanges": 7, "answered": 5, "failures": {"filtered": 2}, "model": "served:o@12ab", **ASKED}
    artefacts |= {
        "metrics": [_json(store, "metrics.json", metrics)],
        "ladder": [_json(store, "ladder.json", ladder(0.05))],
        "long-history": [_json(store, "long_history.json", LONG)],
        "compressor.test": [_json(store, "reconstruction.json", RESTORED)],
        "extractor": _trained(store, tmp_path / "x", True, "other_clip"),
        "extractor.test": [_json(store, "recognition.json", RECOGNITION)],
        "systems": [*_replies(store, ["system-o"]), _json(store, "o.json", {"name": "o", **counts})],
        "judge": [_json(store, "judge-system-o.json", JUDGED)],
        "epo.test": [_json(store, "epo_test.json", epo_test("meld", "topical_chat"))],
        "study": [_json(store, "study.json", _study())],
    }
    changes = (
        f"systems={json.dumps(SYSTEMS)}",
        f"judge={json.dumps({'server': {'model': 'judge-7b'}})}",
        'generalisation.train=["meld"]',
    )
    html, facts = _report(tmp_path, artefacts, store, changes=changes, variants={"on-meld": _on_meld(store)})
    return html, facts


def _study() -> dict:
    """Four of five people prefer the first; of a judge beside them, agreement."""
    found = judgements(lambda p, i, s, q: 3 if s == "5-epo" and p > 1 else 1 + (q == "empathy"))
    beside = {
        "first": "5-epo",
        "second": "1-llm",
        "question": "empathy",
        "kappa": 0.25,
        "low": 0.1,
        "high": 0.4,
        "exchanges": 5,
        "same": 4,
    }
    return {**scored(found), "beside_judge": [beside]}


def _on_meld(store: Store) -> dict:
    """A training on MELD alone: six exchanges of as many dialogues, each better than with the LLM as it came."""
    figures = {"1-llm": {"bertscore": [0.5] * 6}, "2-ft": {"bertscore": [0.55 + i / 100 for i in range(6)]}}
    metrics = json.loads(store.read(_metrics(store, ["1-llm", "2-ft"])[0]))
    places = [["meld", "dev", f"d{i}", 0, "digest"] for i in range(6)]
    return {
        "metrics": [
            _json(store, "metrics.json", metrics),
            _json(store, "by_reply.json", {"exchanges": places, "figures": figures}),
        ]
    }
