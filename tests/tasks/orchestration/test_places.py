"""What `ops up` was told stays told: where failures go, and where the server listens."""

import os
import sys

import pytest

from tasks.orchestration.ops import Ops
from tasks.orchestration.places import PLACES, PLACES_FILE, keep_places, places

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.delenv(PLACES, raising=False)
    monkeypatch.setenv(PLACES_FILE, str(tmp_path / "notify"))
    return tmp_path / "notify"


def test_another_place_is_heard_of_by_what_runs_already(file, monkeypatch):
    assert places() == []
    keep_places(file, "json://one json://two")
    assert places() == ["json://one", "json://two"]
    keep_places(file, "json://three")
    assert places() == ["json://three"]
    monkeypatch.setenv(PLACES, "json://named")
    assert places() == ["json://named"]


def test_the_file_of_places_is_its_owners_alone(file):
    """Addresses hold secrets. One that anybody could read is replaced, and so is what a killed `up` left."""
    for left in (file, file.with_name("notify.new")):
        left.write_text("json://old")
        left.chmod(0o666)
    mask = os.umask(0)
    try:
        keep_places(file, "json://user:secret@host")
    finally:
        os.umask(mask)
    assert file.stat().st_mode & 0o777 == 0o600 and places() == ["json://user:secret@host"]
    assert [path.name for path in file.parent.iterdir()] == ["notify"]


def test_what_a_running_server_cannot_heed_is_said(tmp_path):
    ops = Ops(tmp_path)
    assert ops.not_heeded("0.0.0.0", 4300) == ""  # none runs: the next one does
    facts = {"address": "http://127.0.0.1:4200", "host": "127.0.0.1", "port": 4200}
    assert ops.server.start(SLEEP, dict(os.environ), tmp_path, facts)
    try:
        assert ops.not_heeded(None, None) == ops.not_heeded("127.0.0.1", 4200) == ""
        line = ops.not_heeded(None, 4300)
        assert line.startswith(
            "the server goes on at http://127.0.0.1:4200; --port 4300 is heeded when it starts: "
        )
        assert "--host 0.0.0.0 --port 4300" in ops.not_heeded("0.0.0.0", 4300)
    finally:
        ops.server.stop(5)
