"""Table 3 by its own protocol: which exchanges, what a prompt is charged with, and changes against hand calculations."""

import pytest

from model.dialogue.dialogue import DialogueModel, load_dialogue
from model.dialogue.prompt_cost import prompt_cost
from model.metrics.settings import BootstrapSettings
from model.zoo.resolve import resolve
from tasks.settings import LongHistorySettings, load_settings
from tasks.stages.long_history.measure import changes, floors, form_figures, long_examples
from tests.support.two_dialogues import two_dialogues


@pytest.fixture
def two(tmp_path):
    return two_dialogues(tmp_path, ["train", "test", "dev"], ["train", "test"])


def long(two, **settings) -> tuple[list[str], dict]:
    found, about = long_examples(two.utterances, two.exchanges, LongHistorySettings(**settings), two.work)
    return [example.key for example in found], about


def test_an_exchange_counts_by_the_turns_before_its_sentence(two):
    """MELD's dialogue has exchanges at turns 0, 1 and 5, of which turn 4 is missing: four turns lie before 5."""
    assert long(two, dataset="meld", least_turns=4)[0] == ["meld/test/17/5"]
    assert long(two, dataset="meld", least_turns=5)[0] == []
    keys, about = long(two, dataset="meld", least_turns=1)
    assert keys == ["meld/test/17/1", "meld/test/17/5"]
    assert about == {"there": 2, "datasets": ["meld/test"], "stands_in": False}


def test_where_the_dataset_has_none_so_long_all_stand_in_and_that_is_said(two):
    keys, about = long(two, least_turns=2)  # MultiDialog is not there at all
    assert keys == ["iemocap/test/Ses01F_impro01/2", "meld/test/17/5"] and about["stands_in"]
    assert about["datasets"] == ["iemocap/test", "meld/test"]
    assert long(two, least_turns=20) == ([], {"there": 0, "datasets": [], "stands_in": False})
    assert not long(two, dataset=None, least_turns=2)[1]["stands_in"]


def test_changes_are_paired_and_shares_are_of_the_means():
    measured = {
        "text": {"tokens": [100.0, 200.0, 300.0, 400.0], "bertscore": [0.5, 0.5, 0.5, 0.5]},
        "memory": {"tokens": [50.0, 60.0, 70.0, 80.0], "bertscore": [0.6, 0.6, 0.6, 0.6]},
    }
    found = changes(measured, ["a", "b", "c", "d"], BootstrapSettings())
    assert found["tokens"]["mean"] == -185.0 and found["tokens"]["share"] == pytest.approx(65 / 250 - 1)
    assert found["tokens"]["grade"] == "got worse"  # of a cost: less; what is better is the table's to say
    assert found["bertscore"]["mean"] == pytest.approx(0.1) and "seconds" not in found


@pytest.mark.parametrize("cost", [False, True])
def test_prompts_are_held_a_batch_at_a_time_and_each_is_counted_once(two, monkeypatch, cost):
    examples, _ = long_examples(
        two.utterances, two.exchanges, LongHistorySettings(dataset=None, least_turns=1), two.work
    )
    made: list[int] = []
    reply_to = DialogueModel.reply_to
    monkeypatch.setattr(
        DialogueModel,
        "reply_to",
        lambda self, some, *rest: made.append(len(some)) or reply_to(self, some, *rest),
    )

    def measured(batch: int) -> tuple[dict, dict]:
        small = {"memory": "mean", "reply_batch_size": batch, "max_history_utterances": 1}
        settings = load_settings("tiny").dialogue.model_copy(update=small)
        model = load_dialogue(resolve("tiny-llm"), None, None, None, "memory", "float32", settings)
        return form_figures(model, examples, cost, 4)

    (figures, whole), (apart, of_apart) = measured(64), measured(2)
    assert made == [len(examples), *[2] * (len(examples) // 2), *[1] * (len(examples) % 2)]
    assert apart["tokens"] == figures["tokens"] and len(of_apart["replies"]) == len(examples)
    assert of_apart["replies"] == whole["replies"] and ("seconds" in apart) == cost
    too_old = sum(len(example.history) - 1 for example in examples)
    assert of_apart["dropped_utterances"] == whole["dropped_utterances"] == too_old > 0


def test_systems_that_read_nothing_stand_beside_the_replies():
    """Scored by length alone: "Okay." has 5 letters; another dialogue's reply is the one as long as can be."""
    true, dialogues = ["aa", "bbb", "cccc", "ddd"], ["a", "a", "b", "c"]
    okay, people = floors(
        true, dialogues, lambda said, of: [float(len(a) - len(b)) for a, b in zip(said, of, strict=True)],
        BootstrapSettings(),
    )  # fmt: skip
    assert (okay["title"], okay["n"], okay["dialogues"]) == ('always "Okay."', 4, 3)
    assert okay["bertscore"] == (3 + 2 + 1 + 2) / 4 and okay["bertscore_ci"]
    # bbb for ddd and ddd for bbb; ddd for aa and for cccc.
    assert (
        people["title"] == "a human reply of another dialogue" and people["bertscore"] == (1 + 0 - 1 + 0) / 4
    )
    (alone,) = floors(["aa"], ["a"], lambda said, of: [0.5], BootstrapSettings())
    assert alone["title"] == 'always "Okay."' and floors([], [], lambda *_: [], BootstrapSettings()) == []


def test_a_prompts_cost_has_its_memories_in_it_and_generates_nothing(two, monkeypatch):
    """On a random model: as many figures as prompts, a peak that holds the model, and the compressor asked for each."""
    settings = load_settings("tiny").dialogue.model_copy(update={"memory": "mean"})
    model = load_dialogue(resolve("tiny-llm"), None, None, None, "memory", "float32", settings)
    examples, _ = long_examples(
        two.utterances, two.exchanges, LongHistorySettings(dataset=None, least_turns=1), two.work
    )
    asked = []
    compress = model.compressor.compress
    monkeypatch.setattr(
        model.compressor, "compress", lambda of, **more: asked.append(len(of)) or compress(of, **more)
    )
    monkeypatch.setattr(DialogueModel, "reply_to", lambda *_: pytest.fail("a reply was generated"))
    spent = prompt_cost(model, examples)
    assert len(spent.seconds) == len(examples) and all(seconds > 0 for seconds in spent.seconds)
    assert asked == [1] * (len(examples) + 1)  # the first one twice: once before anything is measured
    weights = sum(p.numel() * p.element_size() for p in model.llm.parameters())
    assert weights / 1e9 < spent.gigabytes < 60 and "resident memory" in spent.memory_of
