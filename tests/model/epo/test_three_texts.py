"""Pairs whose chosen reply is no true reply: two replies are ranked, and the autoregressive term is of a third."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from model.branches import reply_log_probs
from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.epo.loss import pair_log_probs, total_loss
from model.epo.settings import EpoSettings
from model.epo.train import Pairs, train_epo
from model.llm import load_llm, reply_ids
from model.settings import TrainingSettings
from model.zoo.resolve import resolve

TRUE, LIKE, UNLIKE = "I am sorry to hear it.", "Oh no, poor you!", "Ha, what a fool you are."


def tiny() -> DialogueModel:
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    torch.manual_seed(0)
    return DialogueModel(get_peft_model(llm, LoraConfig(r=4, target_modules=["q_proj"])), tokenizer, "text")


def examples(count: int = 4, chosen: str | None = LIKE) -> list[PreferenceExample]:
    """Every other pair has the true reply as its chosen one."""
    found = [DialogueExample(f"k{i}", (), f"I lost {i} cats.", f"{TRUE} {i}") for i in range(count)]
    return [PreferenceExample(e, UNLIKE, (), chosen if i % 2 else None) for i, e in enumerate(found)]


def test_each_reply_is_scored_as_by_itself():
    model, pairs = tiny(), examples()
    made = Pairs(model, pairs)
    with torch.no_grad():
        found = made.log_probs(range(4))

        def alone(replies: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
            prompts = [model.prompt(pair.example) for pair in pairs]
            return reply_log_probs(model.llm, prompts, [reply_ids(model.tokenizer, r) for r in replies])

        for replies, got in (
            ([p.preferred for p in pairs], found.chosen),
            ([p.counter_emotional for p in pairs], found.rejected),
        ):
            log_probs, owner = alone(replies)
            assert got.tolist() == pytest.approx(
                [log_probs[owner == i].mean().item() for i in range(4)], abs=1e-5
            )
        log_probs, _ = alone([p.example.reply for p in pairs])  # of true replies, whatever is chosen
        assert found.true_token_mean.item() == pytest.approx(log_probs.mean().item(), abs=1e-5)
    lengths = [len(reply_ids(model.tokenizer, text)) for text in (UNLIKE, LIKE)]
    assert made.lengths[0] == made.shared_lengths[0] + lengths[0]
    assert made.lengths[1] == made.shared_lengths[1] + sum(lengths)  # three replies are computed
    assert made.shared_lengths == Pairs(tiny(), examples(chosen=None)).shared_lengths


def test_without_a_third_text_nothing_changes():
    model, pairs = tiny(), Pairs(tiny(), examples(chosen=None))
    prompts = [model.prompt(pair.example) for pair in pairs.pairs]
    two = pair_log_probs(model.llm, prompts, pairs.chosen, pairs.rejected)
    three = pair_log_probs(
        model.llm, prompts, pairs.chosen, pairs.rejected, [c.clone() for c in pairs.chosen]
    )
    for name in ("chosen", "rejected", "true_token_mean"):
        assert torch.allclose(getattr(two, name), getattr(three, name), atol=1e-5), name
    whole, logs = total_loss(two, 2.0, 0.5, 3.0, preference_weight=0.0)
    assert whole.item() == pytest.approx(3 * logs["nll"]) and logs["epo"] > 0


def settings(**changes) -> EpoSettings:
    training = TrainingSettings(learning_rate=5e-3, batch_size=4, epochs=4, evaluations=2, dtype="float32")
    return EpoSettings(sampled_replies=0, training=training, **changes)


def test_a_control_follows_epos_steps_and_keeps_the_last(tmp_path):
    pairs = examples(8)
    epo = train_epo(tiny(), pairs, pairs[:4], settings(), tmp_path / "epo")
    kept = epo["history"]["best_step"]
    nll = settings(preference_weight=0.0)
    control = train_epo(tiny(), pairs, pairs[:4], nll, tmp_path / "nll", follows=kept)
    assert len(control["history"]["train"]) == control["history"]["best_step"] == kept > 0
    assert control["history"]["ended"] == f"the step that EPO kept, {kept}"
    half = train_epo(tiny(), pairs, pairs[:4], settings(), tmp_path / "half", follows=4)
    assert half["history"]["best_step"] == 4 and half["heldout_after"]["step"] == 4
    none = train_epo(tiny(), pairs, pairs[:4], settings(), tmp_path / "none", follows=0)
    assert none["history"]["train"] == [] and none["history"]["best_step"] == 0
