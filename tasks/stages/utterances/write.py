"""Stage `utterances`: one raw dataset -> utterance shards, rejects and a data card.

Knows nothing of the datasets' formats (storage/readers) or of who reads the shards.
"""

from __future__ import annotations

from pathlib import Path

from storage.errors import InputError
from storage.readers.find import RawDataset, index_archives, read_dataset
from storage.settings import DataSettings
from storage.shards import reject_to_row, utterance_to_row, write_table
from storage.store import Ref, Store, StoreError, canonical
from tasks.engine.declaration import RawFiles
from tasks.engine.item import Workspace
from tasks.engine.row_differences import compare, group, read_shards
from tasks.stages.shard_names import of_table
from tasks.stages.shards import write_buckets
from tasks.stages.utterances.cards import make_card


def write_utterances(source: RawFiles, settings: DataSettings, work: Workspace) -> list[Ref]:
    """Read `source` below the raw root. Outputs: utterances/…, rejects/DATASET, card/DATASET.

    Progress counts megabytes of archives where there are any, which have to be passed over once, else rows written.
    The rejects table also names the faults that cost no row, under the stage "utterances.defects".
    """
    raw = _raw_dataset(source, work.raw)

    def progress(done: int, whole: int) -> None:
        work.progress(done, whole, {})

    megabytes = index_archives(raw, work.raw, settings, progress)
    read = read_dataset(raw, work.raw, settings, lambda path: _digest(source, work.raw, path))
    rows = [utterance_to_row(u) for u in read.utterances]
    # Rows are the measure only where no archive was: what is left would else be estimated from another one.
    of_rows = progress if not megabytes else lambda done, whole: None
    of_rows(0, len(rows))
    shards = write_buckets(work.store, "utterances", rows, settings.bucket_rows, of_rows)
    lines = [reject_to_row(r, "utterances") for r in read.rejects]
    lines += [reject_to_row(r, "utterances.defects") for r in read.defects]
    name = source.dataset
    rejects = work.store.put_bytes(
        f"rejects/{name}", write_table(lines, "rejects"), rejects=len(read.rejects)
    )
    card = canonical(make_card(name, read, settings, source.synthetic))
    return [*shards, rejects, work.store.put_bytes(f"card/{name}", card)]


def changed_utterances(
    source: RawFiles, settings: DataSettings, root: Path, store: Store, outputs: tuple[Ref, ...]
) -> list[str]:
    """What differs between the raw files as they are and the shards made from them before. Writes nothing."""
    raw = _raw_dataset(source, root)
    try:
        read = read_dataset(raw, root, settings, lambda path: _digest(source, root, path))
        before = read_shards(store, of_table(outputs, "utterances"))
    except InputError as error:
        return [f"cannot be read now: {error}"]
    except StoreError:
        return []
    return compare(before, group([utterance_to_row(u) for u in read.utterances], "utterances"))


def _raw_dataset(source: RawFiles, root: Path) -> RawDataset:
    return RawDataset(
        source.dataset, root / source.folder, tuple(source.files), source.notes, source.not_read
    )


def _digest(source: RawFiles, root: Path, path: Path) -> str:
    return source.files[path.relative_to(root).as_posix()]
