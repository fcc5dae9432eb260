"""Emotion preference optimization of a dialogue model that has been trained on dialogue (paper, section 3.4).

The dialogue stage's adapter is trained on; compressor, extractor and base weights stay as they are. Knows
nothing of where pairs come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.adapter import save_adapter
from model.batches import length_sorted_batches
from model.checkpoints import Checkpoints
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.draws import evenly_apart
from model.epo.collapse import LEAST_STEPS, CollapseWatch, collapse_step
from model.epo.ending import ending, following, ranking
from model.epo.loss import WHOLE, BatchFraction, PairLogProbs, joined, pair_log_probs, total_loss
from model.epo.settings import EpoSettings
from model.llm import Piece, embed, greedy_replies, llm_folder, reply_ids, token_ids
from model.metrics.donors import donors
from model.metrics.stuck import stuck_share
from model.processes import Processes
from model.spoken import Spoken
from model.training import Progress, Trainable, TrainRows, looked_at
from model.training_run import Check, Outcome, run_training, use_threads, write_results

REPLIES_AT_ONCE = 16
ADAPTER_MARK = "lora_"
"""In the name of every adapter weight peft makes."""


class PreferenceModel(Protocol):
    """What is asked of the dialogue model, model.dialogue.dialogue.DialogueModel."""

    llm: nn.Module
    tokenizer: object

    def memories(
        self, histories: Sequence[tuple[Spoken, ...]]
    ) -> dict[tuple[Spoken, ...], tuple[Tensor, ...]]:
        """Of distinct histories, each utterance's memories [n, d]."""
        ...

    def prompt_sizes(
        self, examples: Sequence[DialogueExample], memories: dict[tuple[Spoken, ...], tuple[Tensor, ...]]
    ) -> list[int | None]:
        """Tokens of each example's prompt; None where it leaves its reply no room."""
        ...

    def pieces(
        self, examples: Sequence[DialogueExample], memories: dict[tuple[Spoken, ...], tuple[Tensor, ...]]
    ) -> list[list[Piece]]:
        """The prompt of each example as token ids and embeddings."""
        ...


def train_epo(
    model: PreferenceModel,
    pairs: Sequence[PreferenceExample],
    heldout: Sequence[PreferenceExample],
    settings: EpoSettings,
    out: Path,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    left_out: Mapping[str, Mapping[str, int]] | None = None,
    follows: int | None = None,
) -> dict:
    """Train the model's adapter in place, save it and report.json in `out`, and return the report.

    Pairs that do not fit the LLM's window are left out and counted; left_out: what was left out before, by reason, of
    "train" and "heldout". Trainings on other pairs of the same rows take the same rows at the same step: batches are
    planned by prompts and true replies alone, which is also what `max_tokens` counts.
    It ends as model/epo/ending.py says; `follows` instead is the step that another training kept, whose weights it keeps.
    The report holds held-out figures before and after (rewards, margin, share of pairs ranked right), how
    far reply length alone would rank the pairs, how much the model's own replies repeat themselves before and
    after, how many are stuck, "compared" (`compared_pairs`), `collapsed` (None: too few steps to tell) with the step at which it was seen,
    and the history. A collapse is logged while training, too.
    ValueError: no pairs, an empty reply, or a model without an adapter.
    """
    if not pairs or not heldout:
        raise ValueError(
            f"EPO: {len(pairs)} train and {len(heldout)} held-out pairs; both must have at least one"
        )
    use_threads(settings.training)
    adapter = learning_adapter(model.llm)
    train_set = Pairs(model, pairs)
    heldout_set = Pairs(model, looked_at(heldout, settings.training, "epo"))
    train_rows = TrainRows(
        train_set.lengths, [pair.example.key for pair in train_set.pairs], train_set.shared_lengths
    )

    def loss(rows: list[int], whole: list[int]) -> tuple[Tensor, dict[str, float]]:
        fraction = train_set.fraction(rows, whole)
        value, logs = _loss(train_set.log_probs(rows), settings, fraction)
        traits = {name: fraction.pairs * mean for name, mean in train_set.traits(rows).items()}
        return value, {**logs, **traits}

    others = Shuffled(model, heldout_set)
    shuffled_before = others.margins(settings)
    # A run of fewer steps than that is judged as a whole.
    count = min(settings.collapse_steps, len(train_rows.batches(settings.training)))
    watch = CollapseWatch(count, earlier_steps(checkpoints))

    def show(step: int, steps: int, logs: dict[str, float]) -> None:
        watch.look(logs)
        if progress is not None:
            progress(step, steps, logs)

    look = _Look(heldout_set, settings)
    rule = following(follows) if follows is not None else ending(settings, count, look.sampled)
    alone = {} if follows is None else {"patience": None}
    outcome = run_training(
        Trainable(adapter, [model.llm]),
        train_rows,
        loss,
        look,
        settings.training.model_copy(update=alone),
        progress=show,
        checkpoints=checkpoints,
        rule=rule,
    )
    margins = {
        "before": (outcome.rows_before, shuffled_before),
        "after": (outcome.rows_after, others.margins(settings)),
    }
    report = {
        "train_pairs": len(train_set.pairs),
        "train_left_out": {**train_set.left_out, **(left_out or {}).get("train", {})},
        "heldout_pairs": len(heldout_set.pairs),
        "heldout_left_out": {**heldout_set.left_out, **(left_out or {}).get("heldout", {})},
        **_findings(heldout_set, outcome, margins, settings),
        "sampled_replies": look.sampled,
        **_collapse(outcome.history.train, count),
    }
    save_adapter(model.llm, out)
    data = {"train": train_set.pairs, "heldout": heldout_set.pairs}
    write_results(out, report, {"llm": llm_folder(model.llm)}, data, settings, outcome.history)
    return report


