"""`empamba study` as a shell meets it, on the finished run: made, judged over the network, scored, exported."""

import json

import pytest

from tests.support.command_line import empamba
from tests.support.participants import begin, client, judge_all, served

WHERE = ("--store", "a store")
POWER = ("--difference", "0.2", "--sd", "0.5", "--correlation", "0.5")
"""7.848879 * 2 * 0.5 * 0.5² / 0.2² = 49.06 judgements (tests/tasks/study/test_power.py)."""


def study(folder, *arguments: str):
    return empamba(folder, "study", *arguments)


@pytest.mark.slow
def test_from_a_run_to_figure_5(finished, tmp_path):
    made = study(
        finished, "make", str(tmp_path / "s"), "--each", "4", "--participants", "3", "--systems", "1-llm,5-epo,human", *WHERE, *POWER
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    told = made.stdout.decode()
    assert "a difference of 0.2 needs 50" in told and "utterances have a clip" in told
    # The same run and seed: the same study; the links are new.
    again = study(
        finished, "make", str(tmp_path / "t"), "--each", "4", "--participants", "3", "--systems", "1-llm,5-epo,human", *WHERE, *POWER
    )  # fmt: skip
    assert again.returncode == 0
    files = {
        p.relative_to(tmp_path / "s"): p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()
    }
    assert all(
        (tmp_path / "t" / name).read_bytes() == data
        for name, data in files.items()
        if name.name != "access.json"
    )
    access, other = (json.loads((tmp_path / n / "access.json").read_text()) for n in "st")
    assert (
        not set(access["tokens"]) & set(other["tokens"])
        and (tmp_path / "s/access.json").stat().st_mode & 0o77 == 0
    )
    with served(tmp_path / "s") as address, client(address) as http:
        for token in access["tokens"]:
            begin(http, token)
            judge_all(http, token, lambda number, text, question: 1 + len(text) % 3)
        shown = study(tmp_path, "status", "s", "--url", address, "--json")
        assert [row["state"] for row in json.loads(shown.stdout)] == ["done"] * 3
        scored = study(tmp_path, "score", "s")
        assert scored.returncode == 0, scored.stderr
    assert "Krippendorff's alpha 1.00" in scored.stdout.decode()  # all say the same of a text
    assert {"judgements.json", "score.json", "score.csv", "figure-5.svg"} <= {
        p.name for p in (tmp_path / "s").iterdir()
    }
    facts = json.loads((tmp_path / "s/score.json").read_text())
    assert facts["counts"]["judgements"] == 3 * 4 * 3 * 2 and facts["counts"]["done"] == 3
    exported = study(tmp_path, "export", "s", "pairs", "--margin", "0")
    assert exported.returncode == 0 and (tmp_path / "pairs/README.md").is_file(), exported.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("make", "raw files"), "is not empty: give a new folder"),
        (("make", "new", "--each", "9999"), "9999 conversations are asked for, and all systems answered"),
        (("make", "new", "--systems", "gpt-9"), "no replies of gpt-9; there are 1-llm,"),
        (("make", "new", "--systems", "human"), "name at least one that answered"),
        (("make", "new", "--pairs", "--systems", "5-epo"), "no replies of 5-epo; there are rejected, human"),
        (("make", "new", "--each", "2", "--conversations", "1"), "--each 2 is more than --conversations 1"),
        (("make", "new", "--each", "1", "--checks", "2"), "--checks 2 is more than the 1 conversations"),
        (("make", "new", "--completion-url", "javascript:x"), "--completion-url: String should match"),
    ],
)
def test_mistakes_are_one_line(finished, arguments, message):
    done = study(finished, *arguments, *WHERE)
    assert done.returncode == 2, done.stderr
    *_, line = done.stderr.decode().strip().splitlines()
    assert line.startswith("error: ") and message in line, line
    assert not (finished / "new" / "study.json").exists()


def test_a_folder_that_is_no_study(tmp_path):
    for command in ("serve", "score", "status"):
        done = study(tmp_path, command, "nothing")
        assert done.returncode == 2 and b"give the folder that `empamba study make` wrote" in done.stderr, (
            done.stderr
        )
