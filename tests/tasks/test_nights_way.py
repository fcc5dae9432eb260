"""The night profile's way from text to the first screen, on `tiny`: its switches together, its budgets small.

A random LLM ends hardly a sample, so that what each answer says here is mostly that nothing can be told.
"""

import json
import shutil

import pytest

from storage.sample.layout import write_sample
from storage.shards import read_table
from tasks.report.answer import NOT_RUN, NOT_SHOWN, SHOWN
from tasks.settings import flat, load_settings
from tasks.stages.shard_names import of_table
from tests.support.rerun import run, session

SWITCHES = (
    "candidates.source", "candidates.dialogue.history", "candidates.dialogue.temperature", "pairs.chosen",
    "pairs.fallback", "pairs.control", "dialogue.start_from_reader", "dialogue.history_dropout", "epo.until",
    "ladder.arms", "ladder.trained", "ladder.start_from_reader",
)  # fmt: skip
"""What the night does otherwise than the paper, beside its models and budgets; read from the profile itself."""
SMALL = (
    "candidates.dialogue.samples=3", "candidates.budget=96", "candidates.max_new_tokens=12",
    *(f"{name}.max_tokens=300" for name in ("compressor.pretrain", "compressor.finetune", "ladder.training")),
    *(f"{name}.training.max_tokens=600" for name in ("dialogue", "epo")),
    # The reader's rank is the adapter's that starts from it, as in the night; a dialogue here has six utterances.
    "compressor.reader_rank=4", "compressor.reader_alpha=8", "compressor.free_running_rows=1",
    'compressor.window_curriculum=[{"utterances": 2, "max_tokens": 300}, {"utterances": 3, "max_tokens": 300}]',
    "epo.sampled_replies=2", "epo_test.samples=3", "replies.max_new_tokens=4", "long_history.exchanges=1",
)  # fmt: skip
ABOUT = ("floors", "finetuning", "content", "worth", "clips", "usual", "emotion")


@pytest.fixture
def raw(tmp_path):
    write_sample(tmp_path / "raw", media=False, dialogues=5, turns=6)
    shutil.rmtree(tmp_path / "raw" / "MultiDialog")
    return tmp_path / "raw"


@pytest.mark.slow
def test_the_nights_switches_together_come_to_a_report_that_answers_what_was_measured(tmp_path, raw):
    night = load_settings("night", [])
    chosen = flat(night)
    # What the test would otherwise not be of.
    assert night.compressor.reader_rank == night.dialogue.rank and night.compressor.window_curriculum
    assert night.epo_test.exchanges and night.candidates.source == "dialogue" and night.epo.until == "moved"
    changes = [f"{name}={json.dumps(chosen[name])}" for name in SWITCHES]
    with session("tiny", tmp_path / "store", raw, [*changes, *SMALL]) as opened:
        ran = {line.split(" ")[0] for line in run(opened)}
        made = {
            plan.stage.name: [r for refs in plan.outputs.values() for r in refs] for plan in opened.plan()
        }
        named = {ref.name: ref for ref in made["report"]}
        facts = json.loads(opened.store.read(named["report.json"]))
        shards = of_table(made["candidates"], "candidates")
        drawn = [row for ref in shards for row in read_table(opened.store.read(ref), "candidates")]
    fits = {f"ladder.fit.{arm}" for arm in night.ladder.trained}
    assert fits | {"epo", "epo.random", "epo.shuffled", "epo.test", "ladder"} <= ran
    assert {(row["source"], row["emotion"]) for row in drawn} == {("dialogue", None)}
    assert facts["pairs"]["pairs"] > 0 and facts["training"]["epo"]["history"]["ended"]

    ladder, moved = facts["memory_ladder"], facts["epo_test"]
    assert set(ladder["arms"]) == set(night.ladder.arms)
    assert {arm["adapter"] for arm in ladder["arms"].values()} == {"own"}
    assert set(moved["trainings"]) == {"epo", "random", "shuffled"}
    assert all("stuck" in row for row in facts["systems"])

    answers = dict(zip(ABOUT, facts["answer"], strict=True))
    grades = {name: part["grade"] for name, part in answers.items()}
    assert grades.pop("clips") == NOT_RUN and "no media" in answers["clips"]["says"]
    assert set(grades.values()) <= {SHOWN, NOT_SHOWN}, grades
    assert all("n = " in part["says"] for name, part in answers.items() if name != "clips")
    says = {name: part["says"] for name, part in answers.items()}
    assert "other − own, nats a token" in says["content"] and "BLEU-1" in says["content"]
    assert "mean embeddings in use" in answers["worth"]["more"]
    assert "EPO on random replies, the only control" in says["usual"]
    assert "of 2 controls" in says["emotion"]
