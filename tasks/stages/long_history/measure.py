"""Stage `long-history`: what a long history costs as text and as memories, and what is answered (section 5.5, table 3).

Exchanges whose history has twenty turns or more. Their prompts are processed one by one and nothing is generated:
input size, and, where that is asked for, memory and time with the compressor's own in them. Replies and their BERTScore
are of a run of their own, as the paper has it. Knows nothing of the report.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from statistics import fmean

from model.dialogue.dialogue import DialogueModel, HistoryForm, load_dialogue, prompt_tokens
from model.dialogue.examples import DialogueExample
from model.dialogue.prompt_cost import prompt_cost
from model.dialogue.settings import DialogueSettings
from model.metrics.bertscore import bert_score
from model.metrics.bootstrap import mean_figures
from model.metrics.settings import BertScoreSettings, BootstrapSettings
from model.metrics.verdict import verdict
from model.zoo.resolve import resolve
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import LongHistorySettings
from tasks.stages.evaluation import evaluation_exchanges
from tasks.stages.examples import dialogue_examples, key_text
from tasks.stages.floors import ALWAYS_OKAY, ANOTHERS, OKAY, replies_of_others
from tasks.stages.selection import spread

FORMS: tuple[HistoryForm, ...] = ("text", "memory")


def measure_long_histories(
    utterances: list[Ref],
    exchanges: list[Ref],
    text_adapter: Ref,
    memory_adapter: Ref,
    compressor: Ref | None,
    dialogue: DialogueSettings,
    settings: LongHistorySettings,
    max_new_tokens: int,
    scoring: BertScoreSettings,
    intervals: BootstrapSettings,
    llm: Weights,
    bertscore: Weights,
    work: Workspace,
) -> list[Ref]:
    """Output: long_history.json.

    "forms": of the history as text and as memories: tokens, seconds, gigabytes, BERTScore, each with its interval, and
    how many utterances did not fit. "changes": of each figure memories less text, paired. "floors": BERTScore of systems
    that read nothing, each with its "n". Which exchanges: how many of
    how many, of which datasets, and whether those stand in for the one that was asked for.
    """
    examples, chosen_of = long_examples(utterances, exchanges, settings, work)
    adapters = {"text": text_adapter, "memory": memory_adapter}
    measured: dict[str, dict[str, list[float]]] = {}
    facts: dict[str, dict] = {}
    for done, form in enumerate(FORMS if examples else ()):
        model = load_dialogue(
            resolve(llm.name),
            adapter=work.store.folder(adapters[form]),
            compressor=None if form == "text" or compressor is None else work.store.folder(compressor),
            extractor=None,
            history=form,
            settings=dialogue,
            dtype=dialogue.training.dtype,
        )
        measured[form], facts[form] = form_figures(model, examples, settings.measure_cost, max_new_tokens)
        del model
        gc.collect()
        work.progress(done + 1, len(FORMS), {})
    references = [example.reply for example in examples]
    for of_form, figures in measured.items():
        replies = facts[of_form].pop("replies")
        figures["bertscore"] = _f1(replies, references, scoring, bertscore)
    dialogues = [example.dialogue for example in examples]
    found = {
        **chosen_of,
        "exchanges": len(examples),
        "dialogues": len(set(dialogues)),
        "least_turns": settings.least_turns,
        "measured_cost": settings.measure_cost,
        "most_utterances": dialogue.max_history_utterances,
        "most_tokens": dialogue.max_history_tokens,
        "forms": {
            form: {**facts[form], **mean_figures(of, dialogues, intervals)} for form, of in measured.items()
        },
        "changes": changes(measured, dialogues, intervals) if measured else {},
        "floors": floors(
            references, dialogues, lambda said, true: _f1(said, true, scoring, bertscore), intervals
        ),
    }
    return [work.store.put_bytes("long_history.json", canonical(found), rows=len(examples))]


def long_examples(
    utterances: list[Ref], exchanges: list[Ref], settings: LongHistorySettings, work: Workspace
) -> tuple[list[DialogueExample], dict]:
    """The exchanges with so long a history, by key, and which they are: of the dataset that is asked for, or of every
    one where it has none."""
    unseen = {key_text(e.key): e for e in evaluation_exchanges(work.store, utterances, exchanges)}
    whole = dialogue_examples(work.store, utterances, exchanges, [], "test", "dev")
    long = [e for e in whole if e.key in unseen and len(e.history) >= settings.least_turns]
    asked = [e for e in long if settings.dataset in (None, unseen[e.key].dataset)]
    there = asked or long
    chosen = spread(
        [unseen[e.key] for e in there], settings.exchanges, settings.seed, "long_history.exchanges"
    )
    wanted = {key_text(exchange.key) for exchange in chosen}
    return [e for e in there if e.key in wanted], {
        "there": len(there),
        "datasets": sorted({f"{exchange.dataset}/{exchange.split}" for exchange in chosen}),
        "stands_in": bool(chosen) and not asked,
    }


def form_figures(
    model: DialogueModel, examples: list[DialogueExample], cost: bool, max_new_tokens: int
) -> tuple[dict[str, list[float]], dict]:
    """Figures of each exchange; and what is of the form as a whole, with its replies. Prompts are held a batch at a time."""
    figures: dict[str, list[float]] = {"tokens": []}
    whole: dict = {"gigabytes": None, "memory_of": None, "replies": []}
    if cost:
        spent = prompt_cost(model, examples)
        figures["seconds"] = list(spent.seconds)
        whole |= {"gigabytes": round(spent.gigabytes, 4), "memory_of": spent.memory_of}
    before, batch = model.counts["dropped_utterances"], model.settings.reply_batch_size
    for start in range(0, len(examples), batch):
        prompts = model.pieces(examples[start : start + batch], reply=max_new_tokens)
        figures["tokens"] += [float(prompt_tokens(prompt)) for prompt in prompts]
        whole["replies"] += model.reply_to(prompts, max_new_tokens)
    return figures, {**whole, "dropped_utterances": model.counts["dropped_utterances"] - before}


def floors(
    references: Sequence[str],
    dialogues: Sequence[str],
    scored: Callable[[Sequence[str], Sequence[str]], list[float]],
    intervals: BootstrapSettings,
) -> list[dict]:
    """{"title", "n", "dialogues", "bertscore", "bertscore_ci"} of each system that read nothing and answered any.

    scored: replies and true ones -> a figure of each.
    """
    found = []
    for title, said in (
        (ALWAYS_OKAY, [OKAY] * len(references)),
        (ANOTHERS, replies_of_others(references, dialogues)),
    ):
        rows = [
            (text, true, of)
            for text, true, of in zip(said, references, dialogues, strict=True)
            if text is not None
        ]
        if rows:
            texts, trues, whose = (list(side) for side in zip(*rows, strict=True))
            figures = mean_figures({"bertscore": scored(texts, trues)}, whose, intervals)
            found.append({"title": title, "n": len(rows), "dialogues": len(set(whose)), **figures})
    return found


def _f1(
    replies: Sequence[str], references: Sequence[str], scoring: BertScoreSettings, bertscore: Weights
) -> list[float]:
    """BERTScore of each reply."""
    folder = resolve(bertscore.name)
    f1 = bert_score(replies, references, folder, scoring.num_layers, scoring.batch_size).f1
    return [float(value) for value in f1]


def changes(
    measured: dict[str, dict[str, list[float]]], dialogues: list[str], intervals: BootstrapSettings
) -> dict[str, dict]:
    """Of each figure that both have, memories less text: a verdict, and "share", the means' change over text's."""
    text, memory = measured["text"], measured["memory"]
    found = {}
    for name in (name for name in text if name in memory):
        differences = [m - t for m, t in zip(memory[name], text[name], strict=True)]
        before = fmean(text[name])
        share = round(fmean(memory[name]) / before - 1, 6) if before else None
        found[name] = {**verdict(differences, dialogues, intervals).as_dict(), "share": share}
    return found
