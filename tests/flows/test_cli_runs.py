"""The store's runs, and which of them a command means."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from storage.sample.layout import write_sample
from storage.store import Store, canonical
from tasks.engine.runs import recorded
from tests.support.command_line import COMMAND, empamba, environment

TINY = ("--profile", "tiny", "--raw", "raw")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a small tree."""
    folder = tmp_path_factory.mktemp("runs")
    write_sample(folder / "raw", media=False, dialogues=2, turns=6)
    return folder


def words_of(hint: str) -> list[str]:
    """The words of a command line as a shell reads them."""
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {hint}"], capture_output=True, check=True)
    return said.stdout.decode().split("\0")[:-1]


def runs(folder: Path, store: str = "store") -> list[dict]:
    done = empamba(folder, "runs", "--json", "--store", store)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["runs"]


@pytest.mark.slow
def test_a_run_is_listed_with_what_it_was_asked_for(finished):
    (run,) = runs(finished, "a store")
    assert run["profile"] == "tiny" and run["changes"] == ["epo.gamma=0.4"]
    assert run["raw"] == str(finished / "raw files")
    assert run["state"] == "finished" and run["until"] is None and run["report"]
    assert run["started"] < run["ended"]
    assert {"utterances", "epo", "report"} <= run["seconds"].keys()
    shown = empamba(finished, "runs", "--store", "a store", width=80).stdout.decode()
    assert run["id"] in shown and "epo.gamma=0.4" in shown and "finished" in shown


@pytest.mark.slow
def test_a_run_is_laid_beside_another_in_the_terminal_and_in_a_page(finished, tmp_path):
    """The same replies, measured with other intervals: nothing differs in pairs, and the setting is named."""
    shutil.copytree(finished / "a store", tmp_path / "store")
    (first,) = runs(tmp_path)
    asked = ("--profile", "tiny", "--raw", str(finished / "raw files"), "--set", "epo.gamma=0.4")
    done = empamba(tmp_path, "run", *asked, "--set", "metrics.intervals.resamples=200")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(empamba(tmp_path, "report", "--against", first["id"], "--json").stdout)
    changed = [row for row in found["changed"] if row["what"] == "setting"]
    assert changed == [{"what": "setting", "name": "metrics.intervals.resamples", "then": 1000, "now": 200}]
    assert found["then"]["run"] == first["id"] and found["then"]["commit"] == found["now"]["commit"]
    paired = [row for row in found["figures"] if row["rows"]]
    assert paired and all(row["difference"] == row["low"] == row["high"] == 0 for row in paired)
    done = empamba(tmp_path, "report", "--against", first["id"], width=160)
    shown = done.stdout.decode()
    assert done.returncode == 0 and "metrics.intervals.resamples" in shown and "not paired" in shown
    page = (tmp_path / "store" / "report-against.html").read_text()
    assert page.count('<section id="against">') == 1 and f"beside run {first['id']}" in page
    assert (
        '<section id="run">' in page
        and '<section id="against">' not in (tmp_path / "store" / "report.html").read_text()
    )
    unknown = empamba(tmp_path, "report", "--against", "nobody")
    (line,) = (text for text in unknown.stderr.decode().splitlines() if text.startswith("error: "))
    assert (
        unknown.returncode == 2
        and "--against nobody: no such run" in line
        and b"Traceback" not in unknown.stderr
    )


@pytest.mark.slow
def test_commands_mean_the_last_run(finished, tmp_path):
    """As it was asked for, with a raw tree and a setting of its own, without a word of them."""
    states = json.loads(empamba(finished, "status", "--json", "--store", "a store").stdout)["stages"]
    assert {stage["state"] for stage in states} <= {"fresh", "not run"}
    told = empamba(finished, "status", "--store", "a store").stderr.decode()
    hint = words_of(told.split(": ", 1)[1])
    assert hint[:2] == ["empamba", "run"] and hint[hint.index("--set") + 1] == "epo.gamma=0.4"
    pairs = json.loads(empamba(finished, "show", "pairs", "--json", "--store", "a store").stdout)
    assert pairs["rows"] > 0
    facts = json.loads(empamba(finished, "report", "--json", "--store", "a store").stdout)
    assert facts["settings"]["epo"]["gamma"] == 0.4 and facts["profile"] == "tiny"
    done = empamba(finished, "export", "pairs", str(tmp_path / "pairs"), "--store", "a store")
    assert done.returncode == 0, done.stderr
    written = {
        split: parquet.read_metadata(tmp_path / "pairs" / f"{split}.parquet").num_rows
        for split in ("train", "dev")
    }
    assert written["train"] > 0 and sum(written.values()) == pairs["rows"], (
        "its controls' pairs are not among them"
    )


