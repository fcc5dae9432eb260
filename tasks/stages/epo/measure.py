"""Stage `epo.test`: what EPO and its controls made likelier among samples of the LLM from before them.

The samples are drawn and scored once; each training then costs one forward pass over them, and a difference is told
with far fewer exchanges than greedy replies take. Knows nothing of how trainings work.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from model.dialogue.dialogue import load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.likelihood import ReplyNats, reply_nats
from model.dialogue.sampling import DialogueSampler, sample_of
from model.dialogue.settings import DialogueSettings
from model.generation.settings import Sampling
from model.metrics.moved import Sampled, moved, moved_by_dataset, sizes, worths
from model.metrics.settings import BootstrapSettings
from model.scorer.scorer import EmotionScorer
from model.scorer.settings import ScorerSettings
from model.zoo.resolve import resolve
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import EpoTestSettings
from tasks.stages.evaluation import evaluation_exchanges
from tasks.stages.examples import dialogue_examples, key_text
from tasks.stages.selection import spread

TRAINED = "epo"
"""Of the trainings the one whose controls the others are."""


class Folders(NamedTuple):
    """What all of the models are made of, beside their adapters."""

    llm: Path
    compressor: Path | None
    extractor: Path | None


def measure_epo(
    utterances: list[Ref],
    exchanges: list[Ref],
    features: list[Ref],
    before: Ref,
    after: Mapping[str, Ref],
    compressor: Ref | None,
    extractor: Ref | None,
    dialogue: DialogueSettings,
    settings: EpoTestSettings,
    scoring: ScorerSettings,
    intervals: BootstrapSettings,
    llm: Weights,
    scorer: Weights,
    work: Workspace,
) -> list[Ref]:
    """Output: epo_test.json: `moved`'s figures, also by dataset, and how many exchanges, samples, and left out, by reason.

    before: the adapter that all went on from; after: each training's, EPO's own by the name TRAINED.
    """
    unseen = evaluation_exchanges(work.store, utterances, exchanges)
    wanted = {
        key_text(e.key) for e in spread(unseen, settings.exchanges, settings.seed, "epo_test.exchanges")
    }
    found = dialogue_examples(work.store, utterances, exchanges, features, "test", "dev")
    examples = [e for e in found if e.key in wanted]
    drawn = len(examples) * settings.samples
    steps = drawn * (len(after) + 2)  # a sample is written once, and read before and after each training

    def on_sample(written: int) -> None:
        work.progress(written, steps, {})

    folders = Folders(resolve(llm.name), work.folder(compressor), work.folder(extractor))
    said = _samples(examples, work.store.folder(before), folders, dialogue, settings, on_sample)

    def nats(adapter: Ref) -> list[list[ReplyNats | None]]:
        model = load_dialogue(
            folders.llm,
            adapter=work.store.folder(adapter),
            compressor=folders.compressor,
            extractor=folders.extractor,
            history="memory",
            settings=dialogue,
            dtype=dialogue.training.dtype,
        )
        scored = reply_nats(model, examples, said, settings.batch_size)
        del model
        gc.collect()
        return scored

    nats_before = nats(before)
    work.progress(2 * drawn, steps, {})
    nats_after: dict[str, list[list[ReplyNats | None]]] = {}
    for name, adapter in after.items():
        nats_after[name] = nats(adapter)
        work.progress((2 + len(nats_after)) * drawn, steps, {})
    facts = _figures(
        examples, said, nats_before, nats_after, EmotionScorer.load(scorer.name, scoring), intervals
    )
    return [
        work.store.put_bytes(
            "epo_test.json",
            canonical({**facts, "drawn": drawn, "samples_each": settings.samples}),
            rows=len(examples),
        )
    ]


def _samples(
    examples: Sequence[DialogueExample],
    adapter: Path,
    folders: Folders,
    dialogue: DialogueSettings,
    settings: EpoTestSettings,
    on_sample: Callable[[int], None],
) -> list[list[str]]:
    """Of each example the samples that ended by themselves, in the order in which they were drawn.

    on_sample: told how many are written.
    """
    sampling = Sampling(
        temperature=1.0, top_p=1.0, max_new_tokens=settings.max_new_tokens, seed=settings.seed
    )
    draws = [
        sample_of(example, number, sampling) for example in examples for number in range(settings.samples)
    ]
    sampler = DialogueSampler(
        folders.llm,
        adapter,
        folders.compressor,
        folders.extractor,
        "memory",
        dialogue.training.dtype,
        dialogue,
    )
    ended = {}
    for written, row in enumerate(sampler.sample(draws, sampling, settings.batch_size), start=1):
        on_sample(written)
        if row.finish_reason == "stop" and row.text.strip():
            ended[row.key] = row.text
    return [
        [ended[key] for number in range(settings.samples) if (key := f"{example.key}#{number}") in ended]
        for example in examples
    ]


def _figures(
    examples: Sequence[DialogueExample],
    said: Sequence[Sequence[str]],
    before: Sequence[Sequence[ReplyNats | None]],
    after: Mapping[str, Sequence[Sequence[ReplyNats | None]]],
    scorer: EmotionScorer,
    intervals: BootstrapSettings,
) -> dict:
    """Over the exchanges with two samples or more, and of each dataset alone; which of an exchange's samples have nats
    depends on its prompt alone."""
    kept = [i for i, row in enumerate(before) if sum(nats is not None for nats in row) > 1]
    datasets = [example.key.split("/")[0] for example in examples]
    each = worths(
        [said[i] for i in kept],
        [examples[i].reply for i in kept],
        [datasets[i] for i in kept],
        scorer,
    )
    sampled: list[Sampled] = []
    nats_after: dict[str, list[list[float]]] = {name: [] for name in after}
    for i, worth in zip(kept, each, strict=True):
        known = [(at, nats) for at, nats in enumerate(before[i]) if nats is not None]
        sampled.append(
            Sampled(
                datasets[i],
                examples[i].group,
                [nats.nats for _, nats in known],
                [nats.tokens for _, nats in known],
                {name: [float(values[at]) for at, _ in known] for name, values in worth.items()},
            )
        )
        for name, rows in after.items():
            found = [rows[i][at] for at, _ in known]
            nats_after[name].append([math.nan if nats is None else nats.nats for nats in found])
    return {
        **moved(sampled, nats_after, TRAINED, intervals),
        "by_dataset": moved_by_dataset(sampled, nats_after, TRAINED, intervals),
        **sizes(sampled),
        "left_out": {"exchanges": len(examples) - len(kept)},
    }
