"""Which flow runs are dead: those whose process went without a word, and no other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from storage.store import Store
from tasks.engine.run_marks import dead, marked

ROOT = Path(__file__).resolve().parents[3]
HOLD = (
    "import sys; from storage.store import Store; from tasks.engine.run_marks import marked\n"
    "with marked(Store(sys.argv[1]), sys.argv[2], 'here'):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def holder(store: Store, flow_run: str) -> subprocess.Popen:
    """A process with a flow run that lives."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root), flow_run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_living_run_is_never_among_the_dead_and_a_killed_one_is_once(store):
    living, killed = holder(store, "living"), holder(store, "killed")
    with marked(store, "own", "here"):
        assert dead(store, "here") == []
        killed.kill()
        killed.wait()
        assert dead(store, "elsewhere") == []
        assert dead(store, "here") == ["killed"]
        assert dead(store, "here") == []
    living.communicate()
    for process in (living, killed):
        process.stdout.close()
    killed.stdin.close()


def test_a_run_that_has_ended_leaves_no_mark(store):
    with marked(store, "one", "here"):
        pass
    with pytest.raises(KeyError), marked(store, "other", "here"):
        raise KeyError
    assert dead(store, "here") == []


def test_a_mark_of_another_machine_is_not_judged(store):
    (store.root / "locks").mkdir()
    mark = store.root / "locks" / "flow-run-there"
    mark.write_text(json.dumps({"machine": "another", "server": "here"}))
    (store.root / "locks" / "flow-run-torn").write_text("{")
    assert dead(store, "here") == []
    assert mark.is_file()
