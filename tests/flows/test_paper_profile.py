"""The paper profile from `weights pull` to the report, on a CPU: a stand-in for the models' hub serves its six repositories.

Real names, layouts and configuration fields at tiny random sizes (tests/support/stand_in_hub.py), so that its numbers
mean nothing and every loader, stage and setting of the profile is the real one.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from model.card import CARD
from model.zoo.catalogue import CATALOGUE
from storage.sample.layout import write_sample
from storage.store import Store
from tasks.pipeline import STAGES
from tasks.settings import load_settings, weight_names
from tests.support.command_line import empamba
from tests.support.hub_server import Hub, commit_at, served
from tests.support.stand_in_hub import REPOSITORIES, write_hub

pytestmark = pytest.mark.slow

TRAININGS = ("extractor", "compressor.pretrain", "compressor.finetune", "dialogue", "epo")
SMALL = {
    "run.least_gpu_gb": None, "run.threads": 1, "run.parallel": 2, "run.share_workers": True,
    # vLLM's start alone takes longer; tests of its own run it
    "candidates.engine": "transformers", "replies.engine": "transformers",
    "candidates.budget": 48, "candidates.max_new_tokens": 12, "candidates.keep_garbled": True, "pairs.threshold": 1.0,
    "extractor.layers": 1, "extractor.queries": 4, "extractor.hidden": 32, "extractor.heads": 4,
    "compressor.free_running_rows": 2, "recognition.clips": 4, "reconstruction.conversations": 2,
    "dialogue.rank": 8, "dialogue.alpha": 16, "dialogue.training.batch_size": 2, "epo.sampled_replies": 2,
    "replies.exchanges": 4, "replies.max_new_tokens": 8, "ladder.exchanges": 4,
}  # fmt: skip
RUNGS = {"1-llm", "2-ft", "3-mc", "4-av", "5-epo"}
NOT_RUN = {"scores.calibration"}  # asks for a threshold that gives way
BRIEFLY = {"max_tokens": 1200, "evaluations": 1, "heldout_rows": 4}


def changes(**more) -> list[str]:
    """The settings that make it small, as the command line takes them."""
    settings = dict(SMALL)
    for name in TRAININGS:
        group = name if name.startswith("compressor") else f"{name}.training"
        settings |= {f"{group}.{key}": value for key, value in BRIEFLY.items()}
    settings |= {"dialogue.training.max_tokens": 3000, **more}  # steps enough to compare
    return [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]


@dataclass
class Finished:
    """A hub, the folder that a run worked in, and what its commands showed."""

    hub: Hub
    folder: Path
    pulled: str
    shown: str
    asked_by_run: list[str]

    @property
    def environment(self) -> dict[str, str]:
        return self.hub.environment(self.folder)

    def made(self, stage: str) -> dict[str, bytes]:
        """The files of a stage's one folder."""
        store = Store(self.folder / "store")
        (record,) = [r for r in store.records() if r.stage == stage]
        return {m.name: store.read(m) for m in store.members(record.outputs[0])}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    write_hub(root)
    with served(root) as running:
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory, hub) -> Finished:
    folder = tmp_path_factory.mktemp("paper")
    write_sample(folder / "raw", dialogues=2, turns=4)
    for tree in ("MultiDialog", "IEMOCAP_full_release"):
        shutil.rmtree(folder / "raw" / tree)
    here = hub.environment(folder)
    pulled = empamba(folder, "weights", "pull", "--profile", "paper", **here)
    assert pulled.returncode == 0, pulled.stderr.decode()[-3000:]
    asked = len(hub.asked)
    done = empamba(folder, "run", "--profile", "paper", "--raw", "raw", *changes(), timeout=3600, **here)
    assert done.returncode == 0, done.stderr.decode()[-6000:]
    return Finished(hub, folder, pulled.stdout.decode(), done.stderr.decode(), hub.asked[asked:])


def test_every_repository_is_fetched_once_at_its_pinned_revision(finished):
    named = {CATALOGUE[name] for name in weight_names(load_settings("paper")).values()}
    pinned = {source.hub_id: source.revision for source in named if source.kind == "hub"}
    assert set(pinned) == set(REPOSITORIES)
    for repository, revision in pinned.items():
        weights = [
            p for p in finished.hub.asked if re.search(rf"/{repository}/resolve/.*\.(safetensors|bin)$", p)
        ]
        assert weights, repository
        assert all(f"/resolve/{commit_at(repository, revision)}/" in path for path in weights)
        assert f"(commit {commit_at(repository, revision)})" in finished.pulled
    assert finished.pulled.count("→") == len(weight_names(load_settings("paper")))


def test_the_run_asks_the_hub_for_nothing_more(finished):
    assert finished.asked_by_run == []


