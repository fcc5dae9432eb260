"""People's judgements in a run: when they make it stale, and how they stand on the page."""

import json
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.store import Store
from tasks.engine.declaration import Made, RawFiles
from tasks.engine.item import Item, Workspace
from tasks.settings import load_settings
from tasks.stages.study.read import read_study
from tasks.stages.study.stage import STUDY
from tasks.study.score import scored
from tests.tasks.report.test_write_report import JUDGED, Page, _artefacts, _json, _report
from tests.tasks.study.test_score import judgements


def made(path: Path, store: Store, *changes: str) -> Made:
    return Made(load_settings("tiny", [f"study.judgements={path}", *changes]), "tiny", store, (), {}, ())


def key(path: Path, store: Store, *changes: str) -> str:
    asked = made(path, store, *changes)
    (call,) = STUDY.items(asked).values()
    return Item(STUDY, "all", call | STUDY.declared_arguments(asked.settings)).key()


def test_judgements_make_it_stale_and_nothing_else_does(tmp_path):
    store, path = Store(tmp_path / "store"), tmp_path / "judgements.json"
    path.write_bytes(judgements(lambda *_: 2).as_bytes())
    before = key(path, store)
    assert key(path, store, "epo.gamma=0.4", "replies.exchanges=7") == before
    assert key(path, store, "metrics.intervals.level=0.9") != before
    path.write_bytes(judgements(lambda *_: 3).as_bytes())
    assert key(path, store) != before
    assert not STUDY.enabled(load_settings("tiny")) and STUDY.enabled(made(path, store).settings)
    path.unlink()
    with pytest.raises(InputError, match="study.judgements: .* name the judgements.json that"):
        key(path, store)


def test_a_file_that_changed_meanwhile_is_refused(tmp_path):
    store, path = Store(tmp_path / "store"), tmp_path / "judgements.json"
    path.write_bytes(judgements(lambda *_: 2).as_bytes())
    (call,) = STUDY.items(made(path, store)).values()
    work = Workspace(store, None, "basis", lambda *_: None)
    settings = load_settings("tiny").metrics.intervals
    (ref,) = read_study(**call, intervals=settings, work=work)
    assert json.loads(store.read(ref)) == json.loads(
        json.dumps({**scored(judgements(lambda *_: 2), settings), "beside_judge": []})
    )
    path.write_bytes(judgements(lambda *_: 3).as_bytes())
    with pytest.raises(InputError, match="changed while the run began"):
        read_study(**call, intervals=settings, work=work)


def test_the_page_has_figure_5_and_says_how_sure_it_is(tmp_path):
    store = Store(tmp_path / "store")
    path = tmp_path / "judgements.json"
    found = judgements(lambda p, i, s, q: 3 if s == "5-epo" and p > 1 else 1 + (q == "empathy"))
    path.write_bytes(found.as_bytes())
    judge = {**JUDGED, "first": "5-epo", "second": "1-llm"}
    judge["rows"] = [
        {"key": list(k), "failure": None, "empathy": "first", "fit": "tie"} for k in found.keys.values()
    ]
    judged = [_json(store, "judge-1-llm.json", judge)]
    files = RawFiles(dataset="study", folder=str(tmp_path), files={path.name: _digest(path)})
    settings = load_settings("tiny").metrics.intervals
    (ref,) = read_study(files, judged, settings, Workspace(store, None, "basis", lambda *_: None))
    artefacts = _artefacts(store, tmp_path) | {"study": [ref]}
    html, facts = _report(tmp_path, artefacts, store, changes=(f"study.judgements={path}",))
    text = Page(html).text["datasets"]
    assert "What people say: figure 5" in text and "Krippendorff's alpha (ordinal): semantics" in text
    assert "5 people, 5 conversations" in text and "first is better" in text
    assert "2.60" in text  # (4 * 3 + 1) / 5
    # Both say "first" throughout, and then the judge ties where people say "first": nothing beyond chance.
    assert (
        "κ: LLM as it is, empathy: – (5 of 5 the same); LLM as it is, semantics: 0.00 (0 of 5 the same)."
        in text
    )
    assert facts["study"]["beside_judge"][0]["exchanges"] == 5
    bare, without = _report(tmp_path, _artefacts(store, tmp_path), store)
    assert "What people say" not in bare and without["study"] is None


def _digest(path: Path) -> str:
    from storage.filestat import content_digest

    return content_digest(path)
