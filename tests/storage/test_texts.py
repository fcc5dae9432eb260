"""Public text corpora, beside the shared files' own counts and small ones written by hand."""

import json
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.texts import read_texts

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_forms_order_and_what_is_left_out(tmp_path):
    (tmp_path / "a.tsv").write_text('Say "no"\t3\tid1\nwell  then\t1,2\tid2\n', encoding="utf-8")
    talk = {"t1": {"content": [{"message": "well then"}, {"message": "Oh."}]}}
    (tmp_path / "b.json").write_text(json.dumps(talk), encoding="utf-8")
    (tmp_path / "c.txt").write_text("\nlast\n", encoding="utf-8")
    texts, left_out = read_texts([tmp_path / name for name in ("a.tsv", "b.json", "c.txt")])
    assert texts == ['Say "no"', "well then", "Oh.", "last"]
    assert left_out == {"empty": 1, "repeated": 1}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared corpora are not here")
def test_nothing_is_lost_of_the_real_files():
    goemotions = SHARED / "goemotions" / "dev.tsv"
    texts, left_out = read_texts([goemotions])
    assert len(texts) + sum(left_out.values()) == len(goemotions.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"x", "of no known form"),
        ("a.json", b"[1]", "not what its name says"),
        ("a.txt", b"\xff", "not what"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {told}"):
        read_texts([tmp_path / name])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt: cannot be read"):
        read_texts([tmp_path / "gone.txt"])
