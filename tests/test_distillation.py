"""benchmarks/distillation.py on tiny models: its teacher's term against a hand calculation, and both trainings from one start."""

import json
import math

import pytest
import torch

from benchmarks import distillation
from model.branches import reply_log_probs
from model.dialogue.dialogue import load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.train import Exchanges
from model.settings import TrainingSettings
from model.spoken import Spoken
from model.zoo.resolve import resolve
from tests.support.talkative import talkative
from tests.support.two_dialogues import two_dialogues

TRAINING = TrainingSettings(
    learning_rate=3e-3, batch_size=4, epochs=3, warmup_share=0, dtype="float32", threads=1, evaluations=1
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return talkative(tmp_path_factory.mktemp("parts"))


def exchanges(first: int, count: int) -> list[DialogueExample]:
    words = "happy sad beach train kitchen party friend surprise weather station".split()
    return [
        DialogueExample(
            f"meld/train/{i}/2",
            (Spoken(f"I like the {words[i % 10]}.", 0), Spoken(f"The {words[i % 7]}?", 1)),
            "Why?",
            f"It is {words[i % 10]}.",
            dialogue=f"{i}",
        )
        for i in range(first, first + count)
    ]


def test_the_teachers_term_is_that_of_a_hand():
    teacher = torch.tensor([[0.6, 0.3, 0.1, 1e-9], [0.1, 0.05, 0.25, 0.6]]).log()
    student = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).log()
    ids, shares = distillation.likeliest(teacher, 2)
    assert ids.tolist() == [[0, 1], [3, 2]]
    # Two thirds and a third of the first place; of the second, whichever of two equal ones, a tenth.
    expected = -(2 / 3 * math.log(0.1) + 1 / 3 * math.log(0.2)) - math.log(0.1)
    assert distillation.teaching_loss(student, ids, shares).item() == pytest.approx(expected, abs=1e-5)


def test_what_is_expected_at_each_place_is_what_the_replies_loss_is_of(parts):
    llm, adapter = resolve(parts.settings.llm.weights), parts.rungs[distillation.TEACHER].adapter
    model = load_dialogue(llm, adapter, None, None, "text", "float32", parts.settings.dialogue)
    rows = Exchanges(model, exchanges(0, 2))
    prompts = rows.prompts([0, 1])
    with torch.no_grad():
        log_probs, owner = reply_log_probs(model.llm, prompts, rows.replies)
        for row, (prompt, reply) in enumerate(zip(prompts, rows.replies, strict=True)):
            logits = distillation.reply_logits(model, prompt, reply)
            found = logits.log_softmax(-1).gather(1, reply[:, None]).squeeze(1)
            assert torch.allclose(found, log_probs[owner == row], atol=1e-4)


def test_both_trainings_run_from_one_start_and_each_learns_its_own(parts, capsys):
    learnt, heldout = exchanges(0, 12), exchanges(20, 6)
    result = distillation.compare(parts, learnt, heldout, TRAINING, 64)
    replies, teacher = result[distillation.BY_REPLIES], result[distillation.BY_TEACHER]
    for figure in ("before", "own_over_other_before"):
        assert replies[figure] == teacher[figure]
    assert replies["after"] < replies["before"] and teacher["after"] != replies["after"]
    difference = result["second_less_first"]["own"]
    assert difference["mean"] == pytest.approx(teacher["after"] - replies["after"], abs=1e-5)
    assert difference["dialogues"] == result["rows"] == 6 and difference["low"] < difference["high"]
    assert json.loads(json.dumps(result)) == result
    assert "| the second less the first |" in capsys.readouterr().out


def test_a_student_comes_nearer_to_its_teacher_and_its_compressor_learns(parts):
    settings = parts.settings.dialogue.model_copy(update={"train_compressor": True, "training": TRAINING})
    llm, adapter = resolve(parts.settings.llm.weights), parts.rungs[distillation.TEACHER].adapter
    teacher = load_dialogue(llm, adapter, None, None, "text", "float32", settings)
    model = distillation.student(parts, settings)
    rows, heldout = Exchanges(model, exchanges(0, 8)), Exchanges(model, exchanges(20, 4))
    loss = distillation.taught(teacher, rows, 64)
    compressor = {name: p.detach().clone() for name, p in model.compressor.named_parameters()}
    every = list(range(8))
    before = loss(every).item()
    distillation.train(model, loss, rows, heldout, TRAINING)
    assert loss(every).item() < before - 1
    assert any(not torch.equal(p, compressor[name]) for name, p in model.compressor.named_parameters())


def test_a_runs_exchanges_are_trained_on_and_held_out_as_in_the_run(tmp_path):
    """IEMOCAP's dev has a test beside it and chooses; MELD's only dialogue of dev does too."""
    two = two_dialogues(tmp_path, ["train", "dev", "test"], ["train", "dev", "test"])
    train, heldout = distillation.exchanges(two.store, two.utterances, two.exchanges)
    for split, found in (("train", train), ("dev", heldout)):
        assert {e.key.split("/")[1] for e in found} == {split} and len(found) == 6
        assert {e.key.split("/")[0] for e in found} == {"meld", "iemocap"}
