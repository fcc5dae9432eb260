"""Stage `utterances`: one raw dataset -> utterance shards, rejects and a data card.

Knows nothing of the datasets' formats (storage/readers) or of who reads the shards.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from storage.errors import InputError
from storage.readers.find import RawDataset, read_dataset
from storage.settings import DataSettings
from storage.shards import reject_to_row, utterance_to_row
from storage.store import Ref, Store, StoreError, canonical
from storage.utterance import Utterance
from tasks.explain import compare, group, read_shards
from tasks.shard_names import of_table
from tasks.shards import write_buckets, write_rejects
from tasks.stages.stage import RawFiles, Workspace


def write_utterances(source: RawFiles, settings: DataSettings, work: Workspace) -> list[Ref]:
    """Read `source` below the raw root. Outputs: utterances/…, rejects/DATASET, card/DATASET."""
    raw = RawDataset(source.dataset, work.raw / source.folder, tuple(source.files))
    read = read_dataset(raw, work.raw, settings, lambda path: _digest(source, work.raw, path))
    shards = write_buckets(
        work.store, "utterances", [utterance_to_row(u) for u in read.utterances], settings.bucket_rows
    )
    rejects = write_rejects(
        work.store, source.dataset, [reject_to_row(r, "utterances") for r in read.rejects]
    )
    card = canonical({**_card(read.utterances, len(read.rejects), read.notes), "synthetic": source.synthetic})
    return [*shards, rejects, work.store.put_bytes(f"card/{source.dataset}", card)]


def changed_utterances(
    source: RawFiles, settings: DataSettings, root: Path, store: Store, outputs: tuple[Ref, ...]
) -> list[str]:
    """What differs between the raw files as they are and the shards made from them before. Writes nothing."""
    raw = RawDataset(source.dataset, root / source.folder, tuple(source.files))
    try:
        read = read_dataset(raw, root, settings, lambda path: _digest(source, root, path))
        before = read_shards(store, of_table(outputs, "utterances"))
    except InputError as error:
        return [f"cannot be read now: {error}"]
    except StoreError:
        return []
    return compare(before, group([utterance_to_row(u) for u in read.utterances], "utterances"))


def _digest(source: RawFiles, root: Path, path: Path) -> str:
    return source.files[path.relative_to(root).as_posix()]


def _card(utterances: list[Utterance], rejects: int, notes: list[str]) -> dict:
    """Counts for people: utterances, dialogues, media and emotions of each split."""
    splits = {}
    for split in sorted({u.split for u in utterances}):
        inside = [u for u in utterances if u.split == split]
        splits[split] = {
            "utterances": len(inside),
            "dialogues": len({u.dialogue_id for u in inside}),
            "with_media": sum(u.media_digest is not None for u in inside),
            "emotions": dict(sorted(Counter(u.emotion or "none" for u in inside).items())),
        }
    return {"splits": splits, "rejects": rejects, "notes": list(notes)}