def test_the_first_lines_say_what_it_computes_on_and_which_scan_runs(finished):
    first = finished.shown.index("[")  # an item's label: all before it is about the run itself
    for line in ("computes on the CPU", "selective scan: step by step"):
        assert 0 <= finished.shown.index(line) < max(first, finished.shown.index("utterances")), (
            finished.shown[:600]
        )


def test_every_stage_of_the_profile_is_in_the_report(finished):
    report = json.loads((finished.folder / "store/report.json").read_bytes())
    assert report["profile"] == "paper"
    assert RUNGS <= {row["rung"] for row in report["systems"]}
    worked = {row["stage"] for row in report["run"]["stages"] if row["ran"]}
    assert worked >= {stage.name for stage in STAGES if stage.enabled(load_settings("paper"))} - NOT_RUN
    page = (finished.folder / "store/report.html").read_text(encoding="utf-8")
    assert re.search(r"scan</td>\s*<td[^>]*>step by step", page)
    mamba = CATALOGUE["mamba-370m"].hub_id
    (row,) = [row for row in report["weights"].values() if row["name"] == "mamba-370m"]
    assert row["commit"] == commit_at(mamba, "main") and f"{mamba}@main, commit {row['commit']}" in page


@pytest.mark.parametrize("stage", ["compressor.pretrain", "compressor.finetune"])
def test_the_compressors_card_and_report_name_the_scan(finished, stage):
    made = finished.made(stage)
    assert json.loads(made[CARD])["scan"] == "selective scan: step by step"
    assert json.loads(made["report.json"])["scan"] == "step by step"
    if stage == "compressor.pretrain":
        built_upon = json.loads(made[CARD])["weights"]["mamba"]
        assert built_upon.endswith(f"@main (commit {commit_at('state-spaces/mamba-370m-hf', 'main')})")


def test_two_processes_train_as_one(finished):
    stage = "dialogue.audiovisual"
    alone = json.loads(finished.made(stage)["report.json"])["history"]
    together = shutil.copytree(finished.folder / "store", finished.folder / "two")
    done = empamba(
        finished.folder, "run", "--profile", "paper", "--raw", "raw", "--store", "two", "--until", stage, "--force",
        stage, *changes(**{"run.processes": 2}), timeout=1800, **finished.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-6000:]
    (record,) = [r for r in Store(together).records() if r.stage == stage]
    (report,) = [m for m in Store(together).members(record.outputs[0]) if m.name == "report.json"]
    found = json.loads(Store(together).read(report))["history"]
    assert found["tokens"] == alone["tokens"] and len(found["train"]) == len(alone["train"]) > 1
    for step, expected in zip(found["train"], alone["train"], strict=True):
        assert step["loss"] == pytest.approx(expected["loss"], rel=0.02)  # bfloat16 has 8 bits


@pytest.mark.parametrize("verb", [("weights", "pull"), ("run", *changes())], ids=["pull", "run"])
def test_a_hub_that_refuses_one_repository_ends_it_in_one_line_before_anything_starts(hub, tmp_path, verb):
    hub.refusals["openai/clip-vit-base-patch32"] = 503
    asked = len(hub.asked)
    (tmp_path / "raw").mkdir()
    write_sample(tmp_path / "raw", dialogues=1, turns=2)
    more = ("--raw", "raw") if verb[0] == "run" else ()
    try:
        done = empamba(tmp_path, *verb, "--profile", "paper", *more, **hub.environment(tmp_path))
    finally:
        hub.refusals.clear()
    last = done.stderr.decode().strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith(
        "error: weights 'clip-vit-b-32': the hub is out of order (503 "
    ), last
    assert not any(re.search(r"\.(safetensors|bin)$", path) for path in hub.asked[asked:])
    assert not os.path.exists(tmp_path / "store/records")


def test_a_hub_that_cuts_off_ends_a_run_in_one_line_before_its_first_stage(hub, tmp_path):
    """With weights that only `metrics` would load, at the end of the run; those that came are not asked for again."""
    hub.cut_off.add("FacebookAI/roberta-large")
    write_sample(tmp_path / "raw", media=False, dialogues=1, turns=2)
    command = ("run", "--profile", "paper", "--raw", "raw", *changes(**{"run.retries": 0}))
    try:
        done = empamba(tmp_path, *command, **hub.environment(tmp_path))
    finally:
        hub.cut_off.clear()
    last = done.stderr.decode().strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith(
        "error: weights 'roberta-large': the hub broke off while it sent FacebookAI/roberta-large at "
    ), last
    assert "run this again, what has come is kept" in last
    assert not list((tmp_path / "store").glob("records/*")) and not list(
        (tmp_path / "store").glob("objects/*")
    )
    whole = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "weights").iterdir() if path.is_dir()}
    assert {"qwen2.5-7b-instruct", "mamba-370m", "roberta-base-go_emotions"} <= whole