def learning_adapter(llm: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's weights by name, which alone learn from now on; without dropout: both replies of a pair must be
    judged by one and the same model. ValueError where there is none."""
    adapter = {name: p for name, p in llm.named_parameters() if ADAPTER_MARK in name}
    if not adapter:
        raise ValueError("EPO: the dialogue model has no LoRA adapter; run the dialogue stage first")
    llm.eval().requires_grad_(False)
    for parameter in adapter.values():
        parameter.requires_grad_(True)
    return adapter


class _Look:
    """The check, with whether the ranking has moved since the start, and what the model says by itself.

    sampled: held-out prompts that are answered at each.
    """

    def __init__(self, heldout: Pairs, settings: EpoSettings):
        self.heldout, self.settings = heldout, settings
        self.groups = [pair.example.group for pair in heldout.pairs]
        self.sampled = min(settings.sampled_replies, len(self.groups))
        self._start: list[float] = []  # of the first look: before the first step, in a run that goes on too

    def __call__(self) -> Check:
        found = check(self.heldout, self.settings)
        self._start = self._start or list(found.rows)
        said = sampled_replies(self.heldout, self.settings)
        spoken = {"stuck": stuck_share(said), "repetition": repetition_of(self.heldout, said)} if said else {}
        return Check({**found.figures, **ranking(self._start, found.rows, self.groups), **spoken}, found.rows)


def _findings(heldout: Pairs, outcome: Outcome, margins: Mapping[str, tuple], settings: EpoSettings) -> dict:
    """The held-out part of the report. margins: "before" and "after", each own and shuffled ones."""
    history = outcome.history
    checks = {"before": history.first_check, "after": history.best_check}
    said = ("repetition", "stuck")
    compared = {
        f"{name}_{when}": values
        for when, found in margins.items()
        for name, values in compared_pairs(*found, settings).items()
    }
    return {
        "gamma_over_beta": settings.gamma / settings.beta,
        "length_accuracy": length_accuracy(heldout),
        "traits": heldout.traits(range(len(heldout.lengths))),
        **{f"{name}_{when}": found.get(name) for when, found in checks.items() for name in said},
        **outcome.report([pair.example.group for pair in heldout.pairs], **compared),
    }


def _collapse(steps: list[dict[str, float]], count: int) -> dict:
    fell = collapse_step(steps, count)
    return {
        "collapsed": fell is not None if count >= LEAST_STEPS else None,
        "collapsed_at_step": fell,
    }


def earlier_steps(checkpoints: Checkpoints | None) -> list[dict[str, float]]:
    """The logs of the steps that a run took before it was cut off."""
    facts = checkpoints.facts() if checkpoints is not None else None
    # What a partial checkpoint lacks `fit` names.
    return (facts or {}).get("history", {}).get("train", [])


class Pairs:
    """Preference pairs made ready: how long each prompt is. A prompt is made when its batch is run."""

    def __init__(self, model: PreferenceModel, pairs: Sequence[PreferenceExample]):
        for pair in pairs:
            if not all(text.strip() for text in (pair.example.reply, pair.preferred, pair.counter_emotional)):
                raise ValueError(
                    f"EPO: pair {pair.example.key} has an empty reply; leave it out of the pairs"
                )
        self.model, self.llm, self.tokenizer = model, model.llm, model.tokenizer
        examples = [self._with_longest_reply(pair) for pair in pairs]
        with torch.no_grad():
            self.memories = model.memories([example.history for example in examples])
        sizes = model.prompt_sizes(examples, self.memories)
        self.pairs = [pair for pair, size in zip(pairs, sizes, strict=True) if size is not None]
        if not self.pairs:
            raise ValueError(f"EPO: none of {len(pairs)} pairs fits the LLM's window")
        self.left_out = {"too_long": len(pairs) - len(self.pairs)}
        self.examples = [e for e, size in zip(examples, sizes, strict=True) if size is not None]
        self.true = [reply_ids(model.tokenizer, pair.example.reply) for pair in self.pairs]
        self.chosen = [reply_ids(model.tokenizer, pair.preferred) for pair in self.pairs]
        self.rejected = [reply_ids(model.tokenizer, pair.counter_emotional) for pair in self.pairs]
        kept = (size for size in sizes if size is not None)
        self.shared_lengths = [size + len(true) for size, true in zip(kept, self.true, strict=True)]
        """Tokens of each prompt and its true reply: what trainings on other pairs have in common."""
        self.lengths = [
            shared + len(rejected) + (0 if self._is_true(row) else len(self.chosen[row]))
            for row, (shared, rejected) in enumerate(zip(self.shared_lengths, self.rejected, strict=True))
        ]
        """Positions the LLM computes for each pair."""

    def _with_longest_reply(self, pair: PreferenceExample) -> DialogueExample:
        """The pair's example with whichever reply is longest: the prompt must leave room for each."""
        replies = (pair.example.reply, pair.preferred, pair.counter_emotional, *pair.beside)
        return replace(
            pair.example, reply=max(replies, key=lambda text: len(reply_ids(self.tokenizer, text)))
        )

    def _is_true(self, row: int) -> bool:
        """Whether the chosen reply is the true one."""
        return self.pairs[row].preferred == self.pairs[row].example.reply

    @torch.no_grad()
    def prompts(self, rows: Sequence[int]) -> list[Tensor]:
        """Input embeddings [T, d] of the prompts of the pairs numbered `rows`."""
        found = self.model.pieces([self.examples[i] for i in rows], self.memories)
        return [embed(self.llm, pieces) for pieces in found]

    def log_probs(self, rows: Sequence[int]) -> PairLogProbs:
        """All replies of the pairs numbered `rows`."""
        return pair_log_probs(
            self.llm,
            self.prompts(rows),
            [self.chosen[i] for i in rows],
            [self.rejected[i] for i in rows],
            [None if self._is_true(i) else self.true[i] for i in rows],
        )

    def fraction(self, rows: Sequence[int], whole: Sequence[int]) -> BatchFraction:
        """What the pairs `rows` are of the pairs `whole`."""
        tokens = [sum(len(self.true[i]) for i in some) for some in (rows, whole)]
        return BatchFraction(len(rows) / len(whole), tokens[0] / tokens[1])

    def traits(self, rows: Sequence[int]) -> dict[str, float]:
        """Mean length and repetition of both replies: what may tell them apart beside emotion."""
        found = {}
        for name, replies in (("chosen", self.chosen), ("rejected", self.rejected)):
            kept = [replies[i].tolist() for i in rows]
            found[f"length_{name}"] = sum(map(len, kept)) / len(kept)
            found[f"repetition_{name}"] = mean_repetition(kept)
        return found


@torch.no_grad()
def check(pairs: Pairs, settings: EpoSettings) -> Check:
    """Loss and its parts over all pairs, as if they were one batch; and `row_margins`."""
    whole, order = _all_log_probs(pairs, settings.training.batch_size)
    loss, logs = _loss(whole, settings)
    return Check({"loss": loss.item(), **logs}, _margins(whole, order, settings.beta))


def _loss(
    pairs: PairLogProbs, settings: EpoSettings, fraction: BatchFraction = WHOLE
) -> tuple[Tensor, dict[str, float]]:
    weights = settings.autoregressive_weight, fraction, settings.preference_weight
    return total_loss(pairs, settings.beta, settings.gamma, *weights)


@torch.no_grad()
def row_margins(pairs: Pairs, settings: EpoSettings) -> list[float]:
    """Reward of the chosen reply less that of the rejected one, of each pair."""
    return _margins(*_all_log_probs(pairs, settings.training.batch_size), settings.beta)


def _margins(whole: PairLogProbs, order: list[int], beta: float) -> list[float]:
    found = dict(zip(order, (beta * (whole.chosen - whole.rejected)).tolist(), strict=True))
    return [found[i] for i in range(len(order))]


def _all_log_probs(pairs: Pairs, size: int) -> tuple[PairLogProbs, list[int]]:
    """Of all pairs, and which pair stands where."""
    batches = length_sorted_batches(pairs.lengths, size)

    def measure(rows: list[int]) -> list:
        found = pairs.log_probs(rows)
        return [found.chosen.tolist(), found.rejected.tolist(), found.true_token_mean.item()]

    parts = [PairLogProbs(*map(torch.tensor, part)) for part in Processes().dealt(batches, measure)]
    whole = joined(parts, [sum(len(pairs.true[i]) for i in rows) for rows in batches])
    return whole, [i for rows in batches for i in rows]


class Shuffled:
    """Held-out pairs with the replies of another exchange after their own prompt: the control.

    A margin that rises as much for these says how people write and how the LLM does, and nothing of this exchange's
    emotion. The other exchange is of another dialogue, as like in length as there is one.
    """

    def __init__(self, model: PreferenceModel, pairs: Pairs):
        self._own = pairs.pairs
        given = donors([p.example.group for p in pairs.pairs], [len(c) for c in pairs.chosen])
        shuffled = [
            PreferenceExample(
                replace(pair.example, reply=pairs.pairs[other].example.reply),
                pairs.pairs[other].counter_emotional,
                chosen=pairs.pairs[other].chosen,
            )
            for pair, other in zip(pairs.pairs, given, strict=True)
            if other is not None
        ]
        self._pairs = Pairs(model, shuffled) if shuffled else None

    def margins(self, settings: EpoSettings) -> list[float | None]:
        """`row_margins` by the own pairs; None where there is no other, or its replies do not fit the window."""
        if self._pairs is None:
            return [None] * len(self._own)
        keys = [pair.example.key for pair in self._pairs.pairs]
        found = dict(zip(keys, row_margins(self._pairs, settings), strict=True))
        return [found.get(pair.example.key) for pair in self._own]


def compared_pairs(
    margins: list[float], shuffled: list[float | None], settings: EpoSettings
) -> dict[str, list[float | None]]:
    """Of each pair its EPO loss ("epo"), whether it is ranked right ("right": 0 or 1), its reward margin ("margin"),
    and that of the shuffled pair ("shuffled")."""
    return {
        "epo": (-F.logsigmoid(torch.tensor(margins) - settings.gamma)).tolist(),
        "right": [float(margin > 0) for margin in margins],
        "margin": margins,
        "shuffled": shuffled,
    }


def length_accuracy(pairs: Pairs) -> float:
    """Share of pairs that the better of two rules, "the longer is true" and "the shorter is", ranks right.

    The paper's true replies are written by people and counter-emotional ones by the model: where length alone tells
    them apart, a high accuracy says little of emotion. A tie counts half.
    """
    lengths = [(len(c), len(r)) for c, r in zip(pairs.chosen, pairs.rejected, strict=True)]
    longer = sum((c > r) + 0.5 * (c == r) for c, r in lengths) / len(lengths)
    return max(longer, 1 - longer)


@torch.no_grad()
def sampled_replies(pairs: Pairs, settings: EpoSettings) -> list[str]:
    """Greedy replies to some of the held-out prompts. Loops are how a collapsed model sounds."""
    rows = evenly_apart(len(pairs.lengths), settings.sampled_replies)
    return [
        text
        for first in range(0, len(rows), REPLIES_AT_ONCE)
        for text in greedy_replies(
            pairs.llm,
            pairs.tokenizer,
            pairs.prompts(rows[first : first + REPLIES_AT_ONCE]),
            settings.sampled_tokens,
        )
    ]


def repetition_of(pairs: Pairs, replies: Sequence[str]) -> float:
    """`mean_repetition` of texts; 0 of none."""
    return mean_repetition([token_ids(pairs.tokenizer, text).tolist() for text in replies]) or 0.0


def mean_repetition(replies: Sequence[Sequence[int]]) -> float | None:
    """Share of a reply's token pairs that stood in it before, averaged; None without replies."""
    shares = []
    for ids in replies:
        bigrams = list(pairwise(ids))
        shares.append(1 - len(set(bigrams)) / len(bigrams) if bigrams else 0.0)
    return sum(shares) / len(shares) if shares else None
