"""Exported pairs as other programs read them: Hugging Face datasets, a TRL trainer, and a person."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model.zoo.random_models import write_random_model
from storage.errors import InputError
from tasks.engine.run import RunRequest
from tasks.export import export_pairs, export_replies
from tasks.show import describe
from tests.support.rerun import write_meld

ROOT = Path(__file__).resolve().parents[2]
CHANGES = ("pairs.threshold=1.0",)


@pytest.fixture
def request_(pipeline) -> RunRequest:
    pipeline.run(*CHANGES, until="pairs")
    return RunRequest(
        profile="tiny",
        changes=(*pipeline.changes, *CHANGES),
        raw=str(pipeline.raw),
        store=str(pipeline.folder / "store"),
    )


def test_pairs_go_out_whole_and_come_in_elsewhere(request_, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "out"
    counts = export_pairs(request_, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "dev.parquet", "train.parquet"]
    _loads_in_datasets(folder, counts, tmp_path)
    _trains_in_trl(folder, tmp_path)
    card = (folder / "README.md").read_text()
    assert "served:some-7b" in card and f"| train | {counts['train']} |" in card
    with pytest.raises(InputError, match="is not empty"):
        export_pairs(request_, folder)
    with pytest.raises(InputError, match="pairs is stale: `empamba run --until pairs "):
        export_pairs(
            request_.model_copy(update={"changes": (*request_.changes, "pairs.threshold=0.9")}),
            tmp_path / "o2",
        )
    export_pairs(request_, tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    _shows_as_figure_8(request_, tmp_path)
    _json_holds_what_is_shown(request_, tmp_path)
    figures = {row["figure"]: row["value"] for row in describe(request_, "pairs.quality", 5, False).rows}
    # They come from fewer dialogues than the classifier that sees only length is cross-validated over.
    assert figures["pairs"] == sum(counts.values()) and figures["accuracy.length"] is None


def _loads_in_datasets(folder: Path, counts: dict, tmp_path: Path) -> None:
    load_dataset = pytest.importorskip("datasets").load_dataset
    files = {split: str(folder / f"{split}.parquet") for split in ("train", "dev")}
    loaded = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    by_card = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    for split, count in counts.items():
        assert loaded[split].num_rows == by_card[split].num_rows == count > 0
        for row in loaded[split]:
            assert row["split"] == split and row["chosen"] != row["rejected"]
            assert f"({row['rejected_emotion']}) {row['prompt'][0]['content']}" in row["candidate_prompt"]
            assert [m["role"] for name in ("prompt", "chosen", "rejected") for m in row[name]] == [
                "user", "assistant", "assistant",
            ]  # fmt: skip
            assert len(row["history"]) <= row["turn"]
            assert re.fullmatch("served:some-7b@[0-9a-f]{12}", row["weights"])
            assert json.loads(row["settings"])["top_p"] == 0.95


def _trains_in_trl(folder: Path, tmp_path: Path) -> None:
    """A real step of TRL's DPO on the files as they are: nothing renamed, mapped or dropped."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_random_model("tiny-llm", tmp_path / "llm")
    files = str(folder / "train.parquet")
    data = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tmp_path / "llm"),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=2, report_to=[],
            use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(tmp_path / "llm"),
    )  # fmt: skip
    assert trainer.train().training_loss > 0


def _shows_as_figure_8(request_: RunRequest, tmp_path: Path) -> None:
    shown = _show(request_, tmp_path, "candidates", "--rows", "2")
    assert shown.count("true reply") == 2 == shown.count("◀ counter-emotional")
    for emotion in ("Happy", "Sad", "Surprised", "Calm", "Neutral", "Disgust", "Angry", "Fearful"):
        lines = [line for line in shown.splitlines() if line.strip().startswith(f"{emotion} ")]
        assert len(lines) == 2 and all("│" in line and "Word " in line for line in lines)


def _json_holds_what_is_shown(request_: RunRequest, tmp_path: Path) -> None:
    """The rows that a terminal would show and, of a stage without a table, its figures, beside the counts."""
    pairs = json.loads(_show(request_, tmp_path, "pairs", "--rows", "2", "--json"))
    assert len(pairs["shown"]) == 2 < pairs["rows"] and all(row["rejected"] for row in pairs["shown"])
    seeded = json.loads(_show(request_, tmp_path, "pairs", "--rows", "2", "--seed", "1", "--json"))
    assert len(seeded["shown"]) == 2 and seeded["shown"] != pairs["shown"]
    with pytest.raises(InputError, match="pairs.quality has figures and no rows"):
        describe(request_, "pairs.quality", 5, False, seed=1)
    cards = json.loads(_show(request_, tmp_path, "candidates", "--rows", "2", "--json"))
    assert cards["rows"] % 8 == 0 and [len(card["candidates"]) for card in cards["shown"]] == [8, 8]
    for card in cards["shown"]:
        cosines = [candidate["cosine"] for candidate in card["candidates"] if candidate["usable"]]
        assert sum(c["chosen"] for c in card["candidates"]) == 1 and None not in cosines and card["reply"]
    quality = json.loads(_show(request_, tmp_path, "pairs.quality", "--json"))
    assert {row["figure"]: row["value"] for row in quality["shown"]}["pairs"] == pairs["rows"]


def _show(request_: RunRequest, tmp_path: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "flows.cli", "show", *arguments, "--profile", "tiny"]
    command += ["--store", request_.store, "--raw", request_.raw]
    command += [part for change in request_.changes for part in ("--set", change)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_replies_that_are_not_measured_are_one_line_and_nothing_is_written(tmp_path):
    raw = write_meld(tmp_path / "raw")
    request = RunRequest(profile="tiny", raw=str(raw), store=str(tmp_path / "store"))
    with pytest.raises(
        InputError, match="^metrics is [a-z ]+: `empamba run --until metrics .*` measures the"
    ) as told:
        export_replies(request, tmp_path / "out")
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(InputError, match="is not empty: give a new folder"):
        export_replies(request, tmp_path / "full")
