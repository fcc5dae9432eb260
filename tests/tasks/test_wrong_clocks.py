"""Machines whose clocks are years apart share a store, in a bucket and in a folder: nothing is lost, and nothing done twice."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.remote.address import working_folder
from tests.support.command_line import ROOT
from tests.support.s3_server import BUCKET, s3_server
from tests.support.wrong_clock import needs_a_compiler, wrong_clock

UNTIL = "utterances.exchanges"
YEARS_S = 3 * 365 * 86_400


def said(folder: Path, seconds: int, *words: str) -> str:
    """What a program of Python prints whose clock is wrong by so many seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **wrong_clock(folder, seconds)}
    return subprocess.check_output(
        [sys.executable, *words], cwd=ROOT, env=environment, text=True, timeout=300
    )


@needs_a_compiler
def test_the_clock_is_wrong(tmp_path):
    for wrong in (YEARS_S, -YEARS_S):
        asked = (
            "import time, datetime; print(time.time(), datetime.datetime.now().timestamp(), time.monotonic())"
        )
        *told, counted = map(float, said(tmp_path, wrong, "-c", asked).split())
        assert all(abs(at - wrong - time.time()) < 60 for at in told) and abs(counted - time.monotonic()) < 60


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.parametrize("kind", ["bucket", "folder"])
def test_machines_whose_clocks_are_years_apart(kind, raw, tmp_path, monkeypatch):
    def asked(machine: str, *words: str):
        """What a program with the clock of that machine prints of the store."""
        monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path / machine))
        store = working_folder(f"s3://{BUCKET}/store") if kind == "bucket" else tmp_path / "store"
        seconds = {"ahead": YEARS_S, "behind": -YEARS_S}[machine]
        return json.loads(said(tmp_path, seconds, *(word.replace("STORE", str(store)) for word in words)))

    def ran(machine: str) -> list[str]:
        return asked(machine, "-m", "tests.support.rerun", "tiny", "STORE", str(raw), "--until", UNTIL)

    def changed(machine: str) -> set[str]:
        """Turns of which the machine's status says that they changed."""
        what = ("--profile", "tiny", "--raw", str(raw), "--store", "STORE", "--until", "utterances")
        told = asked(machine, "-m", "flows.cli", "status", "--json", *what)
        return set(re.findall(r"turn \d+ \(text\)", json.dumps(told)))

    with s3_server() as s3:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        everything = ran("ahead")
        assert ran("behind") == []
        say_more(raw, turn=1)
        assert changed("ahead") == changed("behind") == {"turn 1 (text)"}
        assert ran("behind") == everything  # of one dataset, each item reads what changed
        assert ran("ahead") == []
        # Since the latest record, which is that of the machine whose clock is behind.
        say_more(raw, turn=2)
        assert changed("ahead") == changed("behind") == {"turn 2 (text)"}


def say_more(raw: Path, turn: int) -> None:
    """Adds a word to that turn of the first dialogue of train."""
    (path,) = raw.rglob("train_sent_emo.csv")
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    where = {name: head.index(name) for name in ("Dialogue_ID", "Utterance_ID", "Utterance")}
    for row in rows:
        if (row[where["Dialogue_ID"]], row[where["Utterance_ID"]]) == ("0", str(turn)):
            row[where["Utterance"]] += " Truly."
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
