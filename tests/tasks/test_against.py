"""Which run another is compared with: by id, in another store, in a file; and one line where there is none."""

import json

import pytest

from storage.errors import InputError
from storage.store import Store, canonical
from tasks.against import compared, other_run, side_of
from tasks.engine.runs import recorded

REPORT = {"systems": [], "settings": {"epo": {"gamma": 0.5}}}


def a_run(root, report: dict | None = None):
    with recorded(root, "tiny", ("a.b=1",), None, None) as note:
        if report is not None:
            note.update(report=Store(root).put_bytes("report.json", canonical(report)).digest)
    return note.record


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def test_a_run_is_found_by_the_beginning_of_its_id_and_tells_its_code(root):
    record = a_run(root, REPORT)
    found = other_run(root, record.id[:-1])
    assert found.report == REPORT and found.replies is None
    assert found.card["run"] == record.id and found.card["commit"] == record.commit and record.commit


def test_single_replies_are_found_by_the_digest_that_the_report_names(root):
    kept = {"exchanges": [], "figures": {}}
    ref = Store(root).put_bytes("by_reply.json", canonical(kept))
    named = {**REPORT, "by_reply": {"name": ref.name, "digest": ref.digest, "size": ref.size}}
    record = a_run(root, named)
    assert other_run(root, record.id).replies == kept
    Store(root).drop(ref)
    assert other_run(root, record.id).replies is None


def test_another_store_means_its_last_run_with_a_report(root, tmp_path):
    record = a_run(root, REPORT)
    a_run(root)
    assert other_run(tmp_path / "elsewhere", str(root)).card["run"] == record.id


def test_a_published_file_says_whose_it_is(root, tmp_path):
    made = {
        "run": "20260101-000000-abcdef",
        "date": "then",
        "commit": "abc",
        "profile": "cpu",
        "raw data": "/raw",
    }
    file = tmp_path / "report.json"
    file.write_text(json.dumps({**REPORT, "run": {"provenance": made}}))
    assert other_run(root, str(file)).card == {
        "run": made["run"], "started": "then", "commit": "abc", "profile": "cpu", "raw data": "/raw",
    }  # fmt: skip


@pytest.mark.parametrize("wanted, fault", [
    ("nobody", "no such run"), ("empty", "no run in it came to a report"), ("other.json", "is no report.json"),
])  # fmt: skip
def test_what_is_no_run_is_one_line(root, tmp_path, monkeypatch, wanted, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text("[1]")
    now = side_of(root, a_run(root, REPORT))
    with pytest.raises(InputError, match=fault) as caught:
        compared(root, wanted, now)
    assert str(caught.value).startswith(f"--against {wanted}") and "\n" not in str(caught.value)


def test_a_run_is_not_compared_with_itself_nor_with_one_that_came_to_no_report(root):
    record, bare = a_run(root, REPORT), a_run(root)
    now = side_of(root, record)
    with pytest.raises(InputError, match="that is the run itself"):
        compared(root, record.id, now)
    with pytest.raises(InputError, match="came to no report"):
        compared(root, bare.id, now)
