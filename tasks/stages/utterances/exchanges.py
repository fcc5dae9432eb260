"""Stage `utterances.exchanges`: utterance shards -> exchange shards, and which of them candidates are written for.

Knows nothing of raw data or of models.
"""

from __future__ import annotations

from collections import Counter

from model.candidates.settings import CandidateSettings
from storage.exchanges import Exchange, cut_exchanges
from storage.shards import exchange_to_row, row_to_utterance
from storage.store import Ref, canonical
from tasks.engine.item import Workspace
from tasks.stages.selection import spread
from tasks.stages.shard_names import of_table, place, shard_name
from tasks.stages.shards import dialogue_keys, read_rows, write_shard
from tasks.stages.stand_in import DialogueKey, choosing, stand_ins

TRAIN_SAMPLE = 500
"""Replies of train among which the most central one is looked for."""


def write_exchanges(utterances: list[Ref], candidates: CandidateSettings, work: Workspace) -> list[Ref]:
    """Outputs: exchanges/… beside each utterance shard; exchanges.json with what fell out and was selected; and
    train_replies.json, the commonest reply of train and a sample of them, which the metrics set beside every system."""
    cut: dict[str, list[Exchange]] = {}
    dialogues: set[DialogueKey] = set()
    fallen: dict[str, Counter] = {}
    read = of_table(utterances, "utterances")
    work.progress(0, len(read), {})
    for number, ref in enumerate(read):
        rows = read_rows(work.store, [ref], "utterances")
        dialogues |= dialogue_keys(rows)
        exchanges, reasons = cut_exchanges(row_to_utterance(row) for row in rows)
        cut[ref.name] = exchanges
        fallen.setdefault("/".join(place(ref)), Counter()).update(reasons)
        work.progress(number + 1, len(read), {})
    chosen: set[tuple] = set()
    # Dev's pairs choose EPO's checkpoint, so none is of a dialogue that replies are evaluated on.
    may = choosing(dialogues, stand_ins(of_table(utterances, "utterances")))
    for split, count in selected_counts(candidates).items():
        of_split = [e for es in cut.values() for e in es if e.split == split and e.key[:3] in may]
        chosen |= {e.key for e in spread(of_split, count, candidates.seed, "candidates.exchanges")}
    shards, selected = [], {}
    for name, exchanges in cut.items():
        _, dataset, split, bucket = name.split("/")
        shard = shard_name("exchanges", dataset, split, int(bucket))
        rows = [exchange_to_row(e, e.key in chosen) for e in exchanges]
        selected[shard] = sum(row["selected"] for row in rows)
        shards.append(write_shard(work.store, "exchanges", shard, rows))
    counts = {split: dict(sorted(reasons.items())) for split, reasons in sorted(fallen.items())}
    summary = canonical({"selected": selected, "fallen_out": counts})
    of_train = [e for es in cut.values() for e in es if e.split == "train"]
    sample = [e.reply for e in spread(of_train, TRAIN_SAMPLE, 0, "exchanges.train_replies")]
    common = canonical({"reply": commonest_reply([e.reply for e in of_train]), "sample": sorted(sample)})
    return [
        *shards,
        work.store.put_bytes("exchanges.json", summary),
        work.store.put_bytes("train_replies.json", common),
    ]


def commonest_reply(replies: list[str]) -> str | None:
    """The reply that is said most often, of equals the first by its letters; None of none."""
    counted = Counter(replies)
    return min(counted, key=lambda reply: (-counted[reply], reply), default=None)


def selected_counts(candidates: CandidateSettings) -> dict[str, int | None]:
    """Split -> how many of its exchanges candidates are written for; None: all of them, as in the paper."""
    if candidates.budget is None:
        return {"train": None, "dev": None}
    # One in eight goes to the held-out pairs that EPO's checkpoint is chosen on.
    total = max(2, candidates.budget // candidates.per_exchange)
    dev = max(1, total // 8)
    return {"train": total - dev, "dev": dev}
