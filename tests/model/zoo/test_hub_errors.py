"""What the models' hub may answer, each in one line that says what to do: by a real server and the hub's own client."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.card import weights_identity
from model.zoo.hub import explained
from model.zoo.resolve import commit_of, recorded_commit, source_of
from tests.support.command_line import empamba
from tests.support.hub_server import Hub, commit_at, served

ROOT = Path(__file__).resolve().parents[3]
NAME, REPOSITORY = "roberta-large", "FacebookAI/roberta-large"
# The client reads its settings when it is imported: each call in a process of its own.
BRANCH, OF_BRANCH = "mamba-370m", "state-spaces/mamba-370m-hf"
"""Weights that are pinned to a branch."""
CALL = """
import sys
from model.zoo import hub
from model.zoo.errors import ZooError
try:
    print("got", getattr(hub, sys.argv[1])(sys.argv[2]))
except ZooError as error:
    print("error:", error)
"""


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "hub" / REPOSITORY
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    (folder / "model.safetensors").write_bytes(bytes(200_000))
    with served(tmp_path / "hub") as running:
        yield running


def call(hub: Hub, folder: Path, function: str, name: str = NAME, **more: str) -> str:
    environment = {**os.environ, **hub.environment(folder), "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(
        [sys.executable, "-c", CALL, function, name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = done.stdout.strip().splitlines()
    assert done.returncode == 0 and len(lines) == 1, done.stdout + done.stderr
    return lines[0]


def test_of_a_branch_the_commit_that_was_fetched_is_kept_and_said(hub, tmp_path):
    shutil.copytree(tmp_path / "hub" / REPOSITORY, tmp_path / "hub" / OF_BRANCH)
    folder = Path(call(hub, tmp_path, "fetched", BRANCH).removeprefix("got "))
    commit = commit_at(OF_BRANCH, "main")
    assert source_of(BRANCH).revision == "main" and recorded_commit(folder) == commit
    assert weights_identity(folder) == f"hub:{OF_BRANCH}@main (commit {commit})"
    assert commit_of(BRANCH, tmp_path / "weights") == commit
    listed = empamba(tmp_path, "weights", "list", "--profile", "paper", **hub.environment(tmp_path))
    (row,) = [line.split() for line in listed.stdout.decode().splitlines() if BRANCH in line]
    assert row[-2:] == ["yes", commit[:12]]


def test_a_hub_that_answers_is_asked_for_a_few_hundred_bytes_and_then_for_all(hub, tmp_path):
    assert call(hub, tmp_path, "check_hub") == "got None"
    assert [path for path in hub.asked if "safetensors" in path] == []
    folder = Path(call(hub, tmp_path, "fetched").removeprefix("got "))
    assert recorded_commit(folder) == source_of(NAME).revision  # which is one
    assert weights_identity(folder) == f"hub:{REPOSITORY}@{source_of(NAME).revision}"
    hub.refusals[REPOSITORY] = 503  # it lies here now, and the hub is not asked any more
    asked = len(hub.asked)
    assert call(hub, tmp_path, "fetched").startswith("got ") and len(hub.asked) == asked
    assert call(hub, tmp_path, "check_hub", EMPAMBA_CACHE=str(tmp_path / "other")) == "got None"


@pytest.mark.parametrize(
    "status, words",
    [
        (401, ("refuses", "(401)", "hf auth login", "local copy")),
        (403, ("refuses", "(403)", "hf auth login")),
        (404, ("has no", "(404)", "722cf37b1afa9454edce342e7895e588b6ff1d59", "local copy")),
        (503, ("out of order", "(503", "again later")),
    ],
)
def test_a_refusal_is_one_line_before_anything_is_fetched(hub, tmp_path, status, words):
    hub.refusals[REPOSITORY] = status
    said = call(hub, tmp_path, "check_hub")
    assert said.startswith(f"error: weights '{NAME}': the hub ") and REPOSITORY in said
    assert all(word in said for word in (*words, "'minilm-l6' (profile cpu)")), said


def test_a_hub_that_is_not_there_is_said_to_be_out_of_reach(hub, tmp_path):
    said = call(hub, tmp_path, "check_hub", HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be reached" in said and "connect" in said
    said = call(hub, tmp_path, "check_hub", HF_HUB_OFFLINE="1")
    assert "is not on this machine" in said and "unset HF_HUB_OFFLINE (setting run.offline)" in said


@pytest.mark.slow  # the client tries again for half a minute
def test_a_file_that_breaks_off_is_said_to_and_nothing_of_it_counts_as_fetched(hub, tmp_path):
    hub.cut_off.add(REPOSITORY)
    said = call(hub, tmp_path, "fetched")
    assert said.startswith(f"error: weights '{NAME}': the hub broke off while it sent {REPOSITORY}"), said
    assert "run this again, what has come is kept" in said
    hub.cut_off.clear()
    assert call(hub, tmp_path, "fetched").startswith("got ")


def test_what_is_not_known_of_is_told_in_its_own_words():
    said = explained(source_of(NAME), OSError("no space left on device\nsecond line"))
    assert "OSError: no space left on device" in said and "\n" not in said
