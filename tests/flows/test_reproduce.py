"""The whole road on the tiny profile, from the command line: raw trees with real media in, a report out."""

import base64
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.sample.layout import write_sample
from tasks.engine.run import PUBLISHED, RunRequest
from tasks.engine.runs import runs
from tests.support.command_line import empamba as typed
from tests.support.prefect_server import api, prefect_server

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "utterances", "utterances.exchanges", "features", "candidates", "scores", "scores.calibration", "pairs",
    "pairs.quality",
    "extractor", "compressor.pretrain", "compressor.finetune", "dialogue.text", "dialogue.memory",
    "dialogue.audiovisual", "epo", "replies.1-llm", "replies.2-ft", "replies.3-mc", "replies.4-av", "replies.5-epo",
    "compressor.test", "extractor.test", "epo.test", "ladder", "long-history", "metrics", "report",
}  # fmt: skip


def empamba(
    folder: Path, *arguments: str, server: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """server: what a client of a running one is told; none: the run starts its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "COLUMNS": "300",
        **(server or {}),
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
def server(tmp_path_factory):
    with prefect_server(tmp_path_factory.mktemp("server")) as client:
        yield client


STARTED = """
import sys
from flows.refresh import refresh
from flows.write_report import write_report
from tasks.engine.run import RunRequest
{"refresh": refresh, "report": write_report}[sys.argv[1]](RunRequest.model_validate_json(sys.argv[2]))
"""


def started(deployment: str, request: RunRequest, server: dict[str, str]) -> str:
    """Start a deployment's flow, as a worker does; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", STARTED, deployment, request.model_dump_json()],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **server}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


ALSO_GIVEN = {
    "metrics.intervals": {"compressor.test", "extractor.test", "epo.test", "ladder", "long-history"},
    "replies.max_new_tokens": {"long-history"},
}
"""Setting -> the stages that read it beside the one that it is named after."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, raw, server) -> Path:
    """A folder whose store holds one finished run, of which a server was told."""
    folder = tmp_path_factory.mktemp("run")
    done = empamba(folder, "run", "--raw", str(raw), server=server)
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
    assert rungs[:5] == ["1-llm", "2-ft", "3-mc", "4-av", "5-epo"]
    assert len(rungs) > 5 and all(name.startswith("floor-") for name in rungs[5:])
    assert {row["n"] for row in facts["systems"] if row["dataset"] == "all" and row["rung"] in rungs[:5]} == {
        6
    }
    assert {"meld", "multidialog", "iemocap"} <= {row["dataset"] for row in facts["systems"]}
    page = (folder / "store" / "report.html").read_text()
    assert "synthetic faces and voices" in page
    loads = r"""(?:\bsrc\s*=|<link\b[^>]*\bhref\s*=|url\(|@import)\s*["']?https?:"""
    assert not re.search(loads, page)  # self-contained: it names addresses, and loads nothing from them


def test_every_reply_goes_out_with_its_figures(folder, raw, tmp_path):
    """Their means are the report's, of every rung and floor."""
    done = empamba(folder, "export", "replies", str(tmp_path / "out"), "--raw", str(raw))
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "out" / "replies.parquet").to_pylist()
    facts = json.loads((folder / "store" / "report.json").read_text())
    for row in (row for row in facts["systems"] if row["dataset"] == "all"):
        its = [one["bertscore"] for one in rows if one["system"] == row["rung"]]
        assert len(its) == row["n"] and sum(its) / len(its) == pytest.approx(row["bertscore"], abs=2e-6)
    assert "| bertscore | BERTScore: " in (tmp_path / "out" / "README.md").read_text()


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


def artifacts(server: dict[str, str], type_: str) -> dict[str, dict]:
    """The latest artifacts of a type, by key; those without one by their description."""
    filters = {"artifacts": {"type": {"any_": [type_]}}, "sort": "UPDATED_DESC", "limit": 200}
    found = api(server, "artifacts/filter", filters)
    return {artifact["key"] or artifact["description"]: artifact for artifact in reversed(found)}


def lines_of(raw: Path, split: str) -> list[dict]:
    """MELD's rows of a split, read by csv alone."""
    (path,) = raw.rglob(f"{split}_sent_emo.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def exchanges_of(rows: list[dict]) -> int:
    """Neighbouring turns of two speakers, counted by hand."""
    turns = {(row["Dialogue_ID"], int(row["Utterance_ID"])): row["Speaker"] for row in rows}
    return sum(
        turns.get((dialogue, turn + 1), speaker) != speaker for (dialogue, turn), speaker in turns.items()
    )


def test_every_dataset_leaves_a_data_card(folder, raw, server):
    """With the exchanges that were cut; the sample is not held against the corpora."""
    found = artifacts(server, "markdown")
    cards = {dataset: found[f"data-card-{dataset}"]["data"] for dataset in ("meld", "multidialog", "iemocap")}
    for dataset, card in cards.items():
        assert card.startswith(f"# Data card: {dataset}\n")
        assert "Not compared with published counts: the bundled sample" in card
    for split in ("train", "dev", "test"):
        rows = lines_of(raw, split)
        lines = cards["meld"].splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("| split | dialogues |"))
        header, row = lines[first], next(x for x in lines[first:] if x.startswith(f"| {split} |"))
        cells = dict(zip(header.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
        assert int(cells["dialogues"]) == len({r["Dialogue_ID"] for r in rows}) > 0
        assert int(cells["utterances"]) == len(rows)
        assert int(cells["exchanges"]) == exchanges_of(rows)
    page = (folder / "store" / "report.html").read_text()
    assert page.count("Not compared with published counts") == 3


def test_every_stage_leaves_a_table_of_its_items(folder, raw, server):
    tables = {key: json.loads(found["data"]) for key, found in artifacts(server, "table").items()}
    assert set(tables) == {f"stage-{name.replace('.', '-')}" for name in STAGES}
    rows = {row["item"]: row for row in tables["stage-utterances"]}
    assert set(rows) == {"meld", "multidialog", "iemocap"}
    assert {(row["ran"], row["why"], row["rejects"]) for row in rows.values()} == {("yes", "first run", 0)}
    assert rows["meld"]["rows"] == sum(len(lines_of(raw, split)) for split in ("train", "dev", "test"))
    assert "utterances/meld/train/" in rows["meld"]["artefacts"]
    assert sum(row["rows"] for row in tables["stage-candidates"]) == 160
    (not_run,) = tables["stage-scores-calibration"]
    assert (not_run["ran"], not_run["why"]) == ("no", "pairs.fallback is none")


def test_a_trainings_page_tells_its_story(folder, server):
    """Verdict, before and after, the losses as an image, what it made by digest, and where the report is."""
    found = artifacts(server, "markdown")
    assert {f"stage-{name.replace('.', '-')}-page" for name in STAGES} <= set(found)
    page = found["stage-epo-page"]
    assert len(json.dumps(page["data"])) < 64 * 1024 and page["task_run_id"]
    lines = page["data"].splitlines()
    assert lines[0] == "# Emotion preference optimization" and lines[2].startswith("**held-out loss ")
    before, after = rows_of(page["data"])["loss"]
    assert f"held-out loss {float(before):.2f}"[:-1] in lines[2] and after
    (image,) = (line for line in lines if line.startswith("![loss by step](data:image/svg+xml;base64,"))
    drawn = base64.b64decode(image.split("base64,")[1].removesuffix(")"))
    assert b"<svg style" in drawn and drawn.rstrip().endswith(b"</svg>")
    ((digest, *_),) = [cells for name, cells in rows_of(page["data"]).items() if name == "adapter"]
    assert (folder / "store" / "objects" / digest.strip("`")[:2] / digest.strip("`")).is_file()
    assert "## Samples" in found["stage-pairs-page"]["data"]
    assert f"Report: `empamba report --store {folder / 'store'}` prints it" in lines[-1]


def test_the_time_of_a_task_run_is_the_time_it_worked(folder, server):
    """What waits for a place is no task run yet: of the tiny profile's two places no third one is ever taken."""
    found = [
        run
        for run in api(server, "task_runs/filter", {"limit": 200})
        if run["task_key"].startswith("run_item")
    ]
    found = [run for run in found if run["state_type"] == "COMPLETED"]
    changes = sorted([(run["start_time"], 1) for run in found] + [(run["end_time"], -1) for run in found])
    assert len(found) > 20
    assert max(sum(change for _, change in changes[: i + 1]) for i in range(len(changes))) == 2
    tags = {run["name"]: set(run["tags"]) for run in found}
    assert tags["epo"] == {"epo", "tiny"} and tags["utterances [meld]"] == {"utterances", "tiny", "meld"}


def test_the_graph_of_a_run_has_a_line_where_one_task_run_reads_what_another_made(folder, server):
    """Of the same flow; as the server draws it, beside what the declarations say is read."""
    flow_runs = api(server, "flow_runs/filter", {"limit": 50})
    drawn: dict[str, set[str]] = {}
    for flow_run in flow_runs:
        nodes = {key: node for key, node in api(server, f"flow_runs/{flow_run['id']}/graph-v2")["nodes"]}
        for node in nodes.values():
            drawn[node["label"]] = {nodes[line["id"]]["label"] for line in node["parents"]}
            before = [nodes[line["id"]] for line in node["parents"]]
            begun = datetime.fromisoformat(node["start_time"])
            assert all(datetime.fromisoformat(one["end_time"]) <= begun for one in before), "it has waited"
    assert drawn["utterances.exchanges"] == {
        f"utterances [{name}]" for name in ("iemocap", "meld", "multidialog")
    }
    assert drawn["epo"] >= {"dialogue.audiovisual"} and drawn["compressor.finetune"] == {
        "compressor.pretrain"
    }
    assert drawn["utterances [meld]"] == set()


def test_the_runs_lines_are_in_its_log(folder, server):
    logs = []
    while found := api(server, "logs/filter", {"limit": 200, "offset": len(logs), "sort": "TIMESTAMP_ASC"}):
        logs += [log["message"] for log in found]
    said = "\n".join(logs)
    assert "epo: first run" in said and re.search(r"^epo: \d+ of \d+ .*loss ", said, re.MULTILINE)
    assert re.search(r"^epo: done in \d+ s: 1 artefacts, ", said, re.MULTILINE)
    assert re.search(r"^epo: 1 items ran, 0 reused; held-out loss ", said, re.MULTILINE)
    assert "stale: utterances (3 of 3 items)" in said and "finished" in logs


def test_a_training_leaves_its_progress_with_its_losses(folder, server):
    found = artifacts(server, "progress")
    epo = next(artifact for text, artifact in found.items() if text.startswith("epo: "))
    assert float(epo["data"]) == 100.0
    assert re.fullmatch(r"epo: .*\bloss -?\d+\.\d{3}\b.*", epo["description"]), epo["description"]


def rows_of(markdown: str) -> dict[str, list[str]]:
    """First cell -> the others, of every row of a page's tables; of two that begin alike the last table's."""
    lines = [line for line in markdown.split("## Verdicts")[0].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first: others for first, *others in cells}


def test_a_run_says_first_what_changed_and_last_what_was_done(folder, raw, server):
    found = artifacts(server, "markdown")
    plan = rows_of(found["run-plan"]["data"])
    assert plan["epo"] == ["", "unknown until utterances has run"]
    assert found["run-plan"]["data"].startswith("# What changed, and what will run\n")
    first = found["run-summary"]["data"]
    assert first.startswith("# Finished\n") and "unknown" not in first
    rows = rows_of(first)
    assert rows["utterances"][:3] == ["ran", "3", "0"] and rows["utterances"][-1] == "first run"
    assert rows["epo"][:3] == ["ran", "1", "0"]
    assert rows["scores.calibration"][0] == "not run"
    assert set(STAGES) <= set(rows)
    (line,) = [line for line in first.splitlines() if line.startswith("Report: ")]
    assert f"`{folder / 'store' / 'report.html'}`" in line and "file://" not in first
    # As it stands there it prints the report.
    told = typed(folder, *shlex.split(line.split("`")[1])[1:])
    assert told.returncode == 0 and b"BERTScore" in told.stdout
    assert "This is the store's first." in first and "- epo: held-out loss " in first
    # The rows of another run replace no artifact: each key keeps its history.
    asked = ["--raw", str(raw), "--until", "utterances.exchanges", "--force", "utterances.exchanges"]
    assert empamba(folder, "run", *asked, server=server).returncode == 0
    again = rows_of(artifacts(server, "markdown")["run-summary"]["data"])
    assert again["utterances"][:3] == ["reused", "0", "3"]
    assert (again["utterances.exchanges"][0], again["utterances.exchanges"][-1]) == ("ran", "forced")
    assert "epo" not in again
    tables = artifacts(server, "table")
    assert {row["ran"] for row in json.loads(tables["stage-utterances"]["data"])} == {"reused"}
    assert {row["why"] for row in json.loads(tables["stage-utterances-exchanges"]["data"])} == {"forced"}


def test_a_report_made_by_hand_is_published_and_a_night_publishes_what_is_missing(
    folder, raw, server, tmp_path
):
    store = Path(shutil.copytree(folder / "store", tmp_path / "store"))
    request = RunRequest(profile="tiny", raw=str(raw), store=str(store))
    before = json.loads((store / "report.json").read_text())
    for deployment, force in (("report", ("report",)), ("refresh", ())):
        for name in PUBLISHED:
            (store / name).unlink()
        known = len(runs(store)[0])
        started(deployment, request.model_copy(update={"force": force}), server)
        assert all((store / name).is_file() for name in PUBLISHED), deployment
        last, *earlier = runs(store)[0]
        assert len(earlier) == known and last.report and last.state == "finished"
        after = json.loads((store / "report.json").read_text())
        assert after["run"]["artefact"] == last.report and after["systems"] == before["systems"]
        shown = typed(tmp_path, "report", "--store", str(store))
        assert shown.returncode == 0 and str(store / "report.html") in shown.stdout.decode(), shown.stderr
        if deployment == "report":
            summary = artifacts(server, "markdown")["run-summary"]["data"]
            assert "| report | ran | 1 | 0 |" in summary
            assert f"Report: `empamba report --run {last.id}" in summary
    known = len(runs(store)[0])
    assert "published" not in started("refresh", request, server)
    assert len(runs(store)[0]) == known


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
    given = next((stages for name, stages in ALSO_GIVEN.items() if change.startswith(name)), set())
    assert stale <= {*alike, *given, "report"}
    before = set(order[: order.index(stage)]) - given
    assert {found[name]["state"] for name in before} <= {"fresh", "not run"}


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
    asked = ["--raw", str(tmp_path / "raw"), "--set", "pairs.control=random"]
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=10)
    for tree in ("MultiDialog", "IEMOCAP_full_release"):
        shutil.rmtree(tmp_path / "raw" / tree)
    (tmp_path / "raw" / "MELD.Raw" / "test_sent_emo.csv").unlink()
    done = empamba(tmp_path, "run", *asked)
    assert done.returncode == 0, done.stderr[-3000:]
    found = status(tmp_path, *asked)
    for stage in ("features", "extractor", "extractor.test", "dialogue.audiovisual"):
        assert found[stage]["reasons"] == ["no media: no utterance has a clip"], stage
    facts = json.loads((tmp_path / "store" / "report.json").read_text())
    rows = [row for row in facts["systems"] if row["dataset"] == "meld"]
    floors = {"floor-commonest", "floor-central", "floor-next", "floor-okay"}
    assert {row["rung"] for row in rows} == {"1-llm", "2-ft", "3-mc", "5-epo", "6-random", *floors}
    assert {row["split"] for row in rows} == {"dev"}
    assert facts["controls"]["random"]["base"] == "3-mc"
    assert isinstance(facts["controls"]["random"]["shown"], bool)
    assert facts["quality"]["pairs"] == facts["pairs"]["pairs"]
    page = (tmp_path / "store" / "report.html").read_text()
    assert "EPO beside its controls" in page and "Control: EPO on random replies" in page
