"""A store that an older Empamba made: it opens, what it holds is read, and `status` says what is stale by which code.

`older_store` holds MELD's text of a small sample (one dialogue of four turns) as commit 7fb9837 of 26 November 2026 wrote it,
utterances and exchanges, and a run's record of version 1 as commit 4140062 did.
"""

import json
import shutil
from pathlib import Path

import pytest

from storage.sample.layout import write_sample
from storage.shards import read_table
from storage.store import Store
from tasks.engine.runs import runs
from tasks.stages.shard_names import of_table
from tasks.upkeep import check
from tests.support.command_line import empamba


@pytest.fixture
def older(tmp_path) -> Path:
    return Path(shutil.copytree(Path(__file__).with_name("older_store"), tmp_path / "store"))


def test_its_records_objects_and_runs_are_read(older):
    store = Store(older)
    made = {record.stage: record for record in store.records()}
    assert set(made) == {"utterances", "utterances.exchanges"}
    outputs = [ref for record in made.values() for ref in record.outputs]
    assert len(outputs) == 9 and all(store.holds(ref, rehash=True) for ref in outputs)
    spoken = [
        row for ref in of_table(outputs, "utterances") for row in read_table(store.read(ref), "utterances")
    ]
    assert {row["dialogue_id"] for row in spoken} >= {"0"} and all(row["text"] for row in spoken)
    cut = [row for ref in of_table(outputs, "exchanges") for row in read_table(store.read(ref), "exchanges")]
    texts = {row["text"] for row in spoken}
    assert cut and all({row["sentence"], row["reply"]} <= texts for row in cut)
    (run,), unreadable = runs(older)
    assert (run.version, run.state, run.changes, unreadable) == (1, "finished", ("epo.gamma=0.4",), {})
    assert check(older, repair=False) == []


def test_status_names_the_code_by_which_it_is_stale_and_changes_nothing(older, tmp_path):
    write_sample(tmp_path / "raw", media=False, dialogues=1, turns=4)
    for other in ("MultiDialog", "IEMOCAP_full_release"):
        shutil.rmtree(tmp_path / "raw" / other)
    before = {path: path.read_bytes() for path in older.rglob("*") if path.is_file()}
    asked = ["status", "--profile", "tiny", "--raw", "raw", "--store", "store"]
    done = empamba(tmp_path, *asked, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    first, second, *others = told["stages"]
    assert (first["stage"], first["state"]) == ("utterances", "stale")
    assert any("tasks/stages/utterances/write.py:write_utterances" in line for line in first["reasons"])
    assert second["reasons"] == ["unknown until utterances has run"]
    assert {row["state"] for row in others} <= {"unknown", "not run", "stale"}
    assert set(told["changed_code"]) == {"utterances", "utterances.exchanges"}
    assert all(path.read_bytes() == data for path, data in before.items())
    said = empamba(tmp_path, *asked)
    assert said.returncode == 0 and b"first run" not in said.stdout.split(b"features")[0]
