"""Stage `compressor.test`: test conversations, restored by the LLM from their memories alone (table 8, figure 11).

Free-running: a token gone wrong takes the rest with it. Beside it the same from another conversation's memories, which
is what the LLM says by itself. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.compressor.reader import as_trained
from model.compressor.reconstruction import Reconstruction
from model.llm import greedy_replies
from model.metrics.bertscore import bert_score
from model.metrics.bootstrap import Interval, bootstrap, bootstrap_of
from model.metrics.donors import donors
from model.metrics.overlap import bleu, bleu_counts
from model.metrics.settings import BertScoreSettings, BootstrapSettings
from model.spoken import Spoken
from model.zoo.resolve import resolve
from storage.draws import draw_number
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReconstructionSettings
from tasks.stages.examples import read_dialogues, spoken
from tasks.stages.stand_in import DialogueKey, evaluated

EXAMPLES = 20
Conversation = tuple[DialogueKey, tuple[Spoken, ...]]


def restore_conversations(
    utterances: list[Ref],
    compressor: Ref,
    settings: ReconstructionSettings,
    dtype: str,
    scoring: BertScoreSettings,
    intervals: BootstrapSettings,
    llm: Weights,
    bertscore: Weights,
    work: Workspace,
    stand_ins: tuple[str, ...] = (),
) -> list[Ref]:
    """Output: reconstruction.json. "own", "other": BLEU-1, BLEU-4, BERTScore and the share restored exactly, from the
    own memories and from another conversation's. "left_out": conversations that are too long, or have no other."""
    every = conversations(work, utterances, stand_ins, settings.utterances)
    task, encoder = as_trained(resolve(llm.name), work.store.folder(compressor), dtype)
    short = [(key, said) for key, said in every if len(_target(task, said)) <= settings.max_tokens]
    ordered = sorted(short, key=lambda c: (draw_number(settings.seed, "reconstruction", *c[0]), c[0]))
    chosen = ordered[: settings.conversations]
    memories = encoder.compress([said for _, said in chosen])
    texts = ["\n".join(u.text for u in said) for _, said in chosen]
    sizes = [len(_target(task, said)) for _, said in chosen]
    given = donors([key for key, _ in chosen], sizes)
    facts: dict = {
        "conversations": len(chosen),
        "there": len(every),
        "left_out": {"longer than reconstruction.max_tokens": len(every) - len(short)},
        "utterances": sum(len(said) for _, said in chosen),
        "datasets": sorted({key[0] for key, _ in chosen}),
        "dev_stands_in": sorted({key[0] for key, _ in chosen if key[1] == "dev"}),
    }
    restored: dict[str, list[str]] = {}
    for kind, whose in (("own", list(range(len(chosen)))), ("other", given)):
        rows = [i for i, donor in enumerate(whose) if donor is not None]
        known = [memories[donor] for donor in whose if donor is not None]
        answers = _restored(task, known, [sizes[i] for i in rows], settings.batch_size)
        restored[kind] = answers
        dialogues = [chosen[i][0] for i in rows]
        facts[kind] = figures([texts[i] for i in rows], answers, dialogues, scoring, bertscore, intervals)
        work.progress(1 + (kind == "other"), 2, {})
    examples = zip(chosen, texts, restored["own"], strict=True)
    facts["examples"] = [
        {"dataset": key[0], "split": key[1], "dialogue_id": key[2], "original": text, "restored": again}
        for (key, _), text, again in list(examples)[:EXAMPLES]
    ]
    return [work.store.put_bytes("reconstruction.json", canonical(facts), rows=len(chosen))]


def conversations(
    work: Workspace, utterances: list[Ref], stand_ins: tuple[str, ...], size: int
) -> list[Conversation]:
    """The first `size` utterances of every test dialogue, as in figure 11; dev's that chose nothing where it stands in."""
    dialogues = read_dialogues(work.store, utterances, "test", "dev")
    may = evaluated((key for key in dialogues if key[1] == "dev"), stand_ins)
    return [(key, spoken(d)[:size]) for key, d in sorted(dialogues.items()) if key[1] == "test" or key in may]


def figures(
    texts: Sequence[str],
    restored: Sequence[str],
    dialogues: Sequence[DialogueKey],
    scoring: BertScoreSettings,
    bertscore: Weights,
    intervals: BootstrapSettings,
) -> dict:
    """Table 8's figures, and the share that is exact, each with "KEY_ci"; None of none."""
    f1 = bert_score(restored, texts, resolve(bertscore.name), scoring.num_layers, scoring.batch_size).f1
    exact = np.array([float(a.strip() == b.strip()) for a, b in zip(restored, texts, strict=True)])
    counts = bleu_counts(restored, texts)
    found: dict[str, Interval] = {
        "bleu_1": bootstrap_of(counts, dialogues, bleu(1), intervals),
        "bleu_4": bootstrap_of(counts, dialogues, bleu(4), intervals),
        "bertscore": bootstrap(f1, dialogues, intervals).interval,
        "exact": bootstrap(exact, dialogues, intervals).interval,
    }
    row: dict = {"n": len(texts)}
    for name, (mean, low, high) in found.items():
        row[name] = None if np.isnan(mean) else round(mean, 6)
        row[f"{name}_ci"] = None if np.isnan(low) else [round(max(-1.0, low), 6), round(min(1.0, high), 6)]
    return row


def _target(task: Reconstruction, said: Sequence[Spoken]) -> Tensor:
    return task.target([u.text for u in said])


@torch.no_grad()
def _restored(
    task: Reconstruction, memories: Sequence[Tensor], sizes: Sequence[int], batch_size: int
) -> list[str]:
    """What the LLM says of each, in order; those of like length together."""
    order = sorted(range(len(memories)), key=lambda i: (sizes[i], i))
    found: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        prompts = [task.prompt(memories[i], whole=True) for i in part]
        said = greedy_replies(task.llm, task.tokenizer, prompts, max(sizes[i] for i in part) + 4)
        found.update(zip(part, said, strict=True))
    return [found[i] for i in range(len(memories))]
