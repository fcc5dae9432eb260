"""The real MELD text, where it lies beside the repository: known counts, and a subset through to the report."""

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


def test_train_and_dev_come_through_whole(tmp_path):
    empamba(tmp_path, "run", "--until", "utterances")
    counts = json.loads(empamba(tmp_path, "show", "utterances", "--json"))
    exchanges = 6910  # neighbouring turns of train by different speakers, without a gap
    shards = [p for p in (tmp_path / "store" / "records" / "utterances").glob("*.json")]
    names = {ref["name"]: ref for path in shards for ref in json.loads(path.read_text())["outputs"]}
    rows = {
        split: sum(r["rows"] for n, r in names.items() if n.startswith(f"utterances/meld/{split}/"))
        for split in ("train", "dev")
    }
    assert rows == {"train": 9989, "dev": 1109}
    assert counts["by"]["meld/train"] == 9989
    assert counts["rejects"] == 0
    cut = json.loads(
        next((tmp_path / "store" / "records" / "utterances.exchanges").glob("*.json")).read_text()
    )
    found = sum(ref["rows"] for ref in cut["outputs"] if ref["name"].startswith("exchanges/meld/train/"))
    assert found == exchanges


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
