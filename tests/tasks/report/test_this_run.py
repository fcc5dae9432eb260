"""The published report's last section: provenance of the copy, and nothing of it in the artefact."""

import json
import os
import re
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from storage.files import write_atomic
from tasks.engine import versions
from tasks.engine.runs import RunRecord
from tasks.report import this_run

START = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
RECORD = RunRecord(
    id="20260304-050600-abcdef", started=START, ended=START + timedelta(seconds=125), profile="tiny",
    changes=("epo.beta=1.5",), raw="/data/<raw>",
)  # fmt: skip
STAGES = [{"stage": "epo", "ran": 2, "reused": 3, "why": ["changed setting: epo.beta 2.0 → 1.5"]}]


def test_page_and_json_say_where_they_come_from_and_the_csv_stays():
    made = this_run.provenance(RECORD)
    page = this_run.published(
        "report.html", f"<main>{this_run.MARK}</main>".encode(), "d", STAGES, made
    ).decode()
    for text in (
        "2026-03-04 05:06 UTC",
        "2 min 5 s",
        "tiny",
        "epo.beta=1.5",
        "/data/&lt;raw&gt;",
        "torch 2.",
        "CPU cores",
    ):
        assert text in page
    assert "2 items ran, 3 reused" in page and "epo.beta 2.0 → 1.5" in page
    facts = json.loads(this_run.published("report.json", b'{"systems": []}', "d", STAGES, made))
    assert facts == {"systems": [], "run": {"artefact": "d", "stages": STAGES, "provenance": made}}
    assert this_run.published("report.csv", b"rung,system", "d", STAGES, made) == b"rung,system"


def test_the_commit_is_the_one_that_git_names(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    assert re.fullmatch(r"none; empamba \S+", versions.commit())
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert versions.commit() == head
    (tmp_path / "file").write_text("two")
    assert versions.commit() == f"{head} with changes"


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_published_file_has_the_umasks_mode(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "report.html", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
