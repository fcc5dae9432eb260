"""The report's copies beside the artefacts, where nothing is stale: published where they are not of the report that is due."""

import json

import pytest

from storage.store import Store, canonical
from tasks.engine.planner import StagePlan
from tasks.engine.run import PUBLISHED, RunRequest, publish_where_missing
from tasks.engine.runs import runs
from tasks.pipeline import METRICS, REPORT
from tasks.report.this_run import MARK


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def fresh(store: Store, title: str) -> list[StagePlan]:
    """A plan of which nothing is stale, with a report of that title."""
    made = (f"<h1>{title}</h1>{MARK}".encode(), canonical({"title": title}), title.encode())
    refs = tuple(store.put_bytes(name, data) for name, data in zip(PUBLISHED, made, strict=True))
    return [StagePlan(METRICS, "fresh"), StagePlan(REPORT, "fresh", outputs={"all": refs})]


def test_what_is_missing_or_another_runs_is_published_once_as_a_run(store):
    request = RunRequest(profile="tiny", store=str(store.root))
    for count, title in enumerate(("one", "another"), 1):
        plans = fresh(store, title)
        assert publish_where_missing(request, plans) == str(store.root / "report.html")
        last = runs(store.root)[0][0]
        assert len(runs(store.root)[0]) == count and last.report == plans[1].outputs["all"][1].digest
        assert json.loads((store.root / "report.json").read_bytes())["title"] == title
        assert publish_where_missing(request, plans) is None
        assert len(runs(store.root)[0]) == count


def test_where_there_is_no_report_nothing_is_published(store):
    request = RunRequest(profile="tiny", store=str(store.root))
    assert publish_where_missing(request, [StagePlan(METRICS, "fresh")]) is None
    assert publish_where_missing(request, [StagePlan(REPORT, "not run", reason="left out")]) is None
    assert runs(store.root)[0] == []
