"""When changed rows retrain a model and when it may wait, on the real compressor stage of the tiny profile."""

import csv
import inspect
import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from storage.filestat import StatCache
from storage.sample.layout import write_sample
from storage.store import Store
from tasks.engine.planner import StagePlan
from tasks.engine.retrain import _started_from, warm_started
from tasks.engine.session import Session
from tests.support import rerun

UNTIL = "compressor.pretrain"
NEVER = "retrain.when=never"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a raw corpus and the store of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    write_sample(folder / "raw", media=False)
    run(folder)
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def session(folder: Path, *changes: str) -> Session:
    return rerun.session("tiny", folder / "store", folder / "raw", changes)


def run(folder: Path, *changes: str) -> list[str]:
    """The stages that ran."""
    with session(folder, *changes) as opened:
        return sorted({item.split(" ")[0] for item in rerun.run(opened, UNTIL)})


def plan(folder: Path, *changes: str) -> StagePlan:
    with session(folder, *changes) as opened:
        return {p.stage.name: p for p in opened.plan(UNTIL)}[UNTIL]


def say_otherwise(folder: Path, rows: int) -> int:
    """Change the first sentences of MELD's train file; returns the rows that train and dev hold in all."""
    with session(folder) as opened:
        refs = [ref for refs in opened.plan("utterances")[0].outputs.values() for ref in refs]
    path = next((folder / "raw").rglob("train_sent_emo.csv"))
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line in lines[:rows]:
        line["Utterance"] += " Really."
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return sum(ref.rows for ref in refs if "/train/" in ref.name or "/dev/" in ref.name)


def test_by_default_one_changed_row_retrains(folder):
    say_otherwise(folder, 1)
    assert run(folder) == ["compressor.pretrain", "utterances"]


def test_rows_that_may_wait_leave_the_model_and_are_counted(folder):
    before = plan(folder).outputs
    say_otherwise(folder, 3)
    assert run(folder, NEVER) == ["utterances"]
    waiting = plan(folder, NEVER)
    assert (waiting.state, waiting.outputs) == ("fresh", before)
    assert waiting.as_dict()["reasons"][0].startswith("behind the data by 3 rows (")
    assert plan(folder).state == "stale"


def test_a_share_decides(folder):
    total = say_otherwise(folder, 4)
    run(folder, NEVER)
    assert plan(folder, "retrain.when=share", f"retrain.share={4.5 / total}").state == "fresh"
    assert plan(folder, "retrain.when=share", f"retrain.share={3.5 / total}").state == "stale"
    assert plan(folder, "retrain.when=share", f"retrain.share={4 / total}").state == "stale"  # from it on


def test_rows_are_counted_from_the_data_the_model_was_trained_on(folder):
    say_otherwise(folder, 2)
    run(folder, NEVER)
    say_otherwise(folder, 3)
    run(folder, NEVER)
    assert "behind the data by 3 rows" in plan(folder, NEVER).as_dict()["reasons"][0]


def test_a_changed_setting_never_waits(folder):
    assert plan(folder, NEVER, "compressor.pretrain.learning_rate=0.01").state == "stale"


def test_a_model_that_is_gone_does_not_serve(folder):
    say_otherwise(folder, 1)
    run(folder, NEVER)
    record = json.loads(next((folder / "store/records" / UNTIL).glob("*.json")).read_text())
    digest = record["outputs"][0]["digest"]
    (folder / "store/objects" / digest[:2] / digest).unlink()
    assert plan(folder, NEVER).state == "stale"


def trained_from(folder: Path) -> list[str]:
    """What the latest training started from, by its key's inputs."""
    last = json.loads((folder / "store/last" / UNTIL / "all.json").read_text())
    return [digest for name, digest in last["parts"]["input"].items() if name.startswith("start ")]


def heldout(folder: Path, *changes: str) -> tuple[float, float]:
    """Held-out loss before and after the latest training."""
    ((tree,),) = plan(folder, *changes).outputs.values()
    with session(folder) as opened:
        report = json.loads((opened.store.folder(tree) / "report.json").read_text())
    return report["history"]["heldout"][0]["loss"], min(h["loss"] for h in report["history"]["heldout"])


WARM = "retrain.warm_start=true"


def test_a_warm_start_goes_on_from_last_time_and_is_part_of_the_key(folder):
    ((tree,),) = plan(folder).outputs.values()
    _, reached = heldout(folder)
    assert run(folder, WARM) == []  # the option alone makes nothing stale
    say_otherwise(folder, 1)
    assert run(folder, WARM) == ["compressor.pretrain", "utterances"]
    assert trained_from(folder) == [tree.digest]
    begun, _ = heldout(folder, WARM)
    assert begun == pytest.approx(reached, abs=1e-4)  # dev did not change: it starts where the last one ended
    assert run(folder, WARM) == []
    assert plan(folder).state == "stale"  # without the option it is not the model that was asked for


def test_what_training_started_from_is_there_whoever_asks(folder):
    """A store that compares sizes and one that looks at its stat cache agree."""
    ((tree,),) = plan(folder).outputs.values()
    say_otherwise(folder, 1)
    run(folder, WARM)
    plain = Store(folder / "store")
    inputs = plain.last(UNTIL, "all")["parts"]["input"]
    start = _started_from(plain, inputs)
    assert (start.digest, start.size, start.tree) == (tree.digest, tree.size, True) and plain.holds(start)
    with session(folder, WARM) as opened:
        (item,) = {p.stage.name: p for p in opened.plan(UNTIL)}[UNTIL].items
    assert warm_started(plain, item).arguments["start"].digest == tree.digest
    plain.drop(tree)
    gone = _started_from(plain, inputs)
    assert not plain.holds(gone) and not Store(folder / "store", StatCache(folder / "stats")).holds(gone)


def test_a_warm_start_is_for_changed_rows_alone(folder):
    say_otherwise(folder, 1)
    run(folder, WARM, "compressor.pretrain.learning_rate=0.01")
    assert trained_from(folder) == []


def test_a_warm_start_from_what_is_gone_is_a_new_start(folder):
    record = json.loads(next((folder / "store/records" / UNTIL).glob("*.json")).read_text())
    digest = record["outputs"][0]["digest"]
    (folder / "store/objects" / digest[:2] / digest).unlink()
    say_otherwise(folder, 1)
    assert run(folder, WARM) == ["compressor.pretrain", "utterances"]
    assert trained_from(folder) == []


def test_only_a_stage_that_draws_new_weights_starts_from_those_of_last_time(folder):
    """compressor.finetune and EPO go on from the stage before them, which was retrained: its weights, not their own."""
    with session(folder, 'pairs.control=["random", "nll"]', WARM) as opened:
        trained = {node.stage.name: node for node in opened.graph(None) if node.retrain is not None}
    assert trained.keys() >= {
        "extractor",
        "compressor.finetune",
        "dialogue.text",
        "epo",
        "epo.random",
        "epo.nll",
    }
    for name, node in trained.items():
        module, function = node.stage.function.split(":")
        takes = "start" in inspect.signature(getattr(import_module(module), function)).parameters
        goes_on = name in ("compressor.finetune", "epo", "epo.random", "epo.nll")
        assert (node.stage.anew, takes) == (not goes_on, not goes_on), name
