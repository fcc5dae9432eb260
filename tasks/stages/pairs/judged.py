"""Stages `pairs.judged` and `pairs.joined`: the pairs that people chose, and those beside the scored ones.

What people chose comes from outside: every row is held against the dialogues of this run's store, and what does not fit
goes to the rejects with its reason. Knows nothing of how people were asked, or of models.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from storage.answers import Pair
from storage.errors import InputError
from storage.filestat import content_digest
from storage.preferences import read_preferences
from storage.shards import pair_to_row, reject_to_row, row_to_pair
from storage.store import Ref, canonical
from storage.utterance import Reject
from tasks.engine.declaration import RawFiles
from tasks.engine.item import Workspace
from tasks.stages.examples import read_dialogues, tagged
from tasks.stages.shard_names import shard_name
from tasks.stages.shards import RowKey, read_rows, row_key, write_rejects, write_shard
from tasks.stages.stand_in import DialogueKey, choosing

MOST_CHARS = 10_000
"""Of a text that is judged."""
SHOWN_CHARS = 200
"""Of what the file calls a dataset, a split or a dialogue, in the rejects."""
NO_COSINE = math.nan
"""No scorer has seen the pair."""


@dataclass(frozen=True)
class Judged:
    """A row that fits the store. where: its file and place in it."""

    pair: Pair
    where: str


class Words(NamedTuple):
    """An exchange's key and texts."""

    key: RowKey
    sentence: str
    reply: str


@dataclass(frozen=True)
class Known:
    """What this run's store says of its dialogues.

    exchanges: by dataset, dialogue and turn, of every split: a split is a run's own choice. histories: the role-tagged
    lines before each utterance. may_train: the dialogues that EPO learns from or chooses its checkpoint by.
    """

    exchanges: dict[tuple[str, str, int], list[Words]]
    histories: dict[RowKey, list[str]]
    may_train: set[DialogueKey]


def judged_pairs(
    files: RawFiles,
    utterances: list[Ref],
    exchanges: list[Ref],
    stand_ins: tuple[str, ...],
    work: Workspace,
) -> list[Ref]:
    """Outputs: pairs/…, rejects/pairs.judged, judged.json (rows, pairs, how many prefer the true reply, rejects by reason).

    stand_ins: the datasets whose dev gives numbers in place of test. Raises InputError for a file that is none of
    people's pairs, or is not the one that was planned with.
    """
    known = _known(work, utterances, exchanges, stand_ins)
    fitting: list[Judged] = []
    rejects: list[dict] = []
    rows = 0
    for name, digest in sorted(files.files.items()):
        path = Path(files.folder) / name
        for number, row in enumerate(read_preferences(path), start=1):
            rows += 1
            where = f"{name} row {number}"
            found = _checked(row, known)
            if isinstance(found, Pair):
                fitting.append(Judged(found, where))
            else:
                rejects.append(_turned_away(row, *found, where))
        if content_digest(path) != digest:
            raise InputError(f"{path}: changed while the run began; run again")
    kept, clashing = _one_of_each(fitting)
    rejects += clashing
    summary = {
        "rows": rows,
        "pairs": len(kept),
        "by_split": dict(sorted(Counter(pair.split for pair in kept).items())),
        "by_dataset": dict(sorted(Counter(pair.dataset for pair in kept).items())),
        "true_reply": {
            "chosen": sum(pair.chosen == pair.reply for pair in kept),
            "rejected": sum(pair.rejected == pair.reply for pair in kept),
        },
        "rejects": dict(sorted(Counter(row["reason"] for row in rejects).items())),
    }
    return [
        *_shards(kept, work),
        write_rejects(work.store, "pairs.judged", rejects),
        work.store.put_bytes("judged.json", canonical(summary), rows=len(kept)),
    ]


def joined_pairs(judged: list[Ref], scored: list[Ref], work: Workspace) -> list[Ref]:
    """Both together; of an exchange that has both, people's. Outputs: pairs/…, joined.json (how many of each)."""
    people = {pair.key: pair for pair in map(row_to_pair, read_rows(work.store, judged, "pairs"))}
    others = [row_to_pair(row) for row in read_rows(work.store, scored, "pairs")]
    kept = [pair for pair in others if pair.key not in people]
    summary = {"judged": len(people), "scored": len(kept), "replaced": len(others) - len(kept)}
    return [
        *_shards([*people.values(), *kept], work),
        work.store.put_bytes("joined.json", canonical(summary), rows=len(people) + len(kept)),
    ]


def _shards(pairs: Iterable[Pair], work: Workspace) -> list[Ref]:
    by_split: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for pair in pairs:
        by_split[pair.dataset, pair.split].append(pair_to_row(pair))
    return [
        write_shard(work.store, "pairs", shard_name("pairs", dataset, split, 0), rows)
        for (dataset, split), rows in sorted(by_split.items())
    ]


# A row against the store --------------------------------------------------------------------------------


