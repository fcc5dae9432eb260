"""A rung's replies are stored as they finish: one that was killed goes on, to the bytes of one that was not."""

import pytest

from model.dialogue import likelihood
from model.dialogue.settings import DialogueSettings
from model.settings import TrainingSettings
from model.zoo.resolve import identity
from storage.shards import read_table
from storage.store import Ref, Store
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings
from tasks.stages.replies.write import write_replies
from tests.support.two_dialogues import TwoDialogues, two_dialogues


class Killed(Exception):
    """Stands for the kill; what was stored before it is durable, as it is there."""


def written(two: TwoDialogues, work: Workspace | None = None, **settings) -> Ref:
    """The artefact of one rung's replies, two at a time: three batches."""
    (ref,) = write_replies(
        "1-llm", two.utterances, two.exchanges, [], None, None, None, "text",
        DialogueSettings(training=TrainingSettings(dtype="float32", threads=1)),
        ReplySettings(**{"max_new_tokens": 5, "batch_size": 2, **settings}),
        Weights(name="tiny-llm", identity=identity("tiny-llm")), work or two.work,
    )  # fmt: skip
    return ref


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """The sizes of the batches that the LLM answers; `limit` of them, then it is killed."""
    usual, answered = likelihood.read_prompts, []

    def counted(llm, kept, prompts, *more):
        if answered and answered[-1] == "kill":
            raise Killed
        answered.append(len(prompts))
        return usual(llm, kept, prompts, *more)

    monkeypatch.setattr(likelihood, "read_prompts", counted)
    return answered


def test_a_killed_rung_goes_on_and_comes_to_the_same_bytes(tmp_path, monkeypatch, batches):
    whole = written(two_dialogues(tmp_path / "whole", ["test"], ["dev"]))
    assert batches == [2, 2, 2]
    two = two_dialogues(tmp_path / "killed", ["test"], ["dev"])
    steps = []

    def progress(done: int, total: int, figures: dict) -> None:
        steps.append((done, total))
        batches.append("kill")

    cut_off = Workspace(two.store, two.work.raw, two.work.basis, progress)
    with pytest.raises(Killed):
        written(two, cut_off)
    assert steps == [(2, 6)]
    batches.clear()
    assert written(two).digest == whole.digest and batches == [2, 2]
    # All of it is there now: no model is loaded for what is asked again.
    monkeypatch.setattr("tasks.stages.replies.write.load_dialogue", lambda *_, **__: pytest.fail("loaded"))
    assert written(two).digest == whole.digest


def test_what_a_row_is_made_from_is_what_it_is_found_by(tmp_path, batches):
    two = two_dialogues(tmp_path, ["test"], ["dev"])
    written(two, max_new_tokens=7)
    shorter = written(two)
    assert batches == [2] * 6
    forced = Workspace(Store(two.store.root, rows_anew=True), two.work.raw, two.work.basis, two.work.progress)
    assert written(two, forced).digest == shorter.digest and batches == [2] * 9
    # Fewer exchanges are another window: what stood beside a row is part of it.
    few = read_table(two.store.read(written(two, exchanges=4)), "replies")
    assert len(few) == 4 and batches == [2] * 11
