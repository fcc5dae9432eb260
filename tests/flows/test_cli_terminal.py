"""What comes from outside reaches the terminal as text, and as nothing else; programs get JSON."""

import json
import os
import re
import shutil

import pytest

from tests.support.command_line import empamba, on_a_terminal
from tests.support.hostile import TALK, unreadable

STYLES = re.compile(rb"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K|\r")
"""What rich itself sends: styles, the cursor hidden and shown, and a bar drawn again in its own lines."""
HOSTILE_STYLE = b"\x1b[7m"

pytestmark = pytest.mark.slow


def test_a_run_and_its_reasons_are_clean(finished):
    for name in ("shown.out", "shown.err"):
        assert unreadable((finished / name).read_bytes()) == set(), name


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("runs",),
        ("report",),
        ("show", "utterances", "--rows", "200"),
        ("show", "utterances", "--rejects"),
        ("show", "candidates", "--rows", "20"),
        ("show", "pairs", "--rows", "20"),
        ("show", "compressor"),
    ],
)
def test_what_is_shown_can_be_read(finished, arguments):
    done = empamba(finished, *arguments, "--store", "a store", width=80)
    assert done.returncode == 0, done.stderr
    assert unreadable(done.stdout) == unreadable(done.stderr) == set()


def test_the_texts_are_there_with_their_codes(finished):
    shown = empamba(finished, "show", "utterances", "--rows", "200", "--store", "a store").stdout.decode()
    for told in (r"\x1b[31mred", r"\x1b]0;taken\x07", r"\u202egnp.exe\u202c", r"\u2028", r"\x7f"):
        assert told in shown, told
    assert r"B\x1b[7mob" in shown and r"Al\u202ei" in shown and f"/{TALK}/" in shown
    assert "[bold]markup[/bold] [link=http://evil.example]here[/link] :warning:" in shown


def test_json_is_json_and_says_what_the_text_was(finished):
    done = empamba(finished, "show", "utterances", "--rows", "200", "--json", "--store", "a store")
    assert unreadable(done.stdout) == set() and done.stdout.isascii()
    rows = json.loads(done.stdout)["shown"]
    assert {"B\x1b[7mob", "Al\u202ei"} <= {row["speaker"] for row in rows}
    assert TALK in {row["dialogue_id"] for row in rows}
    for arguments in (("status",), ("runs",), ("report",), ("show", "candidates"), ("show", "metrics")):
        done = empamba(finished, *arguments, "--json", "--store", "a store")
        assert isinstance(json.loads(done.stdout, parse_constant=pytest.fail), dict), arguments


def test_a_changed_sentence_of_a_hostile_dialogue_is_told(finished, tmp_path):
    """File names, dialogue ids, errors: on a real terminal, where styles and bars are drawn."""
    raw = shutil.copytree(finished / "raw files", tmp_path / "raw\x1b]0;taken\x07")
    talk = next((raw / "MultiDialog").rglob("train_metadata_0001.jsonl"))
    talk.write_text(talk.read_text().replace("colours", "colors"))
    shutil.copytree(finished / "a store", tmp_path / "store")
    asked = ("--profile", "tiny", "--raw", raw.name)
    until = ("--until", "utterances", "--set", "epo.gamma=0.4")
    code, planned = on_a_terminal(tmp_path, "status", *asked, *until)
    assert code == 0, planned
    code, shown = on_a_terminal(tmp_path, "run", *asked, *until)
    assert code == 0, shown
    shown = planned + shown  # a run shortens its reasons
    plain = STYLES.sub(b"", shown).decode()
    assert f"multidialog/train dialogue {TALK}: turn 0 (text)" in plain
    assert r"raw\x1b]0;taken\x07" in empamba(tmp_path, "runs").stdout.decode()
    assert unreadable(STYLES.sub(b"", shown)) == set() and HOSTILE_STYLE not in shown

    csv = next(raw.rglob("train_sent_emo.csv"))
    csv.write_text(csv.read_text().replace(",neutral,", ",dull\x1b[7m,"))
    code, shown = on_a_terminal(tmp_path, "run", *asked, "--until", "utterances")
    assert code == 2 and rb"dull\x1b[7m" in shown
    assert unreadable(STYLES.sub(b"", shown)) == set() and HOSTILE_STYLE not in shown


def test_damage_of_a_hostile_name_and_hostile_options_are_one_clean_line(finished, tmp_path):
    for arguments in (
        ("status", "--raw", "no\x1b[7mwhere"),
        ("status", "--set", "epo.\x1b[7mgamma=1"),
        ("status", "--profile", "\x1b]0;taken\x07"),
        ("show", "pea\x1b[7mrs", "--profile", "tiny"),
        ("run", "--colour\x1b[7m"),
        ("scorer", "evaluate", "\x1b[7m.tsv"),
        ("verify", "--store", "\x1b[7m"),
        ("runs", "--store", "\x1b[7m"),
    ):
        done = empamba(tmp_path, *arguments)
        assert unreadable(done.stdout + done.stderr) == set(), arguments
        assert rb"\x1b" in done.stdout + done.stderr or arguments[0] == "verify", arguments
        assert done.returncode == (0 if arguments[0] in ("verify", "runs") else 2)


def test_a_defect_is_shown_clean(tmp_path):
    """A traceback with a hostile message, as a broken library would raise it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import storage.sample.layout as layout\n"
        "def broken(*_, **__):\n    raise RuntimeError('a \\x1b]0;taken\\x07 defect')\n"
        "layout.write_sample = broken\n"
    )
    path = os.pathsep.join([str(tmp_path), *[p for p in (os.environ.get("PYTHONPATH"),) if p]])
    done = empamba(tmp_path, "sample", "here", PYTHONPATH=path)
    assert done.returncode == 1 and b"Traceback" in done.stderr and rb"\x1b]0;taken\x07 defect" in done.stderr
    assert unreadable(done.stderr) == set()
