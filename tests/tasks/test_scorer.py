"""The scorer's commands: what a mistake says before anything is trained or loaded."""

import json
from pathlib import Path

import pytest

from storage.errors import InputError
from tasks.scorer import fit_scorer, measure_scorer


@pytest.fixture
def rows(tmp_path) -> Path:
    (tmp_path / "rows.tsv").write_text("thank you\t15\tid1\n")
    return tmp_path / "rows.tsv"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epocs": 3}, "settings.json: setting epocs: Extra inputs are not permitted"),
        ({"network": {"rank": -1}}, "setting network.rank: .*greater than or equal to 0"),
        ([], "settings.json: setting "),
    ],
)
def test_settings_that_do_not_fit(rows, tmp_path, settings, message):
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=message) as error:
        fit_scorer(rows, rows, tmp_path / "out", tmp_path / "settings.json")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_files_that_are_missing_or_no_goemotions(rows, tmp_path):
    with pytest.raises(InputError, match="absent.tsv: no such file; give a TSV of GoEmotions"):
        measure_scorer(tmp_path / "absent.tsv", "goemotions-minilm")
    with pytest.raises(InputError, match="no config.json: not a scorer's folder"):
        measure_scorer(rows, str(tmp_path))
    with pytest.raises(InputError, match="absent.json: cannot be read"):
        fit_scorer(rows, rows, tmp_path / "out", tmp_path / "absent.json")
    (tmp_path / "notes.tsv").write_text("hello\n")
    with pytest.raises(InputError, match="notes.tsv, row 1: 1 fields instead of 3"):
        fit_scorer(tmp_path / "notes.tsv", rows, tmp_path / "out", None)
