"""What a compressor's memories are worth on held-out rows: beside none, beside another dialogue's, and read back freely.

Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.compressor.compressor import MambaCompressor
from model.compressor.reconstruction import Reconstruction
from model.compressor.rows import Row, memories_of
from model.compressor.settings import CompressorSettings
from model.llm import greedy_replies
from model.metrics.compared import compared_rows
from model.metrics.donors import donors
from model.processes import Processes
from model.training_run import Check

RowSums = tuple[float, int, int]
"""Nats, tokens that are likeliest, tokens: of one row."""


def measured(
    compressor: MambaCompressor,
    task: Reconstruction,
    rows: list[Row],
    before: dict[str, float],
    after: dict[str, float],
    first: list[float] | None,
    limits: CompressorSettings,
    batch: int,
) -> dict:
    """What `after` is worth: beside no memory, another dialogue's memory, and reconstructions in free running.

    first: each row's loss before training; None where there was none.
    """
    without = figures(compressor, task, rows, batch, memories="none")
    own = row_losses(compressor, task, rows, batch)
    given = row_losses(compressor, task, rows, batch, memories="other")
    known = [(loss, len(row.target)) for loss, row in zip(given, rows, strict=True) if loss is not None]
    other = {"loss": sum(loss * n for loss, n in known) / sum(n for _, n in known)} if known else None
    return {
        "heldout_rows": len(rows),
        "heldout_tokens": sum(len(row.target) for row in rows),
        "heldout_before": before,
        "heldout_after": after,
        "heldout_no_memory": without,
        "heldout_other_memory": other,
        "nats_recovered": without["loss"] - after["loss"],
        "compared": compared_rows(
            [row.dialogue for row in rows],
            before=own if first is None else first,
            after=own,
            other_memory=given,
        ),
        "free_running": free_running(compressor, task, _short(rows, limits)),
    }


def figures(
    compressor: MambaCompressor,
    task: Reconstruction,
    rows: Sequence[Row],
    batch_size: int,
    memories: str = "own",
) -> dict[str, float]:
    """Nats per token ("loss") and teacher-forced token accuracy over `rows`.

    memories: "own"; "none", the memory line left out of the prompt; "other", each row given those of a row of another
    dialogue, which separates what a memory says of its utterance from what any memory says of the task. Rows without
    such another are left out.
    """
    return _together(_row_sums(compressor, task, rows, batch_size, memories))


def row_losses(
    compressor: MambaCompressor,
    task: Reconstruction,
    rows: Sequence[Row],
    batch_size: int,
    memories: str = "own",
) -> list[float | None]:
    """Nats per token of each row, as `figures`; None where there is no other dialogue."""
    return _each(_row_sums(compressor, task, rows, batch_size, memories))


def heldout_check(
    compressor: MambaCompressor, task: Reconstruction, rows: Sequence[Row], batch_size: int
) -> Check:
    """`figures` and `row_losses` of one pass over `rows`."""
    sums = _row_sums(compressor, task, rows, batch_size, "own")
    return Check(_together(sums), _each(sums))


def _together(sums: Sequence[RowSums | None]) -> dict[str, float]:
    """Nats per token and accuracy of all rows."""
    nats, hits, tokens = (sum(part) for part in zip(*(row for row in sums if row is not None), strict=True))
    return {"loss": nats / tokens, "accuracy": hits / tokens}


def _each(sums: Sequence[RowSums | None]) -> list[float | None]:
    """Nats per token of each row."""
    return [None if row is None else row[0] / row[2] for row in sums]


@torch.no_grad()
def _row_sums(
    compressor: MambaCompressor, task: Reconstruction, rows: Sequence[Row], batch_size: int, memories: str
) -> list[RowSums | None]:
    """Of each row; None where there is no other dialogue."""
    sources: list[Row | None] = list(rows)
    if memories == "other":
        sizes = [sum(compressor.counts_of(row.sources)) for row in rows]
        given = donors([row.dialogue for row in rows], sizes)
        sources = [None if other is None else rows[other] for other in given]
    order = sorted(
        (i for i, source in enumerate(sources) if source is not None), key=lambda i: (len(rows[i].target), i)
    )

    def measure(batch: list[int]) -> list[RowSums]:
        targets = [rows[i].target for i in batch]
        if memories == "none":
            log_probs, right = task.without_memory(targets)
        else:
            log_probs, right = task.log_probs(memories_of(compressor, [sources[i] for i in batch]), targets)
        sizes = [len(target) for target in targets]
        parts = zip(log_probs.double().split(sizes), right.split(sizes), sizes, strict=True)
        return [(-nats.sum().item(), int(hits.sum()), size) for nats, hits, size in parts]

    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found: list[RowSums | None] = [None] * len(rows)
    for batch, sums in zip(batches, Processes().dealt(batches, measure), strict=True):
        for i, row in zip(batch, sums, strict=True):
            found[i] = row
    return found


def free_running(compressor: MambaCompressor, task: Reconstruction, rows: Sequence[Row]) -> dict:
    """Greedy reconstructions of `rows`: the share that is exact, and the texts side by side.

    Teacher-forced figures flatter: a first token gone wrong takes the rest with it.
    """
    if not rows:
        return {"rows": 0, "exact": None, "examples": []}
    with torch.no_grad():
        prompts = [task.prompt(m, whole=True) for m in memories_of(compressor, rows)]
    longest = max(len(row.target) for row in rows)
    texts = greedy_replies(task.llm, task.tokenizer, prompts, longest + 4)
    wanted = [row.text for row in rows]
    examples = [{"original": w, "reconstructed": t} for w, t in zip(wanted, texts, strict=True)]
    exact = sum(w.strip() == t.strip() for w, t in zip(wanted, texts, strict=True))
    return {"rows": len(rows), "exact": exact / len(rows), "examples": examples}


def _short(rows: Sequence[Row], limits: CompressorSettings) -> list[Row]:
    """The first rows short enough to be generated; long dialogues take minutes on a CPU."""
    return [row for row in rows if len(row.target) <= limits.free_running_tokens][: limits.free_running_rows]
