"""Collapse: what counts as a fall, and a training that collapses, cut off or not."""

import logging
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model

from model.checkpoints import Checkpoints
from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.epo.collapse import LEAST_STEPS, CollapseWatch, collapse_step, is_falling
from model.epo.settings import EpoSettings
from model.epo.train import train_epo
from model.llm import load_llm, reply_ids
from model.settings import TrainingSettings
from model.zoo.resolve import resolve

CHOSEN, REJECTED = ("happy " * 6).strip(), ("sad " * 6).strip()
COUNT = 12


def entries(chosen, rejected) -> list[dict[str, float]]:
    """The logs of steps with these rewards."""
    rows = enumerate(zip(chosen, rejected, strict=True), 1)
    return [{"step": step, "reward_chosen": c, "reward_rejected": r} for step, (c, r) in rows]


def test_a_fall_by_hand():
    # Slope -0.9, standard error sqrt(0.7 / 2 / 5) = 0.26458: 3.4017 of them.
    assert is_falling([3, 2, 2, 0], 3.401) and not is_falling([3, 2, 2, 0], 3.402)
    assert is_falling([3, 2, 1, 0], 1e9) and not is_falling([0, 1, 2, 3], 0.0)
    assert not is_falling([0.1] * 50)
    with pytest.raises(ValueError, match="three values at least, not 2"):
        is_falling([2, 1])


def test_both_rewards_must_fall_and_for_the_number_of_steps():
    flat, down = [-1.0] * 30, [-1.0 - max(0, i - 9) for i in range(30)]
    assert collapse_step(entries(flat, down), 10) is collapse_step(entries(down, flat), 10) is None
    step = collapse_step(entries(down, down), 10)
    assert 10 < step <= 20  # the fall begins with step 11
    assert collapse_step(entries(down[:19], down[:19]), 20) is None
    assert collapse_step(entries(down, down), LEAST_STEPS - 1) is None  # too few to tell


def test_a_sudden_fall_that_is_over_counts_and_noise_does_not():
    draw = random.Random(0)
    noise = [draw.gauss(-3, 1) for _ in range(1000)]
    assert collapse_step(entries(noise, noise), 50) is None
    fallen = [value - 5 * (i >= 500) for i, value in enumerate(noise)]
    assert 500 < collapse_step(entries(fallen, fallen), 50) < 550


def test_a_watch_tells_the_step_once_and_knows_what_came_before(caplog):
    down = entries(*[[-float(i) for i in range(20)]] * 2)
    for cut in (0, 5, 15):
        caplog.clear()
        watch = CollapseWatch(10, down[:cut])
        for entry in down[cut:]:
            watch.look(entry)
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 1 and f"step {collapse_step(down, 10)}: collapse" in told[0]


def alike_replies() -> DialogueModel:
    """A tiny model to which a rejected reply's token looks as the chosen one's does, and twice as strongly.

    To make the one less likely is to make the other so, too: how rewards of both fall while the margin grows
    (Razin et al., "Unintentional Unalignment", 2024).
    """
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    table = llm.get_output_embeddings().weight
    with torch.no_grad():
        for a, b in zip(reply_ids(tokenizer, CHOSEN), reply_ids(tokenizer, REJECTED), strict=True):
            if a != b:
                table[b] = 2 * table[a]
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules=["v_proj", "q_proj", "o_proj"])
    return DialogueModel(get_peft_model(llm, adapter), tokenizer, "text")


def settings(**changes) -> EpoSettings:
    training = TrainingSettings(learning_rate=1e-2, batch_size=4, epochs=8, dtype="float32", evaluations=1)
    return EpoSettings(collapse_steps=COUNT, sampled_replies=0, training=training, **changes)


HARMFUL = settings(gamma=50, autoregressive_weight=0)
"""A margin that is never reached, and nothing that holds on to the true reply."""


def train(out, chosen: EpoSettings, progress=None, checkpoints=None) -> dict:
    pairs = [
        PreferenceExample(DialogueExample(f"k{i}", (), f"I lost the {word}.", CHOSEN), REJECTED)
        for i, word in enumerate(("cat", "dog", "train", "letter", "party", "storm") * 2)
    ]
    return train_epo(alike_replies(), pairs, pairs[:4], chosen, out, progress, checkpoints)


def test_a_training_that_collapses_says_so_while_it_runs(tmp_path, caplog):
    seen: list[tuple[int, int]] = []
    report = train(tmp_path, HARMFUL, lambda step, *_: seen.append((step, len(caplog.records))))
    steps = report["history"]["train"]
    for name in ("reward_chosen", "reward_rejected"):
        assert steps[-1][name] < steps[0][name] - 1
    assert steps[-1]["margin"] > steps[0]["margin"]
    assert report["collapsed"] and report["collapsed_at_step"] == COUNT == len(steps)  # and it ends there
    assert report["history"]["ended"] == f"collapse: both rewards fell for {COUNT} steps"
    told = [record for record in caplog.records if record.name == "model.epo.collapse"]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert f"step {COUNT}: collapse" in told[0].getMessage()
    before, after = dict(seen)[COUNT - 1], dict(seen)[COUNT]
    assert after == before + 1  # not in the end, but at that step


def test_the_same_pairs_do_not_collapse_with_usual_settings(tmp_path, caplog):
    report = train(tmp_path, settings())
    assert report["collapsed"] is False and report["collapsed_at_step"] is None
    assert not [record for record in caplog.records if "collapse" in record.getMessage()]


class CutOff(Exception):
    """Stands for whatever ends a run."""


def test_a_run_that_was_cut_off_tells_the_same_collapse(tmp_path, caplog):
    def cut(step: int, *_) -> None:
        if step == COUNT - 1:
            raise CutOff

    train(tmp_path / "whole", HARMFUL)
    checkpoints = Checkpoints(tmp_path / "steps", every_s=0)
    with pytest.raises(CutOff):
        train(tmp_path / "cut", HARMFUL, cut, checkpoints)
    caplog.clear()
    train(tmp_path / "cut", HARMFUL, checkpoints=checkpoints)
    assert sum(f"step {COUNT}: collapse" in record.getMessage() for record in caplog.records) == 1
    for file in ("report.json", "adapter_model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


def test_too_few_steps_tell_nothing(tmp_path):
    short = HARMFUL.training.model_copy(update={"epochs": 2})
    report = train(tmp_path, HARMFUL.model_copy(update={"training": short}))
    assert len(report["history"]["train"]) < LEAST_STEPS
    assert report["collapsed"] is None and report["collapsed_at_step"] is None


def test_a_run_shorter_than_the_number_is_judged_as_a_whole(tmp_path):
    report = train(tmp_path, HARMFUL.model_copy(update={"collapse_steps": 500}))
    assert report["collapsed_at_step"] == len(report["history"]["train"])