@pytest.mark.slow
def test_told_options_are_heeded_and_a_run_is_meant_by_its_id(finished):
    (run,) = runs(finished, "a store")
    store = ("--store", "a store")
    done = empamba(finished, "report", "--profile", "tiny", "--raw", "raw files", *store)
    assert done.returncode == 2 and b"no report with these settings" in done.stderr
    told = ("--profile", "tiny", "--raw", "raw files", "--set", "epo.gamma=0.4")
    shown = empamba(finished, "report", *told, *store, width=80)
    assert shown.returncode == 0 and max(map(len, shown.stdout.decode().splitlines()[:-1])) <= 80
    for table in (b"What did this run show", b"Table 2", b"What each rung adds", b"Table 1: "):
        assert table in shown.stdout, table
    assert empamba(finished, "report", "--run", run["id"], *store).returncode == 0
    assert empamba(finished, "report", "--run", run["id"][:15], *store).returncode == 0
    done = empamba(finished, "show", "pairs", "--run", run["id"], "--profile", "tiny", *store)
    assert done.returncode == 2 and b"--run means a run's own data and settings" in done.stderr
    done = empamba(finished, "show", "pairs", "--run", "2001", *store)
    assert (
        done.returncode == 2
        and b"no such run in a store; `empamba runs --store 'a store'` lists" in done.stderr
    )


@pytest.mark.slow
def test_the_hint_of_a_run_works_as_it_stands(finished, tmp_path):
    done = empamba(
        finished, "run", "--until", "pairs", "--profile", "tiny", "--raw", "raw files", "--store", "it's here"
    )
    assert done.returncode == 0, done.stderr
    (hint,) = re.findall(r"`(.*)`", done.stdout.decode())
    words = words_of(hint)
    assert words[:3] == ["empamba", "show", "pairs"]
    shown = empamba(finished, *words[1:])
    assert shown.returncode == 0 and b"pairs: " in shown.stdout
    # And that of a stage which has not run, which has to say the data and the store too.
    done = empamba(finished, "show", "epo", "--store", "it's here")
    (hint,) = re.findall(r"`(.*)`", done.stderr.decode().splitlines()[-1])
    words = words_of(hint)
    assert words[:4] == ["empamba", "run", "--until", "epo"]
    assert words[words.index("--store") + 1] == "it's here"
    assert words[words.index("--raw") + 1] == str(finished / "raw files")


@pytest.mark.slow
def test_a_run_that_had_nothing_to_do_is_the_last_one_too(folder):
    """Of three runs on one store the third is what is meant, though it computed nothing."""
    until = ("--until", "utterances")
    for changes in ((), ("--set", "data.dialogues=1"), ()):
        done = empamba(folder, "run", *TINY, *until, *changes, "--store", "three")
        assert done.returncode == 0, done.stderr
    assert b"Nothing is stale" in done.stdout
    assert [run["changes"] for run in runs(folder, "three")] == [[], ["data.dialogues=1"], []]
    whole = json.loads(empamba(folder, "show", "utterances", "--json", "--store", "three").stdout)["rows"]
    middle = runs(folder, "three")[1]["id"]
    shown = empamba(folder, "show", "utterances", "--json", "--store", "three", "--run", middle)
    assert 0 < json.loads(shown.stdout)["rows"] < whole


def test_the_report_of_the_last_run_that_came_to_one_is_meant(tmp_path):
    """A part of the road that was run since came to none. Told by its id it is what is meant all the same."""
    root = tmp_path / "store"
    with recorded(root, "tiny", (), None, None) as whole:
        report = Store(root).put_bytes("report.json", canonical({"title": "of the whole road"}))
        whole.update(report=report.digest)
    with recorded(root, "tiny", (), None, "pairs") as part:
        pass
    done = empamba(tmp_path, "report", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"title": "of the whole road"}
    first, second = done.stderr.decode().splitlines()
    assert first == f"run {part.record.id} came to no report; this is the last one that did"
    assert second.startswith(f"run {whole.record.id}: ")
    told = empamba(tmp_path, "report", "--json", "--run", part.record.id)
    assert told.returncode == 2 and f"--run {whole.record.id} has one" in told.stderr.decode()


@pytest.mark.slow
def test_a_failed_a_killed_and_a_running_run_are_told_apart(folder):
    broken = folder / "broken"
    write_sample(broken, media=False, dialogues=1, turns=4)
    csv = next(broken.rglob("train_sent_emo.csv"))
    text, changed = re.subn(r",(anger|joy|neutral|sadness|fear|surprise|disgust),", ",dull,", csv.read_text())
    assert changed
    csv.write_text(text)
    done = empamba(
        folder, "run", "--profile", "tiny", "--raw", "broken", "--until", "utterances", "--store", "ends"
    )
    assert done.returncode == 2
    (failed,) = runs(folder, "ends")
    assert failed["state"] == "failed" and "dull" in failed["said"]

    process = subprocess.Popen(
        [*COMMAND, "run", *TINY, "--store", "ends"], cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while len(runs(folder, "ends")) < 2:
            assert time.monotonic() < deadline and process.poll() is None
        assert runs(folder, "ends")[0]["state"] == "running"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    killed = runs(folder, "ends")[0]
    assert killed["state"] == "killed" and killed["ended"] is None and killed["id"] > failed["id"]


@pytest.mark.parametrize("command", [("show", "pairs"), ("report",), ("export", "pairs", "out")])
def test_where_nothing_has_run_one_line_says_so(tmp_path, command):
    done = empamba(tmp_path, *command, "--store", "a store")
    assert done.returncode == 2
    assert done.stderr.decode() == ("error: no run in a store: `empamba run --store 'a store'` makes one\n")
    assert not (tmp_path / "a store").exists()
