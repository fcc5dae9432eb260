"""A subset of the real MELD text, where it lies beside the repository, through to the report.

Its counts are asserted where they are made: tests/storage/test_reader_meld.py, tests/tasks/test_cards.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MELD = ROOT.parent / "shared" / "data" / "meld"

pytestmark = pytest.mark.skipif(
    not MELD.is_dir(), reason="the real MELD text does not lie in ../shared/data/meld"
)


def empamba(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")}
    command = [sys.executable, "-m", "flows.cli", *arguments, "--raw", str(MELD), "--profile", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_forty_dialogues_go_through_to_the_report_with_dev_standing_in(tmp_path):
    empamba(tmp_path, "run", "--set", "data.dialogues=40")
    facts = json.loads((tmp_path / "store" / "report.json").read_text())
    rows = [row for row in facts["systems"] if row["dataset"] == "meld"]
    assert {row["split"] for row in rows} == {"dev"}
    assert not facts["synthetic"]
    page = (tmp_path / "store" / "report.html").read_text()
    assert "dev" in page and "no media" in page
    assert "raw_2018" in page  # the second copy is named
