"""What the commands that look after a store do to one of a whole run: copies of it, each as a shell sees it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from storage.store import Store
from tests.support.command_line import empamba

pytestmark = pytest.mark.slow
NAME = "it's a store"


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A folder with a copy of the finished store; its last run names the tree by its whole path."""
    shutil.copytree(finished / "a store", tmp_path / NAME)
    return tmp_path


def words_of(hint: str) -> list[str]:
    """The words of a command line as a shell reads them."""
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {hint}"], capture_output=True, check=True)
    return [word.decode() for word in said.stdout.split(b"\0")[:-1]]


def done_by_stage(folder: Path) -> dict[str, tuple[int, list[str]]]:
    """Stage -> items that ran and why, as the published report tells of the run that published it."""
    stages = json.loads((folder / NAME / "report.json").read_bytes())["run"]["stages"]
    return {row["stage"]: (row["ran"], row["why"]) for row in stages if row["ran"]}


def states(folder: Path) -> set[str]:
    done = empamba(folder, "status", "--json", "--store", NAME)
    return {stage["state"] for stage in json.loads(done.stdout)["stages"]}


def test_what_verify_dropped_comes_back_by_the_command_it_names(folder):
    """The report's page, whose bytes rotted in the store: told, left, dropped, and written by one stage alone."""
    store = Store(folder / NAME)
    (record,) = (r for r in store.records() if r.stage == "report")
    path = store.object_path(record.outputs[0].digest)
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1] + b"?")
    done = empamba(folder, "verify", "--store", NAME)
    assert done.returncode == 1 and done.stdout.decode().splitlines()[-1] == "1 damaged"
    assert path.is_file()
    done = empamba(folder, "verify", "--repair", "--store", NAME)
    assert done.returncode == 0 and not path.exists()
    told = done.stdout.decode().splitlines()[-1]
    assert told.startswith("1 damaged, dropped: `empamba run ") and told.endswith("` makes them again")
    done = empamba(folder, *words_of(told.split("`")[1])[1:])
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == whole and done_by_stage(folder).keys() == {"report"}
    done = empamba(folder, "verify", "--store", NAME)
    assert (done.returncode, done.stdout) == (0, b"0 damaged\n")


def test_gc_leaves_a_run_whole(folder):
    stray = folder / NAME / "objects" / "ab" / ("ab" * 16)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"needed by no record")
    done = empamba(folder, "gc", "--yes", "--store", NAME)
    assert done.returncode == 0 and not stray.exists(), done.stderr
    assert states(folder) <= {"fresh", "not run"}
    assert empamba(folder, "verify", "--store", NAME).returncode == 0