def _known(work: Workspace, utterances: list[Ref], exchanges: list[Ref], stand_ins: tuple[str, ...]) -> Known:
    histories: dict[RowKey, list[str]] = {}
    dialogues = read_dialogues(work.store, utterances)
    for dialogue in dialogues.values():
        lines = tagged(dialogue)
        histories |= {u.key: list(lines[:at]) for at, u in enumerate(dialogue)}
    of_dev = {key for key in dialogues if key[1] == "dev"}
    by_place: dict[tuple[str, str, int], list[Words]] = defaultdict(list)
    for row in read_rows(work.store, exchanges, "exchanges"):
        said = Words(row_key(row), row["sentence"], row["reply"])
        by_place[row["dataset"], row["dialogue_id"], row["turn"]].append(said)
    may_train = {key for key in dialogues if key[1] == "train"} | choosing(of_dev, stand_ins)
    return Known(by_place, histories, may_train)


def _checked(row: dict, known: Known) -> Pair | tuple[str, str]:
    """The row as a pair of this run, or why it is none: a reason, and what there is to say of it."""
    if (fault := _malformed(row)) is not None:
        return "malformed", fault
    if row["cosine"] is not None or row["scorer"] is not None:
        return "chosen_by_a_scorer", "no person's choice: it has a cosine or a scorer"
    sentence, chosen, rejected = (row[name][0]["content"] for name in ("prompt", "chosen", "rejected"))
    exchange = _exchange(row, sentence, known)
    if exchange is None:
        return "unknown_utterance", "no exchange of this run begins there"
    if exchange.key[:3] not in known.may_train:
        return (
            "evaluated",
            f"its dialogue is in this run's {exchange.key[1]} and gives numbers: EPO may not learn from it",
        )
    for name, here, there in (
        ("sentence", sentence, exchange.sentence),
        ("reply", row["reply"], exchange.reply),
        ("history", row["history"], known.histories[exchange.key]),
    ):
        if here != there:
            return f"other_{name}", f"the store's {name} is another"
    if chosen == rejected:
        return "same_reply", "chosen and rejected are the same text"
    return Pair(*exchange.key, sentence, exchange.reply, chosen, rejected, None, NO_COSINE)


def _exchange(row: dict, sentence: str, known: Known) -> Words | None:
    """The exchange of the row's key; or that of another split where the same was said, for it is a run that splits."""
    found = known.exchanges.get((row["dataset"], row["dialogue_id"], row["turn"]), [])
    same = [one for one in found if one.key[1] == row["split"]]
    moved = [one for one in found if one[1:] == (sentence, row["reply"])]
    return next(iter(same + moved), None)


def _malformed(row: dict) -> str | None:
    """What is wrong with the row by itself; None where it can be read."""
    for name in ("dataset", "split", "dialogue_id", "reply"):
        if not row[name]:
            return f"{name} is empty"
    if row["turn"] is None:
        return "turn is empty"
    for name, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant")):
        messages = row[name] or []
        if len(messages) != 1 or messages[0] is None or messages[0]["role"] != role:
            return f"{name} is not one message of the {role}"
        if not (messages[0]["content"] or "").strip():
            return f"{name} is empty"
        if len(messages[0]["content"]) > MOST_CHARS:
            return f"{name} is longer than {MOST_CHARS:,} characters"
    if row["history"] is None or None in row["history"]:
        return "history is empty"
    return None


# Rows beside one another --------------------------------------------------------------------------------


def _one_of_each(fitting: Sequence[Judged]) -> tuple[list[Pair], list[dict]]:
    """(one pair of each exchange, the rejects). Where rows prefer each other's rejected reply none of them is taken;
    of others of one exchange the first."""
    by_exchange: dict[RowKey, list[Judged]] = defaultdict(list)
    for one in fitting:
        by_exchange[one.pair.key].append(one)
    kept, rejects = [], []
    for key, rows in sorted(by_exchange.items()):
        place = dict(zip(("dataset", "split", "dialogue_id", "turn"), key, strict=True))
        if {one.pair.chosen for one in rows} & {one.pair.rejected for one in rows}:
            why = f"a reply is chosen in one of {len(rows)} rows and rejected in another"
            rejects += [_turned_away(place, "contradictory", why, one.where) for one in rows]
            continue
        first, *others = rows
        kept.append(first.pair)
        for one in others:
            twice = (one.pair.chosen, one.pair.rejected) == (first.pair.chosen, first.pair.rejected)
            reason = "duplicate" if twice else "second_of_its_exchange"
            rejects.append(_turned_away(place, reason, f"{first.where} is taken", one.where))
    return kept, rejects


def _turned_away(row: dict, reason: str, detail: str, where: str) -> dict:
    dataset, split, dialogue = (
        (row[name] or "")[:SHOWN_CHARS] for name in ("dataset", "split", "dialogue_id")
    )
    found = Reject(dataset, split, dialogue, row["turn"], reason, f"{where}: {detail}")
    return reject_to_row(found, "pairs.judged")
