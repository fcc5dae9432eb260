"""Two machines that share a store in a bucket: a real S3 server, real stages in worker processes, caches of their own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from storage.files import StoreError
from storage.remote.address import working_folder
from tasks.engine.session import Session
from tasks.upkeep import check
from tests.support.changed_sentence import change_one_sentence
from tests.support.command_line import empamba
from tests.support.rerun import digests, run, session
from tests.support.s3_server import BUCKET, CONDITIONS, S3, s3_server
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
UNTIL = "utterances.exchanges"
ADDRESS = f"s3://{BUCKET}/a/store"


@pytest.fixture
def s3(monkeypatch):
    with s3_server() as found:
        for name, value in found.environment().items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def on(pipeline, tmp_path, monkeypatch):
    """Opens the pipeline's session on the machine of that name."""

    def opened(machine: str) -> Session:
        monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path / machine))
        return session("tiny", working_folder(ADDRESS), pipeline.raw, pipeline.changes)

    return opened


def test_what_one_machine_ran_the_other_does_not_run(on, pipeline, s3: S3, chat_server):
    s3.fail("PUT", "/objects/", "503", times=2)
    s3.fail("PUT", "/records/", "lost")
    with on("one") as here:
        ran = run(here, "candidates")
        made = digests(here, "candidates")
        (ref,) = [r for r in pipeline.refs(here, "candidates")][:1]
        prompts = {row["prompt"] for r in pipeline.refs(here, "candidates") for row in pipeline.read(here, r)}
    assert len(s3.names("/records/")) == len(ran) and s3.planned == []
    asked = len(chat_server.asked)
    assert asked == len(prompts)

    with on("two") as there:
        assert run(there, "candidates") == []
        assert digests(there, "candidates") == made and pipeline.read(there, ref)
    with s3.counted() as requests, on("two") as there:
        assert {plan.state for plan in there.plan("candidates")} == {"fresh"}
    assert len(requests) == 1  # one page of a listing

    # Rows travel too: of one changed sentence the eight candidates are asked for, by a machine that never asked before.
    change_one_sentence(pipeline.raw, prompts)
    with on("two") as there:
        again = run(there, "candidates")
        made = digests(there, "candidates")
    assert any(item.startswith("candidates ") for item in again)
    assert len(chat_server.asked) - asked == 8
    with on("one") as here:
        assert run(here, "candidates") == [] and digests(here, "candidates") == made
    assert len(chat_server.asked) - asked == 8


def test_a_server_that_ignores_conditions_ends_a_run_before_any_work(on, s3: S3):
    s3.ignores = CONDITIONS
    with on("one") as here, pytest.raises(StoreError, match="this server ignores `If-None-Match"):
        run(here, "utterances")
    assert s3.names("/objects/") == s3.names("/records/") == []


@pytest.mark.slow
def test_two_at_once_after_one_that_was_killed(raw, s3: S3, tmp_path, monkeypatch):
    """Nothing is lost, nothing is there twice, and all of it is what a folder would hold."""

    def begun(machine: str) -> subprocess.Popen:
        monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path / machine))
        words = [
            "-m",
            "tests.support.rerun",
            "tiny",
            str(working_folder(ADDRESS)),
            str(raw),
            "--until",
            UNTIL,
        ]
        return subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
        )

    killed = begun("one")
    wait_for(lambda: s3.names("/records/"), 120)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    both = [begun("one"), begun("two")]
    ran = [json.loads(process.communicate(timeout=300)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]

    with session("tiny", tmp_path / "folder", raw) as control:
        items = run(control, UNTIL)
        expected = digests(control, UNTIL)
    assert set(ran[0]) | set(ran[1]) < set(items)  # not what the killed one had done
    assert len(s3.names("/records/")) == len(items)
    monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path / "three"))
    with session("tiny", working_folder(ADDRESS), raw) as third:
        assert digests(third, UNTIL) == expected
    assert check(working_folder(ADDRESS), repair=False) == []


@pytest.mark.slow
def test_commands_take_a_bucket_as_they_take_a_folder(raw, s3: S3, tmp_path):
    what = ("--profile", "tiny", "--raw", str(raw), "--store", ADDRESS)
    until = ("--until", UNTIL)

    def on_machine(machine: str, *words: str, code: int = 0) -> Any:
        """What the command prints; of --json the object."""
        done = empamba(tmp_path, *words, EMPAMBA_CACHE=str(tmp_path / machine))
        assert done.returncode == code, done.stderr.decode()
        return json.loads(done.stdout) if "--json" in words else (done.stdout + done.stderr).decode()

    first = on_machine("one", "run", *what, *until)
    assert f"`empamba show utterances.exchanges --store {ADDRESS}` shows its rows" in first
    assert "Nothing is stale: no task was run." in on_machine("two", "run", *what, *until)
    runs = on_machine("one", "runs", "--json", "--store", ADDRESS)["runs"]
    assert [run["state"] for run in runs] == ["finished", "finished"]  # the other machine's too
    shown = on_machine("three", "show", "utterances", "--json", "--store", ADDRESS)
    assert shown["rows"] > 0
    with s3.counted() as requests:
        plans = on_machine("two", "status", "--json", *what, *until)["stages"]
    assert {plan["state"] for plan in plans} == {"fresh"} and len(requests) <= 2
    assert on_machine("one", "verify", "--store", ADDRESS).endswith("0 damaged\n")
    refused = on_machine("one", "gc", "--store", ADDRESS, code=2)
    assert refused.count("\n") == 1 and f"gc --store {ADDRESS}: a bucket is not cleaned up" in refused
    wrong = on_machine("one", "runs", "--store", "s3://no-such-bucket/x", code=1)
    assert (
        wrong
        == "error: s3://no-such-bucket/x: no such bucket; make it, or correct the name, AWS_REGION or AWS_ENDPOINT_URL\n"
    )
    assert "a-secret-that" not in first + runs[0]["said"]
