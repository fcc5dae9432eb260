"""`run.processes`: a training stage in two processes that accelerate launches, beside the same stage in one."""

import json
from pathlib import Path

import pytest

from tasks.engine.gpus import Gpus
from tasks.upkeep import collect
from tests.support.events import scalars
from tests.support.rerun import run, session

STAGE = "compressor.pretrain"


def trained(store: Path, raw: Path, *changes: str) -> dict:
    """The report of the stage, after a run."""
    with session("tiny", store, raw, changes) as opened:
        assert f"{STAGE} all" in run(opened, STAGE)
        (tree,) = next(p for p in opened.plan(STAGE) if p.stage.name == STAGE).outputs["all"]
        (report,) = (m for m in opened.store.members(tree) if m.name == "report.json")
        return json.loads(opened.store.read(report))


def test_two_processes_train_the_model_of_one(raw, tmp_path):
    alone = trained(tmp_path / "one", raw)["history"]
    # As on a machine with two GPUs, both of which the training holds; these are names and nothing else.
    pretended = Gpus(lambda: ("pretended 0", "pretended 1"))
    held = f"run.gpus={json.dumps(pretended.names)}"
    together = trained(tmp_path / "two", raw, "run.processes=2", held)["history"]
    free = pretended.try_hold(2)
    assert free is not None
    free.release()
    for part in ("train", "heldout"):
        assert len(together[part]) == len(alone[part]) > 1
        for step, expected in zip(together[part], alone[part], strict=True):
            assert step == pytest.approx(expected, rel=1e-5)
    assert together["tokens"] == alone["tokens"]

    (folder,) = (tmp_path / "two" / "logs" / STAGE).iterdir()
    curves = scalars(folder)["train/loss"]
    assert curves == {e["step"]: pytest.approx(e["loss"], rel=1e-6) for e in together["train"]}
    # gc keeps the curves of what there is a record of, and no others.
    stray = folder.with_name("0" * 12)
    stray.mkdir()
    (stray / "events.out.tfevents.1").write_bytes(b"")
    collect(tmp_path / "two")
    assert folder.is_dir() and not stray.exists()


def test_what_goes_wrong_in_a_process_is_told_in_one_line(raw, tmp_path):
    with pytest.raises(
        Exception, match=r"compressor.pretrain \[all\]: run.launch_config: no file .*nowhere.yaml"
    ):
        trained(tmp_path / "store", raw, "run.processes=2", "run.launch_config=nowhere.yaml")
