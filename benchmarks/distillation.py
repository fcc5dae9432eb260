"""Does distilling the full history as text into memories help a reply? `make bench NAME=distillation ARGS="--store DIR"`.

From a finished run's store: rung 3's adapter and compressor, both learning, take the same rows at the same steps twice, once
by the true replies' loss, and once by the cross-entropy to the likeliest tokens of rung 2's LLM, which reads the history as
text. Of the held-out exchanges, nats a token of the true reply with its own history before and after, with another dialogue's
less its own, and the second training less the first; 95 % intervals over dialogues. Budget and rate are the same for both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.dialogue.dialogue import COMPRESSOR, DialogueModel, load_dialogue, own_compressor
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import Exchanges, model_to_train
from model.llm import embed
from model.metrics.verdict import Verdict, verdict
from model.settings import TrainingSettings
from model.training import Rule, Trainable, TrainRows, looked_at
from model.training_run import Outcome, run_training, use_threads
from model.zoo.resolve import resolve
from storage.errors import InputError
from storage.files import DEFAULT_STORE
from storage.store import Ref, Store
from tasks.chat.weights import Trained, trained
from tasks.engine.run import RunRequest
from tasks.engine.runs import run_of
from tasks.stages.examples import dialogue_examples, that_choose
from tasks.stages.inputs import of_dialogue_sets
from tasks.stages.shard_names import of_table
from tasks.stages.stand_in import stand_ins

TEACHER, STUDENT = "2-ft", "3-mc"
BY_REPLIES, BY_TEACHER = "the true replies", "the LLM with the history as text"
TABLES = ("utterances", "utterances.exchanges")
"""The stages that made the exchanges."""
Loss = Callable[[list[int]], Tensor]
"""The sum over the tokens of some rows' replies."""


def exchanges(
    store: Store, utterances: list[Ref], cut: list[Ref]
) -> tuple[list[DialogueExample], list[DialogueExample]]:
    """A run's exchanges to train on, and those that may choose a checkpoint. utterances, cut: all shards of both tables."""
    said = of_dialogue_sets(of_table(utterances, "utterances", "train", "dev"))
    cut = of_table(cut, "exchanges", "train", "dev")
    train = dialogue_examples(store, said, cut, [], "train")
    standing_in = stand_ins(of_dialogue_sets(of_table(utterances, "utterances")))
    return train, that_choose(dialogue_examples(store, said, cut, [], "dev"), store, said, standing_in)


def reply_logits(model: DialogueModel, prompt: Tensor, reply: Tensor) -> Tensor:
    """What the LLM expects at each token of a reply, [n, vocabulary]; prompt: its input embeddings [T, d], reply: ids [n]."""
    read = torch.cat([prompt, embed(model.llm, [reply])])
    return model.llm(inputs_embeds=read[None], logits_to_keep=len(reply) + 1).logits[0, :-1].float()


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of logits [n, vocabulary] the `count` likeliest tokens and their probabilities, which are made to add up to one."""
    found = logits.softmax(-1).topk(count)
    return found.indices, found.values / found.values.sum(-1, keepdim=True)


def teaching_loss(logits: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of a student's logits [n, vocabulary] to a teacher's tokens and probabilities [n, k], summed over n."""
    return -(shares * logits.log_softmax(-1).gather(-1, ids)).sum()


def taught(teacher: DialogueModel, rows: Exchanges, count: int) -> Loss:
    """The loss by what the teacher expects at each token of the true reply; it has no part in a gradient."""

    def loss(of: list[int]) -> Tensor:
        total = torch.zeros(())
        for row, prompt in zip(of, rows.prompts(of), strict=True):
            with torch.no_grad():
                expects = reply_logits(teacher, teacher.prompt(rows.examples[row]), rows.replies[row])
            logits = reply_logits(rows.model, prompt, rows.replies[row])
            total = total + teaching_loss(logits, *likeliest(expects, count))
        return total

    return loss


def told(rows: Exchanges) -> Loss:
    """The loss by the true replies."""
    return lambda of: rows.reply_loss(of) * rows.reply_tokens(of)


def student(found: Trained, settings: DialogueSettings) -> DialogueModel:
    """Rung 3 as the run left it, with nothing frozen that learns here."""
    parts = found.rungs[STUDENT]
    compressor = own_compressor(parts.adapter) or parts.compressor
    llm = resolve(found.settings.llm.weights)
    return model_to_train(llm, settings, "memory", compressor, None, parts.adapter)


def train(
    model: DialogueModel, loss: Loss, rows: Exchanges, heldout: Exchanges, settings: TrainingSettings
) -> Outcome:
    """Train to the end of the budget, which is kept whether it is better or not."""

    def share(part: list[int], whole: list[int]) -> tuple[Tensor, dict[str, float]]:
        found = loss(part) / rows.reply_tokens(whole)
        return found, {"reply": found.item()}

    parameters = {name: p for name, p in model.llm.named_parameters() if p.requires_grad}
    parameters |= {f"{COMPRESSOR}.{name}": p for name, p in model.compressor.named_parameters()}
    return run_training(
        Trainable(parameters, [model.llm, model.compressor]),
        TrainRows(rows.lengths, [example.key for example in rows.examples]),
        share,
        lambda: heldout.check(settings.batch_size, 0.0),
        settings,
        progress=lambda step, steps, logs: print(f"step {step} of {steps}: {logs}", flush=True),
        rule=Rule(keeps=lambda history: True),
    )


