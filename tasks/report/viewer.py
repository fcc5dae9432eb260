"""The samples that the page's viewer shows: a sentence and what came before it, every system's reply, and its figures.

Which ones are shown depends on the seed and the keys alone. Knows nothing of HTML or scripts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from storage.answers import Reply
from storage.shards import row_to_reply
from storage.store import Store
from tasks.report.counts import Artefacts, read_named, tables_of
from tasks.report.samples import drawn, histories, keys_of, rows_of
from tasks.stages.shards import RowKey

MOST = 2000
"""Exchanges in the page: with ten systems and replies of a sentence these are some 4 MB."""
BYTES = 5_000_000
"""Of the samples as they stand in the page, whatever their texts are; a page of 10,000 exchanges is to stay below 10 MB."""
CHARACTERS = 1000
"""Of a text; what is longer is cut."""
LINES = 6
"""Utterances before the sentence that are shown."""
FIGURES = ("emotioncontrast_second", "emotionscore_second", "bertscore")
"""By which two systems' replies to an exchange can be told apart."""


def viewer_samples(artefacts: Artefacts, store: Store) -> dict | None:
    """{"exchanges": how many there are, "systems", "figures", "rows", "cut": how many of their texts are not whole}; None
    where nobody answered.

    Of MOST exchanges, drawn by seed, those that fit into BYTES. A row: {"dataset", "place", "history": [[speaker, text]], "speaker", "sentence", "reference", "emotion", "replies": {system:
    text}, "figures": {system: [value or None]}}, in the order of FIGURES.
    """
    shards = [*tables_of(artefacts, "replies"), *tables_of(artefacts, "systems")]
    keys = keys_of(shards, "replies", store)
    if not keys:
        return None
    chosen = drawn(keys, "viewer", MOST)
    replies: dict[RowKey, list[Reply]] = {key: [] for key in chosen}
    for row in rows_of(shards, "replies", set(chosen), store):
        reply = row_to_reply(row)
        replies[reply.key].append(reply)
    before = histories(artefacts, set(chosen), LINES, store)
    figures = _figures(artefacts, store)
    rows, cut = _fitting(_row(replies[key], before.get(key, []), figures.get(key, {})) for key in chosen)
    systems = sorted({name for row in rows for name in row["replies"]})
    return {"exchanges": len(keys), "systems": systems, "figures": list(FIGURES), "rows": rows, "cut": cut}


def as_script(samples: dict) -> str:
    """The samples as JSON that may stand in a script element, whatever the texts hold."""
    text = json.dumps(samples, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _fitting(rows: Iterable[dict]) -> tuple[list[dict], int]:
    """The rows, their texts cut, up to the first that does not fit into BYTES; and how many texts were cut."""
    fitting, cut, room = [], 0, BYTES
    for row in rows:
        shown, here = _cut(row)
        room -= len(as_script(shown).encode()) + 1
        if room < 0:
            break
        fitting.append(shown)
        cut += here
    return fitting, cut


def _cut(row: dict) -> tuple[dict, int]:
    """The row with texts of CHARACTERS at most, and how many were longer."""
    shown = {
        **row,
        "history": [(speaker, _short(text)) for speaker, text in row["history"]],
        "sentence": _short(row["sentence"]),
        "reference": _short(row["reference"]),
        "replies": {name: _short(text) for name, text in row["replies"].items()},
    }
    texts = (
        row["sentence"],
        row["reference"],
        *row["replies"].values(),
        *(text for _, text in row["history"]),
    )
    return shown, sum(len(text) > CHARACTERS for text in texts)


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"


def _row(said: list[Reply], before: list[tuple[str, str]], figures: dict[str, list]) -> dict:
    first = said[0]
    *history, (speaker, _) = before or [("", first.sentence)]
    return {
        "dataset": first.dataset,
        "place": f"{first.dialogue_id}, turn {first.turn}",
        "history": history,
        "speaker": speaker,
        "sentence": first.sentence,
        "reference": first.reference,
        "emotion": first.reference_emotion,
        "replies": {reply.rung: reply.reply for reply in said},
        "figures": {reply.rung: figures[reply.rung] for reply in said if reply.rung in figures},
    }


def _figures(artefacts: Artefacts, store: Store) -> dict[RowKey, dict[str, list]]:
    """Exchange -> system -> FIGURES, from the metrics reply by reply."""
    found = read_named(artefacts, "metrics", "by_reply.json", store)
    if found is None:
        return {}
    each: dict[RowKey, dict[str, list]] = {}
    for at, (*key, _) in enumerate(found["exchanges"]):
        each[tuple(key)] = {
            name: [None if (values := of.get(figure)) is None else values[at] for figure in FIGURES]
            for name, of in found["figures"].items()
        }
    return each
