"""Mistakes at the command line: one line that says what, where and what to do; exit code 2; nothing written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSV = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
ROW = '1,Hello there.,Ann,{emotion},neutral,0,{turn},1,1,"00:00:01,000","00:00:02,000"\n'


def empamba(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def refused(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "--raw", "nowhere"], "nowhere: no such folder"),
        (["run", "--raw", "empty"], "empty: the folder is empty"),
        (["run", "--raw", "strange"], "no known dataset"),
        (["status", "--set", "epo.gama=1"], "did you mean epo.gamma?"),
        (["status", "--profile", "gpu"], "no profile 'gpu'"),
        (["run", "--until", "pears"], "no stage 'pears'"),
        (["show", "pears", "--profile", "tiny"], "no stage 'pears'"),
        (["show", "candidates", "--profile", "tiny"], "candidates has nothing to show"),
        (["report", "--profile", "tiny"], "no report"),
        (["show", "pairs"], "no run in store: `empamba run` makes one"),
        (["show", "pairs", "--rows", "-1"], "--rows"),
        (["show", "pairs", "--seed", "-1"], "--seed"),
        (["run", "--store", "strange/notes.txt"], "is a file"),
        (["sample", "strange"], "strange: exists and is not an empty folder"),
        (["run", "--colour", "red"], "No such option"),
        (["scorer", "evaluate", "nowhere.tsv"], "nowhere.tsv: no such file; give a TSV of GoEmotions"),
        (["export", "pairs", "strange", "--profile", "tiny"], "strange is not empty"),
        (
            ["study", "make", "new", "--profile", "tiny", "--difference", "0"],
            "--difference: Input should be greater",
        ),
        (["study", "make", "new", "--profile", "tiny", "--sd", "1.5"], "--sd: Input should be less"),
        (
            ["study", "make", "new", "--profile", "tiny", "--correlation", "1"],
            "--correlation: Input should be less",
        ),
        (
            ["export", "pairs", "new", "--profile", "tiny"],
            "utterances is stale: `empamba run --until pairs --profile tiny` makes the pairs",
        ),
    ],
)
def test_each_mistake_is_one_line(tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "notes.txt").write_text("hello")
    assert message in refused(empamba(*arguments, cwd=tmp_path))
    assert not list((tmp_path / "store").glob("records/*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, message",
    [
        (CSV.replace("Emotion,", "") + "1,Hi.,Ann,neutral,0,0,1,1,a,b\n", "Emotion"),
        (CSV + ROW.format(emotion="joyful", turn=0), "joyful"),
    ],
)
def test_a_csv_that_cannot_be_read_names_file_and_fault(tmp_path, text, message):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "train_sent_emo.csv").write_text(text)
    line = refused(empamba("run", "--profile", "tiny", "--raw", "raw", "--until", "utterances", cwd=tmp_path))
    assert message in line and "train_sent_emo.csv" in line
    assert not list((tmp_path / "store").glob("records/utterances/*"))


def test_status_of_the_paper_profile_is_a_dry_run(tmp_path):
    done = empamba("status", "--profile", "paper", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stages = {row["stage"]: row for row in json.loads(done.stdout)["stages"]}
    assert stages["utterances"]["state"] == "stale"
    assert stages["utterances"]["reasons"] == ["first run"]
    assert stages["epo"]["state"] == "unknown"
    assert not (tmp_path / "store").exists()
