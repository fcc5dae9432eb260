"""A user's own dialogues: both forms, everything that can be wrong with a row, and `empamba check` as a shell sees it."""

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from storage.filestat import content_digest
from storage.labels import LabelError
from storage.readers.check import check
from storage.readers.find import RawDataError, find_datasets, read_dataset
from storage.settings import DataSettings

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"dialogue_id": "1", "turn": 0, "speaker": "Ann", "text": 'Hello, "you".', "emotion": "happy"},
    {
        "dialogue_id": "1",
        "turn": 1,
        "speaker": "Ben",
        "text": "Two\nlines.",
        "emotion": "sad",
        "clip": "clips/b.mp4",
    },
    {"dialogue_id": "1", "turn": 3, "speaker": "Ann", "text": "Later.", "clip": "clips/c.wav"},
]


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["dialogue_id", "turn", "speaker", "text", "emotion", "clip", "split"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def read_all(root, **settings):
    raw = next(r for r in find_datasets(root) if r.dataset == "own")
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("b.mp4", "c.wav", "unused.wav"):
        (tmp_path / "clips" / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_both_forms_give_the_same_utterances(clips, form):
    if form == "jsonl":
        (clips / "dialogues.jsonl").write_text(as_jsonl(ROWS), encoding="utf-8-sig")
    else:
        write_csv(clips / "dialogues.csv", ROWS)
    found = read_all(clips)
    assert [(u.key[2:], u.speaker, u.text, u.emotion, u.video_path, u.audio_path) for u in found.utterances] == [
        (("1", 0), "Ann", 'Hello, "you".', "happy", None, None),
        (("1", 1), "Ben", "Two lines.", "sad", "clips/b.mp4", "clips/b.mp4"),
        (("1", 3), "Ann", "Later.", None, None, "clips/c.wav"),
    ]  # fmt: skip
    assert not found.rejects and found.rows == 3
    assert [(d.reason, d.detail) for d in found.defects] == [
        ("clip_without_row", "1 *.wav: clips/unused.wav")
    ]
    assert [u.media_digest is None for u in found.utterances] == [True, False, False]


def test_splits_are_the_rows_the_files_or_drawn(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.dialogues.jsonl").write_text(as_jsonl(ROWS[:1]))
    (tmp_path / "more.dialogues.jsonl").write_text(
        as_jsonl([{**ROWS[0], "dialogue_id": "2", "split": "Test"}])
    )
    assert {(u.split, u.dialogue_id) for u in read_all(tmp_path).utterances} == {
        ("train", "1"), ("dev", "1"), ("test", "2"),
    }  # fmt: skip
    rows = [{**ROWS[0], "dialogue_id": n, "turn": t} for n in range(30) for t in (0, 1)]
    (tmp_path / "all").mkdir()
    (tmp_path / "all/dialogues.jsonl").write_text(as_jsonl(rows))
    splits = {u.dialogue_id: u.split for u in read_all(tmp_path / "all").utterances}
    assert Counter(splits.values()) == {"train": 24, "dev": 3, "test": 3}
    # Where some name test, the rest is not drawn into it.
    rows += [{**ROWS[0], "dialogue_id": "t", "split": "test"}]
    (tmp_path / "all/dialogues.jsonl").write_text(as_jsonl(rows))
    splits = {u.dialogue_id: u.split for u in read_all(tmp_path / "all").utterances}
    assert Counter(splits.values()) == {"train": 27, "dev": 3, "test": 1}


def bad_rows():
    good = ROWS[0]
    return [
        ("bad_row", "nonsense"), ("bad_row", "[1]"), ("bad_row", json.dumps({**good, "text": None})[:-1]),
        ("bad_row", {k: v for k, v in good.items() if k != "speaker"}), ("empty_text", {**good, "text": " \n "}),
        ("bad_turn", {**good, "turn": "-1"}), ("bad_row", {**good, "turn": 1.5}), ("bad_turn", {**good, "turn": 2**40}),
        ("bad_row", {**good, "turn": True}), ("bad_row", {**good, "text": ["a"]}), ("bad_row", {**good, "text": "\ud800"}),
        ("bad_split", {**good, "split": "eval"}), ("duplicate", good), ("bad_row", {**good, "dialogue_id": "a\x1b[31m"}),
        ("bad_row", '{"turn": ' + "9" * 5000 + "}"), ("bad_row", '{"text": ' + "[" * 50_000),
        ("dialogue_in_two_splits", {**good, "turn": 9, "split": "dev"}), ("too_long", {**good, "turn": 7, "text": "x" * 20_001}),
    ]  # fmt: skip


def test_what_is_wrong_with_a_row_is_told_by_line(tmp_path):
    bad = bad_rows()
    lines = [json.dumps(ROWS[0]), *(row if isinstance(row, str) else json.dumps(row) for _, row in bad)]
    (tmp_path / "dialogues.jsonl").write_text("\n".join(lines))
    found = read_all(tmp_path)
    assert len(found.utterances) == 1 and found.rows == len(lines)
    assert Counter(r.reason for r in found.rejects) == Counter(reason for reason, _ in bad)
    (checked,) = check(tmp_path / "dialogues.jsonl", DataSettings())
    told = [problem for problem in checked.problems if problem.startswith("dialogues.jsonl:")]
    placed = [int(problem.split(":")[1]) for problem in told]
    assert placed == [n for n, (reason, _) in enumerate(bad, start=2) if reason != "too_long"]
    assert any("too_long" in problem for problem in checked.problems)
    assert all("\n" not in problem and problem.isprintable() for problem in checked.problems)


CSV = "dialogue_id,turn,speaker,text,emotion\n"


@pytest.mark.parametrize(
    ("body", "texts", "bad"),
    [
        ('1,0,A,Hi.,\n1,1,B,"open,\n1,2,A,Fine.,\n', ["Hi.", "Fine."], [3]),
        ('1,0,A,a "quote" inside,\n1,1,B,Fine.,\n', ['a "quote" inside', "Fine."], []),
        ('1,0,A,"a ""quote"" inside",\n1,1,B,"one\n\ntwo",\n', ['a "quote" inside', "one two"], []),
        ("1,0,A,too,many,fields\n1,1,B\n1,2,A,Fine.,\n", ["Fine."], [2, 3]),
        ('1,0,A,stray " here,\n1,1,B,Fine.,\n1,2,A,and " there,\n', ["Fine."], [2, 4]),
        ('1,0,A,"Hi."x,\n1,1,B,Fine.,\n', ["Fine."], [2]),
    ],
)
def test_quotes_of_a_csv_cost_their_own_rows(tmp_path, body, texts, bad):
    (tmp_path / "dialogues.csv").write_text(CSV + body)
    found = read_all(tmp_path)
    assert [u.text for u in found.utterances] == texts
    assert [int(r.detail.split(":")[1]) for r in found.rejects] == bad


def test_a_quote_left_open_in_a_large_file_takes_no_time_that_grows(tmp_path):
    """Twice the lines take about twice as long, whatever the quotes."""
    spent = []
    for count in (4000, 16_000):
        body = "".join(f'{n},0,A,"open {n},\n' if n % 201 == 0 else f"{n},0,A,Fine.,\n" for n in range(count))
        (tmp_path / "dialogues.csv").write_text(CSV + body)
        begin = time.process_time()
        found = read_all(tmp_path)
        spent.append(time.process_time() - begin)
        assert found.rows == count and len(found.rejects) == len(range(0, count, 201))
    assert spent[1] < 12 * spent[0]


def test_headers(tmp_path):
    for text, told in (
        ("dialogue_id,turn,text\n1,0,Hi.\n", "columns missing: speaker"),
        ("dialogue_id,turn,speaker,text,text\n1,0,A,Hi.,Ho.\n", "a column stands there twice"),
        ("", "no row"),
    ):
        (tmp_path / "dialogues.csv").write_text(text)
        with pytest.raises(RawDataError, match=f"dialogues.csv:1: .*{told}|columns missing: dialogue_id"):
            read_all(tmp_path)
    (tmp_path / "dialogues.csv").write_text("Dialogue_ID,Turn,Speaker,Text,Emotions\n1,0,A,Hi.,joy\n")
    found = read_all(tmp_path)
    assert found.utterances[0].emotion_raw is None
    assert any("columns that nothing reads: emotions" in note for note in found.notes)


def test_a_foreign_label_names_the_setting(tmp_path):
    (tmp_path / "dialogues.jsonl").write_text(as_jsonl([{**ROWS[0], "emotion": "Joyful"}]))
    with pytest.raises(
        LabelError,
        match=r"dialogues\.jsonl:1: unknown own emotion 'Joyful'.*--set 'data\.labels\.map=\{\"joyful\": ",
    ) as told:
        read_all(tmp_path)
    assert ".py" not in str(told.value)
    mapped = read_all(tmp_path, labels={"map": {"joyful": "happy"}})
    assert (mapped.utterances[0].emotion, mapped.utterances[0].emotion_raw) == ("happy", "Joyful")
    with pytest.raises(ValueError, match="glad"):
        DataSettings(labels={"map": {"joyful": "glad"}})


@pytest.mark.parametrize(
    ("clip", "reason"),
    [("gone.wav", "missing_clip"), ("../x.wav", "bad_clip"), ("/etc/x.wav", "bad_clip"), ("clips/b.txt", "bad_clip"),
     ("clips/../../../x.mp4", "bad_clip")],
)  # fmt: skip
def test_clips_that_cannot_be_had_cost_no_row(tmp_path, clip, reason):
    (tmp_path / "dialogues.jsonl").write_text(as_jsonl([{**ROWS[0], "clip": clip}]))
    found = read_all(tmp_path)
    assert found.utterances[0].audio_path is None
    assert [(d.reason, d.detail.split(": ")[0]) for d in found.defects] == [(reason, "dialogues.jsonl:1")]


def test_clips_lie_below_the_files_own_folder(tmp_path):
    (tmp_path / "mine/clips").mkdir(parents=True)
    (tmp_path / "mine/clips/b.mp4").write_text("x")
    (tmp_path / "mine/dialogues.jsonl").write_text(as_jsonl([{**ROWS[1], "clip": "./clips/b.mp4"}]))
    assert read_all(tmp_path).utterances[0].video_path == "mine/clips/b.mp4"


# The command -------------------------------------------------------------------------------------------


def empamba(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "check", *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
    )  # fmt: skip


def test_check_of_a_good_file_says_what_is_read(clips):
    write_csv(clips / "mine.csv", ROWS)
    done = empamba("mine.csv", folder=clips)
    assert done.returncode == 0 and done.stderr == ""
    assert "1 dialogues, 3 utterances, 1 exchanges, 2 clips" in done.stdout
    assert "1 happy, 1 none, 1 sad" in done.stdout and "1 across a missing turn" in done.stdout
    assert "mine.dialogues.csv" in done.stdout and done.stdout.rstrip().endswith("0 problems")
    facts = json.loads(empamba("mine.csv", "--json", folder=clips).stdout)
    assert facts["problems"] == [] and facts["datasets"]["Own dialogues"]["clips"] == 2


def test_check_names_every_problem_and_exits_1(tmp_path):
    rows = [
        {**ROWS[0], "turn": n, "emotion": label}
        for n, label in enumerate(["happy", "joyful", "bored", "joyful"])
    ]
    (tmp_path / "dialogues.jsonl").write_text(as_jsonl(rows) + "nonsense\n")
    done = empamba("dialogues.jsonl", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert [line.split(" ")[0] for line in lines[:4]] == [f"dialogues.jsonl:{n}:" for n in (2, 3, 4, 5)]
    assert lines[-1] == "4 problems"
    short = empamba("dialogues.jsonl", "--most", 1, folder=tmp_path)
    assert short.returncode == 1 and "… and 3 more" in short.stdout
    mapped = empamba(
        "dialogues.jsonl", "--set", 'data.labels.map={"joyful": "happy", "bored": null}', folder=tmp_path
    )
    assert "1 problems" in mapped.stdout and "3 happy, 1 none" in mapped.stdout


def test_check_of_a_folder_and_of_nothing(tmp_path):
    (tmp_path / "dialogues.jsonl").write_text(as_jsonl(ROWS[:1]))
    done = empamba(".", folder=tmp_path)
    assert done.returncode == 0 and "Own dialogues: 1 dialogues" in done.stdout
    for path, told in (
        ("gone.jsonl", "no such file or folder"),
        (ROOT / "Makefile", "own dialogues are .jsonl or .csv"),
    ):
        done = empamba(path, folder=tmp_path)
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert empamba(folder=tmp_path).returncode == 2
