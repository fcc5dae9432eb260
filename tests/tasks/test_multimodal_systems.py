"""A multimodal system through its stages: real clips of the sample, finetuned, answering; what is kept, and what is asked again."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from model.dialogue.settings import DialogueSettings
from model.features.settings import FeatureSettings
from model.multimodal.model import MultimodalModel
from storage.media.settings import MediaSettings
from storage.shards import read_table, row_to_utterance
from storage.store import Ref, Store
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings, load_settings
from tasks.stages.systems.clips import ClipFolder
from tasks.stages.systems.multimodal import answer_with_clips
from tasks.stages.systems.settings import MultimodalSystem
from tasks.stages.systems.stage import lora_fault
from tests.support.command_line import empamba
from tests.support.multimodal import write_multimodal
from tests.support.rerun import run, session, write_meld
from tests.support.two_dialogues import two_dialogues

TRAINING = {
    "batch_size": 2, "max_tokens": 1500, "evaluations": 1, "heldout_rows": 2, "dtype": "float32", "threads": 1
}  # fmt: skip


def system(folder: Path, **changes) -> dict:
    return {
        "kind": "multimodal",
        "name": "heard",
        "weights": str(folder),
        "engine_args": {"dtype": "float32", "batch_size": 2, "max_model_len": 2048},
        "finetune": {"rank": 2, "alpha": 4, "training": TRAINING},
        "paper": "Qwen-Audio-Chat†",
        **changes,
    }


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_meld(tmp_path / "raw")


def test_what_stands_beside_the_papers_rows_is_finetuned_as_they_are(tmp_path):
    named = system(tmp_path)
    assert load_settings("tiny", [f"systems={json.dumps([named])}"]).systems[0].row == "system-heard"
    with pytest.raises(Exception, match="Qwen-Audio-Chat† is finetuned in table 1: set finetune"):
        load_settings("tiny", [f"systems={json.dumps([{**named, 'finetune': None}])}"])


def test_a_lora_that_vllm_could_not_answer_with_is_refused_before_it_is_trained(tmp_path, raw):
    """In one line, before any stage begins; the same through transformers, or not finetuned, is not refused for it."""
    folder = tmp_path / "qwen"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_audio"}))
    changes = {"engine": "vllm"}, {}, {"engine": "vllm", "finetune": None, "paper": None}
    refused, *others = (
        load_settings("tiny", [f"systems={json.dumps([system(folder, **c)])}"]) for c in changes
    )
    line = lora_fault(refused)
    assert line is not None and "\n" not in line
    assert line.startswith("systems.heard.engine: vLLM puts no LoRA on a model of kind qwen2_audio")
    assert [lora_fault(settings) for settings in others] == [None, None]
    asked = (
        "--raw",
        str(raw),
        "--profile",
        "tiny",
        "--set",
        f"systems={json.dumps([system(folder, engine='vllm')])}",
    )
    done = empamba(tmp_path, "run", *asked)
    errors = [text for text in done.stderr.decode().splitlines() if text.startswith("error: ")]
    assert done.returncode == 2 and errors == [f"error: {line}"]
    assert not list((tmp_path / "store" / "records").glob("*")), "nothing was begun"


def answered(
    root: Path, folder: Path, utterances: list[Ref], exchanges: list[Ref], window: int = 2048
) -> list[Ref]:
    """Two exchanges a batch, of sentences without clips."""
    args = {"dtype": "float32", "batch_size": 2, "max_model_len": window}
    asked = MultimodalSystem.model_validate(system(folder, finetune=None, paper=None, engine_args=args))
    work = Workspace(Store(root), None, "basis", lambda *_: None)
    weights = Weights(name=str(folder), identity="folder:tiny")
    return answer_with_clips(
        asked, weights, None, utterances, exchanges, ReplySettings(max_new_tokens=4), DialogueSettings(),
        FeatureSettings(), MediaSettings(), work,
    )  # fmt: skip


def test_a_prompt_too_long_for_the_window_is_a_reject_and_is_asked_again_by_a_wider_one(tmp_path):
    two = two_dialogues(tmp_path, meld=("test",), iemocap=("test",))
    folder = write_multimodal(tmp_path / "model", "qwen2_audio")
    given = (two.store.root, folder, two.utterances, two.exchanges)

    def facts(refs: list[Ref]) -> dict:
        return json.loads(two.store.read(refs[-1]))

    rows = read_table(two.store.read((usual := answered(*given))[0]), "replies")
    longest = max(row["prompt_tokens"] for row in rows)
    shutil.rmtree(two.store.root / "rows")
    shorter = facts(narrow := answered(*given, window=longest + 4 - 1))  # a token too few for the longest
    # Random weights write garble too, which is a reject of its own.
    assert shorter["failures"] == facts(usual)["failures"] | {"too_long": 1}
    assert shorter["answered"] == len(rows) - 1
    reasons = [reject["reason"] for reject in read_table(two.store.read(narrow[1]), "rejects")]
    assert reasons.count("too_long") == 1
    whole = facts(answered(*given, window=longest + 4))
    assert whole["failures"] == facts(usual)["failures"] and whole["answered"] == len(rows)


def killed_at_the_second_batch(*given) -> None:
    """In a process of its own, which nothing can tidy up after."""
    reply, asked = MultimodalModel.replies, []

    def replies(model, texts, *rest):
        if asked:
            os.kill(os.getpid(), signal.SIGKILL)
        asked.extend(texts)
        return reply(model, texts, *rest)

    MultimodalModel.replies = replies
    answered(*given)


@pytest.mark.slow
def test_rows_that_were_answered_before_a_kill_are_not_asked_again(tmp_path, monkeypatch):
    two = two_dialogues(tmp_path, meld=("test",), iemocap=("test",))
    folder = write_multimodal(tmp_path / "model", "qwen2_audio")
    given = (two.store.root, folder, two.utterances, two.exchanges)
    process = multiprocessing.get_context("spawn").Process(target=killed_at_the_second_batch, args=given)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    reply, asked = MultimodalModel.replies, []
    monkeypatch.setattr(
        MultimodalModel,
        "replies",
        lambda model, texts, *rest: asked.extend(texts) or reply(model, texts, *rest),
    )
    resumed = answered(*given)
    assert len(asked) == 4  # of six
    assert answered(*given) == resumed and len(asked) == 4
    # As if it had never been cut off.
    assert [
        ref.digest for ref in answered(tmp_path / "other", *_copied(two, tmp_path / "other", folder))
    ] == [ref.digest for ref in resumed]
    assert len(asked) == 10


def _copied(two, root: Path, folder: Path) -> tuple[Path, list[Ref], list[Ref]]:
    """The same exchanges in a store that was asked nothing yet."""
    store = Store(root)
    tables = [
        [store.put_bytes(ref.name, two.store.read(ref), rows=ref.rows) for ref in refs]
        for refs in (two.utterances, two.exchanges)
    ]
    return (folder, *tables)


@pytest.mark.slow
def test_clips_are_heard_trained_on_and_answered_and_a_title_asks_nobody(tmp_path, raw):
    folder = write_multimodal(tmp_path / "model", "qwen2_audio")

    def opened(*systems: dict):
        return session(
            "tiny", tmp_path / "store", raw, [f"systems={json.dumps(systems)}", "replies.exchanges=3"]
        )

    with opened(system(folder)) as first:
        ran = run(first, "systems.multimodal")
        assert [line for line in ran if line.startswith("systems")] == [
            "systems.fit heard",
            "systems.multimodal heard",
        ]
        plans = {plan.stage.name: plan for plan in first.plan("systems.multimodal")}
        store = first.store
        made = {ref.name: ref for refs in plans["systems.multimodal"].outputs.values() for ref in refs}
        facts = json.loads(store.read(made["heard.json"]))
        rows = read_table(store.read(made["replies/all/test/system-heard"]), "replies")
        assert facts["exchanges"] == 3 == facts["with_clip"] and facts["answered"] == len(rows)
        assert facts["answered"] + sum(facts["failures"].values()) == 3
        (adapter,) = plans["systems.fit"].outputs["heard"]
        members = {ref.name.split("/")[-1]: ref for ref in store.members(adapter)}
        report = json.loads(store.read(members["report.json"]))
        assert report["train_with_clip"] > 0 and report["history"]["train"]
        shards = [
            r
            for refs in plans["utterances"].outputs.values()
            for r in refs
            if r.name.startswith("utterances/meld/test")
        ]
        spoken = [
            row_to_utterance(row) for ref in shards for row in read_table(store.read(ref), "utterances")
        ]
    with opened(system(folder, title="Heard")) as again:
        assert run(again, "systems.multimodal") == []
    with opened(system(folder, finetune=None, paper=None)) as bare:
        assert run(bare, "systems.multimodal") == ["systems.multimodal heard"]
    clips = ClipFolder(tmp_path / "clips", "image")
    clips.folder.mkdir()
    clips.fill(spoken, FeatureSettings(frames=3), MediaSettings(), raw, lambda *_: None)
    shown = [clips(str(u.media_digest)) for u in spoken if clips.has(u.media_digest)]
    assert len(shown) == len(spoken) and all(one.image.shape == (224, 224, 3) for one in shown)
    assert len({one.image.tobytes() for one in shown}) == len(shown) and np.asarray(shown[0].image).std() > 0
