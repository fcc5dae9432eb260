"""The whole road on the tiny profile, from the command line: raw trees with real media in, a report out."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from storage.sample.layout import write_sample
from tasks.engine.run import RunRequest

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "utterances", "utterances.exchanges", "features", "candidates", "scores", "scores.calibration", "pairs",
    "pairs.quality",
    "extractor", "compressor.pretrain", "compressor.finetune", "dialogue.text", "dialogue.memory",
    "dialogue.audiovisual", "epo", "replies.1-llm", "replies.2-ft", "replies.3-mc", "replies.4-av", "replies.5-epo",
    "metrics", "report",
}  # fmt: skip


def empamba(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "COLUMNS": "300",
    }
    command = [sys.executable, "-m", "flows.cli", *arguments, "--profile", "tiny"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=1500)


def status(folder: Path, *arguments: str) -> dict[str, dict]:
    done = empamba(folder, "status", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {row["stage"]: row for row in json.loads(done.stdout)["stages"]}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(root, dialogues=2, turns=10)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory, raw) -> Path:
    """A folder whose store holds one finished run."""
    folder = tmp_path_factory.mktemp("run")
    done = empamba(folder, "run", "--raw", str(raw))
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Report: " in done.stdout
    return folder


pytestmark = pytest.mark.slow


def test_every_stage_is_fresh_after_a_run(folder, raw):
    found = status(folder, "--raw", str(raw))
    assert set(found) == STAGES
    assert {name for name, row in found.items() if row["state"] == "not run"} == {"scores.calibration"}
    assert {name for name, row in found.items() if row["state"] not in ("fresh", "not run")} == set()


def test_a_second_run_runs_no_task_and_says_so(folder, raw):
    done = empamba(folder, "run", "--raw", str(raw))
    assert done.returncode == 0
    assert done.stdout.startswith("Nothing is stale: no task was run. Report: ")
    assert "first run" not in done.stderr


def test_the_report_has_every_rung_and_says_what_the_data_is(folder):
    facts = json.loads((folder / "store" / "report.json").read_text())
    rungs = [row["rung"] for row in facts["systems"] if row["dataset"] == "all"]
    assert rungs == ["1-llm", "2-ft", "3-mc", "4-av", "5-epo"]
    assert {row["n"] for row in facts["systems"] if row["dataset"] == "all"} == {6}
    assert {"meld", "multidialog", "iemocap"} <= {row["dataset"] for row in facts["systems"]}
    page = (folder / "store" / "report.html").read_text()
    assert "synthetic faces and voices" in page
    loads = r"""(?:\bsrc\s*=|<link\b[^>]*\bhref\s*=|url\(|@import)\s*["']?https?:"""
    assert not re.search(loads, page)  # self-contained: it names addresses, and loads nothing from them


def test_counts_in_are_counts_out_and_rejects(folder, raw):
    utterances = json.loads(empamba(folder, "show", "utterances", "--json", "--raw", str(raw)).stdout)
    assert utterances["rows"] == sum(utterances["by"].values())
    features = json.loads(empamba(folder, "show", "features", "--json", "--raw", str(raw)).stdout)
    with RunRequest(profile="tiny", raw=str(raw), store=str(folder / "store")).session() as session:
        plan = next(p for p in session.plan("utterances") if p.stage.name == "utterances")
        cards = [r for refs in plan.outputs.values() for r in refs if r.name.startswith("card/")]
        media = sum(
            split["with_media"]
            for ref in cards
            for split in json.loads(session.store.read(ref))["splits"].values()
        )
    assert features["rows"] + features["rejects"] == media > 0
    candidates = json.loads(empamba(folder, "show", "candidates", "--json", "--raw", str(raw)).stdout)
    assert candidates["rows"] == 160


def test_every_dataset_leaves_a_data_card(folder):
    """As Prefect artifacts, with the exchanges that were cut; the sample is not held against the corpora."""
    with closing(sqlite3.connect(folder / "prefect" / "prefect.db")) as database:
        found = dict(database.execute("select key, data from artifact where type = 'markdown'"))
    for dataset in ("meld", "multidialog", "iemocap"):
        card = json.loads(found[f"data-card-{dataset}"])
        assert "Not compared with published counts: the bundled sample" in card
        header, row = (
            line for line in card.splitlines() if line.startswith(("| split | dialogues", "| train | 2 |"))
        )
        exchanges = dict(zip(header.split(" | "), row.split(" | "), strict=True))["exchanges"]
        assert int(exchanges) > 0
    page = (folder / "store" / "report.html").read_text()
    assert page.count("Not compared with published counts") == 3


@pytest.mark.parametrize(
    "change, stage, reason",
    [
        ("epo.gamma=0.4", "epo", "changed setting: epo.gamma 0.5 → 0.4"),
        ("pairs.threshold=0.3", "pairs", "changed setting: pairs.threshold 1.0 → 0.3"),
        ("replies.max_new_tokens=5", "replies.1-llm", "changed setting: replies.max_new_tokens 6 → 5"),
        ("metrics.intervals.seed=1", "metrics", "changed setting: metrics.intervals.seed 0 → 1"),
        ("features.frames=4", "features", "changed setting: features.frames 8 → 4"),
    ],
)
def test_a_changed_setting_reaches_what_reads_it_and_says_so(folder, raw, change, stage, reason):
    found = status(folder, "--raw", str(raw), "--set", change)
    assert found[stage]["state"] == "stale"
    assert found[stage]["reasons"] == [reason]
    order = list(found)
    stale = {name for name, row in found.items() if row["state"] == "stale"}
    # Whatever else is stale was itself given the setting, as the report is.
    alike = {name for name in found if name.split(".")[0] == stage.split(".")[0]}
    assert stale <= {*alike, "report"}
    assert all(found[name]["state"] in ("fresh", "not run") for name in order[: order.index(stage)])


def test_a_truncated_clip_is_a_counted_reject(tmp_path, raw):

    copy = Path(shutil.copytree(raw, tmp_path / "raw"))
    clip = sorted(copy.rglob("train_splits/*.mp4"))[0]
    clip.write_bytes(clip.read_bytes()[:200])
    done = empamba(tmp_path, "run", "--raw", str(copy), "--until", "features")
    assert done.returncode == 0, done.stderr[-2000:]
    shown = json.loads(empamba(tmp_path, "show", "features", "--json", "--raw", str(copy)).stdout)
    assert shown["rejects"] == 1
    rejects = empamba(tmp_path, "show", "features", "--rejects", "--raw", str(copy)).stdout
    assert "corrupt" in rejects and clip.name in rejects


def test_text_alone_goes_through_to_the_report(tmp_path):
    """And with the random control, which is a second EPO and a rung of its own."""
    asked = ["--raw", str(tmp_path / "raw"), "--set", "pairs.control=true"]
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=10)
    for tree in ("MultiDialog", "IEMOCAP_full_release"):
        shutil.rmtree(tmp_path / "raw" / tree)
    (tmp_path / "raw" / "MELD.Raw" / "test_sent_emo.csv").unlink()
    done = empamba(tmp_path, "run", *asked)
    assert done.returncode == 0, done.stderr[-3000:]
    found = status(tmp_path, *asked)
    for stage in ("features", "extractor", "dialogue.audiovisual"):
        assert found[stage]["reasons"] == ["no media: no utterance has a clip"], stage
    facts = json.loads((tmp_path / "store" / "report.json").read_text())
    rows = [row for row in facts["systems"] if row["dataset"] == "meld"]
    assert {row["rung"] for row in rows} == {"1-llm", "2-ft", "3-mc", "5-epo", "6-random"}
    assert {row["split"] for row in rows} == {"dev"}
    assert facts["control"]["base"] == "3-mc" and isinstance(facts["control"]["shown"], bool)
    assert facts["quality"]["pairs"] == facts["pairs"]["pairs"]
    page = (tmp_path / "store" / "report.html").read_text()
    assert "EPO beside its control" in page and "Control: EPO on random replies" in page
