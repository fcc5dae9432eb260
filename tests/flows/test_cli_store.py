"""What the commands that look after a store do to one of a whole run: copies of it, each as a shell sees it."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from storage.store import Store
from tests.support.command_line import empamba

pytestmark = pytest.mark.slow
NAME = "it's a store"
AS_BEFORE = ("--profile", "tiny", "--set", "epo.gamma=0.4")


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A folder with a copy of the finished store; its last run names the tree by its whole path."""
    shutil.copytree(finished / "a store", tmp_path / NAME)
    return tmp_path


@pytest.fixture
def asked(finished) -> tuple[str, ...]:
    """What the finished run was asked for."""
    return (*AS_BEFORE, "--raw", str(finished / "raw files"))


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


def test_a_published_report_that_rotted_is_told_and_published_again(folder, asked):
    """The copy that people open, of which only published.json knows what it was."""
    page = folder / NAME / "report.html"
    whole = page.read_bytes()
    page.write_bytes(whole.replace(b"<h1", b"<h2", 1))
    assert page.read_bytes() != whole
    done = empamba(folder, "verify", "--store", NAME)
    told = done.stdout.decode().splitlines()
    assert done.returncode == 1 and told[-1] == "1 damaged" and "report.html" in told[0]
    # Whoever asks for figures gets the artefact's, and not what stands beside a page that cannot be trusted.
    shown = empamba(folder, "report", "--json", "--store", NAME)
    assert shown.returncode == 0 and json.loads(shown.stdout)["systems"]
    done = empamba(folder, "verify", "--repair", "--store", NAME)
    assert done.returncode == 0 and not page.exists()
    # Nothing is stale, and the report stands again, as the same run told it.
    done = empamba(folder, "run", *asked, "--store", NAME)
    assert done.returncode == 0 and done.stdout.startswith(b"Nothing is stale"), done.stderr
    assert page.is_file() and b"<h1" in page.read_bytes()
    assert empamba(folder, "verify", "--store", NAME).returncode == 0


def test_a_run_that_rehashes_finds_what_rotted_under_an_old_stamp(folder, finished):
    """A raw file whose bytes changed and whose size, time and inode did not: `run --rehash` alone does its work again."""
    raw = shutil.copytree(finished / "raw files", folder / "raw files")
    file = next(raw.rglob("train_sent_emo.csv"))
    long_ago = time.time_ns() - 3600 * 10**9
    os.utime(file, ns=(long_ago, long_ago))
    asked = ("--profile", "tiny", "--raw", "raw files", "--until", "utterances", "--store", "new")
    assert empamba(folder, "run", *asked).returncode == 0
    text = file.read_bytes()
    file.write_bytes(text.replace(b"colours", b"Colours", 1))
    os.utime(file, ns=(long_ago, long_ago))
    done = empamba(folder, "run", *asked)
    assert done.returncode == 0 and done.stdout.startswith(b"Nothing is stale")
    done = empamba(folder, "run", *asked, "--rehash")
    assert done.returncode == 0 and b"utterances [meld]" in done.stderr and b"(text)" in done.stderr
    assert b"utterances [multidialog]" not in done.stderr
    done = empamba(folder, "run", *asked)
    assert done.returncode == 0 and done.stdout.startswith(b"Nothing is stale")


def test_a_forced_stage_runs_alone_and_what_it_makes_is_the_same(folder, asked):
    before = {record.key: record.outputs for record in Store(folder / NAME).records()}
    done = empamba(folder, "run", *asked, "--force", "metrics", "--store", NAME)
    assert done.returncode == 0, done.stderr
    assert done_by_stage(folder) == {"metrics": (1, ["forced"])}
    assert {record.key: record.outputs for record in Store(folder / NAME).records()} == before
    done = empamba(folder, "run", *asked, "--force", "metrix", "--store", NAME)
    assert done.returncode == 2 and b"no stage 'metrix': give one of " in done.stderr


def test_gc_leaves_a_run_whole(folder):
    stray = folder / NAME / "objects" / "ab" / ("ab" * 16)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"needed by no record")
    done = empamba(folder, "gc", "--yes", "--store", NAME)
    assert done.returncode == 0 and not stray.exists(), done.stderr
    assert states(folder) <= {"fresh", "not run"}
    assert empamba(folder, "verify", "--store", NAME).returncode == 0
