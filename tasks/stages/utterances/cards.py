"""Data cards: what was read of a dataset, what was not and why, and how that compares with what is published.

Knows nothing of formats, of Prefect or of HTML: a card is plain JSON, and `card_tables` puts it into tables that
both the markdown artifact and the report print.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from storage.readers.common import Dialogues
from storage.readers.dataset import Dataset
from storage.readers.published import Published
from storage.readers.registry import dataset_named
from storage.settings import DataSettings
from storage.store import Ref, Store
from storage.utterance import EMOTIONS, SPLITS, Reject, Utterance
from tasks.stages.shard_names import of_table, place

SHORT_S, LONG_S = 0.3, 30.0
"""Stated lengths below and above which a clip is likely cut wrongly."""
SYNTHETIC = "the bundled sample is not the corpus of this name"
SUBSET = "only a subset was read (data.dialogues)"
NONE_MEDIA = "no clip was found"


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: list[tuple]


def make_card(dataset: str, read: Dialogues, settings: DataSettings, synthetic: bool) -> dict:
    """The card of one dataset as it was read, for JSON."""
    known = dataset_named(dataset)
    splits = {
        split: split_facts(known, [u for u in read.utterances if u.split == split])
        for split in SPLITS
        if any(u.split == split for u in read.utterances)
    }
    reason = SYNTHETIC if synthetic else SUBSET if settings.dialogues is not None else ""
    return {
        "title": known.title,
        "splits": splits,
        "rows": read.rows,
        "rejects": len(read.rejects),
        "turned_away": by_reason(read.rejects),
        "defects": by_reason(read.defects),
        "published": [] if reason else compare_published(known.published, splits),
        "not_compared": reason,
        "notes": list(read.notes),
        "synthetic": synthetic,
    }


def split_facts(dataset: Dataset, utterances: list[Utterance]) -> dict:
    """Counts of one split. Single clips are no dialogues."""
    clips = dataset.single_clips
    turns = Counter(u.dialogue_id for u in utterances)
    stated = sorted(u.seconds for u in utterances if u.seconds is not None)
    return {
        "utterances": len(utterances),
        "dialogues": 0 if clips else len(turns),
        "speakers": len({u.speaker for u in utterances}),
        "with_media": sum(u.media_digest is not None for u in utterances),
        "with_audio": sum(u.audio_path is not None for u in utterances),
        "with_video": sum(u.video_path is not None for u in utterances),
        "emotions": dict(sorted(Counter(u.emotion or "none" for u in utterances).items())),
        "labels": dict(sorted(Counter(u.emotion_raw or "none" for u in utterances).items())),
        "turns": None if clips else turn_facts(turns.values()),
        "seconds": length_facts(stated),
    }


def turn_facts(turns: Iterable[int]) -> dict:
    turns = list(turns)
    mean = round(statistics.fmean(turns), 2)
    return {"min": min(turns), "mean": mean, "max": max(turns), "one": sum(n == 1 for n in turns)}


def length_facts(stated: list[float]) -> dict | None:
    """Lengths as the release states them, in seconds; None where it states none."""
    if not stated:
        return None
    return {
        "stated": len(stated),
        "hours": round(sum(stated) / 3600, 2),
        "mean": round(statistics.fmean(stated), 2),
        "median": round(statistics.median(stated), 2),
        "short": sum(s < SHORT_S for s in stated),
        "long": sum(s > LONG_S for s in stated),
    }


def by_reason(lines: list[Reject]) -> list[dict]:
    """How many of each split and reason, with one of them."""
    counts: Counter = Counter()
    examples: dict[tuple[str, str], str] = {}
    for line in lines:
        counts[line.split, line.reason] += 1
        examples.setdefault((line.split, line.reason), line.detail)
    return [
        {"split": split, "reason": reason, "count": count, "example": examples[split, reason]}
        for (split, reason), count in sorted(counts.items())
    ]


def compare_published(published: Iterable[Published], splits: dict[str, dict]) -> list[dict]:
    """Each published figure beside the one read."""
    rows = []
    for figures in published:
        parts = [splits[s] for s in figures.splits if s in splits]
        labels: Counter = Counter()
        for part in parts:
            labels.update(part["labels"])
        read = {
            "utterances": sum(p["utterances"] for p in parts),
            "dialogues": sum(p["dialogues"] for p in parts),
        }
        counts = {"dialogues": figures.dialogues, "utterances": figures.utterances}
        pairs = [(what, value, read[what]) for what, value in counts.items() if value is not None]
        if read["utterances"]:  # of a part that is not there at all the labels say nothing more
            pairs += [(f"label {label}", value, labels[label]) for label, value in figures.labels.items()]
        rows += [
            {"part": figures.name, "what": what, "published": value, "read": found}
            for what, value, found in pairs
        ]
    return rows


def exchange_counts(exchanges: Iterable[Ref], store: Store) -> dict[str, dict[str, dict[str, int]]]:
    """Dataset -> split -> how many exchanges were cut and how many pairs of neighbours fell out, by reason."""
    refs = list(exchanges)
    summary: dict = next((json.loads(store.read(r)) for r in refs if r.name == "exchanges.json"), {})
    found: dict[str, dict[str, dict[str, int]]] = {}
    for ref in of_table(refs, "exchanges"):
        dataset, split = place(ref)
        counts = found.setdefault(dataset, {}).setdefault(split, {"exchanges": 0})
        counts["exchanges"] += ref.rows
        counts |= summary.get("fallen_out", {}).get(f"{dataset}/{split}", {})
    return found


# For people --------------------------------------------------------------------------------------------


def card_tables(card: dict, exchanges: dict[str, dict[str, int]]) -> list[Table]:
    """The card as tables. exchanges: split -> {"exchanges", "same_speaker", "gap"}; empty where none were cut."""
    splits = {split: card["splits"][split] for split in SPLITS if split in card["splits"]}
    tables = [
        Table(
            "What was read",
            ("split", "dialogues", "utterances", "speakers", "with sound", "with picture", "exchanges",
             "pairs of one speaker", "pairs across a gap"),
            [
                (s, f["dialogues"], f["utterances"], f["speakers"], f["with_audio"], f["with_video"],
                 *(exchanges.get(s, {}).get(name, 0) for name in ("exchanges", "same_speaker", "gap")))
                for s, f in splits.items()
            ],
        ),
        Table(
            "Emotions",
            ("split", *EMOTIONS, "no target"),
            [(s, *(f["emotions"].get(e, 0) for e in (*EMOTIONS, "none"))) for s, f in splits.items()],
        ),
        Table(
            "Turns of a dialogue",
            ("split", "fewest", "mean", "most", "dialogues of one turn"),
            [(s, *(f["turns"][name] for name in ("min", "mean", "max", "one"))) for s, f in splits.items() if f["turns"]],
        ),
        Table(
            "Lengths as the release states them",
            ("split", "utterances", "hours", "mean s", "median s", f"under {SHORT_S} s", f"over {LONG_S:g} s"),
            [
                (s, *(f["seconds"][name] for name in ("stated", "hours", "mean", "median", "short", "long")))
                for s, f in splits.items()
                if f["seconds"]
            ],
        ),
        Table("Rows turned away", ("split", "reason", "rows", "one of them"), reason_rows(card["turned_away"])),
        Table(
            "Faults that cost no row", ("split", "fault", "count", "one of them"), reason_rows(card["defects"])
        ),
        Table("Beside what is published", ("part", "what", "published", "read", "difference"), published_rows(card)),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def reason_rows(lines: list[dict]) -> list[tuple]:
    return [(line["split"], line["reason"], line["count"], line["example"]) for line in lines]


def published_rows(card: dict) -> list[tuple]:
    """Every count of rows, and of the labels those that differ."""
    rows = []
    for line in card["published"]:
        difference = line["read"] - line["published"]
        if difference or not line["what"].startswith("label"):
            shown = f"{difference:+d}" if difference else "none"
            rows.append((line["part"], line["what"], line["published"], line["read"], shown))
    return rows


def verdict(card: dict) -> str:
    """One sentence on how the card compares with what is published."""
    if card["not_compared"]:
        return f"Not compared with published counts: {card['not_compared']}."
    differ = sum(line["read"] != line["published"] for line in card["published"])
    return f"{differ} of {len(card['published'])} published counts differ from what was read."


def card_markdown(title: str, card: dict, exchanges: dict[str, dict[str, int]]) -> str:
    """The card as markdown."""
    lines = [f"# {title}", "", f"{card['rows']} rows read, {card['rejects']} turned away. {verdict(card)}"]
    for table in card_tables(card, exchanges):
        lines += ["", f"## {table.title}", "", _row(table.header), _row("---" for _ in table.header)]
        lines += [_row(row) for row in table.rows]
    lines += ["", "## Notes", "", *(f"- {_cell(note)}" for note in card["notes"])] if card["notes"] else []
    return "\n".join(lines) + "\n"


def _row(cells: Iterable) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