def compare(
    found: Trained,
    learnt: Sequence[DialogueExample],
    heldout: Sequence[DialogueExample],
    training: TrainingSettings,
    count: int,
) -> dict:
    """Both trainings, printed and returned. learnt: what they learn from, within the budget of `training`; count: tokens of
    the teacher's at each place."""
    settings = found.settings.dialogue.model_copy(update={"train_compressor": True, "training": training})
    llm, rung = resolve(found.settings.llm.weights), found.rungs[TEACHER]
    teacher = load_dialogue(llm, rung.adapter, None, None, "text", training.dtype, settings)
    measured = {}
    for by in (BY_REPLIES, BY_TEACHER):
        model = student(found, settings)
        rows, checked = Exchanges(model, learnt), Exchanges(model, heldout)
        loss = told(rows) if by == BY_REPLIES else taught(teacher, rows, count)
        other_before = checked.losses_with_another_history(training.batch_size)
        outcome = train(model, loss, rows, checked, training)
        other_after = checked.losses_with_another_history(training.batch_size)
        measured[by] = Measured(outcome.rows_before, outcome.rows_after, other_before, other_after)
    return _tell(measured, [example.group for example in checked.examples])


class Measured(NamedTuple):
    """Nats a token of each held-out reply, before and after: with its own history, and with another dialogue's."""

    before: list[float]
    after: list[float]
    other_before: list[float | None]
    other_after: list[float | None]


def _tell(measured: dict[str, Measured], groups: Sequence[str]) -> dict:
    """groups: the dialogue of each held-out row."""
    print("| trained by | own, before → after | own over another's, before | after |\n|---|---|---|---|")
    result: dict = {"rows": len(groups), "dialogues": len(set(groups))}
    gains = {}
    for by, found in measured.items():
        at_first = _less(found.other_before, found.before)
        gains[by] = _less(found.other_after, found.after)
        ends = [sum(values) / len(values) for values in (found.before, found.after)]
        first, last = _over(at_first, groups), _over(gains[by], groups)
        print(f"| {by} | {ends[0]:.3f} → {ends[1]:.3f} | {_said(first)} | {_said(last)} |")
        result[by] = {"before": ends[0], "after": ends[1]}
        result[by] |= {"own_over_other_before": asdict(first), "own_over_other_after": asdict(last)}
    own = _over(_less(measured[BY_TEACHER].after, measured[BY_REPLIES].after), groups)
    gain = _over(_less(gains[BY_TEACHER], gains[BY_REPLIES]), groups)
    print(f"| the second less the first | {_said(own)} | | {_said(gain)} |")
    return result | {"second_less_first": {"own": asdict(own), "own_over_other": asdict(gain)}}


def _less(more: Sequence[float | None], less: Sequence[float | None]) -> list[float | None]:
    """By row; None where one of them is."""
    return [None if a is None or b is None else a - b for a, b in zip(more, less, strict=True)]


def _over(differences: Sequence[float | None], groups: Sequence[str]) -> Verdict:
    """Of the rows that have one."""
    there = [(value, group) for value, group in zip(differences, groups, strict=True) if value is not None]
    return verdict([value for value, _ in there], [group for _, group in there])


def _said(found: Verdict) -> str:
    if found.mean is None or found.low is None or found.high is None:
        return f"{found.grade}, n = {found.rows} of {found.dialogues} dialogues"
    ends = f"{found.low:+.3f} to {found.high:+.3f}"
    return f"{found.mean:+.3f} ({ends}), n = {found.rows} of {found.dialogues} dialogues"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default=DEFAULT_STORE, help="of a finished run")
    parser.add_argument("--run", help="the run's id; unless told, the store's last")
    parser.add_argument("--tokens", type=int, default=20_000, help="budget of each training")
    parser.add_argument(
        "--rows", type=int, default=2_000, help="train exchanges that the budget is drawn from"
    )
    parser.add_argument("--heldout", type=int, default=200, help="held-out exchanges")
    parser.add_argument("--likeliest", type=int, default=64, help="tokens of the teacher's at each place")
    asked = parser.parse_args()
    request = RunRequest.of_run(run_of(Path(asked.store), asked.run), str(asked.store))
    found = trained(request)
    for rung in (TEACHER, STUDENT):
        found.named(rung)  # in one line where it is not there
    if found.rungs[STUDENT].compressor is None:
        raise InputError(
            "dialogue.memory is mean, and nothing can be distilled into a mean; take another run"
        )
    with request.session() as session:
        made = {plan.stage.name: plan.outputs for plan in session.plan("utterances.exchanges")}
        shards = [[ref for refs in made[stage].values() for ref in refs] for stage in TABLES]
        learnt, heldout = exchanges(session.store, *shards)
    training = found.settings.dialogue.training.model_copy(
        update={"max_tokens": asked.tokens, "epochs": 1, "evaluations": 1, "heldout_rows": asked.rows}
    )
    use_threads(training)
    learnt = looked_at(learnt, training, "distillation.train")
    heldout = looked_at(heldout, training.model_copy(update={"heldout_rows": asked.heldout}), "distillation")
    result = compare(found, learnt, heldout, training, asked.likeliest)
    print(json.dumps({"name": "distillation", "tokens": asked.tokens, **result}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
